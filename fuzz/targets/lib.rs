//! Shared by the targets: a client with a fixed answer, and the checks of each result.

use std::convert::Infallible;
use std::error::Error as _;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower_bearer::{Error, HttpClient, Token};

/// The secret of every source, which no error may repeat.
pub const SECRET: &str = "k33p-me:c0vered/";
/// The maximum length of an error: twice the longest text of an issuer, and the library's words around it.
const LONGEST: usize = 2 * 4 * 256 + 1024;

/// A client with the same answer to every request.
pub fn client(answer: Response<Bytes>) -> impl HttpClient<Full<Bytes>> {
    let (head, body) = answer.into_parts();
    tower::service_fn(move |_: Request<Full<Bytes>>| {
        let answer = Response::from_parts(head.clone(), Full::new(body.clone()));
        async move { Ok::<_, Infallible>(answer) }
    })
}

/// Runs the future to its end on this thread.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// Checks that the result is a token that can be sent, or an error that can be shown.
pub fn check(outcome: Result<Token, Error>) {
    match outcome {
        Ok(token) => {
            let value = token.header_value().to_str().expect("visible ASCII");
            assert_eq!(value.strip_prefix("Bearer "), Some(token.access_token()));
            assert!(!token.access_token().is_empty() && token.header_value().is_sensitive());
            assert!(token.lifetime() <= tower_bearer::MAX_LIFETIME);
            assert!(!format!("{token:?}").contains(token.access_token()) || token.access_token().len() < 8);
        }
        Err(error) => check_error(&error),
    }
}

pub fn check_error(error: &Error) {
    let said = format!("{error} {error:?} {:?} {:?}", error.code(), error.description());
    assert!(!said.contains(SECRET), "{said}");
    let text = error.to_string();
    assert!(!text.contains(char::is_control) && text.len() < LONGEST, "{text:?}");
    assert!(error.source().is_none() || error.is_transient());
}
