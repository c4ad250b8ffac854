use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn now() -> DualInstant {
    DualInstant { mono: 10 * HOUR, wall: Duration::from_secs(1_800_000_000) }
}

fn token() -> Token {
    let extra = Map::from_iter([("tenant".to_owned(), json!("t-1"))]);
    let token = Token::new("access").expect("a token").with_lifetime(HOUR).with_refresh_token("refresh");
    token.with_scope("a b").with_id_token("id").with_refresh_in(HOUR / 2).with_extra(extra)
}

fn record(login: u64, serial: u64, state: State) -> Record {
    Record {
        identity: Digest::of(["x"]),
        login,
        session: 1,
        serial,
        initial_refresh_tokens: vec![Digest::of(["initial"])],
        state,
    }
}

fn active(refresh_token: &str) -> State {
    let token = Some(SavedToken { token: token().with_refresh_token(refresh_token), asked: now() });
    State::Active { token, refresh_token: Some(refresh_token.into()), refreshing: None }
}

fn signed_out() -> State {
    State::Ended(Ending::SignedOut { revoke: Some("refresh".into()) })
}

fn denied(refresh_token: &str) -> State {
    State::Ended(Ending::Denied { refresh_token: Digest::of_secret(&refresh_token.into()) })
}

#[test]
fn a_record_is_decoded_as_it_was_encoded() {
    for state in [active("refresh"), signed_out(), denied("refresh")] {
        let record = record(3, 7, state).with_refreshing(Some("1-owner"));
        let read = Record::decode(&record.encode(now()), Duration::ZERO, now()).expect("whole");
        assert!(
            read.says_the_same(&record)
                && read.identity == record.identity
                && read.initial_refresh_tokens == record.initial_refresh_tokens
        );
        assert_eq!(read.refreshing(), record.refreshing());
        let (Some(saved), Some(written)) = (read.token(), record.token()) else { continue };
        assert_eq!(saved.token.lifetime(), written.token.lifetime());
        assert_eq!(saved.token.refresh_in(), written.token.refresh_in());
        assert_eq!(saved.token.scope(), written.token.scope());
        assert_eq!(saved.token.id_token(), written.token.id_token());
        assert_eq!(saved.token.extra("tenant"), written.token.extra("tenant"));
        assert_eq!(saved.token.refresh_token(), written.token.refresh_token());
        assert_eq!(saved.asked, written.asked);
    }
}

#[test]
fn the_age_in_the_store_counts_and_not_the_wall_clocks_of_two_machines() {
    let bytes = record(1, 1, active("r")).encode(now().after(600 * SECOND));
    // A machine whose clock is a year ahead reads the record 5 min after it was saved.
    let there = DualInstant { mono: 2 * HOUR, wall: now().wall + 365 * 24 * HOUR };
    let read = Record::decode(&bytes, 300 * SECOND, there).expect("whole");
    let asked = read.token().expect("a token").asked;
    assert_eq!(asked.after(900 * SECOND), there, "10 min before it was saved, and 5 min since");
}

#[test]
fn an_incomplete_or_invalid_record_is_an_error() {
    let whole = record(1, 1, active("r")).encode(now());
    let decode = |bytes: &[u8]| Record::decode(bytes, Duration::ZERO, now());
    for end in 0..whole.len() {
        decode(&whole[..end]).expect_err("truncated");
    }
    let with = |name: &str, value: Value| {
        let mut changed: Value = serde_json::from_slice(&whole).expect("JSON");
        changed[name] = value;
        decode(changed.to_string().as_bytes())
    };
    with("serial", json!(2)).expect("this is whole");
    assert!(with("format", json!("tower-bearer-session-2")).expect_err("newer").contains("newer"));
    for (name, value) in [
        ("format", json!("other")),
        ("identity", json!(null)),
        ("serial", json!("1")),
        ("login", json!(-1)),
        ("session", json!("1")),
        ("initial_refresh_tokens", json!(1)),
        ("state", json!("asleep")),
        ("access_token", json!("two words")),
        ("lifetime_ms", json!(null)),
    ] {
        with(name, value).expect_err(name);
    }
    assert!(decode(b"tower-bearer-sealed-1 x").expect_err("sealed").contains("sealed"));
}

#[test]
fn the_newer_of_two_records_is_known() {
    let newer = |found: (u64, u64, State), known: (u64, u64, State)| {
        let [found, known] = [found, known].map(|(login, serial, state)| record(login, serial, state));
        found.is_newer_than(&known)
    };
    for (found, known, expected) in [
        ((1, 2, active("b")), (1, 1, active("a")), true),
        ((1, 1, active("a")), (1, 2, active("b")), false),
        ((1, 1, active("a")), (1, 1, active("a")), false),
        // Two processes saved after a save was lost.
        ((1, 1, active("b")), (1, 1, active("a")), true),
        // A new login.
        ((2, 1, active("b")), (1, 9, active("a")), true),
        ((1, 9, active("b")), (2, 1, active("a")), false),
        // A sign-out ends its login, also if more was saved, and not the next login.
        ((1, 2, signed_out()), (1, 9, active("a")), true),
        ((1, 2, signed_out()), (2, 3, active("a")), false),
        ((1, 9, active("a")), (1, 2, signed_out()), false),
        // A denial does not concern another refresh token.
        ((1, 2, denied("a")), (1, 1, active("a")), true),
        ((1, 2, denied("a")), (1, 2, active("a")), true),
        ((1, 2, denied("a")), (1, 2, active("b")), false),
    ] {
        assert_eq!(newer(found.clone(), known.clone()), expected, "{found:?} over {known:?}");
    }
}

#[test]
fn a_record_shows_no_secret() {
    let shown = format!("{:?}", record(1, 1, active("the-refresh-token")));
    assert!(!shown.contains("the-refresh-token") && !shown.contains("access"), "{shown}");
}

#[test]
fn the_boundaries_of_an_identitys_parts_count() {
    assert!(Digest::of(["ab", "c"]) != Digest::of(["a", "bc"]));
    assert!(Digest::of(["a"]) != Digest::of(["a", ""]));
}
