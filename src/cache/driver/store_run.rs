//! One fetch of a shared session.

use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::cache::driver::Driver;
use crate::cache::driver::participant::Participant;
use crate::cache::driver::store_tasks::{save_later, watch};
use crate::cache::session::{ReadContext, ReadOutcome, Run};
use crate::cache::store_access::{Content, Found, HeldLease, LeaseState, Polls, SaveEnd, StoreAccess};
use crate::clock;
use crate::error::{Error, StoreProblem};
use crate::schedule::DualInstant;
use crate::secret::Secret;
use crate::source::erased::DynSource;
use crate::store::record::{Digest, Ending, Record, SavedToken, State as RecordState};
use crate::telemetry::Sharing;
use crate::token::Token;

/// One run of a shared session, and its input for reading the record.
pub(crate) struct StoreRun<'a> {
    driver: &'a Arc<Driver>,
    shared: &'a Arc<StoreAccess>,
    run: Run,
    source: Arc<dyn DynSource>,
    identity: Digest,
    /// The refresh token with which the source begins. It is read only if the record is unknown or has ended, the login
    /// is new, or the store fails.
    initial_refresh_token: OnceLock<Option<Secret>>,
    /// The generation that was current when the run began.
    generation: u64,
}

/// What the run does after a read of the record.
enum Step {
    /// It ends with this result.
    Done(Option<Result<Token, Error>>),
    /// It fails.
    Failed(Error),
    /// It fetches the token that follows this record. `is_login`: with the source's own credentials.
    Fetch { base: Record, is_login: bool },
}

/// How the work under a lease ended.
enum LeaseOutcome {
    Done(Option<Result<Token, Error>>),
    /// The token is used, but the record is not saved. This process keeps the lease, because another process would use
    /// the old refresh token again.
    Unsaved(Option<Result<Token, Error>>),
    /// The lease was lost before the refresh token was sent.
    Lost,
}

/// How often the lease holder reads the record, if the record changes although the lease is held.
const MAX_READS: usize = 3;

// === impl StoreRun ===

impl<'a> StoreRun<'a> {
    /// `generation`: the one that is current at the beginning.
    pub(crate) fn new(
        driver: &'a Arc<Driver>,
        shared: &'a Arc<StoreAccess>,
        run: Run,
        source: Arc<dyn DynSource>,
        generation: u64,
    ) -> Self {
        let identity = shared.identity(&source.identity());
        Self { driver, shared, run, source, identity, initial_refresh_token: OnceLock::new(), generation }
    }

    /// Reads the record, takes the lease, reads again, fetches, saves, publishes, and releases the lease.
    pub(crate) async fn run(&self) -> Option<Result<Token, Error>> {
        let Self { driver, shared, run, .. } = *self;
        if shared.start_watching() {
            driver.telemetry.begin_sharing();
            let watching = watch(Arc::downgrade(driver), Arc::clone(shared), Arc::clone(&driver.changed));
            if let Some(runtime) = clock::runtime() {
                runtime.spawn(watching);
            }
        }
        let (began, deadline) = (driver.clock.now(), driver.policy.fetch_deadline());
        let (mut polls, mut waits) = (Polls::new(), false);
        let error = loop {
            // Subscribed before the read, so that no change after it is missed.
            let changed = shared.subscribe().await;
            match self.read().await {
                Ok((_, Step::Done(result))) => return result,
                Ok((_, Step::Failed(error))) => break error,
                Ok((_, Step::Fetch { .. })) => {}
                Err(error) => return self.run_without_store(error).await,
            }
            let taken = shared.acquire().await;
            let waited = driver.clock.now().mono.saturating_sub(began.mono);
            match taken {
                Err(error) => return self.run_without_store(error).await,
                Ok(LeaseState::Held(lease)) => {
                    if mem::take(&mut waits) {
                        driver.telemetry.shared(&Sharing::LeaseWaited { waited, obtained: true });
                    }
                    let outcome = lease.extend_while(self.run_with_lease(&lease)).await;
                    match outcome {
                        LeaseOutcome::Unsaved(result) => {
                            if let Some(runtime) = clock::runtime() {
                                runtime.spawn(save_later(Arc::downgrade(driver), Arc::clone(shared), lease));
                            }
                            return result;
                        }
                        LeaseOutcome::Done(result) => {
                            lease.release().await;
                            return result;
                        }
                        LeaseOutcome::Lost => {
                            lease.release().await;
                            if waited >= deadline {
                                let problem = "the lease on the shared session ended before this process could save; \
                                               choose a longer lease, or a faster store";
                                break Error::shared(problem, StoreProblem::Transient);
                            }
                            clock::at_most(polls.next(Duration::ZERO), changed).await;
                        }
                    }
                }
                Ok(LeaseState::Busy { owner, remaining }) => {
                    waits = true;
                    if waited >= deadline {
                        driver.telemetry.shared(&Sharing::LeaseWaited { waited, obtained: false });
                        let owner = owner.unwrap_or_else(|| "another process".to_owned());
                        let problem = format!(
                            "{owner} has held the lease on the shared session for {waited:.0?}, and this process does not \
                             refresh without it; try again after a pause"
                        );
                        break Error::shared(problem, StoreProblem::Transient);
                    }
                    clock::at_most(polls.next(remaining), changed).await;
                }
            }
        };
        driver.conclude(run, began, Err(error)).await
    }

    /// Does the part of the run that requires the lease.
    async fn run_with_lease(&self, lease: &HeldLease) -> LeaseOutcome {
        let run = self.run;
        // It repeats only if the record has changed although the lease is held.
        for _ in 0..MAX_READS {
            let (found, step) = match self.read().await {
                Ok(read) => read,
                Err(error) => return LeaseOutcome::Done(self.run_without_store(error).await),
            };
            let (base, is_login) = match step {
                Step::Done(result) => return LeaseOutcome::Done(result),
                Step::Failed(error) => {
                    return LeaseOutcome::Done(self.driver.conclude(run, self.driver.clock.now(), Err(error)).await);
                }
                Step::Fetch { base, is_login } => (base, is_login),
            };
            let mut version = found.version;
            if let (Content::Unreadable(why), Some(unreadable)) = (&found.content, version) {
                match lease.set_aside(unreadable).await {
                    Ok(Some(name)) => self.driver.telemetry.shared(&Sharing::SetAside { why, name: &name }),
                    Ok(None) => return LeaseOutcome::Lost,
                    Err(error) => return LeaseOutcome::Done(self.run_without_store(error).await),
                }
                version = None;
            }
            let interrupted = base.refreshing().is_some();
            if interrupted {
                self.driver.telemetry.shared(&Sharing::Resumed { serial: base.serial });
            }
            let sent = base.refresh_token().cloned();
            // Saved before the refresh token is sent, so that the next process knows if this one dies. The save also
            // checks a last time that this process holds the lease. A login replaces no record before it has succeeded.
            let marked = sent.is_some() && (!is_login || version.is_none());
            if marked {
                match lease.save(version, &base.clone().with_refreshing(Some(&lease.owner))).await {
                    SaveEnd::Saved(saved) => version = Some(saved),
                    SaveEnd::Conflict => return self.lost(&base),
                    SaveEnd::Failed(error) => {
                        return LeaseOutcome::Done(self.run_without_store(error).await);
                    }
                }
            }
            let asked = self.driver.clock.now();
            // A login uses the source's own credentials.
            let (replaced, refresh_token) = match is_login {
                true => (None, None),
                false => (base.token().map(|saved| saved.token.clone()), sent.clone()),
            };
            let (answer, newest) = self.driver.ask(run, &self.source, replaced, refresh_token).await;
            let error = match &answer {
                Ok(_) => None,
                Err(error) => Some(error.clone()),
            };
            if let Some(record) = next_record(&base, &answer, newest, sent.as_ref(), asked) {
                let received = self.driver.receive(run, answer);
                let saved = lease.save(version, &record).await;
                let failed = matches!(saved, SaveEnd::Failed(_));
                if let Some(result) = self.on_record_saved(asked, record, saved).await {
                    return LeaseOutcome::Done(result);
                }
                let result = match received {
                    Some(received) => self.driver.conclude(run, asked, received).await,
                    None => None,
                };
                return if failed { LeaseOutcome::Unsaved(result) } else { LeaseOutcome::Done(result) };
            }
            let Some(error) = error else {
                // The token had expired when it arrived, so it is not saved.
                let received = self.driver.receive(run, answer);
                return LeaseOutcome::Done(match received {
                    Some(received) => self.driver.conclude(run, asked, received).await,
                    None => None,
                });
            };
            let denied = error.is_denied() && !error.is_denied_client();
            if let (true, Some(sent)) = (denied && (marked || !is_login), &sent) {
                // If the lease was lost, another process may have replaced the refresh token.
                match self.read().await {
                    Ok((_, Step::Done(result))) => return LeaseOutcome::Done(result),
                    Ok((found, Step::Fetch { base: now, .. })) if now.refresh_token() == Some(sent) => {
                        let ending = Ending::Denied { refresh_token: Digest::of_secret(sent) };
                        let record = now.next(RecordState::Ended(ending));
                        let saved = lease.save(found.version, &record).await;
                        if let Some(result) = self.on_record_saved(asked, record, saved).await {
                            return LeaseOutcome::Done(result);
                        }
                    }
                    // The record has another refresh token, so the loop tries that one.
                    Ok((_, Step::Fetch { .. })) => continue,
                    Ok((_, Step::Failed(_))) | Err(_) => {}
                }
            } else if marked && error.status().is_some() {
                // The issuer answered without denying it, so the refresh token counts as unused.
                let _ = lease.save(version, &base.with_refreshing(None)).await;
            }
            let error = if denied && interrupted { error.after_interrupted_refresh() } else { error };
            return LeaseOutcome::Done(self.driver.conclude(run, asked, Err(error)).await);
        }
        LeaseOutcome::Lost
    }

    /// Handles the result of saving this process's record. Returns the run's result if another process was faster.
    async fn on_record_saved(
        &self,
        asked: DualInstant,
        record: Record,
        saved: SaveEnd,
    ) -> Option<Option<Result<Token, Error>>> {
        let serial = record.serial;
        match saved {
            SaveEnd::Saved(_) => {
                let unsaved_for = self.driver.clock.now().mono.saturating_sub(asked.mono);
                self.driver.state().session.on_record_made(self.run, record, None);
                self.driver.telemetry.shared(&Sharing::Saved { serial, unsaved_for });
            }
            SaveEnd::Conflict => {
                let problem = "the lease was lost, and another process may have saved; the token is in memory only";
                let error = Error::shared(problem, StoreProblem::Transient);
                self.driver.state().session.on_record_made(self.run, record, Some(error));
                self.driver.telemetry.shared(&Sharing::Conflict { serial });
                // Adopts the record in the store, if it is newer.
                if let Ok((_, Step::Done(result))) = self.read().await {
                    return Some(result);
                }
            }
            SaveEnd::Failed(error) => {
                self.participant().store_failed(&error);
                let error = Error::not_saved(error);
                self.driver.telemetry.not_saved(&error);
                self.driver.state().session.on_record_made(self.run, record, Some(error));
            }
        }
        None
    }

    /// Reports that the lease was lost before the refresh token was sent.
    fn lost(&self, base: &Record) -> LeaseOutcome {
        self.driver.telemetry.shared(&Sharing::Conflict { serial: base.serial });
        LeaseOutcome::Lost
    }

    /// Loads the record, and adopts its token if it is newer than this process's.
    async fn read(&self) -> Result<(Found, Step), Error> {
        let found = self.shared.read().await?;
        if self.shared.note_success() {
            self.driver.telemetry.shared(&Sharing::Reachable);
        }
        self.find_initial_refresh_token(&found).await;
        let outcome = self.participant().on_record_read(&found, self.read_context(self.driver.clock.now()));
        let step = match outcome {
            ReadOutcome::Usable { token, .. } => {
                self.driver.save().await;
                Step::Done(Some(Ok(token)))
            }
            ReadOutcome::Ended(error) if error.is_signed_out() => Step::Done(Some(Err(error))),
            ReadOutcome::Ended(error) | ReadOutcome::OtherIdentity(error) => Step::Failed(error),
            ReadOutcome::Fetch { base, is_login } => Step::Fetch { base, is_login },
            ReadOutcome::Lost(known) => Step::Fetch { base: known, is_login: false },
            ReadOutcome::Discarded => {
                self.driver.telemetry.fetch_discarded(self.run.plan.reason);
                Step::Done(None)
            }
        };
        Ok((found, step))
    }

    /// Reads the refresh token with which the source begins, if this record may need it.
    async fn find_initial_refresh_token(&self, found: &Found) {
        let has_ended = matches!(&found.content, Content::Record(Record { state: RecordState::Ended(_), .. }));
        let begins = {
            let state = self.driver.state();
            state.session.known_record().is_none() || state.session.has_new_login()
        };
        if has_ended || begins {
            self.read_initial_refresh_token().await;
        }
    }

    /// Reads the refresh token with which the source begins, once.
    async fn read_initial_refresh_token(&self) {
        if self.initial_refresh_token.get().is_none() {
            let _ = self.initial_refresh_token.set(self.participant().initial_refresh_token(&self.source).await);
        }
    }

    /// Fetches while the store fails. It uses no refresh token, unless the settings allow it.
    async fn run_without_store(&self, error: Error) -> Option<Result<Token, Error>> {
        self.participant().store_failed(&error);
        let (run, asked) = (self.run, self.driver.clock.now());
        let allowed = self.shared.config.refresh_without_store;
        let has_token = self.driver.snapshot.load().view.usable_at(asked).is_some();
        self.read_initial_refresh_token().await;
        let needs_refresh_token = self.initial_refresh_token.get().is_some_and(Option::is_some);
        if has_token || needs_refresh_token && !allowed {
            return self.driver.conclude(run, asked, Err(error)).await;
        }
        let (base, replaced, refresh_token) = {
            let state = self.driver.state();
            let session = &state.session;
            if session.epoch() != run.plan.epoch {
                return None;
            }
            match session.known_record() {
                Some(known) if allowed && !session.has_new_login() => {
                    (known.clone(), session.newest().cloned(), session.refresh_token().cloned())
                }
                known => (session.login_over(known, &self.read_context(asked)), None, None),
            }
        };
        let (answer, newest) = self.driver.ask(run, &self.source, replaced, refresh_token.clone()).await;
        let record = next_record(&base, &answer, newest, refresh_token.as_ref(), asked);
        let received = self.driver.receive(run, answer)?;
        if let Some(record) = record {
            self.driver.state().session.on_record_made(run, record, Some(error));
        }
        self.driver.conclude(run, asked, received).await
    }

    fn read_context(&self, now: DualInstant) -> ReadContext<'_> {
        let Self { driver, run, identity, initial_refresh_token: initial, generation, .. } = self;
        let (initial, jitter) = (initial.get().and_then(Option::as_ref), fastrand::f64());
        ReadContext {
            run: Some(*run),
            identity,
            initial_refresh_token: initial,
            generation: *generation,
            policy: &driver.policy,
            now,
            jitter,
        }
    }

    fn participant(&self) -> Participant<'_> {
        Participant { driver: self.driver, shared: self.shared }
    }
}

/// The record that follows `base` after this result, or `None` if there is nothing to save. `newest` is the newest
/// refresh token, which the source may have reported before it failed.
fn next_record(
    base: &Record,
    answer: &Result<Token, Error>,
    newest: Option<Secret>,
    sent: Option<&Secret>,
    asked: DualInstant,
) -> Option<Record> {
    let reported = newest.filter(|newest| Some(newest) != sent);
    let (token, refresh_token) = match answer {
        Ok(token) => {
            let refresh_token = token.refresh_token().or(reported);
            // A token that had expired when it arrived does not replace another.
            let saved = match token.lifetime().is_zero() {
                true => base.token().cloned(),
                false => Some(SavedToken { token: token.clone(), asked }),
            };
            (saved, refresh_token)
        }
        Err(_) => (base.token().cloned(), Some(reported?)),
    };
    if token.is_none() && refresh_token.is_none() {
        return None;
    }
    Some(base.next(RecordState::Active { token, refresh_token, refreshing: None }))
}
