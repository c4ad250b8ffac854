//! One provider of the tour: its server, the client that calls it, and the measurements.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Uri;
use tower_bearer::{Bearer, TokenCache};

use crate::counting_source::Fetches;
use crate::fake::FakeServer;
use crate::probe::Probe;
use crate::report::{Figures, Tally};

/// How long access tokens live.
pub(crate) const LIFETIME: Duration = Duration::from_secs(5);
/// How long a token call takes. It is enough for many requests while a refresh is in flight.
pub(crate) const TOKEN_DELAY: Duration = Duration::from_millis(200);
/// How long a request takes to the API.
const API_DELAY: Duration = Duration::from_millis(5);

pub(crate) struct Provider {
    pub(crate) name: &'static str,
    pub(crate) server: Box<dyn FakeServer>,
    /// The source of the client's tokens.
    pub(crate) cache: TokenCache,
    /// The layer over the probe over the HTTP client.
    pub(crate) client: Bearer<Probe>,
    /// The URI of the requests.
    pub(crate) uri: Uri,
    fetches: Arc<Fetches>,
    revoked: AtomicU64,
    tally: Mutex<Tally>,
}

impl Provider {
    pub(crate) fn new(
        name: &'static str,
        server: impl FakeServer + 'static,
        cache: TokenCache,
        fetches: Arc<Fetches>,
        client: Bearer<Probe>,
        uri: String,
    ) -> Self {
        server.set_times(LIFETIME, TOKEN_DELAY, API_DELAY);
        let uri = uri.parse().expect("an origin and a path");
        let (server, revoked, tally) = (Box::new(server), AtomicU64::new(0), Mutex::default());
        Self { name, server, cache, client, uri, fetches, revoked, tally }
    }

    pub(crate) fn probe(&self) -> &Probe {
        self.client.get_ref()
    }

    /// From now on the API rejects the newest token.
    pub(crate) fn revoke_newest(&self) {
        let ledger = self.server.ledger();
        if ledger.newest().is_some_and(|token| ledger.revoke(&token)) {
            self.revoked.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn figures(&self) -> Figures {
        let calls = self.server.token_calls();
        Figures {
            name: self.name,
            tally: self.tally().clone(),
            token_calls: calls.total(),
            token_calls_failed: calls.total() - self.server.ledger().issued(),
            max_concurrent_token_calls: calls.most_at_once(),
            fetched_ahead_of_expiry: self.fetches.ahead_of_expiry(),
            fetched_after_rejection: self.fetches.after_rejection(),
            revoked: self.revoked.load(Relaxed),
            rejected: self.probe().rejected(),
            expired_tokens_sent: self.probe().expired_tokens(),
        }
    }
}
