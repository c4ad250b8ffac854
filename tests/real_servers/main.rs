//! Answers, denials and lifetimes of real servers, reduced from public reports and documents.

#[path = "../sources/mod.rs"]
mod sources;

mod answers;
mod denials;
mod lifetimes;
mod other_sources;
mod platforms;
mod redaction;

use tower_bearer::TokenCache;
use tower_bearer::testing::{Answer, TokenServer};

use crate::sources::{each, refresh_token};

/// A session from a saved refresh token. Its first refresh gets this answer.
fn session(answer: Answer) -> (TokenCache, TokenServer) {
    let issuer = TokenServer::new();
    issuer.queue(answer);
    (TokenCache::new(refresh_token(&issuer).build().unwrap()), issuer)
}

/// The refresh token that is sent after the first refresh got this answer.
async fn sent_next(answer: Answer) -> String {
    let (cache, issuer) = session(answer);
    let _ = cache.get().await;
    let _ = cache.refresh().await;
    each(&issuer.requests(), "refresh_token").pop().unwrap()
}
