//! One provider of the tour: its server, the client that calls it, and what has been measured.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Uri;
use tower_bearer::{Bearer, TokenCache};

use crate::lookalike::Lookalike;
use crate::probe::Probe;
use crate::report::{Figures, Tally};

/// How long access tokens live.
pub(crate) const LIFETIME: Duration = Duration::from_secs(5);
/// How long a token answer takes: long enough that many requests run while a refresh is in progress.
pub(crate) const TOKEN_DELAY: Duration = Duration::from_millis(200);
/// How long a request takes to the API.
const API_DELAY: Duration = Duration::from_millis(5);

pub(crate) struct Provider {
    pub(crate) name: &'static str,
    pub(crate) server: Box<dyn Lookalike>,
    /// Where the client's tokens come from.
    pub(crate) cache: TokenCache,
    /// The layer over the probe over the HTTP client.
    pub(crate) client: Bearer<Probe>,
    /// What the requests ask for.
    pub(crate) uri: Uri,
    tally: Mutex<Tally>,
}

impl Provider {
    pub(crate) fn new(
        name: &'static str,
        server: impl Lookalike + 'static,
        cache: TokenCache,
        client: Bearer<Probe>,
        uri: String,
    ) -> Self {
        server.set_times(LIFETIME, TOKEN_DELAY, API_DELAY);
        let uri = uri.parse().expect("an origin and a path");
        Self { name, server: Box::new(server), cache, client, uri, tally: Mutex::default() }
    }

    pub(crate) fn probe(&self) -> &Probe {
        self.client.get_ref()
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn requests(&self) -> u64 {
        self.tally().requests
    }

    pub(crate) fn figures(&self) -> Figures {
        let calls = self.server.token_calls();
        Figures {
            name: self.name,
            tally: self.tally().clone(),
            token_calls: calls.total(),
            token_calls_failed: calls.total() - self.server.ledger().issued(),
            max_concurrent_token_calls: calls.most_at_once(),
            refused: self.probe().refused(),
            expired_tokens_sent: self.probe().expired_tokens(),
        }
    }
}
