//! One fetch: from the question to the published answer, or to the remembered failure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tracing::Instrument;

use crate::cache::shared::{Book, Failure, Held, SAVE_DEADLINE, Shared, Snapshot};
use crate::clock;
use crate::error::Error;
use crate::schedule::{self, Moment, Phase, Window};
use crate::secret::Secret;
use crate::source::{FetchContext, Reason};
use crate::telemetry::Fetch;
use crate::token::Token;

enum Judged {
    New(Token, Window),
    /// What is held stays, with the reason why it is not asked for again at once.
    Unchanged(Token, Error),
}

impl Shared {
    /// One fetch, from the question to the published answer. `None` where the answer is not wanted any more.
    pub(crate) async fn run(self: Arc<Self>, number: u64, epoch: u64, reason: Reason) -> Option<Result<Token, Error>> {
        let asked = self.clock.now();
        let (source, replaced) = {
            let book = self.book();
            if book.epoch != epoch {
                return None;
            }
            (Arc::clone(&book.source), book.newest.clone())
        };
        let deadline = self.settings.fetch_deadline();
        let refresh_token = replaced.as_ref().and_then(Token::refresh_token);
        let replaced = replaced.filter(|token| !token.access_token().is_empty());
        // Weak: a context that a source keeps does not keep the cache.
        let cache = Arc::downgrade(&self);
        let report = move |refresh_token| {
            if let Some(cache) = cache.upgrade()
                && let Some(rotated) = cache.rotated(epoch, refresh_token)
            {
                cache.take(number, epoch, &rotated);
            }
        };
        let clock = self.clock.clone();
        let context = FetchContext::of_cache(replaced, refresh_token, reason, deadline, clock, report);
        let fetch = caught(async { source.fetch(context).await }).instrument(self.telemetry.fetching(reason));
        let fetched = match tokio::time::timeout(deadline, fetch).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(Panicked)) => Err(Error::panicked()),
            Err(_) => Err(Error::timed_out(deadline)),
        };
        let outcome = match fetched {
            Ok(token) if self.take(number, epoch, &token) => {
                self.save(epoch, &token).await;
                Ok(token)
            }
            Ok(_) => {
                self.telemetry.fetch_discarded(reason);
                return None;
            }
            Err(mut error) => {
                if let Some(rotated) = error.take_rotated().and_then(|refresh_token| self.rotated(epoch, refresh_token))
                    && self.take(number, epoch, &rotated)
                {
                    self.save(epoch, &rotated).await;
                }
                Err(error)
            }
        };
        self.publish(number, epoch, reason, asked, outcome)
    }

    /// Writes the newest token down, and with it its refresh token; `false` where it is not wanted any more.
    fn take(&self, number: u64, epoch: u64, token: &Token) -> bool {
        let mut book = self.book();
        if !book.wants(epoch) || number < book.taken {
            return false;
        }
        book.taken = number;
        book.newest = Some(token.clone());
        true
    }

    /// The newest token with the refresh token of an answer that brought no other use.
    fn rotated(&self, epoch: u64, refresh_token: Secret) -> Option<Token> {
        let book = self.book();
        let newest = (book.epoch == epoch).then(|| book.newest.clone())?;
        Some(newest.unwrap_or_else(Token::none).with_refresh_token(refresh_token))
    }

    /// Hands a new refresh token to `on_rotation`.
    async fn save(&self, epoch: u64, token: &Token) {
        let Some(refresh_token) = token.refresh_token() else { return };
        let save = {
            let book = self.book();
            match &book.on_rotation {
                Some(save) if book.saved.as_ref() != Some(&refresh_token) => Arc::clone(save),
                _ => return,
            }
        };
        let failure = match tokio::time::timeout(SAVE_DEADLINE, caught(save(token.clone()))).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(Error::not_saved(error)),
            Ok(Err(Panicked)) => Some(Error::not_saved(Error::panicked())),
            Err(_) => Some(Error::not_saved(Error::timed_out(SAVE_DEADLINE))),
        };
        if let Some(error) = &failure {
            self.telemetry.not_saved(error);
        }
        let mut book = self.book();
        if book.wants(epoch) {
            if failure.is_none() {
                book.saved = Some(refresh_token);
            }
            book.not_saved = failure;
        }
    }

    /// Judges what a fetch brought, and puts it where requests look.
    fn publish(
        &self,
        number: u64,
        epoch: u64,
        reason: Reason,
        asked: Moment,
        outcome: Result<Token, Error>,
    ) -> Option<Result<Token, Error>> {
        let replaced = self.flight.is_replaced(number);
        let (waiters, awaited) = self.flight.waiting();
        let now = self.clock.now();
        let fetch = Fetch {
            reason,
            took: now.mono.saturating_sub(asked.mono),
            waiters,
            longest_wait: awaited.map_or(Duration::ZERO, |since| now.mono.saturating_sub(since)),
        };
        let mut book = self.book();
        let judged = outcome.and_then(|token| self.judge(token, asked, now));
        // A late failure says nothing about the run that replaced this one.
        let late = replaced && !matches!(judged, Ok(Judged::New(..)));
        // Of a session that is signed out the refresh token is written down, to be revoked.
        let signed_out = self.signed_out.load(Ordering::SeqCst);
        if book.epoch != epoch || number < book.taken || late || signed_out {
            drop(book);
            self.telemetry.fetch_discarded(reason);
            return None;
        }
        let remaining = self.snapshot.load().left(now);
        let (answer, failure) = match judged {
            Ok(Judged::New(token, window)) => (Ok(self.store(&mut book, token, window, now)), None),
            Ok(Judged::Unchanged(_, error)) if reason == Reason::Refused => (Err(error.clone()), Some(error)),
            Ok(Judged::Unchanged(token, error)) => (Ok(token), Some(error)),
            Err(error) => (Err(error.clone()), Some(error)),
        };
        let failure = failure.map(|error| (self.remember(error.clone(), now), error));
        // Whoever listens to events is a user's code, and comes after the lock.
        drop(book);
        match (&answer, failure) {
            (_, Some((pause, error))) => self.telemetry.fetch_failed(&fetch, &error, pause),
            (Ok(token), None) => self.telemetry.fetched(&fetch, token.generation(), token.lifetime(), remaining),
            (Err(_), None) => {}
        }
        self.changed.notify_waiters();
        Some(answer)
    }

    fn judge(&self, token: Token, asked: Moment, now: Moment) -> Result<Judged, Error> {
        let roll = fastrand::f64();
        let took = now.mono.saturating_sub(asked.mono);
        let mut window = Window::new(&self.settings, token.lifetime(), asked, took, roll);
        if let Some(refresh_in) = token.refresh_in() {
            window = window.due_within(refresh_in, asked, roll);
        }
        if window.phase(now) == Phase::Expired {
            let problem = format!(
                "it was dead on arrival: it lives {:?} from when it was asked for, and the answer took {took:?}",
                token.lifetime(),
            );
            return Err(Error::unusable(None, problem));
        }
        // The same token once more, and no longer alive than we knew: fetching on would be a loop.
        let snapshot = self.snapshot.load();
        if let Some((held, _)) = snapshot.held_at(now)
            && held.token.header_value() == token.header_value()
        {
            if self.refused.load(Ordering::Relaxed) == held.token.generation() {
                return Err(Error::unusable(None, "the issuer handed out the token again that an API has refused"));
            }
            // Who says when to look again, looks: finding the same is no failure.
            if token.refresh_in().is_none()
                && window.end().wait(asked) <= held.window.end().wait(asked) + Duration::from_secs(1)
            {
                let error = Error::unusable(None, "the issuer handed out the same token again, ending no later");
                return Ok(Judged::Unchanged(held.token.clone(), error));
            }
        }
        Ok(Judged::New(token, window))
    }

    /// Publishes a token as the next generation.
    pub(crate) fn store(&self, book: &mut Book, token: Token, window: Window, since: Moment) -> Token {
        let snapshot = self.snapshot.load();
        // The same token with more time to live keeps its number: what was refused of it stays refused.
        let same = snapshot.held_at(since).filter(|(held, _)| held.token.header_value() == token.header_value());
        let since = same.map_or(since, |(held, _)| held.since);
        book.generation += u64::from(same.is_none());
        let token = token.published(book.generation, clock::system_time(window.end().wall));
        book.newest = Some(token.clone());
        let held = Held { token: token.clone(), window, since };
        self.snapshot.store(Arc::new(Snapshot { held: Some(held), ..Snapshot::default() }));
        token
    }

    /// Publishes a failure beside what is held; returns how long no fetch is made. Called with the book locked.
    fn remember(&self, error: Error, now: Moment) -> Duration {
        let before = self.snapshot.load();
        let denied = error.is_denied();
        let streak = match &before.failure {
            Some(failure) if failure.error.is_denied() == denied => failure.streak.saturating_add(1),
            _ => 1,
        };
        let pause = if denied {
            schedule::denied_backoff(streak, error.retry_after())
        } else {
            schedule::backoff(streak, before.left(now), error.retry_after(), fastrand::f64())
        };
        let failure = Failure { error, retry: now.after(pause), streak };
        self.snapshot.store(Arc::new(Snapshot {
            held: before.held.clone(),
            failure: Some(failure),
            ..Snapshot::default()
        }));
        pause
    }
}

/// A user's code panicked; the message went to the panic hook, which is the user's as well.
struct Panicked;

/// Runs a user's future so that its panic is an error.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}
