//! The newest refresh token, and whether it is saved.

use std::mem;

use crate::error::Error;
use crate::schedule::DualInstant;
use crate::secret::Secret;
use crate::token::Token;

/// The newest refresh token, and whether it is saved.
///
/// Refresh tokens are numbered over the life of the cache. A save has the number of its refresh token.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    refresh_token: Option<Secret>,
    /// The run whose source reported it before it returned a token.
    reported_by: Option<u64>,
    /// The number of `refresh_token`.
    newest: u64,
    /// The number of the last saved refresh token.
    saved: u64,
    /// The refresh tokens up to this number belong to previous sources.
    forgotten: u64,
    /// How many saves have begun.
    attempts: u64,
    /// The save in flight, and when it counts as lost. It and the error are boxed, because both are rare and there may
    /// be a session for each of a million keys.
    saving: Option<Box<(u64, DualInstant)>>,
    not_saved: Option<Box<Error>>,
}

/// The next step to save the newest refresh token.
#[derive(Debug)]
pub(crate) enum SaveStep {
    /// There is nothing to save, because it is saved or there is none.
    Done,
    /// The driver saves it, and passes the ticket to [`Session::on_saved`](crate::cache::session::Session::on_saved).
    Save(SaveTicket, RotatedToken),
    /// The driver waits for another save, which counts as lost at this time.
    Wait(DualInstant),
}

/// One attempt to save a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaveTicket {
    attempt: u64,
    /// The number of the refresh token.
    pub(crate) number: u64,
}

/// A new refresh token, to be saved.
///
/// The cache passes it to [`on_rotation`](crate::TokenCacheBuilder::on_rotation).
#[derive(Clone, Debug)]
pub struct RotatedToken {
    refresh_token: Secret,
    token: Option<Token>,
}

// === impl Rotation ===

impl Rotation {
    pub(crate) fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_ref()
    }

    /// Whether the newest refresh token is only in this process.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.refresh_token.is_some() && self.saved < self.newest
    }

    /// Why the newest refresh token could not be saved, if its last save failed.
    pub(crate) fn not_saved(&self) -> Option<&Error> {
        self.not_saved.as_deref()
    }

    /// Stores the refresh token that the source of this run reported before it returned a token.
    pub(crate) fn report(&mut self, run: u64, refresh_token: Secret) {
        self.reported_by = Some(run);
        self.replace(Some(refresh_token));
    }

    /// Stores the refresh token of the token that this run returned.
    ///
    /// A source that reported a refresh token may leave it out of the token.
    pub(crate) fn receive(&mut self, run: u64, token: &Token) {
        if token.refresh_token().is_some() || self.reported_by != Some(run) {
            self.replace(token.refresh_token());
        }
    }

    pub(crate) fn replace(&mut self, refresh_token: Option<Secret>) {
        if self.refresh_token != refresh_token {
            self.newest += u64::from(refresh_token.is_some());
            self.refresh_token = refresh_token;
        }
    }

    /// Removes the refresh token. A save in flight continues, and the next save waits for it.
    pub(crate) fn forget(&mut self) {
        let Self { newest, saved, attempts, .. } = *self;
        let saving = self.saving.take();
        *self = Self { newest, saved, attempts, saving, forgotten: newest, ..Self::default() };
    }

    /// Returns the token with the newest refresh token.
    pub(crate) fn add_to(&self, token: Token) -> Token {
        match &self.refresh_token {
            Some(refresh_token) => token.with_refresh_token(refresh_token.clone()),
            None => token,
        }
    }

    /// Returns the next step to save the newest refresh token. `token` is the newest token. A save counts as lost at
    /// `deadline`.
    pub(crate) fn begin_save(&mut self, token: Option<&Token>, now: DualInstant, deadline: DualInstant) -> SaveStep {
        let Some(refresh_token) = self.refresh_token.clone().filter(|_| self.is_unsaved()) else {
            return SaveStep::Done;
        };
        // Invariant: saves do not overlap, so that an older one never overwrites a newer one.
        if let Some((_, until)) = self.saving.as_deref().copied()
            && !until.is_past(now)
        {
            return SaveStep::Wait(until);
        }
        self.attempts += 1;
        let ticket = SaveTicket { attempt: self.attempts, number: self.newest };
        self.saving = Some(Box::new((ticket.attempt, deadline)));
        let token = token.cloned().map(|token| self.add_to(token));
        SaveStep::Save(ticket, RotatedToken { refresh_token, token })
    }

    /// A save ended. `result` is `None` if it was dropped before it ended.
    ///
    /// Returns whether a newer refresh token has to be saved, because this save may have overwritten it. Returns also
    /// the error that is no longer reported, to drop after unlocking.
    pub(crate) fn on_saved(&mut self, ticket: SaveTicket, result: Option<Result<(), Error>>) -> (bool, Option<Error>) {
        let SaveTicket { attempt, number } = ticket;
        self.saving.take_if(|saving| saving.0 == attempt);
        // A failed save of an older refresh token may have overwritten the newer one, which then counts as not saved.
        if number < self.saved || matches!(result, Some(Ok(()))) {
            self.saved = number;
        }
        // The save of an older refresh token, or of a previous source's, does not change the status of the newest.
        let is_newest = number == self.newest && number > self.forgotten;
        let previous = match result {
            Some(result) if is_newest => {
                mem::replace(&mut self.not_saved, result.err().map(Box::new)).map(|error| *error)
            }
            Some(result) => result.err(),
            None => None,
        };
        (number < self.newest && self.refresh_token.is_some(), previous)
    }
}

// === impl RotatedToken ===

impl RotatedToken {
    /// Returns the refresh token to save.
    ///
    /// The issuer may no longer accept the previous one.
    pub fn refresh_token(&self) -> &Secret {
        &self.refresh_token
    }

    /// Returns the newest token, with this refresh token.
    ///
    /// It is the token that came with the refresh token. If the issuer's response contained no usable token, it is the
    /// previous one, or `None` if there was none.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}
