//! What a read of the record does to the runs of a session. `tests/store` has the rest.

use std::time::Duration;

use crate::cache::session::{Decision, Demand, FetchPlan, ReadContext, ReadOutcome, Run, Session};
use crate::schedule::{DualInstant, RefreshPolicy};
use crate::secret::Secret;
use crate::source::Reason;
use crate::store::record::{Digest, Record, SavedToken, State};
use crate::token::{SessionId, Token};

const NOW: DualInstant = DualInstant { mono: Duration::from_secs(1000), wall: Duration::from_secs(1_800_000_000) };

/// A session that knows the record of its login, with two runs in flight.
struct Fixture {
    session: Session,
    runs: [Run; 2],
    policy: RefreshPolicy,
    identity: Digest,
}

fn token(text: &str) -> Token {
    Token::new(text).expect("a token").with_refresh_token(format!("refresh-{text}"))
}

impl Fixture {
    fn new() -> Self {
        let session = Session::new(SessionId::first_of(7.try_into().expect("not zero")));
        let plan = FetchPlan { epoch: 0, reason: Reason::First, sign: None };
        let runs = [1, 2].map(|number| Run { number, plan });
        let mut fixture = Self { session, runs, policy: RefreshPolicy::new(), identity: Digest::of(["ada"]) };
        fixture.runs = [1, 2].map(|number| fixture.start(number));
        fixture.session.on_record_made(runs[1], fixture.record(1, 0), None);
        fixture
    }

    fn start(&mut self, number: u64) -> Run {
        let id = self.session.view().session;
        let decision = self.session.decide(Demand::Usable, id, &self.policy, NOW, false);
        let Decision::Start(plan) = decision else { panic!("there is no token") };
        let run = Run { number, plan };
        self.session.on_started(run, &self.policy, NOW);
        run
    }

    fn record(&self, session: u64, serial: u64) -> Record {
        let saved = SavedToken { token: token("adopted"), asked: NOW };
        let refresh_token = saved.token.refresh_token();
        let state = State::Active { token: Some(saved), refresh_token, refreshing: None };
        let identity = self.identity.clone();
        Record { identity, login: session, session, serial, initial_refresh_tokens: Vec::new(), state }
    }

    /// A run, or the background, reads this record.
    fn read(&mut self, record: &Record, run: Option<Run>) -> ReadOutcome {
        let context = ReadContext {
            run,
            identity: &self.identity,
            initial_refresh_token: None,
            generation: 0,
            policy: &self.policy,
            now: NOW,
            jitter: 0.0,
        };
        self.session.on_record_read(Some(record), &context)
    }

    fn assert_adopted(&mut self, outcome: &ReadOutcome, ignored: Run) {
        assert!(matches!(outcome, ReadOutcome::Usable { adopted: true, .. }), "{outcome:?}");
        assert!(!self.session.on_rotated(ignored, Secret::from("late")));
        assert!(self.session.on_received(ignored, token("late")).is_none());
        assert_eq!(self.session.refresh_token().map(Secret::expose), Some("refresh-adopted"));
    }
}

#[test]
fn the_result_of_an_older_run_is_ignored_once_a_newer_run_has_read_a_newer_record() {
    let mut fixture = Fixture::new();
    let [older, newer] = fixture.runs;
    let outcome = fixture.read(&fixture.record(1, 1), Some(newer));
    fixture.assert_adopted(&outcome, older);
    assert!(matches!(fixture.read(&fixture.record(1, 1), Some(older)), ReadOutcome::Discarded));
}

#[test]
fn the_results_of_all_runs_are_ignored_once_the_background_has_read_a_record_of_another_session() {
    let mut fixture = Fixture::new();
    let outcome = fixture.read(&fixture.record(2, 1), None);
    for run in fixture.runs {
        fixture.assert_adopted(&outcome, run);
    }
}

#[test]
fn a_run_that_reads_a_record_of_another_session_ends_and_the_next_run_fetches() {
    let mut fixture = Fixture::new();
    let mut record = fixture.record(2, 1);
    if let State::Active { token, .. } = &mut record.state {
        *token = None;
    }
    let outcome = fixture.read(&record, Some(fixture.runs[1]));
    assert!(matches!(outcome, ReadOutcome::Discarded), "{outcome:?}");
    for run in fixture.runs {
        assert!(fixture.session.on_received(run, token("late")).is_none());
    }
    let next = fixture.start(3);
    let outcome = fixture.read(&record, Some(next));
    assert!(matches!(outcome, ReadOutcome::Fetch { is_login: false, .. }), "{outcome:?}");
    assert!(fixture.session.on_received(next, token("newer")).is_some());
}

#[test]
fn the_run_in_flight_continues_after_the_background_has_read_a_record_of_the_same_session() {
    let mut fixture = Fixture::new();
    fixture.read(&fixture.record(1, 1), None);
    assert!(fixture.session.on_received(fixture.runs[1], token("newer")).is_some());
}
