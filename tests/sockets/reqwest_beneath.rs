//! A client beneath that follows redirects itself: reqwest.

use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use reqwest::redirect::Policy;
use tower::{Layer, Service, ServiceExt};
use tower_bearer::resend::IfEmpty;
use tower_http::follow_redirect::{FollowRedirect, RequestUri};

use crate::redirects::{STATUSES, redirecting};
use crate::run;
use crate::servers::{Server, answer, text};
use crate::world::World;

/// Reqwest as a service, which says where a response came from: reqwest follows redirects with a tower-http of another
/// version than ours.
#[derive(Clone)]
struct Reqwest(reqwest::Client);

impl Service<Request<reqwest::Body>> for Reqwest {
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, reqwest::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<reqwest::Body>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let response = client.execute(request.try_into()?).await?;
            let from = RequestUri(response.url().as_str().parse().expect("a URI"));
            let mut response = Response::from(response);
            response.extensions_mut().insert(from);
            Ok(response)
        })
    }
}

fn http(api: &Server, redirects: Policy) -> Reqwest {
    let http = reqwest::Client::builder().no_proxy().redirect(redirects);
    // Names lead to loopback; the port is that of the URL.
    let http = ["api.test", "other.test"].into_iter().fold(http, |http, name| http.resolve(name, api.address));
    Reqwest(http.build().expect("a client"))
}

/// `http://name:port`, at the port of this server.
fn origin(name: &str, server: &Server) -> String {
    format!("http://{name}:{}", server.address.port())
}

/// What comes back from the API through the layer over reqwest.
async fn get(world: &World, api: &Server) -> Response<reqwest::Body> {
    let layer = world.layer(&origin("api.test", api)).resend(IfEmpty);
    layer.layer(http(api, Policy::default())).oneshot(request(api)).await.expect("an answer")
}

fn request(api: &Server) -> Request<reqwest::Body> {
    Request::get(format!("{}/", origin("api.test", api))).body(reqwest::Body::default()).expect("a request")
}

/// An API that redirects to a stranger, and a stranger that redirects within itself.
async fn two_hops() -> [Server; 2] {
    let other = redirecting(302, "/there".to_owned(), || answer(200, "welcome")).await;
    let api = redirecting(302, format!("{}/", origin("other.test", &other)), || answer(401, "")).await;
    [api, other]
}

#[test]
fn no_stranger_sees_the_token_after_a_redirect_that_reqwest_follows() {
    run(async || {
        for name in ["other.test", "api.test", "127.0.0.1"] {
            for status in STATUSES {
                let world = World::new().await;
                let other = Server::start(|_| ready(answer(200, "welcome"))).await;
                let api = redirecting(status, format!("{}/there", origin(name, &other)), || answer(401, "")).await;
                assert_eq!(text(get(&world, &api).await.into_body()).await, "welcome");
                assert_eq!(api.tokens(), ["Bearer token-1"]);
                assert_eq!(other.tokens(), [""], "{name}, {status}");
            }
        }
    });
}

/// Not ours to mend: reqwest 0.13 follows with tower-http 0.6, which takes `Authorization` off at the first hop and puts
/// it back at the second, where both are a stranger's. tower-http 0.7 does not.
#[test]
#[ignore = "reqwest 0.13 puts the token back where a stranger redirects once more"]
fn a_stranger_that_redirects_once_more_does_not_get_the_token_from_reqwest() {
    run(async || {
        let (world, [api, other]) = (World::new().await, two_hops().await);
        assert_eq!(text(get(&world, &api).await.into_body()).await, "welcome");
        assert_eq!((api.tokens(), other.tokens()), (vec!["Bearer token-1".into()], vec![String::new(); 2]));
    });
}

#[test]
fn a_follower_above_us_over_a_reqwest_that_follows_nothing_is_safe_at_every_hop() {
    run(async || {
        let (world, [api, other]) = (World::new().await, two_hops().await);
        let layer = world.layer(&origin("api.test", &api)).resend(IfEmpty);
        let client = FollowRedirect::new(layer.layer(http(&api, Policy::none())));
        let response = client.oneshot(request(&api)).await.expect("an answer");
        assert_eq!(text(response.into_body()).await, "welcome");
        assert_eq!((api.tokens(), other.tokens()), (vec!["Bearer token-1".into()], vec![String::new(); 2]));
    });
}

#[test]
fn a_401_of_a_stranger_that_reqwest_went_to_is_handed_back_and_refreshes_nothing() {
    run(async || {
        for name in ["other.test", "api.test"] {
            let world = World::revoked().await;
            let other = Server::start(|_| ready(answer(401, "who are you?"))).await;
            let api = redirecting(302, format!("{}/there", origin(name, &other)), || answer(401, "")).await;
            let response = get(&world, &api).await;
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert_eq!(text(response.into_body()).await, "who are you?");
            assert_eq!((api.tokens().len(), other.tokens().len(), world.fetched()), (1, 1, 1), "{name}");
        }
    });
}
