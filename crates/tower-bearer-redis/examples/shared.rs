//! Processes that share a session. Start it in two terminals, with a server on loopback or in `REDIS_URL`:
//! `cargo run -p tower-bearer-redis --example shared`. Tokens live for ten seconds, and one process at a time fetches them.

use std::time::{Duration, SystemTime};

use tower_bearer::store::SharedSession;
use tower_bearer::{Error, FetchContext, Token, TokenCache};
use tower_bearer_redis::RedisStore;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let process = std::process::id();
    // This stands for a call to an issuer.
    let source = move |_: FetchContext| async move {
        println!("process {process} calls the issuer");
        let text = format!("token-of-{process}-{}", SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
        Ok::<_, Error>(Token::new(text)?.with_lifetime(Duration::from_secs(10)))
    };
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let session = SharedSession::new(RedisStore::new(url)?, "example");
    let cache = TokenCache::builder(source).shared_session(session).build().unwrap();
    loop {
        match cache.get().await {
            Ok(token) => println!("process {process} has {}", token.access_token()),
            Err(error) => println!("process {process} has none: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
