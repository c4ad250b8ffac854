//! A token source that wraps another, and counts why tokens are fetched.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tower_bearer::{Error, FetchContext, Reason, Secret, Token, TokenSource};

pub(crate) struct CountingSource<S> {
    source: S,
    fetches: Arc<Fetches>,
}

#[derive(Default)]
pub(crate) struct Fetches {
    ahead_of_expiry: AtomicU64,
    after_rejection: AtomicU64,
}

impl<S> CountingSource<S> {
    pub(crate) fn new(source: S) -> (Self, Arc<Fetches>) {
        let fetches = Arc::<Fetches>::default();
        (Self { source, fetches: Arc::clone(&fetches) }, fetches)
    }
}

impl<S: TokenSource> TokenSource for CountingSource<S> {
    async fn fetch(&self, context: FetchContext) -> Result<Token, Error> {
        let reason = context.reason();
        let token = self.source.fetch(context).await?;
        match reason {
            Reason::Due => self.fetches.ahead_of_expiry.fetch_add(1, Relaxed),
            Reason::Rejected => self.fetches.after_rejection.fetch_add(1, Relaxed),
            _ => 0,
        };
        Ok(token)
    }

    async fn refresh_token(&self) -> Result<Option<Secret>, Error> {
        self.source.refresh_token().await
    }
}

impl Fetches {
    /// Tokens that were fetched because the last one was due, while requests still carried it.
    pub(crate) fn ahead_of_expiry(&self) -> u64 {
        self.ahead_of_expiry.load(Relaxed)
    }

    /// Tokens that were fetched because the API rejected the last one.
    pub(crate) fn after_rejection(&self) -> u64 {
        self.after_rejection.load(Relaxed)
    }
}
