//! What this process knows about the record that processes share.

use crate::error::Error;
use crate::secret::Secret;
use crate::store::record::{Digest, Record, State};

/// What this process knows about the record that processes share.
#[derive(Debug, Default)]
pub(crate) struct KnownRecord {
    /// The newest record that this process read or wrote.
    record: Option<Record>,
    /// Why `record` may not be in the store.
    unsaved: Option<Error>,
    /// The epoch in which this process last made or ended a record.
    epoch: u64,
    /// Whether another session began in this process since it made a record.
    begins_session: bool,
    /// Whether another process ended the session, instead of a call to this cache.
    pub(crate) ended_elsewhere: bool,
}

/// The record in the store, compared with the record that this process knows.
#[derive(Debug)]
pub(crate) enum Comparison<'a> {
    /// This process has a login that is not in the record.
    NewLogin,
    /// The record belongs to another identity, such as another user.
    OtherIdentity,
    /// The record is missing or out of date. This newer one has to be written again.
    Lost(Record),
    /// The record is the one that this process knows.
    Same(&'a Record),
    /// The record is newer than what this process knows.
    Newer(&'a Record),
}

// === impl KnownRecord ===

impl KnownRecord {
    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    pub(crate) fn unsaved(&self) -> Option<&Error> {
        self.unsaved.as_ref()
    }

    /// Whether this process has replaced its source since it last made or ended a record.
    pub(crate) fn lacks_login_of(&self, epoch: u64) -> bool {
        self.epoch != epoch
    }

    /// Compares the record in the store, if there is one. `initial` is the first refresh token of this process's
    /// source, and `epoch` is the number of that source.
    pub(crate) fn compare<'a>(
        &self,
        found: Option<&'a Record>,
        identity: &Digest,
        initial: Option<&Secret>,
        epoch: u64,
    ) -> Comparison<'a> {
        let is_new_login = self.lacks_login_of(epoch);
        if let Some(found) = found
            && found.identity != *identity
        {
            // The ended record of another identity may be replaced by a new login.
            let is_free = matches!(found.state, State::Ended(_)) && (self.record.is_none() || is_new_login);
            return if is_free { Comparison::NewLogin } else { Comparison::OtherIdentity };
        }
        // At the first read, an initial refresh token that the record does not list is a new login.
        let is_new_seed = self.record.is_none()
            && found
                .zip(initial)
                .is_some_and(|(found, initial)| !found.initial_refresh_tokens.contains(&Digest::of_secret(initial)));
        if is_new_login || is_new_seed {
            return Comparison::NewLogin;
        }
        match (found, &self.record) {
            (Some(found), Some(known)) if found.is_newer_than(known) => Comparison::Newer(found),
            (Some(found), Some(known)) if found.says_the_same(known) => Comparison::Same(found),
            (_, Some(known)) => Comparison::Lost(known.clone()),
            (Some(found), None) => Comparison::Newer(found),
            (None, None) => Comparison::NewLogin,
        }
    }

    /// Whether this record belongs to another session than the known one.
    pub(crate) fn is_of_another_session(&self, record: &Record) -> bool {
        self.record.as_ref().is_some_and(|known| known.session != record.session)
    }

    /// The record of a new login. It is newer than the found and the known record.
    pub(crate) fn login_over(&self, found: Option<&Record>, identity: &Digest, initial: Option<&Secret>) -> Record {
        let previous = || found.into_iter().chain(&self.record);
        let newest = |number: fn(&Record) -> u64| previous().map(number).max().unwrap_or_default();
        let is_of_another = found.is_some_and(|found| self.is_of_another_session(found));
        let begins_session = self.begins_session || is_of_another || previous().any(Record::is_signed_out);
        let initial_refresh_tokens =
            found.filter(|found| found.identity == *identity).map(|found| found.initial_refresh_tokens.clone());
        let record = Record {
            identity: identity.clone(),
            login: newest(|record| record.login) + 1,
            session: newest(|record| record.session) + u64::from(begins_session),
            serial: newest(|record| record.serial) + 1,
            initial_refresh_tokens: initial_refresh_tokens.unwrap_or_default(),
            state: State::Active { token: None, refresh_token: initial.cloned(), refreshing: None },
        };
        record.with_initial_refresh_token(initial.map(Digest::of_secret))
    }

    /// Another session begins in this process.
    pub(crate) fn on_new_session(&mut self) {
        self.begins_session = true;
    }

    /// The store contains this record.
    pub(crate) fn on_read(&mut self, record: Record) {
        self.record = Some(record);
        self.unsaved = None;
    }

    /// The store contains the known record. After a sign-out, it may no longer contain the refresh token.
    pub(crate) fn on_same(&mut self, found: &Record) {
        if found.is_signed_out() {
            self.record = Some(found.clone());
        }
        self.unsaved = None;
    }

    /// This process made a record with the login of this epoch. `unsaved` says why it may not be in the store.
    pub(crate) fn on_made(&mut self, epoch: u64, record: Record, unsaved: Option<Error>) {
        if self.record.as_ref().is_none_or(|known| record.is_newer_than(known) || record.says_the_same(known)) {
            *self = Self {
                record: Some(record),
                unsaved,
                epoch,
                begins_session: false,
                ended_elsewhere: self.ended_elsewhere,
            };
        }
    }

    /// The driver wrote this lost record again.
    pub(crate) fn on_restored(&mut self, record: &Record) {
        if self.record.as_ref().is_some_and(|known| record.says_the_same(known)) {
            self.unsaved = None;
        }
    }

    /// The sign-out of this process ended the record. `unsaved` says why it may not be in the store.
    pub(crate) fn on_ended_here(&mut self, epoch: u64, record: Record, unsaved: Option<Error>) {
        *self = Self { record: Some(record), unsaved, epoch, begins_session: false, ended_elsewhere: false };
    }
}

#[cfg(test)]
mod tests;
