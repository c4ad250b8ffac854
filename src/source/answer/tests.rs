use std::time::Duration;

use serde_json::{Value, json};

use crate::source::answer::{default_lifetime, lifetime};
use crate::token::MAX_LIFETIME;

const DEFAULT: Duration = Duration::from_secs(7);

fn of(expires_in: Value) -> Duration {
    lifetime(Some(&expires_in), DEFAULT)
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
fn zero_and_less_is_no_life_at_all() {
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
fn what_is_no_number_is_the_default() {
    let not_numbers = ["", "soon", "3600s", "3,600", "NaN", "inf", "-infinity", "0x10", "1e999"];
    let others = [json!(null), json!(true), json!({}), json!([3600])];
    for odd in not_numbers.into_iter().map(Value::from).chain(others) {
        assert_eq!(of(odd.clone()), DEFAULT, "{odd}");
    }
    assert_eq!(lifetime(None, DEFAULT), DEFAULT);
}

#[test]
fn a_default_lifetime_of_zero_is_rejected() {
    assert!(default_lifetime(Duration::ZERO).unwrap_err().is_invalid());
    assert_eq!(default_lifetime(DEFAULT).unwrap(), DEFAULT);
}
