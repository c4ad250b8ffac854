//! A redirect does not take the token along: not with the layer beneath what follows it, and not above.

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
/// Not the API's origin, however alike.
const STRANGERS: [&str; 7] = [
    "https://other.test",
    "https://api.test:8443",
    "http://api.test",
    "http://api.test:443",
    "https://sub.api.test",
    "https://api.test.other.test",
    "http://127.0.0.1",
];

/// Where the layer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follower {
    AboveUs,
    BeneathUs,
}

/// The API, and one server for all strangers.
struct Net {
    api: Server,
    stranger: Server,
}

impl Follower {
    const BOTH: [Self; 2] = [Self::AboveUs, Self::BeneathUs];

    fn client(self, harness: &Harness, net: &Net) -> Client {
        let names = STRANGERS.map(|name| (name, net.stranger.address)).into_iter().chain([(API, net.api.address)]);
        let http =
            Names::new(names).client::<Body>().map_response(|response| response.map(boxed)).map_err(BoxError::from);
        let policy = || clone_body_fn(|body: &Body| Some(body.clone())).and::<_, Body, BoxError>(Standard::default());
        match self {
            Self::AboveUs => {
                BoxCloneService::new(FollowRedirect::with_policy(harness.layer(API).layer(http), policy()))
            }
            Self::BeneathUs => {
                BoxCloneService::new(harness.layer(API).layer(FollowRedirect::with_policy(http, policy())))
            }
        }
    }
}

fn boxed(body: hyper::body::Incoming) -> Answer {
    Answer::new(body.map_err(Into::into))
}

/// Sends who asks for `/` elsewhere, and answers all other requests as it is told.
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
fn no_stranger_sees_the_token_after_a_redirect_of_any_kind() {
    run(async || {
        for follower in Follower::BOTH {
            for stranger in STRANGERS {
                for status in STATUSES {
                    for method in [Method::GET, Method::POST] {
                        let harness = Harness::new().await;
                        let api = redirecting(status, format!("{stranger}/there"), reject).await;
                        let net = Net { api, stranger: Server::start(|_| ready(welcome())).await };
                        let response =
                            follower.client(&harness, &net).oneshot(request(method)).await.expect("an answer");
                        assert_eq!(text(response.into_body()).await, "welcome");
                        assert_eq!(net.api.tokens(), ["Bearer token-1"]);
                        assert_eq!(net.stranger.tokens(), [""], "{follower:?}, {stranger}, {status}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_redirect_that_stays_at_the_origin_keeps_the_token() {
    run(async || {
        for follower in Follower::BOTH {
            for status in STATUSES {
                for location in ["/there", "//api.test/there", "https://API.test:443/there"] {
                    let harness = Harness::new().await;
                    let api = redirecting(status, location.to_owned(), welcome).await;
                    let net = Net { api, stranger: Server::start(|_| ready(reject())).await };
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
fn a_stranger_that_redirects_once_more_does_not_get_the_token_either() {
    run(async || {
        for follower in Follower::BOTH {
            for onward in ["/there", "https://other.test:8443/there"] {
                let harness = Harness::new().await;
                let net = Net {
                    api: redirecting(302, "https://other.test/".to_owned(), reject).await,
                    stranger: redirecting(302, onward.replace(":8443", ""), welcome).await,
                };
                let response = follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
                assert_eq!(text(response.into_body()).await, "welcome");
                assert_eq!(net.stranger.tokens(), ["", ""], "{follower:?}, {onward}");
            }
            // And back: beneath what follows we know our own again; above it the token was taken off for good.
            let harness = Harness::new().await;
            let net = Net {
                api: redirecting(302, "https://other.test/".to_owned(), welcome).await,
                stranger: redirecting(302, format!("{API}/there"), reject).await,
            };
            follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
            let back = if follower == Follower::AboveUs { "Bearer token-1" } else { "" };
            assert_eq!(net.api.tokens(), ["Bearer token-1", back], "{follower:?}");
            assert_eq!(net.stranger.tokens(), [""]);
        }
    });
}

#[test]
fn a_token_of_the_callers_own_is_not_put_back_where_the_follower_took_it_off() {
    run(async || {
        for follower in Follower::BOTH {
            let harness = Harness::new().await;
            let net = Net {
                api: redirecting(307, "https://other.test/there".to_owned(), reject).await,
                stranger: Server::start(|_| ready(welcome())).await,
            };
            let mut request = request(Method::GET);
            request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer mine"));
            follower.client(&harness, &net).oneshot(request).await.expect("an answer");
            assert_eq!((net.api.tokens(), net.stranger.tokens()), (vec!["Bearer mine".into()], vec![String::new()]));
        }
    });
}

#[test]
fn a_401_of_a_stranger_is_handed_back_and_refreshes_nothing() {
    run(async || {
        for follower in Follower::BOTH {
            for stranger in STRANGERS {
                let harness = Harness::new().await;
                // Old enough for a rejection to count.
                harness.revoke();
                let net = Net {
                    api: redirecting(302, format!("{stranger}/there"), welcome).await,
                    stranger: Server::start(|_| ready(reject())).await,
                };
                let response = follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
                assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
                assert!(response.extensions().get::<Error>().is_none());
                let RequestUri(from) = response.extensions().get().expect("the follower says where it came from");
                assert_eq!(from.to_string(), format!("{stranger}/there"));
                assert_eq!(text(response.into_body()).await, "who are you?");
                assert_eq!((net.api.tokens().len(), net.stranger.tokens().len()), (1, 1), "{follower:?}, {stranger}");
                assert_eq!(harness.fetched(), 1, "{follower:?}, {stranger}");
                assert!(!harness.cache.status().suspect);
            }
        }
    });
}

#[test]
fn a_401_of_the_api_after_a_redirect_goes_again() {
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
            let net = Net { api, stranger: Server::start(|_| ready(reject())).await };
            let response = follower.client(&harness, &net).oneshot(request(Method::GET)).await.expect("an answer");
            assert_eq!(text(response.into_body()).await, "welcome", "{follower:?}");
            assert_eq!(harness.fetched(), 2);
        }
    });
}
