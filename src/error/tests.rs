use std::error::Error as StdError;

use tower::ServiceExt;

use super::*;

const ENDPOINT: &str = "https://auth.example.com/token";
const MINUTE: Duration = Duration::from_secs(60);

/// Another error, with or without a source.
#[derive(Debug)]
struct Layer(&'static str, Option<BoxError>);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for Layer {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.1.as_deref().map(|source| source as _)
    }
}

fn cause() -> Layer {
    Layer("connection reset", None)
}

fn answer(status: u16, code: Option<&str>, text: Option<&str>) -> ErrorResponse {
    ErrorResponse {
        endpoint: ENDPOINT.into(),
        status: StatusCode::from_u16(status).unwrap(),
        code: code.map(Into::into),
        text: text.map(Into::into),
        said: Said::default(),
    }
}

fn denied() -> Error {
    Error::answered(answer(400, Some("invalid_grant"), Some("token revoked")), true, None)
}

fn limited(wait: Option<Duration>) -> Error {
    Error::answered(answer(429, None, Some("slow down")), false, wait)
}

/// One of each kind.
fn one_of_each_kind() -> [(&'static str, Error); 20] {
    [
        ("invalid", Error::invalid("deadline", "zero leaves no time")),
        ("request", Error::request("the URI holds no host; name one with allow_relative_uris")),
        ("denied", denied()),
        ("answered", limited(None)),
        ("unusable answer", Error::unusable(Some(ENDPOINT.into()), "access_token is missing")),
        ("unusable token", Error::unusable(None, "the access token is empty")),
        ("unreachable", Error::unreachable(ENDPOINT.into(), cause())),
        ("transient", Error::transient(cause())),
        ("denied source", Error::denied(cause())),
        ("timed out", Error::timed_out(MINUTE)),
        ("not saved", Error::not_saved(cause())),
        ("panicked", Error::panicked()),
        ("no runtime", Error::no_runtime()),
        ("lost", Error::lost()),
        ("closed", Error::closed()),
        ("silent", Error::silent(ENDPOINT.into(), MINUTE)),
        ("secret", Error::secret("client_secret", cause())),
        ("denied secret", Error::secret("client_secret", Error::denied("forbidden"))),
        ("login", Error::login("the device code expired before it was entered; start a new login")),
        ("waits for itself", Error::waits_for_itself()),
    ]
}

/// The kinds of which `predicate` is true.
fn kinds(predicate: impl Fn(&Error) -> bool) -> Vec<&'static str> {
    one_of_each_kind().iter().filter(|(_, error)| predicate(error)).map(|(kind, _)| *kind).collect()
}

// === predicates ===

#[test]
fn each_predicate_is_true_only_for_its_kinds() {
    assert_eq!(kinds(Error::is_denied), ["denied", "denied source", "denied secret"]);
    assert_eq!(kinds(Error::is_invalid), ["invalid", "request"]);
    assert_eq!(kinds(Error::is_timeout), ["timed out", "silent"]);
    assert_eq!(kinds(Error::is_closed), ["closed"]);
    assert_eq!(kinds(Error::is_ambiguous), ["unreachable", "silent"]);
    assert_eq!(kinds(|error| error.status().is_some()), ["denied", "answered"]);
    assert_eq!(kinds(|error| error.code().is_some()), ["denied"]);
}

#[test]
fn an_error_is_transient_if_the_same_call_may_succeed_later() {
    let transient = [
        "answered",
        "unusable answer",
        "unusable token",
        "unreachable",
        "transient",
        "timed out",
        "not saved",
        "panicked",
        "lost",
        "silent",
        "secret",
    ];
    assert_eq!(kinds(Error::is_transient), transient);
}

#[test]
fn nothing_is_both_transient_and_denied_or_invalid() {
    assert!(kinds(|error| error.is_transient() && (error.is_denied() || error.is_invalid())).is_empty());
}

#[test]
fn each_error_has_its_kind_and_an_invalid_setting_names_its_field() {
    let all = one_of_each_kind();
    let kind = |name| all.iter().find(|(known, _)| *known == name).unwrap().1.kind();
    assert_eq!(kind("request"), ErrorKind::InvalidRequest);
    assert_eq!((kind("denied"), kind("answered")), (ErrorKind::Denied, ErrorKind::IssuerError));
    assert_eq!((kind("silent"), kind("timed out")), (ErrorKind::Timeout, ErrorKind::Timeout));
    assert_eq!((kind("transient"), kind("denied secret")), (ErrorKind::Source, ErrorKind::Secret));
    let invalid: Vec<_> = all.iter().filter(|(_, error)| error.kind() == ErrorKind::InvalidSetting).collect();
    assert_eq!(invalid.len(), 1);
    assert_eq!((invalid[0].1.field(), invalid[0].1.problem()), (Some("deadline"), Some("zero leaves no time")));
    assert_eq!(kinds(|error| error.field().is_some()), ["invalid"]);
}

#[test]
fn status_and_code_are_those_of_the_answer() {
    assert_eq!(denied().status(), Some(StatusCode::BAD_REQUEST));
    assert_eq!(denied().code(), Some("invalid_grant"));
    assert_eq!((limited(None).status(), limited(None).code()), (Some(StatusCode::TOO_MANY_REQUESTS), None));
}

// === texts ===

#[test]
fn each_text_says_what_happened_where_and_what_to_do() {
    let parts: [&[&str]; 19] = [
        &["invalid", "deadline", "zero leaves no time"],
        &["no host", "allow_relative_uris"],
        &[ENDPOINT, "400", "invalid_grant", "token revoked", "denied", "log in again"],
        &[ENDPOINT, "429", "slow down", "again after a pause"],
        &["unusable answer", ENDPOINT, "access_token is missing"],
        &["unusable token", "the access token is empty"],
        &["failed to get an answer", ENDPOINT, "source", "again after a pause"],
        &["token source failed", "source"],
        &["denied", "source"],
        &["60s", "issuer", "runtime"],
        &["failed to save", "refresh token", "source", "in memory", "tries again"],
        &["panicked", "panic hook"],
        &["no tokio runtime", "call from within one"],
        &["runtime", "shut down", "call again"],
        &["cache", "shut down"],
        &["timed out after 60s", ENDPOINT, "again after a pause"],
        &["failed to get the client_secret", "source", "again after a pause"],
        &["client_secret", "denied", "source"],
        &["start a new login"],
    ];
    for ((kind, error), parts) in one_of_each_kind().iter().zip(parts) {
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{kind}: {part:?} is missing in: {text}");
        }
        assert!(
            !text.contains(['\n', '\r']) && !text.contains("  "),
            "{kind}: not one line with single spaces: {text}"
        );
    }
}

#[test]
fn an_answer_is_printed_with_its_code_and_text() {
    for (code, text, printed) in [
        (Some("invalid_grant"), Some("token revoked"), "answered 400 invalid_grant (token revoked)"),
        (Some("invalid_grant"), None, "answered 400 (invalid_grant)"),
        (None, Some("token revoked"), "answered 400 (token revoked)"),
        (None, None, "answered 400"),
    ] {
        let error = Error::answered(answer(400, code, text), false, None);
        assert_eq!(error.to_string(), format!("{ENDPOINT} {printed}; try again after a pause"));
    }
}

#[test]
fn the_text_leaves_the_cause_to_the_source_and_debug_shows_both() {
    for (kind, error) in one_of_each_kind() {
        assert!(!error.to_string().contains("connection reset"), "{kind}");
        let debug = format!("{error:?}");
        assert!(debug.contains(&error.to_string()), "{kind}: {debug}");
        let source = error.source().map(|source| format!("{source:?}")).unwrap_or_default();
        assert!(debug.contains(&source), "{kind}: {debug}");
        assert_eq!(debug.contains("connection reset"), source.contains("connection reset"), "{kind}: {debug}");
    }
}

#[test]
fn a_downcast_finds_the_source() {
    let with_a_source = ["unreachable", "transient", "denied source", "not saved", "secret", "denied secret"];
    assert_eq!(kinds(|error| error.source().is_some()), with_a_source);
    let error = Error::transient(Layer("outer", Some(cause().into())));
    let outer = error.source().unwrap();
    assert_eq!(outer.downcast_ref::<Layer>().unwrap().0, "outer");
    assert_eq!(outer.source().unwrap().to_string(), "connection reset");
}

// === Retry-After ===

#[test]
fn how_long_the_issuer_asks_to_wait_is_kept_and_printed() {
    let error = limited(Some(MINUTE));
    assert_eq!(error.retry_after(), Some(MINUTE));
    assert!(error.to_string().ends_with("(the issuer asks to wait 60 s)"), "{error}");
    assert_eq!(limited(None).retry_after(), None);
    assert!(!limited(None).to_string().contains("wait"));
}

#[test]
fn a_wait_can_be_added_to_any_error_and_changes_nothing_else() {
    for (kind, error) in one_of_each_kind() {
        let waiting = error.clone().with_retry_after(MINUTE);
        assert_eq!(waiting.retry_after(), Some(MINUTE), "{kind}");
        assert_eq!(waiting.to_string(), format!("{error} (the issuer asks to wait 60 s)"));
        assert_eq!(waiting.is_transient(), error.is_transient(), "{kind}");
        assert_eq!(waiting.is_denied(), error.is_denied(), "{kind}");
    }
}

#[test]
fn a_wait_added_to_one_copy_is_not_on_the_others() {
    let first = limited(Some(MINUTE));
    let second = first.clone().with_retry_after(2 * MINUTE);
    assert!(Arc::ptr_eq(&first.inner, &second.inner), "what happened is shared");
    assert_eq!((first.retry_after(), second.retry_after()), (Some(MINUTE), Some(2 * MINUTE)));
}

// === finding the error ===

#[test]
fn an_error_is_found_inside_any_number_of_errors() {
    let mut error: BoxError = denied().into();
    for depth in 0..5 {
        assert_eq!(Error::find(&*error).and_then(Error::code), Some("invalid_grant"), "{depth} layers");
        error = Layer("outer", Some(error)).into();
    }
    assert!(Error::find(&std::io::Error::other(denied())).is_some(), "although `source` skips it");
    assert!(Error::find(&denied()).is_some());
}

#[test]
fn the_outermost_error_of_this_crate_is_found() {
    let error = Layer("outer", Some(Error::transient(denied()).into()));
    assert!(Error::find(&error).unwrap().is_transient());
}

#[test]
fn no_error_of_this_crate_is_found_in_another_error() {
    assert!(Error::find(&cause()).is_none());
    assert!(Error::find(&Layer("outer", Some(cause().into()))).is_none());
}

#[tokio::test]
async fn an_error_is_found_in_the_error_of_a_buffer() {
    let failing = tower::service_fn(|(): ()| async { Err::<(), _>(denied()) });
    let stack = tower::ServiceBuilder::new().buffer(1).timeout(MINUTE).service(failing);
    let error = stack.oneshot(()).await.unwrap_err();
    assert!(Error::find(&*error).unwrap().is_denied());
}

// === sharing, and errors of a user's source ===

#[test]
fn an_error_goes_to_every_waiter_on_any_thread() {
    fn shared<T: StdError + Clone + Send + Sync + 'static>(error: T) -> T {
        let clone = error.clone();
        std::thread::spawn(move || clone).join().unwrap()
    }
    for (kind, error) in one_of_each_kind() {
        let other = shared(error.clone());
        assert!(Arc::ptr_eq(&error.inner, &other.inner), "{kind}: a clone copies nothing");
        assert_eq!(format!("{error:?}"), format!("{other:?}"));
    }
}

#[test]
fn an_error_of_this_crate_from_a_source_is_unchanged() {
    let error = Error::from_source(denied().with_retry_after(MINUTE));
    assert!(error.is_denied());
    assert_eq!((error.code(), error.retry_after()), (Some("invalid_grant"), Some(MINUTE)));
    let boxed: BoxError = Error::closed().into();
    assert!(Error::from_source(boxed).is_closed());
}

#[test]
fn another_error_of_a_source_is_transient_and_becomes_the_source() {
    let error = Error::from_source(cause());
    assert!(error.is_transient());
    assert_eq!(error.source().unwrap().to_string(), "connection reset");
    assert_eq!(Error::from_source("just words").source().unwrap().to_string(), "just words");
}
