//! If `TOWER_BEARER_TRACES` is set, writes all traces of this test binary to standard error, where `.ci/secrets`
//! searches for secrets.

#[ctor::ctor(unsafe)]
fn show() {
    if std::env::var_os("TOWER_BEARER_TRACES").is_some() {
        let all = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
        // A binary with two of the shared modules runs this twice.
        let _ = all.with_writer(std::io::stderr).try_init();
    }
}
