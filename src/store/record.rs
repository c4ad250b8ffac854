//! The record of a session in a store, as the process that saved it last knew it.
//!
//! A record is JSON, so that a person can read it in an emergency. Its first member is the format. Times are relative:
//! a record contains the remaining life of the token when it was saved, and the store says how long ago that was. So
//! the clocks of two machines are never compared. `expires_at` is only for people.
//!
//! Three values decide which of two records of one session is newer, in this order: the number of the login, whether a
//! sign-out ended the login, and the serial. Each new login increments the first number, and each new token or refresh
//! token increments the serial. The version of the store does not count, because it may be lost with the record.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::schedule::DualInstant;
use crate::secret::Secret;
use crate::token::Token;

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The digest of all values that determine the token. A record with another digest belongs to another session.
    pub(crate) identity: Digest,
    /// The number of the login.
    pub(crate) login: u64,
    /// The number of the session. A login after a sign-out begins another, and so does the login of another person. New
    /// credentials for the same login do not.
    pub(crate) session: u64,
    /// The number of the token or refresh token.
    pub(crate) serial: u64,
    /// The refresh tokens with which logins of this record began. A process that begins with another has a new login.
    pub(crate) initial_refresh_tokens: Vec<Digest>,
    pub(crate) state: State,
}

#[derive(Clone, Debug)]
pub(crate) enum State {
    Active {
        token: Option<SavedToken>,
        refresh_token: Option<Secret>,
        /// The owner of the lease that called the issuer with this refresh token and has not saved the answer.
        refreshing: Option<String>,
    },
    Ended(Ending),
}

/// How a session ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// A process signed out. The refresh token is still to be revoked.
    SignedOut { revoke: Option<Secret> },
    /// The issuer denied this refresh token.
    Denied { refresh_token: Digest },
}

/// A token, and when it was requested by the clock of this process.
#[derive(Clone, Debug)]
pub(crate) struct SavedToken {
    pub(crate) token: Token,
    pub(crate) asked: DualInstant,
}

/// A SHA-256 digest.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest(String);

/// Why a record cannot be read. It contains nothing of the record.
pub(crate) type Unreadable = &'static str;

const FORMAT: &str = "format";
/// The format that this release writes, and the only one that it reads.
const CURRENT: &str = "tower-bearer-session-1";
/// The prefix of the name of every format.
const FORMATS: &str = "tower-bearer-session-";
/// The prefix of sealed bytes that were not opened.
pub(crate) const SEALED: &[u8] = b"tower-bearer-sealed-";
/// How many digests of initial refresh tokens are kept.
const MAX_INITIAL: usize = 8;

// === impl Record ===

impl Record {
    /// The rank of this record. The newest record has the greatest.
    fn rank(&self) -> (u64, bool, u64) {
        (self.login, self.is_signed_out(), self.serial)
    }

    pub(crate) fn is_signed_out(&self) -> bool {
        matches!(self.state, State::Ended(Ending::SignedOut { .. }))
    }

    /// Whether this record, which the store has, is newer than the one that a process knows.
    pub(crate) fn is_newer_than(&self, known: &Self) -> bool {
        if self.rank() != known.rank() {
            return self.rank() > known.rank();
        }
        match &self.state {
            // A denial does not count if the refresh token has been replaced since.
            State::Ended(Ending::Denied { .. }) => self.denies(known.refresh_token()) && !self.says_the_same(known),
            // Two processes saved after a save was lost. The record in the store stays.
            _ => !self.says_the_same(known),
        }
    }

    /// Whether both contain the same tokens or ended in the same way.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        if self.rank() != other.rank() {
            return false;
        }
        match (&self.state, &other.state) {
            (State::Active { .. }, State::Active { .. }) => {
                let text = |record: &Self| record.token().map(|saved| saved.token.access_token().to_owned());
                self.refresh_token() == other.refresh_token() && text(self) == text(other)
            }
            (State::Ended(Ending::SignedOut { .. }), State::Ended(Ending::SignedOut { .. })) => true,
            (State::Ended(Ending::Denied { .. }), State::Ended(Ending::Denied { .. })) => true,
            _ => false,
        }
    }

    fn denies(&self, refresh_token: Option<&Secret>) -> bool {
        match &self.state {
            State::Ended(Ending::Denied { refresh_token: denied }) => {
                refresh_token.is_none_or(|refresh_token| Digest::of_secret(refresh_token) == *denied)
            }
            _ => false,
        }
    }

    pub(crate) fn token(&self) -> Option<&SavedToken> {
        match &self.state {
            State::Active { token, .. } => token.as_ref(),
            State::Ended(_) => None,
        }
    }

    pub(crate) fn refresh_token(&self) -> Option<&Secret> {
        match &self.state {
            State::Active { refresh_token, .. } => refresh_token.as_ref(),
            State::Ended(_) => None,
        }
    }

    /// The owner that called the issuer and has not saved an answer.
    pub(crate) fn refreshing(&self) -> Option<&str> {
        match &self.state {
            State::Active { refreshing, .. } => refreshing.as_deref(),
            State::Ended(_) => None,
        }
    }

    /// The same record, marked while this owner calls the issuer; `None` removes the mark.
    pub(crate) fn with_refreshing(mut self, owner: Option<&str>) -> Self {
        if let State::Active { refreshing, .. } = &mut self.state {
            *refreshing = owner.map(str::to_owned);
        }
        self
    }

    /// The next record, with the issuer's answer.
    pub(crate) fn next(&self, state: State) -> Self {
        Self { serial: self.serial + 1, state, ..self.clone() }
    }

    /// Adds the refresh token with which a login began.
    pub(crate) fn with_initial_refresh_token(mut self, initial: Option<Digest>) -> Self {
        if let Some(initial) = initial.filter(|initial| !self.initial_refresh_tokens.contains(initial)) {
            self.initial_refresh_tokens.push(initial);
            let surplus = self.initial_refresh_tokens.len().saturating_sub(MAX_INITIAL);
            self.initial_refresh_tokens.drain(..surplus);
        }
        self
    }

    // --- the format ---

    /// Encodes the record, to be saved now.
    pub(crate) fn encode(&self, now: DualInstant) -> Vec<u8> {
        let mut members = Map::new();
        let mut set = |name: &str, value: Value| _ = members.insert(name.to_owned(), value);
        set(FORMAT, json!(CURRENT));
        set("identity", json!(self.identity.0));
        set("login", json!(self.login));
        set("session", json!(self.session));
        set("serial", json!(self.serial));
        set("initial_refresh_tokens", self.initial_refresh_tokens.iter().map(|initial| json!(initial.0)).collect());
        match &self.state {
            State::Active { token, refresh_token, refreshing } => {
                set("state", json!("active"));
                if let Some(SavedToken { token, asked }) = token {
                    let end = asked.after(token.lifetime());
                    set("access_token", json!(token.access_token()));
                    set("lifetime_ms", json!(millis(token.lifetime())));
                    set("remaining_ms", json!(millis(end.wait(now))));
                    let expires_at = end.system_time().duration_since(UNIX_EPOCH).unwrap_or_default();
                    set("expires_at", json!(expires_at.as_secs()));
                    if let Some(refresh_in) = token.refresh_in() {
                        set("refresh_in_ms", json!(millis(refresh_in)));
                    }
                    if let Some(scope) = token.scope() {
                        set("scope", json!(scope));
                    }
                    if let Some(id_token) = token.id_token() {
                        set("id_token", json!(id_token.expose()));
                    }
                    if let Some(extras) = token.extras() {
                        set("extra", Value::Object(extras.clone()));
                    }
                }
                if let Some(refresh_token) = refresh_token {
                    set("refresh_token", json!(refresh_token.expose()));
                }
                if let Some(owner) = refreshing {
                    set("refreshing", json!(owner));
                }
            }
            State::Ended(Ending::SignedOut { revoke }) => {
                set("state", json!("signed_out"));
                if let Some(refresh_token) = revoke {
                    set("refresh_token", json!(refresh_token.expose()));
                }
            }
            State::Ended(Ending::Denied { refresh_token }) => {
                set("state", json!("denied"));
                set("denied", json!(refresh_token.0));
            }
        }
        Value::Object(members).to_string().into_bytes()
    }

    /// Decodes a record that was saved `age` before `now`.
    ///
    /// # Errors
    /// Returns an error if the bytes are not a whole record of the format that this release knows.
    pub(crate) fn decode(bytes: &[u8], age: Duration, now: DualInstant) -> Result<Self, Unreadable> {
        if bytes.starts_with(SEALED) {
            return Err("it is sealed with an unknown key, or was changed");
        }
        let Ok(Value::Object(members)) = serde_json::from_slice(bytes) else {
            return Err("it is not a JSON object; it is truncated, or another program wrote it");
        };
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let number = |name: &str| members.get(name).and_then(Value::as_u64);
        match text(FORMAT) {
            Some(CURRENT) => {}
            Some(other) if other.starts_with(FORMATS) => return Err("its format is newer than this release"),
            _ => return Err("another program wrote it"),
        }
        let read = || {
            let secret = |name| text(name).filter(|text| !text.is_empty()).map(Secret::from);
            let state = match text("state")? {
                "active" => {
                    let token = match text("access_token") {
                        None => None,
                        Some(access_token) => {
                            let lifetime = Duration::from_millis(number("lifetime_ms")?);
                            let remaining = Duration::from_millis(number("remaining_ms")?).min(lifetime);
                            let elapsed = (lifetime - remaining).saturating_add(age);
                            let mut token = Token::new(access_token).ok()?.with_lifetime(lifetime);
                            if let Some(refresh_in) = number("refresh_in_ms") {
                                token = token.with_refresh_in(Duration::from_millis(refresh_in));
                            }
                            if let Some(scope) = text("scope") {
                                token = token.with_scope(scope);
                            }
                            if let Some(id_token) = text("id_token") {
                                token = token.with_id_token(id_token);
                            }
                            if let Some(extra) = members.get("extra") {
                                token = token.with_extra(extra.as_object()?.clone());
                            }
                            Some(SavedToken { token, asked: now.before(elapsed) })
                        }
                    };
                    let (refresh_token, refreshing) = (secret("refresh_token"), text("refreshing").map(str::to_owned));
                    // No process writes a record with neither.
                    if token.is_none() && refresh_token.is_none() {
                        return None;
                    }
                    let token = token.map(|saved| match &refresh_token {
                        Some(refresh_token) => {
                            SavedToken { token: saved.token.with_refresh_token(refresh_token.clone()), ..saved }
                        }
                        None => saved,
                    });
                    State::Active { token, refresh_token, refreshing }
                }
                "signed_out" => State::Ended(Ending::SignedOut { revoke: secret("refresh_token") }),
                "denied" => State::Ended(Ending::Denied { refresh_token: Digest(text("denied")?.to_owned()) }),
                _ => return None,
            };
            let initial_refresh_tokens = members
                .get("initial_refresh_tokens")?
                .as_array()?
                .iter()
                .filter_map(|initial| initial.as_str().map(str::to_owned));
            Some(Self {
                identity: Digest(text("identity")?.to_owned()),
                login: number("login")?,
                session: number("session")?,
                serial: number("serial")?,
                initial_refresh_tokens: initial_refresh_tokens.map(Digest).collect(),
                state,
            })
        };
        read().ok_or("a member is missing or invalid")
    }
}

// === impl Digest ===

impl Digest {
    /// The digest of a list of parts: `["ab", "c"]` and `["a", "bc"]` differ.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self(URL_SAFE_NO_PAD.encode(hash.finalize()))
    }

    /// A part of it that is long enough for a file name, in lower case.
    pub(crate) fn short(&self) -> String {
        self.0.bytes().take(12).map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn of_secret(secret: &Secret) -> Self {
        Self::of(["tower-bearer-refresh-token", secret.expose()])
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[digest]")
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
