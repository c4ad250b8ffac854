//! Neither `Debug`, an error nor a trace of this crate shows a secret, even if the issuer repeats it.

mod sources;

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tower_bearer::json::JsonLogin;
use tower_bearer::oauth2::{ClientAuth, ClientCredentialsGrant, PasswordGrant, RefreshTokenGrant};
use tower_bearer::providers::mesh_connect::MeshConnect;
use tower_bearer::providers::meshydb::MeshyDb;
use tower_bearer::testing::{Answer, TokenServer};
use tower_bearer::{BearerLayer, Error, TokenCache, TokenSource};
use tracing_subscriber::fmt::MakeWriter;

use crate::sources::{HOUR, TOKEN_URL, at, pass, says};

const CLIENT_SECRET: &str = "Cl1ent \"s3cret\" +/%";
const PASSWORD: &str = "Pa55 w\\rd&ü";
const REFRESH_TOKEN: &str = "R3fresh/t0ken+saved=";
const ROTATED: &str = "R0tated~t0ken";
const ACCESS_TOKEN: &str = "Acc3ss.t0ken.x";
const ID_TOKEN: &str = "1d.t0ken.y";
const API_KEY: &str = "K3y-of-a-header";

const ALL: [&str; 7] = [CLIENT_SECRET, PASSWORD, REFRESH_TOKEN, ROTATED, ACCESS_TOKEN, ID_TOKEN, API_KEY];
/// A part of each secret that is the same in every encoding.
const TRACES: [&str; 7] = ["Cl1ent", "Pa55", "R3fresh", "R0tated", "Acc3ss", "1d.t0", "K3y-of"];

#[track_caller]
fn assert_clean(said: &str) {
    for trace in TRACES {
        assert!(!said.contains(trace), "{trace} in: {said}");
    }
    // The Basic header contains the secret.
    assert!(!said.contains("bXktYXBw"), "{said}");
}

#[track_caller]
fn shows_nothing(value: &impl Debug) {
    assert_clean(&format!("{value:?} {value:#?}"));
}

/// The secrets that every source has after its first token, in addition to those that it started with.
const LEARNT: [&str; 5] = [CLIENT_SECRET, API_KEY, ROTATED, ACCESS_TOKEN, ID_TOKEN];

/// A text that repeats these secrets in every encoding.
fn echo(secrets: &[&str]) -> String {
    let encodings = |secret: &&str| {
        let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let json = Value::from(*secret).to_string();
        format!("{secret} {form} {} {json} ", form.replace('+', "%20"))
    };
    secrets.iter().map(encodings).collect()
}

/// The traces of this crate in all tests of this file.
static TRACES_SAID: LazyLock<Captured> = LazyLock::new(|| {
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    subscriber.with_writer(captured.clone()).init();
    captured
});

/// An issuer. Starts to capture the traces first, because a callsite without a subscriber may stay disabled.
fn traced_issuer() -> TokenServer {
    LazyLock::force(&TRACES_SAID);
    TokenServer::new()
}

fn client_credentials(issuer: &TokenServer) -> ClientCredentialsGrant {
    let source = ClientCredentialsGrant::builder(&at(issuer.clone()), "my-app", CLIENT_SECRET);
    source.header("x-api-key", API_KEY).build().unwrap()
}

fn password(issuer: &TokenServer) -> PasswordGrant {
    let source = PasswordGrant::builder(&at(issuer.clone()), "my-app", "ann", PASSWORD);
    source.client_auth(CLIENT_SECRET).header("x-api-key", API_KEY).build().unwrap()
}

fn refresh_token(issuer: &TokenServer) -> RefreshTokenGrant {
    let source = RefreshTokenGrant::builder(&at(issuer.clone()), "my-app", REFRESH_TOKEN);
    source.client_auth(ClientAuth::post(CLIENT_SECRET)).header("x-api-key", API_KEY).build().unwrap()
}

fn granted() -> Answer {
    let body = json!({
        "access_token": ACCESS_TOKEN,
        "expires_in": 3600,
        "refresh_token": ROTATED,
        "id_token": ID_TOKEN,
        "scope": "read",
        "more": CLIENT_SECRET,
    });
    Answer::json(200, body)
}

/// All texts of a cache with this source, from the first token to the failure with this answer.
async fn said_by<S: TokenSource>(issuer: &TokenServer, source: S, answer: Answer) -> (String, Error) {
    issuer.queue(granted());
    let cache = TokenCache::builder(source).on_rotation(async |_| Err::<(), _>("the disk is full")).build().unwrap();
    let token = cache.get().await.unwrap();
    let mut said = format!("{token:?} {:?} {:?} {cache:?}", token.refresh_token(), token.id_token());
    said += &format!("{:?}", BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap());
    pass(HOUR).await;
    issuer.fail(Some(answer));
    let error = cache.get().await.unwrap_err();
    issuer.fail(None);
    said += &format!("{} {:?} {:#?}", says(&error), cache.status(), cache);
    (said, error)
}

#[test]
fn no_source_and_no_value_shows_a_secret() {
    let issuer = traced_issuer();
    shows_nothing(&client_credentials(&issuer));
    shows_nothing(&password(&issuer));
    shows_nothing(&refresh_token(&issuer));
    let meshy = MeshyDb::builder(issuer.clone(), "acme", "public-key").build().unwrap();
    shows_nothing(&meshy.login_with_password("ann", PASSWORD).build().unwrap());
    shows_nothing(&meshy.login_with_refresh_token(REFRESH_TOKEN).build().unwrap());
    shows_nothing(&MeshConnect::builder(issuer.clone(), "id", CLIENT_SECRET).build().unwrap());
    let login = JsonLogin::builder(issuer, TOKEN_URL, json!({ "key": CLIENT_SECRET })).header("x-api-key", API_KEY);
    shows_nothing(&login);
    shows_nothing(&login.build().unwrap());
    for secret in ALL {
        shows_nothing(&tower_bearer::Secret::from(secret));
    }
}

#[tokio::test(start_paused = true)]
async fn no_source_context_shows_a_secret() {
    let issuer = traced_issuer();
    issuer.queue(granted());
    let shown = Arc::new(Mutex::new(String::new()));
    let (inner, shows) = (Arc::new(password(&issuer)), Arc::clone(&shown));
    let cache = TokenCache::new(move |context: tower_bearer::FetchContext| {
        *shows.lock().unwrap() += &format!("{context:?} {:?} {:?}", context.replaced(), context.refresh_token());
        let inner = Arc::clone(&inner);
        async move { TokenSource::fetch(&*inner, context).await }
    });
    cache.get().await.unwrap();
    cache.refresh().await.unwrap();
    let shown = shown.lock().unwrap();
    assert!(shown.contains("[redacted]"), "{shown}");
    assert_clean(&shown);
}

#[tokio::test(start_paused = true)]
async fn secrets_are_redacted_if_the_issuer_repeats_them() {
    for status in [200, 400, 401, 403, 500, 503] {
        for code in ["invalid_client", "odd", CLIENT_SECRET, ROTATED] {
            let answer = |began_with: &[&str]| {
                // The secret that the session started with comes first, because the text is bounded.
                let error = echo(&[began_with, &LEARNT].concat());
                let token = if status == 200 { Value::Null } else { ACCESS_TOKEN.into() };
                let body =
                    json!({ "error": code, "error_description": error, "access_token": token, "id_token": ID_TOKEN });
                Answer::json(status, body)
            };
            let issuer = traced_issuer();
            for said in [
                said_by(&issuer, client_credentials(&issuer), answer(&[])).await.0,
                said_by(&issuer, password(&issuer), answer(&[PASSWORD])).await.0,
                said_by(&issuer, refresh_token(&issuer), answer(&[REFRESH_TOKEN])).await.0,
            ] {
                assert_clean(&said);
                assert!(said.contains("[redacted]"), "{said}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_secret_is_redacted_in_each_field_of_an_answer() {
    let basic = "bXktYXBwOkNsMWVudCUyMCUyMnMzY3JldCUyMiUyMCUyQiUyRiUyNQ==";
    for secret in ALL.into_iter().chain([basic]) {
        let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let json = Value::from(secret).to_string();
        for echo in [secret, &form, &form.replace('+', "%20"), &json[1..json.len() - 1]] {
            let answers = [
                Answer::json(400, json!({ "error": "odd", "error_description": echo })),
                Answer::json(400, json!({ "error": echo })),
                Answer::json(500, json!({ "message": echo })),
                Answer::raw(401, format!("Wrong: {echo}")),
                Answer::json(200, json!({ "access_token": "the.token", "token_type": echo })),
                Answer::json(200, json!({ "access_token": format!("{echo} ") })),
            ];
            for answer in answers {
                let issuer = traced_issuer();
                if secret != REFRESH_TOKEN {
                    assert_clean(&said_by(&issuer, password(&issuer), answer.clone()).await.0);
                }
                if secret != PASSWORD && secret != basic {
                    assert_clean(&said_by(&issuer, refresh_token(&issuer), answer).await.0);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_bound_leaves_half_a_secret() {
    let secret = "Cl1ent".repeat(60);
    for before in 0..=256 {
        let issuer = traced_issuer();
        let text = format!("{}{secret}", ".".repeat(before));
        issuer.queue(Answer::json(401, json!({ "error": "invalid_client", "error_description": text })));
        let source = ClientCredentialsGrant::builder(&at(issuer.clone()), "my-app", secret.clone()).build().unwrap();
        let error = TokenCache::new(source).get().await.unwrap_err();
        assert_clean(&says(&error));
        // The issuer may truncate its text.
        let issuer = traced_issuer();
        let cut = &secret[..secret.len() - before - 1];
        issuer.queue(Answer::json(401, json!({ "error": "invalid_client", "error_description": cut })));
        let source = ClientCredentialsGrant::builder(&at(issuer.clone()), "my-app", secret.clone()).build().unwrap();
        assert_clean(&says(&TokenCache::new(source).get().await.unwrap_err()));
    }
}

#[tokio::test(start_paused = true)]
async fn json_logins_redact_secrets() {
    for status in [200, 400, 401, 403, 500] {
        for name in ["permissionDenied", "ok", CLIENT_SECRET] {
            let envelope = json!({
                "status": name,
                "message": echo(&[CLIENT_SECRET, ACCESS_TOKEN]),
                "displayMessage": CLIENT_SECRET,
                "errorType": CLIENT_SECRET.replace(' ', "%20"),
                "errorHash": ACCESS_TOKEN,
                "error": CLIENT_SECRET,
                "content": { "id_token": ACCESS_TOKEN, "status": "failed" },
            });
            let issuer = traced_issuer();
            issuer.fail(Some(Answer::json(status, envelope)));
            let mesh = MeshConnect::builder(issuer.clone(), "id", CLIENT_SECRET).build().unwrap();
            let body = json!({ "user": "ann", "keys": [{ "key": CLIENT_SECRET }] });
            let login = JsonLogin::builder(issuer, TOKEN_URL, body).token_at("/content/id_token").build().unwrap();
            assert_clean(&says(&TokenCache::new(mesh).get().await.unwrap_err()));
            match TokenCache::new(login).get().await {
                Ok(token) => shows_nothing(&token),
                Err(error) => assert_clean(&says(&error)),
            }
        }
    }
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn no_trace_holds_a_secret() {
    let issuer = traced_issuer();
    let answers = |began_with: &str| {
        let echo = echo(&[&[began_with], &LEARNT[..]].concat());
        [
            Answer::json(400, json!({ "error": "invalid_grant", "error_description": echo })),
            Answer::json(503, json!({ "error": CLIENT_SECRET, "message": echo })),
            Answer::raw(400, format!("Wrong: {echo}")),
            Answer::json(200, json!({ "access_token": CLIENT_SECRET, "token_type": CLIENT_SECRET })),
            Answer::fails("connection reset"),
        ]
    };
    for answer in answers(PASSWORD) {
        said_by(&issuer, password(&issuer), answer).await;
    }
    for answer in answers(REFRESH_TOKEN) {
        said_by(&issuer, refresh_token(&issuer), answer).await;
    }
    let (_, error) =
        said_by(&issuer, client_credentials(&issuer), Answer::raw(429, "").header("retry-after", "3")).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
    let captured = TRACES_SAID.0.lock().unwrap();
    let traces = str::from_utf8(&captured).unwrap();
    for event in ["token fetched", "token fetch failed", "refresh token not saved", "[redacted]"] {
        assert!(traces.contains(event), "{event}");
    }
    traces.lines().for_each(assert_clean);
}
