//! A token in a file that something else rewrites: what is read, when it is read again, and what a bad moment costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::advance;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_bearer::file::TokenFile;
use tower_bearer::testing::ManualClock;
use tower_bearer::{BearerLayer, Error, FetchContext, MAX_LIFETIME, Reason, TokenCache};

use crate::common::{MINUTE, SECOND, settle, text, until};

/// A file that is always replaced as a whole.
struct Rewritten {
    directory: TempDir,
    path: PathBuf,
}

impl Rewritten {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let directory = TempDir::new().unwrap();
        let file = Self { path: directory.path().join("token"), directory };
        file.rewrite(text);
        file
    }

    fn rewrite(&self, text: impl AsRef<[u8]>) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    fn cache(&self) -> TokenCache {
        TokenCache::new(TokenFile::new(&self.path))
    }
}

/// A JWT that ends so many seconds from now.
fn jwt(ends_in: i64) -> String {
    jwt_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().saturating_add_signed(ends_in))
}

/// A JWT that ends at this time.
fn jwt_at(exp: u64) -> String {
    signed(json!({ "alg": "RS256", "kid": "1" }), json!({ "sub": "pod", "exp": exp }))
}

/// What a clock shows, in seconds since 1970.
fn unix_time(clock: &ManualClock) -> u64 {
    let now = FetchContext::new(Reason::First).with_clock(clock.clone()).now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn signed(header: Value, claims: Value) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmF0dXJl", part(header), part(claims))
}

/// What the first look at a file with this text comes to.
async fn read(text: impl AsRef<[u8]>) -> Result<tower_bearer::Token, Error> {
    Rewritten::new(text).cache().get().await
}

/// Lets a request come, and the look that it begins end.
async fn look(cache: &TokenCache) -> String {
    let sent = text(cache.get().await);
    until(|| !cache.status().fetching).await;
    sent
}

// === what is read ===

#[tokio::test]
async fn white_space_around_the_token_is_no_part_of_it() {
    let token = read("\n  the-token\r\n\n").await.unwrap();
    assert_eq!(token.header_value(), "Bearer the-token");
}

#[tokio::test]
async fn a_jwt_lives_until_its_exp_and_another_token_until_the_file_says_otherwise() {
    let left = read(jwt(6000)).await.unwrap().lifetime();
    assert!(left > 5900 * SECOND && left <= 6000 * SECOND, "{left:?}");
    let encrypted = format!("{}.key.iv.text.tag", URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A256GCM"}"#));
    for lasting in [
        "opaque".to_owned(),
        "a.b.c".to_owned(),
        encrypted,
        signed(json!({ "alg": "ES256" }), json!({ "sub": "no end" })),
        signed(json!({ "alg": "ES256" }), json!("no claims")),
        // Texts of other kinds that begin as a JWT does.
        URL_SAFE_NO_PAD.encode(r#"{"a":"account"}"#),
        STANDARD.encode(r#"{"a":"account","t":"?>?>"}"#),
        signed(json!({ "user": 1 }), json!({ "exp": 1 })),
    ] {
        let token = read(&lasting).await.unwrap_or_else(|error| panic!("{lasting}: {error}"));
        assert_eq!((token.access_token(), token.lifetime()), (&*lasting, MAX_LIFETIME));
    }
}

#[tokio::test]
async fn the_exp_of_a_jwt_is_compared_with_the_clock_of_the_cache() {
    let clock = ManualClock::new();
    let file = Rewritten::new(jwt_at(unix_time(&clock) + 3600));
    let cache = TokenCache::builder(TokenFile::new(&file.path)).clock(clock.clone()).build().unwrap();
    assert_eq!(cache.get().await.unwrap().lifetime(), 3600 * SECOND);
    clock.sleep(1000 * SECOND);
    assert_eq!(cache.refresh().await.unwrap().lifetime(), 2600 * SECOND);
    clock.sleep(2690 * SECOND);
    let error = cache.get().await.unwrap_err();
    assert!(error.to_string().contains("ended 90 s ago"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_a_token_is_an_error_that_names_the_file_and_not_its_content() {
    let whole = jwt(600);
    let signature = whole.rfind('.').unwrap();
    for (content, problem) in [
        (b"".to_vec(), "empty"),
        (b" \n".to_vec(), "empty"),
        (b"s3cret two words".to_vec(), "white space"),
        (b"s3cret\xff".to_vec(), "not ASCII"),
        (vec![b's'; 1024 * 1024 + 1], "longer than 1 MiB"),
        (vec![b's'; 64 * 1024 + 1], "longer than 64 KiB"),
        (whole.as_bytes()[..10].to_vec(), "half written"),
        (whole.as_bytes()[..signature].to_vec(), "half written"),
        (whole.as_bytes()[..whole.find('.').unwrap()].to_vec(), "half written"),
        (jwt(-90).into_bytes(), "s ago: whatever rewrites it has stopped"),
    ] {
        let file = Rewritten::new(&content);
        let error = file.cache().get().await.unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(error.is_transient() && said.contains(problem), "{problem}: {said}");
        assert!(said.contains(file.path.to_str().unwrap()), "{said}");
        assert!(!said.contains("s3cret") && !said.contains("eyJ") && !said.contains("sss"), "{said}");
    }
    assert_eq!(text(read(vec![b's'; 64 * 1024]).await).len(), 64 * 1024);
}

#[tokio::test]
async fn what_is_no_regular_file_is_not_waited_for() {
    let directory = TempDir::new().unwrap();
    let mut paths = vec![directory.path().to_owned()];
    #[cfg(unix)]
    {
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        paths.push(pipe);
    }
    for path in paths {
        let error = TokenCache::new(TokenFile::new(path)).get().await.unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }
}

#[test]
fn looking_all_the_time_is_rejected() {
    let error = TokenFile::builder("token").reread_every(Duration::ZERO).build().unwrap_err();
    assert!(error.is_invalid() && error.to_string().contains("reread_every"), "{error}");
}

// === when it is read again ===

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_token_that_kubernetes_has_rotated_is_found_within_a_minute() {
    use std::os::unix::fs::symlink;

    // The kubelet writes a new directory and swaps the link `..data` to it; the file itself is a link through that.
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let project = |version: &str, token: &str| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("token"), token).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    let (first, second) = (jwt(3600), jwt(3600 + 2880));
    project("..2026_01_02_03_04_05.1", &first);
    symlink("..data/token", at("token")).unwrap();

    let cache = TokenCache::new(TokenFile::new(at("token")));
    assert_eq!(look(&cache).await, first);
    advance(54 * SECOND - SECOND).await;
    project("..2026_01_02_03_52_05.2", &second);
    fs::remove_dir_all(at("..2026_01_02_03_04_05.1")).unwrap();
    assert_eq!(look(&cache).await, first, "a look is not due yet");
    advance(7 * SECOND).await;
    assert_eq!(look(&cache).await, first, "the file is read in the background");
    assert_eq!(look(&cache).await, second);
    assert_eq!((cache.status().generation, cache.status().last_failure.is_none()), (2, true));
}

#[tokio::test(start_paused = true)]
async fn a_file_renamed_over_it_is_found_after_the_interval() {
    let file = Rewritten::new("one");
    let source = TokenFile::builder(&file.path).reread_every(10 * MINUTE).build().unwrap();
    let cache = TokenCache::new(source);
    assert_eq!(look(&cache).await, "one");
    file.rewrite("two");
    advance(9 * MINUTE - SECOND).await;
    assert_eq!([look(&cache).await, look(&cache).await], ["one", "one"]);
    advance(MINUTE + SECOND).await;
    assert_eq!([look(&cache).await, look(&cache).await], ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn finding_the_same_token_is_no_failure_and_no_new_token() {
    let file = Rewritten::new("one");
    let cache = file.cache();
    for _ in 0..5 {
        assert_eq!(look(&cache).await, "one");
        let status = cache.status();
        assert_eq!((status.generation, status.last_failure.is_none()), (1, true));
        advance(MINUTE).await;
    }
    // It was looked at each time: this is seen by the next.
    file.rewrite("two");
    assert_eq!([look(&cache).await, look(&cache).await], ["one", "two"]);
}

#[tokio::test]
async fn finding_the_same_jwt_which_ends_no_later_is_no_failure() {
    let clock = ManualClock::new();
    let token = jwt_at(unix_time(&clock) + 3600);
    let file = Rewritten::new(&token);
    let cache = TokenCache::builder(TokenFile::new(&file.path)).clock(clock.clone()).build().unwrap();
    for _ in 0..5 {
        assert_eq!(look(&cache).await, token);
        let status = cache.status();
        assert_eq!((status.generation, status.last_failure.is_none()), (1, true));
        clock.advance(MINUTE);
    }
    file.rewrite("two");
    assert_eq!([look(&cache).await, look(&cache).await], [&token, "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_comes_later_is_read_then() {
    let file = Rewritten::new("one");
    fs::remove_file(&file.path).unwrap();
    let cache = file.cache();
    let error = cache.get().await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(file.path.to_str().unwrap()) && said.contains("could not be read"), "{said}");
    file.rewrite("two");
    assert!(cache.get().await.is_err(), "the failure is remembered for a while");
    advance(SECOND).await;
    assert_eq!(text(cache.get().await), "two");
}

// === the last good one ===

#[tokio::test(start_paused = true)]
async fn the_last_good_token_is_sent_while_the_file_is_missing_or_broken() {
    let broken: [Option<&[u8]>; 6] = [
        None,
        Some(b""),
        Some(b"two words"),
        Some(b"\xff"),
        Some(b"eyJhbGciOiJSUzI1NiJ9.eyJz"),
        Some(&[b's'; 1 << 21]),
    ];
    for content in broken {
        let file = Rewritten::new("good");
        let cache = file.cache();
        look(&cache).await;
        match content {
            Some(content) => file.rewrite(content),
            None => fs::remove_file(&file.path).unwrap(),
        }
        for _ in 0..10 {
            advance(MINUTE).await;
            assert_eq!(look(&cache).await, "good", "{content:?}");
        }
        let status = cache.status();
        let failure = status.last_failure.expect("the failure is shown").to_string();
        assert!(failure.contains(file.path.to_str().unwrap()), "{failure}");
        assert!(status.next_attempt_in.unwrap() > 10 * SECOND, "failures in a row are paused for longer and longer");
        file.rewrite("better");
        advance(MINUTE).await;
        assert_eq!([look(&cache).await, look(&cache).await], ["good", "better"]);
        assert!(cache.status().last_failure.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_good_token_is_sent_until_its_end_and_no_longer() {
    let first = jwt(6000);
    let file = Rewritten::new(&first);
    let cache = file.cache();
    look(&cache).await;
    fs::remove_file(&file.path).unwrap();
    advance(5900 * SECOND).await;
    assert_eq!(look(&cache).await, first);
    advance(100 * SECOND).await;
    let error = cache.get().await.unwrap_err();
    assert!(error.to_string().contains("could not be read"), "{error}");
    file.rewrite(jwt(9000));
    advance(MINUTE).await;
    assert_ne!(text(cache.get().await), first);
}

// === a rejected token ===

/// An API behind a layer that takes one token, and the tokens it was sent.
struct Picky {
    layer: BearerLayer,
    accepted: &'static str,
    sent: Arc<Mutex<Vec<String>>>,
}

impl Picky {
    fn new(cache: &TokenCache, accepted: &'static str) -> Self {
        let layer = BearerLayer::new(cache.clone(), ["https://api.example.com"]).unwrap();
        Self { layer, accepted, sent: Arc::default() }
    }

    async fn call(&self) -> Response<Full<Bytes>> {
        let (sent, accepted) = (Arc::clone(&self.sent), self.accepted);
        let api = service_fn(move |request: Request<Full<Bytes>>| {
            let token = request.headers()["authorization"].to_str().unwrap().replace("Bearer ", "");
            let status = if token == accepted { 200 } else { 401 };
            sent.lock().unwrap().push(token);
            async move { Ok::<_, BoxError>(Response::builder().status(status).body(Full::default()).unwrap()) }
        });
        let request = Request::get("https://api.example.com/").body(Full::default()).unwrap();
        self.layer.layer(api).oneshot(request).await.unwrap()
    }

    fn sent(&self) -> Vec<String> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_from_the_file_at_once() {
    let file = Rewritten::new("one");
    let cache = file.cache();
    cache.get().await.unwrap();
    advance(3 * SECOND).await;
    file.rewrite("two");
    let api = Picky::new(&cache, "two");
    assert_eq!(api.call().await.status(), 200);
    assert_eq!(api.sent(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn where_the_file_still_holds_the_rejected_token_the_401_is_the_callers() {
    let file = Rewritten::new("one");
    let cache = file.cache();
    cache.get().await.unwrap();
    advance(3 * SECOND).await;
    let api = Picky::new(&cache, "two");
    let response = api.call().await;
    assert_eq!((response.status().as_u16(), api.sent()), (401, vec!["one".to_owned()]));
    let error = response.extensions().get::<Error>().expect("the reason is in the extensions");
    assert!(error.to_string().contains("again"), "{error}");
    // The rejection was remembered, and so was its pause.
    file.rewrite("two");
    advance(SECOND).await;
    assert_eq!(api.call().await.status(), 200);
    assert_eq!(api.sent(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_read_a_moment_ago_is_sent_again_before_the_file_is_looked_at() {
    let file = Rewritten::new("one");
    let cache = file.cache();
    cache.get().await.unwrap();
    file.rewrite("two");
    let api = Picky::new(&cache, "two");
    assert_eq!(api.call().await.status(), 401);
    assert_eq!(api.sent(), ["one", "one"]);
    settle().await;
    advance(2 * SECOND).await;
    assert_eq!(api.call().await.status(), 200);
}

// === where it may be shown ===

#[test]
fn a_source_shows_its_path() {
    assert!(format!("{:?}", TokenFile::new(Path::new("/run/token"))).contains("/run/token"));
}
