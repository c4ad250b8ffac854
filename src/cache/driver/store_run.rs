//! One fetch of a session that processes share.

use std::mem;
use std::sync::{Arc, OnceLock};

use crate::cache::driver::Driver;
use crate::cache::driver::participant::Participant;
use crate::cache::driver::store_tasks::{save_later, watch};
use crate::cache::session::{Finding, Look, Run};
use crate::cache::shared::{Content, Found, HeldLease, Leasing, Polls, SaveEnd, Shared};
use crate::clock;
use crate::error::{Error, StoreProblem};
use crate::schedule::DualInstant;
use crate::secret::Secret;
use crate::source::erased::DynSource;
use crate::store::record::{Digest, Ending, Record, SavedToken, State as RecordState};
use crate::telemetry::Sharing;
use crate::token::Token;

/// One run of a shared session, and what it needs to look at the record.
pub(crate) struct StoreRun<'a> {
    driver: &'a Arc<Driver>,
    shared: &'a Arc<Shared>,
    run: Run,
    source: Arc<dyn DynSource>,
    identity: Digest,
    /// The refresh token that the source begins with, if that can make a difference.
    seed: OnceLock<Option<Secret>>,
    /// The generation that was held at its beginning.
    generation: u64,
}

/// What a look leaves to be done.
enum Step {
    /// Nothing: this is the answer.
    Done(Option<Result<Token, Error>>),
    /// Nothing: the run has failed.
    Failed(Error),
    /// To fetch the token that follows this record; `is_login`: with what the source begins with.
    Fetch { base: Record, is_login: bool },
}

/// How the work under a lease ended.
enum Leased {
    Done(Option<Result<Token, Error>>),
    /// The answer is used, and not saved yet. Whoever had the lease would spend the refresh token again.
    Unsaved(Option<Result<Token, Error>>),
    /// The lease was lost before anything was spent.
    Lost,
}

/// How often a lease holder looks at a record that changes although it holds the lease.
const MAX_LOOKS: usize = 3;

// === impl StoreRun ===

impl<'a> StoreRun<'a> {
    /// `generation`: the one that is held at the beginning.
    pub(crate) fn new(
        driver: &'a Arc<Driver>,
        shared: &'a Arc<Shared>,
        run: Run,
        source: Arc<dyn DynSource>,
        generation: u64,
    ) -> Self {
        let identity = shared.identity(&source.identity());
        Self { driver, shared, run, source, identity, seed: OnceLock::new(), generation }
    }

    /// Look, lease, look again, call, save, publish, release.
    pub(crate) async fn run(&self) -> Option<Result<Token, Error>> {
        let Self { driver, shared, run, .. } = *self;
        if shared.start_watching() {
            driver.telemetry.begin_sharing();
            let watching = watch(Arc::downgrade(driver), Arc::clone(shared), Arc::clone(&driver.changed));
            if let Some(runtime) = clock::runtime() {
                runtime.spawn(watching);
            }
        }
        let began = driver.clock.now();
        let (mut polls, mut waits) = (Polls::new(), false);
        let error = loop {
            // Before the look, so that no change after it is missed.
            let changed = shared.subscribe().await;
            match self.look().await {
                Ok((_, Step::Done(answer))) => return answer,
                Ok((_, Step::Failed(error))) => break error,
                Ok((_, Step::Fetch { .. })) => {}
                Err(error) => return self.run_without_store(error).await,
            }
            let taken = shared.acquire().await;
            let waited = driver.clock.now().mono.saturating_sub(began.mono);
            match taken {
                Err(error) => return self.run_without_store(error).await,
                Ok(Leasing::Held(lease)) => {
                    if mem::take(&mut waits) {
                        driver.telemetry.shared(&Sharing::LeaseWaited { waited, obtained: true });
                    }
                    let answer = lease.keep(self.run_with_lease(&lease)).await;
                    match answer {
                        Leased::Unsaved(answer) => {
                            if let Some(runtime) = clock::runtime() {
                                runtime.spawn(save_later(Arc::downgrade(driver), Arc::clone(shared), lease));
                            }
                            return answer;
                        }
                        Leased::Done(answer) => {
                            lease.release().await;
                            return answer;
                        }
                        Leased::Lost => lease.release().await,
                    }
                }
                Ok(Leasing::Busy { owner, remaining }) => {
                    waits = true;
                    if waited >= driver.policy.fetch_deadline() {
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

    /// The work under the lease.
    async fn run_with_lease(&self, lease: &HeldLease) -> Leased {
        let run = self.run;
        // More than once only if the record has changed although the lease is held.
        for _ in 0..MAX_LOOKS {
            let (found, step) = match self.look().await {
                Ok(looked) => looked,
                Err(error) => return Leased::Done(self.run_without_store(error).await),
            };
            let (base, is_login) = match step {
                Step::Done(answer) => return Leased::Done(answer),
                Step::Failed(error) => {
                    return Leased::Done(self.driver.conclude(run, self.driver.clock.now(), Err(error)).await);
                }
                Step::Fetch { base, is_login } => (base, is_login),
            };
            let mut version = found.version;
            if let (Content::Unreadable(why), Some(unreadable)) = (&found.content, version) {
                match lease.set_aside(unreadable).await {
                    Ok(Some(name)) => self.driver.telemetry.shared(&Sharing::SetAside { why, name: &name }),
                    Ok(None) => return Leased::Lost,
                    Err(error) => return Leased::Done(self.run_without_store(error).await),
                }
                version = None;
            }
            let interrupted = base.refreshing().is_some();
            if interrupted {
                self.driver.telemetry.shared(&Sharing::Resumed { serial: base.serial });
            }
            let spent = base.refresh_token().cloned();
            // Written down before the refresh token is spent: if this process dies, the next one knows. The save is also
            // the last check that the lease is this process's. A login replaces no record before it has succeeded.
            let marked = spent.is_some() && (!is_login || version.is_none());
            if marked {
                match lease.save(version, &base.clone().with_refreshing(Some(&lease.owner))).await {
                    SaveEnd::Saved(saved) => version = Some(saved),
                    SaveEnd::Conflict => return self.lost(&base),
                    SaveEnd::Failed(error) => {
                        return Leased::Done(self.run_without_store(error).await);
                    }
                }
            }
            let asked = self.driver.clock.now();
            // A login begins with what its source has.
            let (replaced, refresh_token) = match is_login {
                true => (None, None),
                false => (base.token().map(|saved| saved.token.clone()), spent.clone()),
            };
            let (answer, newest) = self.driver.ask(run, &self.source, replaced, refresh_token).await;
            let error = match &answer {
                Ok(_) => None,
                Err(error) => Some(error.clone()),
            };
            if let Some(record) = answered(&base, &answer, newest, spent.as_ref(), asked) {
                let received = self.driver.receive(run, answer);
                let saved = lease.save(version, &record).await;
                let failed = matches!(saved, SaveEnd::Failed(_));
                if let Some(answer) = self.on_record_saved(asked, record, saved).await {
                    return Leased::Done(answer);
                }
                let answer = match received {
                    Some(received) => self.driver.conclude(run, asked, received).await,
                    None => None,
                };
                return if failed { Leased::Unsaved(answer) } else { Leased::Done(answer) };
            }
            let Some(error) = error else {
                // A token that is not worth a record: dead on arrival.
                let received = self.driver.receive(run, answer);
                return Leased::Done(match received {
                    Some(received) => self.driver.conclude(run, asked, received).await,
                    None => None,
                });
            };
            let denied = error.is_denied() && !error.is_denied_client();
            if let (true, Some(spent)) = (denied && (marked || !is_login), &spent) {
                // Another process may have replaced it, if the lease was lost.
                match self.look().await {
                    Ok((_, Step::Done(answer))) => return Leased::Done(answer),
                    Ok((found, Step::Fetch { base: now, .. })) if now.refresh_token() == Some(spent) => {
                        let ending = Ending::Denied { refresh_token: Digest::of_secret(spent) };
                        let record = now.next(RecordState::Ended(ending));
                        let saved = lease.save(found.version, &record).await;
                        if let Some(answer) = self.on_record_saved(asked, record, saved).await {
                            return Leased::Done(answer);
                        }
                    }
                    // Another refresh token: it is tried.
                    Ok((_, Step::Fetch { .. })) => continue,
                    Ok((_, Step::Failed(_))) | Err(_) => {}
                }
            } else if marked && error.status().is_some() {
                // The issuer answered, so the refresh token is not spent.
                let _ = lease.save(version, &base.with_refreshing(None)).await;
            }
            let error = if denied && interrupted { error.after_interrupted_refresh() } else { error };
            return Leased::Done(self.driver.conclude(run, asked, Err(error)).await);
        }
        Leased::Lost
    }

    /// The record that this process made was saved, or was not. Returns the answer if another process was faster.
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
                // Adopts what is there, if it is newer.
                if let Ok((_, Step::Done(answer))) = self.look().await {
                    return Some(answer);
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

    /// The lease was lost before anything was spent.
    fn lost(&self, base: &Record) -> Leased {
        self.driver.telemetry.shared(&Sharing::Conflict { serial: base.serial });
        Leased::Lost
    }

    /// Looks at the record, and adopts what is newer than what this process holds.
    async fn look(&self) -> Result<(Found, Step), Error> {
        let found = self.shared.look().await?;
        if self.shared.note_success() {
            self.driver.telemetry.shared(&Sharing::Reachable);
        }
        self.find_seed(&found).await;
        let finding = self.participant().on_found(&found, self.looking(self.driver.clock.now()));
        let step = match finding {
            Finding::Usable { token, .. } => {
                self.driver.save().await;
                Step::Done(Some(Ok(token)))
            }
            Finding::Ended(error) if error.is_signed_out() => Step::Done(Some(Err(error))),
            Finding::Ended(error) | Finding::OtherIdentity(error) => Step::Failed(error),
            Finding::Fetch { base, is_login } => Step::Fetch { base, is_login },
            Finding::Lost(known) => Step::Fetch { base: known, is_login: false },
            Finding::Discarded => {
                self.driver.telemetry.fetch_discarded(self.run.plan.reason);
                Step::Done(None)
            }
        };
        Ok((found, step))
    }

    /// Has the refresh token at hand that the source begins with, if it can make a difference.
    async fn find_seed(&self, found: &Found) {
        let has_ended = matches!(&found.content, Content::Record(Record { state: RecordState::Ended(_), .. }));
        let begins = {
            let state = self.driver.state();
            state.session.known_record().is_none() || state.session.has_new_login()
        };
        if (has_ended || begins) && self.seed.get().is_none() {
            let _ = self.seed.set(self.participant().first_refresh_token(&self.source).await);
        }
    }

    /// A fetch while the store does not do what it is asked. Spends no refresh token, unless a setting allows it.
    async fn run_without_store(&self, error: Error) -> Option<Result<Token, Error>> {
        self.participant().store_failed(&error);
        let (run, asked) = (self.run, self.driver.clock.now());
        let allowed = self.shared.config.refresh_without_store;
        let has_token = self.driver.snapshot.load().view.usable_at(asked).is_some();
        if self.seed.get().is_none() {
            let _ = self.seed.set(self.participant().first_refresh_token(&self.source).await);
        }
        let spends = self.seed.get().is_some_and(Option::is_some);
        if has_token || spends && !allowed {
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
                known => (session.login_over(known, &self.looking(asked)), None, None),
            }
        };
        let (answer, newest) = self.driver.ask(run, &self.source, replaced, refresh_token.clone()).await;
        let record = answered(&base, &answer, newest, refresh_token.as_ref(), asked);
        let received = self.driver.receive(run, answer)?;
        if let Some(record) = record {
            self.driver.state().session.on_record_made(run, record, Some(error));
        }
        self.driver.conclude(run, asked, received).await
    }

    fn looking(&self, now: DualInstant) -> Look<'_> {
        let Self { driver, run, identity, seed, generation, .. } = self;
        let (seed, jitter) = (seed.get().and_then(Option::as_ref), fastrand::f64());
        Look { run: Some(*run), identity, seed, generation: *generation, policy: &driver.policy, now, jitter }
    }

    fn participant(&self) -> Participant<'_> {
        Participant { driver: self.driver, shared: self.shared }
    }
}

/// The record that follows `base` after this answer; `None` if there is nothing to save. `newest` is the newest refresh
/// token, which a source may have reported and then failed.
fn answered(
    base: &Record,
    answer: &Result<Token, Error>,
    newest: Option<Secret>,
    spent: Option<&Secret>,
    asked: DualInstant,
) -> Option<Record> {
    let reported = newest.filter(|newest| Some(newest) != spent);
    let (token, refresh_token) = match answer {
        Ok(token) => {
            let refresh_token = token.refresh_token().or(reported);
            // A dead token does not take the place of another.
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
