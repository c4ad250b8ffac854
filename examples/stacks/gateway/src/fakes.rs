//! A token endpoint that exchanges tokens, and an upstream that returns the name of the token's user.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use loopback::Server;
use tower::{BoxError, service_fn};

type Request = axum::http::Request<Full<Bytes>>;
type Response = axum::http::Response<Full<Bytes>>;

/// The token for `login-of-ada` is `upstream-of-login-of-ada`.
pub(crate) async fn token_exchange() -> Server {
    Server::fake(service_fn(async |request: Request| {
        let form = request.into_body().collect().await?.to_bytes();
        let subject = form_urlencoded::parse(&form).find(|(name, _)| name == "subject_token").map(|(_, value)| value);
        let token = format!("upstream-of-{}", subject.unwrap_or_default());
        let answer = serde_json::json!({
            "access_token": token,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 600,
        });
        Ok::<_, BoxError>(Response::new(answer.to_string().into()))
    }))
    .await
}

pub(crate) async fn upstream() -> Server {
    Server::fake(service_fn(async |request: Request| {
        let token = request.headers().get("authorization").map(|value| value.as_bytes().to_vec());
        Ok::<_, BoxError>(Response::new(token.unwrap_or_default().into()))
    }))
    .await
}
