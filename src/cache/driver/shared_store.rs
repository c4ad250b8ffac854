//! The store of a shared session, as the driver calls it.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::driver::participant::Participant;
use crate::cache::driver::store_run::StoreRun;
use crate::cache::driver::{BoxFuture, Driver, SessionStore};
use crate::cache::session::Run;
use crate::cache::store_access::{Content, HeldLease, LeaseState, Polls, SaveEnd, SignOut, StoreAccess};
use crate::clock::{self, Clock};
use crate::error::{Error, StoreProblem};
use crate::secret::Secret;
use crate::source::erased::DynSource;
use crate::store::SharedSession;
use crate::store::record::{Digest, Ending, Record, State as RecordState};
use crate::telemetry::Sharing;
use crate::token::Token;

/// The store of a shared session.
pub(crate) struct SharedStore {
    shared: Arc<StoreAccess>,
}

// === impl SharedStore ===

impl SharedStore {
    pub(crate) fn new(session: SharedSession, clock: Clock) -> Self {
        Self { shared: Arc::new(StoreAccess::new(session, clock)) }
    }

    async fn start_sign_out(
        &self,
        driver: &Driver,
        epoch: u64,
        source: &Arc<dyn DynSource>,
        newest: Result<Option<Secret>, Error>,
    ) -> (Result<Option<Secret>, Error>, SignOut) {
        let participant = Participant { driver, shared: &self.shared };
        let lease = match self.lease_for_sign_out(driver).await {
            Ok(lease) => lease,
            Err(problem) => {
                // The other processes continue until the issuer denies them. This process's refresh token is revoked.
                participant.store_failed(&problem);
                return (newest, SignOut { lease: None, marked: Err(problem) });
            }
        };
        let ended = lease.extend_while(self.end_record(participant, epoch, &lease, source, newest.as_ref().ok())).await;
        let (to_revoke, marked) = match ended {
            Ok(Some((to_revoke, version, record))) => (Ok(to_revoke), Ok(Some((version, record)))),
            // The record belongs to the next session.
            Ok(None) => (newest, Ok(None)),
            Err(problem) => {
                participant.store_failed(&problem);
                (newest, Err(problem))
            }
        };
        (to_revoke, SignOut { lease: Some(lease), marked })
    }

    async fn finish_sign_out(
        &self,
        driver: &Driver,
        epoch: u64,
        sign_out: SignOut,
        revoked: Result<(), Error>,
    ) -> Result<(), Error> {
        let SignOut { lease, marked } = sign_out;
        let Some(lease) = lease else { return revoked.and(marked.map(drop)) };
        let result = match marked {
            Ok(Some((version, record))) => {
                let saved = lease.extend_while(lease.save(version, &record)).await;
                let problem = match saved {
                    SaveEnd::Saved(_) => None,
                    SaveEnd::Conflict => {
                        Some(Error::shared("the lease was lost in a sign-out", StoreProblem::Transient))
                    }
                    SaveEnd::Failed(error) => Some(error),
                };
                driver.state().session.on_record_ended(epoch, record, problem);
                revoked
            }
            Ok(None) => revoked,
            Err(problem) => revoked.and(Err(problem)),
        };
        lease.release().await;
        result
    }

    /// Takes the lease. It waits for it at most as long as a fetch may take.
    async fn lease_for_sign_out(&self, driver: &Driver) -> Result<HeldLease, Error> {
        let (give_up_at, mut polls) = (driver.clock.now().after(driver.policy.fetch_deadline()), Polls::new());
        loop {
            let changed = self.shared.subscribe().await;
            match self.shared.acquire().await? {
                LeaseState::Held(lease) => return Ok(lease),
                LeaseState::Busy { .. } if give_up_at.is_past(driver.clock.now()) => {
                    let problem = "another process held the lease on the shared session for too long; sign out again";
                    return Err(Error::shared(problem, StoreProblem::Transient));
                }
                LeaseState::Busy { remaining, .. } => clock::at_most(polls.next(remaining), changed).await,
            }
        }
    }

    /// Ends the record before the refresh token is revoked, so that no other process uses it.
    ///
    /// The refresh token stays in the record until it is revoked. Returns the refresh token to revoke, the version of
    /// the record, and the record without the refresh token. Returns `None` if the record belongs to another session,
    /// which this or another process began meanwhile.
    async fn end_record(
        &self,
        participant: Participant<'_>,
        epoch: u64,
        lease: &HeldLease,
        source: &Arc<dyn DynSource>,
        newest: Option<&Option<Secret>>,
    ) -> Result<Option<(Option<Secret>, Option<u64>, Record)>, Error> {
        let Participant { driver, shared } = participant;
        let found = shared.read().await?;
        let known = {
            let state = driver.state();
            if state.session.epoch() != epoch {
                return Ok(None);
            }
            state.session.known_record().cloned()
        };
        // After a first sign-out the cache has no source, so the known record supplies the identity.
        let identity = known.as_ref().map(|known| known.identity.clone());
        let identity = identity.unwrap_or_else(|| shared.identity(&source.identity()));
        let base = match (&found.content, known) {
            (Content::Record(found), _) if found.identity != identity => {
                let problem = "the record under this key belongs to another user, tenant, scope or issuer";
                return Err(Error::shared(problem, StoreProblem::Permanent));
            }
            (Content::Record(found), Some(known)) if found.is_newer_than(&known) && found.session != known.session => {
                return Ok(None);
            }
            (Content::Record(found), Some(known)) if !found.is_newer_than(&known) && !found.says_the_same(&known) => {
                known
            }
            (Content::Record(found), _) => found.clone(),
            (_, Some(known)) => known,
            (_, None) => {
                let state = RecordState::Active { token: None, refresh_token: None, refreshing: None };
                Record { identity, login: 1, session: 1, serial: 0, initial_refresh_tokens: Vec::new(), state }
            }
        };
        let mut version = found.version;
        if let (Content::Unreadable(why), Some(unreadable)) = (&found.content, version)
            && let Some(name) = lease.set_aside(unreadable).await?
        {
            driver.telemetry.shared(&Sharing::SetAside { why, name: &name });
            version = None;
        }
        let to_revoke = match &base.state {
            RecordState::Active { refresh_token, .. } => refresh_token.clone().or_else(|| newest.cloned().flatten()),
            RecordState::Ended(Ending::SignedOut { revoke }) => revoke.clone(),
            RecordState::Ended(Ending::Denied { .. }) => None,
        };
        let ending = |revoke| base.next(RecordState::Ended(Ending::SignedOut { revoke }));
        // The record lists this refresh token, so a process that starts with it does not begin a new login.
        let initial = participant.initial_refresh_token(source).await.as_ref().map(Digest::of_secret);
        let ending = |revoke| ending(revoke).with_initial_refresh_token(initial.clone());
        match lease.save(version, &ending(to_revoke.clone())).await {
            SaveEnd::Saved(saved) => Ok(Some((to_revoke, Some(saved), ending(None)))),
            SaveEnd::Conflict => Err(Error::shared("the lease was lost in a sign-out", StoreProblem::Transient)),
            SaveEnd::Failed(error) => Err(error),
        }
    }
}

impl SessionStore for SharedStore {
    fn run_budget(&self, fetch_deadline: Duration) -> Duration {
        self.shared.run_budget(fetch_deadline)
    }

    fn health(&self) -> (Option<Error>, Option<Duration>) {
        self.shared.health()
    }

    fn run<'a>(
        &'a self,
        driver: &'a Arc<Driver>,
        run: Run,
        source: Arc<dyn DynSource>,
        generation: u64,
    ) -> BoxFuture<'a, Option<Result<Token, Error>>> {
        Box::pin(async move { StoreRun::new(driver, &self.shared, run, source, generation).run().await })
    }

    fn start_sign_out<'a>(
        &'a self,
        driver: &'a Driver,
        epoch: u64,
        source: &'a Arc<dyn DynSource>,
        newest: Result<Option<Secret>, Error>,
    ) -> BoxFuture<'a, (Result<Option<Secret>, Error>, SignOut)> {
        Box::pin(self.start_sign_out(driver, epoch, source, newest))
    }

    fn finish_sign_out<'a>(
        &'a self,
        driver: &'a Driver,
        epoch: u64,
        sign_out: SignOut,
        revoked: Result<(), Error>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.finish_sign_out(driver, epoch, sign_out, revoked))
    }
}
