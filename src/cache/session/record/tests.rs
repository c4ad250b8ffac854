//! What a read of the record does to the runs of a session. `tests/store` has the rest.

use std::time::Duration;

use crate::cache::session::{Decision, Demand, ReadContext, ReadOutcome, Run, Session};
use crate::schedule::{DualInstant, RefreshPolicy};
use crate::store::record::{Digest, Record, SavedToken, State};
use crate::token::{SessionId, Token};

#[test]
fn the_result_of_an_older_run_is_ignored_once_a_newer_run_has_read_a_newer_record() {
    let now = DualInstant { mono: Duration::from_secs(1000), wall: Duration::from_secs(1_800_000_000) };
    let (policy, identity) = (RefreshPolicy::new(), Digest::of(["ada"]));
    let id = SessionId::first_of(7.try_into().expect("not zero"));
    let mut session = Session::new(id);
    let [older, newer] = [1, 2].map(|number| {
        let Decision::Start(plan) = session.decide(Demand::Usable, id, &policy, now, false) else { panic!("no token") };
        let run = Run { number, plan };
        session.on_started(run, &policy, now);
        run
    });
    let token = |text| Token::new(text).expect("a token").with_refresh_token(format!("refresh-{text}"));
    let saved = SavedToken { token: token("adopted"), asked: now };
    let refresh_token = saved.token.refresh_token();
    let state = State::Active { token: Some(saved), refresh_token, refreshing: None };
    let record = Record {
        identity: identity.clone(),
        login: 1,
        session: 1,
        serial: 1,
        initial_refresh_tokens: Vec::new(),
        state,
    };
    let context = |run| ReadContext {
        run: Some(run),
        identity: &identity,
        initial_refresh_token: None,
        generation: 0,
        policy: &policy,
        now,
        jitter: 0.0,
    };
    // The first run of a process makes its login known.
    session.on_record_made(newer, Record { serial: 0, ..record.clone() }, None);
    let outcome = session.on_record_read(Some(&record), &context(newer));
    assert!(matches!(outcome, ReadOutcome::Usable { adopted: true, .. }), "{outcome:?}");
    assert!(session.on_received(older, token("late")).is_none());
    assert_eq!(session.refresh_token().map(|secret| secret.expose()), Some("refresh-adopted"));
    assert!(matches!(session.on_record_read(Some(&record), &context(older)), ReadOutcome::Discarded));
}
