//! A redirect to another origin does not carry the token, with the layer inside or outside the service that follows it.

use std::future::ready;

use bytes::Bytes;
use http::header::{HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneService;
use tower::{BoxError, Layer, ServiceExt};
use tower_bearer::Error;
use tower_http::follow_redirect::policy::{PolicyExt, Standard, clone_body_fn};
use tower_http::follow_redirect::{FollowRedirect, RequestUri};

use crate::harness::{Harness, Names};
use crate::run;
use crate::servers::{Answer, Server, answer, text};

type Body = Full<Bytes>;
type Client = BoxCloneService<Request<Body>, Response<Answer>, BoxError>;

pub(crate) const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];
const API: &str = "https://api.test";
/// Origins that are similar to the API's, but not the same.
const OTHERS: [&str; 7] = [
    "https://other.test",
    "https://api.test:8443",
    "http://api.test",
    "http://api.test:443",
    "https://sub.api.test",
    "https://api.test.other.test",
    "http://127.0.0.1",
];

/// The side of the layer on which a service follows redirects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follower {
    Outside,
    Inside,
}

/// The API, and one server for all other origins.
struct Net {
    api: Server,
    other: Server,
}

impl Follower {
    const BOTH: [Self; 2] = [Self::Outside, Self::Inside];

    fn client(self, harness: &Harness, net: &Net) -> Client {
        let names = OTHERS.map(|name| (name, net.other.address)).into_iter().chain([(API, net.api.address)]);
        let http =
            Names::new(names).client::<Body>().map_response(|response| response.map(boxed)).map_err(BoxError::from);
        let policy = || clone_body_fn(|body: &Body| Some(body.clone())).and::<_, Body, BoxError>(Standard::default());
        match self {
            Self::Outside => {
                BoxCloneService::new(FollowRedirect::with_policy(harness.layer(API).layer(http), policy()))
            }
            Self::Inside => BoxCloneService::new(harness.layer(API).layer(FollowRedirect::with_policy(http, policy()))),
        }
    }
}

fn boxed(body: hyper::body::Incoming) -> Answer {
    Answer::new(body.map_err(Into::into))
}

/// A server that redirects requests for `/`, and answers all others with `then`.
pub(crate) async fn redirecting(status: u16, location: String, then: fn() -> Response<Answer>) -> Server {
    let location = HeaderValue::try_from(location).expect("a location");
    Server::start(move |request: Request<_>| {
        if request.uri().path() != "/" {
            return ready(then());
        }
        let mut redirect = answer(status, "");
        redirect.headers_mut().insert(LOCATION, location.clone());
        ready(redirect)
    })
    .await
}

fn welcome() -> Response<Answer> {
    answer(200, "welcome")
}

fn reject() -> Response<Answer> {
    answer(401, "who are you?")
}

fn request(method: Method) -> Request<Body> {
    let body = if method == Method::POST { Full::from("a body") } else { Full::default() };
    Request::builder().method(method).uri(format!("{API}/")).body(body).expect("a request")
}

#[test]
fn no_other_origin_gets_the_token_after_a_redirect() {
    run(async || {
        for follower in Follower::BOTH {
            for other in OTHERS {
                for status in STATUSES {
                    for method in [Method::GET, Method::POST] {
                        let harness = Harness::new().await;
                        let api = redirecting(status, format!("{other}/there"), reject).await;
                        let net = Net { api, other: Server::start(|_| ready(welcome())).await };
                        let response =
                            follower.client(&harness, &net).oneshot(request(method)).await.expect("an answer");
                        assert_eq!(text(response.into_body()).await, "welcome");
                        assert_eq!(net.api.tokens(), ["Bearer token-1"]);
                        assert_eq!(net.other.tokens(), [""], "{follower:?}, {other}, {status}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_redirect_within_the_origin_keeps_the_token() {
    run(async || {
        for follower in Follower::BOTH {
            for status in STATUSES {
                for location in ["/there", "//api.test/there", "https://API.test:443/there"] {
                    let harness = Harness::new().await;
                    let api = redirecting(status, location.to_owned(), welcome).await;
                    let net = Net { api, other: Server::start(|_| ready(reject())).await };
                    let response =
                        follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
                    assert_eq!(text(response.into_body()).await, "welcome");
                    assert_eq!(net.api.tokens(), ["Bearer token-1"; 2], "{follower:?}, {status}, {location}");
                }
            }
        }
    });
}

#[test]
fn another_origin_that_redirects_again_does_not_get_the_token() {
    run(async || {
        for follower in Follower::BOTH {
            for onward in ["/there", "https://other.test:8443/there"] {
                let harness = Harness::new().await;
                let net = Net {
                    api: redirecting(302, "https://other.test/".to_owned(), reject).await,
                    other: redirecting(302, onward.replace(":8443", ""), welcome).await,
                };
                let response = follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
                assert_eq!(text(response.into_body()).await, "welcome");
                assert_eq!(net.other.tokens(), ["", ""], "{follower:?}, {onward}");
            }
            // The other origin redirects back to the API. If the follower is outside, the layer adds the token again.
            // If it is inside, it has removed the token.
            let harness = Harness::new().await;
            let net = Net {
                api: redirecting(302, "https://other.test/".to_owned(), welcome).await,
                other: redirecting(302, format!("{API}/there"), reject).await,
            };
            follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
            let back = if follower == Follower::Outside { "Bearer token-1" } else { "" };
            assert_eq!(net.api.tokens(), ["Bearer token-1", back], "{follower:?}");
            assert_eq!(net.other.tokens(), [""]);
        }
    });
}

#[test]
fn a_callers_token_that_the_follower_removed_is_not_added_again() {
    run(async || {
        for follower in Follower::BOTH {
            let harness = Harness::new().await;
            let net = Net {
                api: redirecting(307, "https://other.test/there".to_owned(), reject).await,
                other: Server::start(|_| ready(welcome())).await,
            };
            let mut request = request(Method::GET);
            request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer mine"));
            follower.client(&harness, &net).oneshot(request).await.expect("an answer");
            assert_eq!((net.api.tokens(), net.other.tokens()), (vec!["Bearer mine".into()], vec![String::new()]));
        }
    });
}

#[test]
fn a_401_of_another_origin_is_returned_and_causes_no_refresh() {
    run(async || {
        for follower in Follower::BOTH {
            for other in OTHERS {
                let harness = Harness::new().await;
                // The token is so old that a rejection counts.
                harness.revoke();
                let net = Net {
                    api: redirecting(302, format!("{other}/there"), welcome).await,
                    other: Server::start(|_| ready(reject())).await,
                };
                let response = follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
                assert!(response.extensions().get::<Error>().is_none());
                let RequestUri(from) = response.extensions().get().expect("the follower says where it came from");
                assert_eq!(from.to_string(), format!("{other}/there"));
                assert_eq!(text(response.into_body()).await, "who are you?");
                assert_eq!((net.api.tokens().len(), net.other.tokens().len()), (1, 1), "{follower:?}, {other}");
                assert_eq!(harness.fetched(), 1, "{follower:?}, {other}");
                assert!(!harness.cache.status().suspect);
            }
        }
    });
}

#[test]
fn a_request_that_the_api_rejects_after_a_redirect_is_retried() {
    run(async || {
        for follower in Follower::BOTH {
            let harness = Harness::revoked().await;
            let evaluate = harness.clone();
            let api = Server::start(move |request: Request<_>| {
                let mut response = if evaluate.accepts(request.headers()) { welcome() } else { reject() };
                if request.uri().path() == "/" {
                    response = answer(302, "");
                    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/there"));
                }
                ready(response)
            })
            .await;
            let net = Net { api, other: Server::start(|_| ready(reject())).await };
            let response = follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
            assert_eq!(text(response.into_body()).await, "welcome", "{follower:?}");
            assert_eq!(harness.fetched(), 2);
        }
    });
}
