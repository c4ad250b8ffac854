//! What requests see of a session.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::schedule::{DualInstant, Phase, Window};
use crate::token::{SessionId, Token};

/// What requests see of the session. It is immutable, and each change publishes a new one.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) session: SessionId,
    pub(crate) current: Option<CurrentToken>,
    /// The failure of the last fetch, if it failed. Behind a pointer, because most views have none.
    pub(crate) failure: Option<Arc<Failure>>,
}

#[derive(Clone, Debug)]
pub(crate) struct CurrentToken {
    pub(crate) token: Token,
    pub(crate) window: Window,
    /// When this process first received the access token, or another process requested it.
    pub(crate) issued_at: DualInstant,
}

#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// When the backoff ends. Until then only [`Demand::Fetched`] starts a fetch.
    pub(crate) retry_at: DualInstant,
    /// How many fetches in a row have failed in the same way: denied, or otherwise.
    pub(crate) streak: u32,
    /// How many fetches in a row have failed for any reason.
    pub(crate) fetches: u32,
}

// === impl View ===

impl View {
    /// The current token, if it is usable.
    pub(crate) fn usable_at(&self, now: DualInstant) -> Option<(&CurrentToken, Phase)> {
        let current = self.current.as_ref()?;
        match current.window.phase(now) {
            Phase::Expired => None,
            phase => Some((current, phase)),
        }
    }

    /// The current token alone, if it is usable.
    pub(crate) fn usable_token(&self, now: DualInstant) -> Option<Token> {
        self.usable_at(now).map(|(current, _)| current.token.clone())
    }

    /// The failure whose backoff has not ended.
    pub(crate) fn active_backoff(&self, now: DualInstant) -> Option<&Failure> {
        self.failure.as_deref().filter(|failure| !failure.retry_at.is_past(now))
    }

    pub(crate) fn remaining(&self, now: DualInstant) -> Duration {
        self.current.as_ref().map_or(Duration::ZERO, |current| current.window.remaining(now))
    }
}
