//! The access tokens that fakes issued, and the state of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::testing::helpers::{lock, now};

/// The access tokens that one fake issues and another accepts.
///
/// ```
/// use std::time::Duration;
/// use tower_bearer::testing::{Ledger, TokenState};
///
/// let ledger = Ledger::new();
/// ledger.issue("abc", Duration::from_secs(60));
/// assert_eq!(ledger.state_of("abc"), TokenState::Live);
/// ledger.revoke("abc");
/// assert_eq!(ledger.state_of("abc"), TokenState::Revoked);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: Arc<Mutex<Entries>>,
}

/// The state of an access token in a [`Ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Issued, not expired, not revoked.
    Live,
    /// Its lifetime has passed, whether or not it was revoked before.
    Expired,
    /// Revoked within its lifetime.
    Revoked,
    /// Never issued.
    Unknown,
}

#[derive(Debug, Default)]
struct Entries {
    tokens: HashMap<String, Entry>,
    newest: Option<String>,
    issued: usize,
}

#[derive(Debug)]
struct Entry {
    /// `None` if an `Instant` cannot hold the end.
    expires_at: Option<Instant>,
    revoked: bool,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an access token that expires after `lifetime`.
    ///
    /// The same text again starts a new lifetime.
    pub fn issue(&self, text: impl Into<String>, lifetime: Duration) {
        let text = text.into();
        let entry = Entry { expires_at: now().checked_add(lifetime), revoked: false };
        let mut entries = lock(&self.entries);
        entries.newest = Some(text.clone());
        entries.issued += 1;
        entries.tokens.insert(text, entry);
    }

    /// The state of `token` now.
    pub fn state_of(&self, token: &str) -> TokenState {
        match lock(&self.entries).tokens.get(token) {
            None => TokenState::Unknown,
            Some(entry) if entry.expires_at.is_some_and(|end| end <= now()) => TokenState::Expired,
            Some(entry) if entry.revoked => TokenState::Revoked,
            Some(_) => TokenState::Live,
        }
    }

    /// Revokes one access token, and returns `false` if it was never issued.
    pub fn revoke(&self, token: &str) -> bool {
        match lock(&self.entries).tokens.get_mut(token) {
            Some(entry) => {
                entry.revoked = true;
                true
            }
            None => false,
        }
    }

    /// Revokes every access token issued so far.
    pub fn revoke_all(&self) {
        lock(&self.entries).tokens.values_mut().for_each(|entry| entry.revoked = true);
    }

    /// The text of the access token issued last.
    pub fn newest(&self) -> Option<String> {
        lock(&self.entries).newest.clone()
    }

    /// How many times a token was issued.
    pub fn issued(&self) -> usize {
        lock(&self.entries).issued
    }
}
