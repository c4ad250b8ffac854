//! With `TOWER_BEARER_TRACES` set, all that this test binary's threads trace goes to its standard error, where
//! `.ci/secrets` looks for secrets.

#[ctor::ctor(unsafe)]
fn show() {
    if std::env::var_os("TOWER_BEARER_TRACES").is_some() {
        let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        // A binary with two of the shared modules comes here twice.
        let _ = all.with_writer(std::io::stderr).try_init();
    }
}
