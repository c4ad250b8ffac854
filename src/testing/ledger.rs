//! The access tokens that were issued, and what has become of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::testing::helpers::{lock, now};

/// The issued access tokens, shared between the fake that issues them and the fake that accepts them.
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

/// What a [`Ledger`] says of an access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Issued, not expired, not revoked.
    Live,
    /// Its lifetime has passed, whether or not it was revoked before.
    Expired,
    /// Revoked within its lifetime.
    Revoked,
    /// Never issued here.
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
    /// `None` where the end lies beyond what an `Instant` can hold.
    expires_at: Option<Instant>,
    revoked: bool,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters an access token that lives from now for `lifetime`. The same text again begins a new life.
    pub fn issue(&self, text: impl Into<String>, lifetime: Duration) {
        let text = text.into();
        let entry = Entry { expires_at: now().checked_add(lifetime), revoked: false };
        let mut entries = lock(&self.entries);
        entries.newest = Some(text.clone());
        entries.issued += 1;
        entries.tokens.insert(text, entry);
    }

    /// What has become of `token` by now.
    pub fn state_of(&self, token: &str) -> TokenState {
        match lock(&self.entries).tokens.get(token) {
            None => TokenState::Unknown,
            Some(entry) if entry.expires_at.is_some_and(|end| end <= now()) => TokenState::Expired,
            Some(entry) if entry.revoked => TokenState::Revoked,
            Some(_) => TokenState::Live,
        }
    }

    /// Revokes one access token; `false` if it was never issued here.
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
