use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;

use crate::clock::Clock;
use crate::secret::Secret;
use crate::source::issuer::Issuer;
use crate::source::oauth2::auth::basic;
use crate::source::oauth2::client::Client;
use crate::source::{FetchContext, Reason};

/// The refresh tokens that a refresh with `old` reports if the issuer sends this answer.
async fn reported(answer: &'static str) -> Vec<Secret> {
    let http = tower::service_fn(move |_: Request<Full<Bytes>>| async move {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(answer.as_bytes()))))
    });
    let issuer = Issuer::new(http).token_endpoint("https://auth.example.com/token");
    let client = Client::new(&issuer, "my-app");
    let reported = Arc::new(Mutex::new(Vec::new()));
    let (reports, old) = (Arc::clone(&reported), Secret::from("old"));
    let report = move |refresh_token| reports.lock().unwrap().push(refresh_token);
    let deadline = Duration::from_secs(30);
    let context = FetchContext::of_cache(None, Some(old.clone()), Reason::Due, deadline, Clock::System, report);
    let _ = client.refresh(&context, &old).await;
    std::mem::take(&mut *reported.lock().unwrap())
}

#[tokio::test]
async fn a_refresh_token_is_reported_once_and_only_if_it_changed() {
    for rotated in [
        r#"{"access_token":"t","refresh_token":"new"}"#,
        r#"{"access_token":"not a token","refresh_token":"new"}"#,
        r#"{"refresh_token":"new"}"#,
        r#"{"data":{"refresh_token":"new"}}"#,
        r#"{"access_token":"t","refresh_token":"new","expires_"#,
        "\u{feff}{\"access_token\":\"t\",\"refresh_token\":\"new\"}",
        "access_token=&refresh_token=new",
    ] {
        assert_eq!(reported(rotated).await, ["new".into()], "{rotated}");
    }
    for kept in [
        r#"{"access_token":"t"}"#,
        r#"{"access_token":"t","refresh_token":"old"}"#,
        r#"{"access_token":"t","refresh_token":""}"#,
        r#"{"access_token":"t","refresh_token":7}"#,
        r#"{"error":"invalid_grant","refresh_token":"new"}"#,
        r#"{"access_token":"t","app":{"refresh_token":"of another"}}"#,
        r#"{"access_token":"t","refresh_token":"cut o"#,
        "",
    ] {
        assert_eq!(reported(kept).await, [], "{kept}");
    }
}

#[test]
fn id_and_secret_are_form_encoded_before_base64() {
    // we%20ird%3Aid%2B%25:p%26ss%20w%C3%B6rd
    let value = basic("we ird:id+%", &"p&ss wörd".into());
    assert_eq!(value, "Basic d2UlMjBpcmQlM0FpZCUyQiUyNTpwJTI2c3MlMjB3JUMzJUI2cmQ=");
}
