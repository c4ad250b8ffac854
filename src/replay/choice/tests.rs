use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, Version};
use http_body_util::{Empty, Full};
use proptest::prelude::*;

use super::*;

/// An extension of an outer layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace(u32);

/// A body that cannot be cloned.
#[derive(Debug, PartialEq, Eq)]
struct Stream(&'static str);

fn request<B>(body: B) -> Request<B> {
    Request::builder()
        .method(Method::PATCH)
        .uri("https://api.example.com/v1/things?page=2")
        .version(Version::HTTP_2)
        .header("x-second", "2")
        .header("accept", "text/plain")
        .header("x-second", "1")
        .header("accept", "application/json")
        .extension(Trace(7))
        .body(body)
        .unwrap()
}

/// All parts of a request as text, with its headers in order, for comparison.
fn parts<B: Debug>(request: &Request<B>) -> String {
    let headers: Vec<_> = request.headers().iter().collect();
    let trace = request.extensions().get::<Trace>();
    format!(
        "{:?} {:?} {:?} {headers:?} {trace:?} {:?}",
        request.method(),
        request.uri(),
        request.version(),
        request.body()
    )
}

/// Both sends. The first is unchanged.
fn both<B, R: Replay<B>>(replay: &R, request: Request<B>) -> (Request<R::Body>, Option<Request<R::Body>>) {
    let (first, saved) = replay.prepare(request);
    (first, saved.and_then(|saved| replay.replay(saved)))
}

// === the request ===

#[test]
fn the_second_send_equals_the_first_in_every_part() {
    let text = |body: &String| Some(body.clone());
    for (first, second) in [both(&CloneBody, request("{}".to_owned())), both(&text, request("{}".to_owned()))] {
        assert_eq!(parts(&first), parts(&request("{}".to_owned())));
        assert_eq!(parts(&second.unwrap()), parts(&first));
    }
    let (first, second) = both(&IfEmpty, request(String::new()));
    assert_eq!(parts(&first), parts(&request(String::new())));
    assert_eq!(parts(&second.unwrap()), parts(&first));
}

#[test]
fn changes_of_the_first_send_are_not_in_the_second() {
    let (mut first, saved) = CloneBody.prepare(request("{}"));
    let mut token = HeaderValue::from_static("Bearer rejected");
    token.set_sensitive(true);
    first.headers_mut().insert(AUTHORIZATION, token);
    first.headers_mut().remove("accept");
    first.extensions_mut().insert(Trace(8));
    *first.uri_mut() = "https://evil.test/".parse().unwrap();
    *first.method_mut() = Method::GET;
    *first.version_mut() = Version::HTTP_11;
    *first.body_mut() = "read";

    let second = CloneBody.replay(saved.unwrap()).unwrap();
    assert!(!second.headers().contains_key(AUTHORIZATION));
    assert_eq!(parts(&second), parts(&request("{}")));
}

proptest! {
    #[test]
    fn any_headers_keep_their_order_and_duplicates(
        headers in proptest::collection::vec(("x-[a-e]", "[ -~]{0,8}"), 0..32), body in any::<Vec<u8>>(),
    ) {
        let mut original = request(Full::new(Bytes::from(body)));
        for (name, value) in headers {
            original.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let before = parts(&original);
        let (first, second) = both(&CloneBody, original);
        prop_assert_eq!(parts(&first), before);
        prop_assert_eq!(parts(&second.unwrap()), parts(&first));
    }
}

// === the choices ===

#[test]
fn clone_body_sends_any_body_in_memory_twice() {
    let (first, second) = both(&CloneBody, request(Full::new(Bytes::from_static(b"data"))));
    // The bytes are shared, not copied.
    let bytes = |request: Request<Full<Bytes>>| request.into_body().into_inner().unwrap();
    let (first, second) = (bytes(first), bytes(second.unwrap()));
    assert_eq!((&first, first.as_ptr()), (&second, second.as_ptr()));
    assert_eq!(CloneBody.pass_through(request("data")).into_body(), "data");
}

#[test]
fn if_empty_sends_only_requests_without_a_body_again() {
    let (first, second) = both(&IfEmpty, request(Full::new(Bytes::from_static(b"data"))));
    assert_eq!(first.into_body().into_inner().unwrap(), "data");
    assert!(second.is_none());

    let (_, second) = both(&IfEmpty, request(Full::<Bytes>::default()));
    assert!(second.unwrap().body().is_end_stream());
    let (_, second) = both(&IfEmpty, request(Empty::<Bytes>::new()));
    assert!(second.is_some());
    assert_eq!(IfEmpty.pass_through(request(String::from("data"))).into_body(), "data");
}

#[test]
fn never_sends_no_request_again_and_accepts_any_body() {
    let (first, second) = both(&Never, request(Stream("data")));
    assert_eq!((first.into_body(), second.is_none()), (Stream("data"), true));
    let (first, second) = both(&Never, request(()));
    assert_eq!((first.headers().len(), second.is_none()), (4, true));
    assert_eq!(Replay::pass_through(&Never, request(Stream("data"))).into_body(), Stream("data"));
}

#[test]
fn a_closure_decides_for_each_body() {
    let small = |body: &Stream| (body.0.len() < 5).then_some(Stream(body.0));
    let (first, second) = both(&small, request(Stream("data")));
    assert_eq!((first.into_body(), second.unwrap().into_body()), (Stream("data"), Stream("data")));
    let (first, second) = both(&small, request(Stream("too much data")));
    assert_eq!((first.into_body(), second.is_none()), (Stream("too much data"), true));
    assert_eq!(Replay::pass_through(&small, request(Stream("data"))).into_body(), Stream("data"));
}

#[test]
fn a_choice_that_returns_no_second_request_prevents_the_second_send() {
    /// Replays each of these bodies once.
    #[derive(Clone)]
    struct Prepared(Arc<Mutex<VecDeque<Stream>>>);

    impl Replay<Stream> for Prepared {
        type Body = Stream;
        type Saved = Request<()>;

        fn pass_through(&self, request: Request<Stream>) -> Request<Stream> {
            request
        }

        fn prepare(&self, request: Request<Stream>) -> (Request<Stream>, Option<Request<()>>) {
            (request, Some(Request::default()))
        }

        fn target<'a>(&self, saved: &'a Request<()>) -> (&'a Method, &'a Uri) {
            (saved.method(), saved.uri())
        }

        fn replay(&self, _: Request<()>) -> Option<Request<Stream>> {
            self.0.lock().unwrap().pop_front().map(Request::new)
        }
    }

    let prepared = Prepared(Arc::new(Mutex::new([Stream("again")].into())));
    assert_eq!(both(&prepared, request(Stream("data"))).1.unwrap().into_body(), Stream("again"));
    assert!(both(&prepared, request(Stream("data"))).1.is_none());
}
