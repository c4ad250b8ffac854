use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::source::answer::lifetime::{Expiry, Issued, NoLifetime, moment};
use crate::token::MAX_LIFETIME;

const DEFAULT: Duration = Duration::from_secs(7);

const NOW: u64 = 1_700_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn read(expiry: &Expiry, answer: &Value, token: &str) -> Result<Duration, NoLifetime> {
    expiry.read(&Issued { answer, parent: answer, token, at: now(), now: now() }, DEFAULT)
}

fn of(expires_in: Value) -> Duration {
    read(&Expiry::new(), &json!({ "expires_in": expires_in }), "t").unwrap()
}

/// The lifetime, in seconds, of an opaque token in this answer.
fn seconds(answer: Value) -> u64 {
    read(&Expiry::new(), &answer, "t").unwrap().as_secs()
}

fn jwt(claims: Value) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(json!({ "alg": "none" })), part(claims))
}

#[test]
fn a_number_in_any_form_is_that_many_seconds() {
    let hour = Duration::from_secs(3600);
    for whole in [json!(3600), json!(3600.0), json!("3600"), json!(" 3600 "), json!("+3600"), json!("3.6e3")] {
        assert_eq!(of(whole.clone()), hour, "{whole}");
    }
    for fractional in [json!(3600.5), json!("3600.5")] {
        assert_eq!(of(fractional.clone()), Duration::from_millis(3_600_500), "{fractional}");
    }
}

#[test]
fn zero_and_less_is_no_lifetime() {
    for dead in [json!(0), json!(-1), json!(-0.0), json!("0"), json!("-3600"), json!(-1e300), json!(i64::MIN)] {
        assert_eq!(of(dead.clone()), Duration::ZERO, "{dead}");
    }
}

#[test]
fn an_absurd_number_is_a_hundred_years() {
    for absurd in [json!(1e300), json!("1e300"), json!(u64::MAX), json!(f64::MAX), json!(MAX_LIFETIME.as_secs() + 1)] {
        assert_eq!(of(absurd.clone()), MAX_LIFETIME, "{absurd}");
    }
}

#[test]
fn the_default_replaces_what_is_not_a_number() {
    let not_numbers = ["", "soon", "3600s", "3,600", "NaN", "inf", "-infinity", "0x10", "1e999"];
    let others = [json!(null), json!(true), json!({}), json!([3600])];
    for odd in not_numbers.into_iter().map(Value::from).chain(others) {
        assert_eq!(of(odd.clone()), DEFAULT, "{odd}");
    }
    assert_eq!(read(&Expiry::new(), &Value::Null, "t"), Ok(DEFAULT));
}

#[test]
fn a_moment_is_a_number_of_seconds_or_milliseconds_or_a_date() {
    let moment = |value: Value| moment(&value).map(|moment| moment.as_millis());
    for same in [json!(NOW), json!(NOW.to_string()), json!(NOW * 1000), json!("2023-11-14T22:13:20Z")] {
        assert_eq!(moment(same.clone()), Some(u128::from(NOW) * 1000), "{same}");
    }
    for same in ["2023-11-14 22:13:20Z", "2023-11-15T03:43:20+05:30", "Tue, 14 Nov 2023 22:13:20 GMT"] {
        assert_eq!(moment(json!(same)), Some(u128::from(NOW) * 1000), "{same}");
    }
    assert_eq!(moment(json!("2023-11-14T22:13:20.75Z")), Some(u128::from(NOW) * 1000 + 750));
    for none in [json!(null), json!("soon"), json!("2023-11-14 22:13:20.000000"), json!({}), json!("NaN")] {
        assert_eq!(moment(none.clone()), None, "{none}");
    }
    for absurd in [json!(-1e300), json!(1e300), json!("9999-12-31T23:59:59Z")] {
        assert!(moment(absurd.clone()).is_some(), "{absurd}");
    }
}

#[test]
fn a_moment_counts_if_there_is_no_lifetime() {
    assert_eq!(seconds(json!({ "expires_on": (NOW + 300).to_string() })), 300);
    assert_eq!(seconds(json!({ "expires_at": NOW + 300 })), 300);
    assert_eq!(seconds(json!({ "expires_at": (NOW + 300) * 1000 })), 300);
    assert_eq!(seconds(json!({ "expires_at": "2023-11-14T22:18:20Z" })), 300);
    assert_eq!(seconds(json!({ "expires_at": NOW + 300, "expires_in": 60 })), 60);
    assert_eq!(seconds(json!({ "expires_at": NOW + 300, "expires_in": null })), 300);
    assert_eq!(seconds(json!({ "expires_at": NOW + 300, "expires_on": "soon" })), 300);
    // Some servers send Go's zero time, and others zero.
    for nothing in [json!("0001-01-01T00:00:00Z"), json!(0), json!("")] {
        assert_eq!(seconds(json!({ "expires_at": nothing })), DEFAULT.as_secs());
    }
    let ended = read(&Expiry::new(), &json!({ "expires_on": NOW - 60 }), "t");
    assert_eq!(ended, Err(NoLifetime::Ended(Duration::from_secs(60))));
}

#[test]
fn the_exp_of_a_jwt_counts_if_nothing_else_says_so() {
    let of = |answer: Value, claims: Value| read(&Expiry::new(), &answer, &jwt(claims)).map(|life| life.as_secs());
    assert_eq!(of(json!({}), json!({ "exp": NOW + 300 })), Ok(300));
    assert_eq!(of(json!({ "expires_in": 60 }), json!({ "exp": NOW + 300 })), Ok(60));
    assert_eq!(of(json!({ "expires_in": "soon" }), json!({ "exp": NOW + 300 })), Ok(300));
    assert_eq!(of(json!({}), json!({ "exp": "soon" })), Ok(DEFAULT.as_secs()));
    assert_eq!(of(json!({}), json!({ "exp": 0 })), Ok(DEFAULT.as_secs()));
    assert_eq!(of(json!({}), json!({ "exp": NOW - 60 })), Err(NoLifetime::Ended(Duration::from_secs(60))));
    assert_eq!(read(&Expiry::new(), &json!({}), "eyJhbGci"), Ok(DEFAULT));
}

#[test]
fn places_unit_and_default_are_settings() {
    let answer = json!({ "expires_in_sec": 3600, "expires_in": 3_600_000, "ends": NOW + 9, "odd": "soon" });
    let named = Expiry::new().lifetime_at("/expires_in_sec");
    assert_eq!(read(&named, &answer, "t"), Ok(Duration::from_secs(3600)));
    let counted = Expiry::new().lifetime_unit(Duration::from_millis(1));
    assert_eq!(read(&counted, &answer, "t"), Ok(Duration::from_secs(3600)));
    assert_eq!(read(&named.clone().expires_at("/ends"), &answer, "t"), Ok(Duration::from_secs(9)));
    assert_eq!(read(&named.clone().expires_at("/nowhere"), &answer, "t"), Ok(Duration::from_secs(3600)));
    let odd = read(&named.expires_at("/odd"), &answer, "t");
    assert_eq!(odd, Err(NoLifetime::Unreadable("/odd".into())));
    // Without a lifetime at the pointer, the default applies, and not `expires_in`.
    let elsewhere = Expiry::new().lifetime_at("/nowhere").default_lifetime(Duration::from_secs(5));
    assert_eq!(read(&elsewhere, &answer, "t"), Ok(Duration::from_secs(5)));
    assert!(Expiry::new().default_lifetime(Duration::ZERO).check().unwrap_err().is_invalid());
    assert!(Expiry::new().lifetime_unit(Duration::ZERO).check().unwrap_err().is_invalid());
    assert!(Expiry::new().lifetime_at("ttl").check().unwrap_err().is_invalid());
}

#[test]
fn a_lifetime_counts_from_when_the_answer_was_written() {
    let answer = json!({ "expires_in": 60 });
    let at = |age| {
        let at = now() - Duration::from_secs(age);
        Expiry::new().read(&Issued { answer: &answer, parent: &answer, token: "t", at, now: now() }, DEFAULT)
    };
    assert_eq!(at(20), Ok(Duration::from_secs(40)));
    assert_eq!(at(70), Err(NoLifetime::Ended(Duration::from_secs(10))));
}
