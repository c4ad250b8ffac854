use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;

use crate::source::transport::{join_path, retry_after};

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn wait(headers: &[(&'static str, &str)]) -> Option<u64> {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    retry_after(&headers, NOW).map(|wait| wait.as_secs())
}

fn date(after_now: i64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(NOW.as_secs().saturating_add_signed(after_now)))
}

#[test]
fn retry_after_is_read_in_seconds() {
    for (value, seconds) in [("0", Some(0)), (" 7 ", Some(7)), ("99999999999999999999999", Some(u64::MAX))] {
        assert_eq!(wait(&[("retry-after", value)]), seconds, "{value}");
    }
    for (value, seconds) in [("292.052427053", 293), ("60.0", 60), ("0.4", 1), ("0.0", 0)] {
        assert_eq!(wait(&[("retry-after", value)]), Some(seconds), "{value}");
    }
    for odd in ["", "-1", "+5", "-1.5", "1.", ".5", "1.5.2", "1,5", "soon", "7s"] {
        assert_eq!(wait(&[("retry-after", odd)]), None, "{odd}");
    }
    assert_eq!(wait(&[]), None);
}

#[test]
fn retry_after_is_read_as_an_http_date() {
    assert_eq!(wait(&[("retry-after", &date(90))]), Some(90));
    assert_eq!(wait(&[("retry-after", &date(-90))]), Some(0));
    assert_eq!(wait(&[("retry-after", "Sunday, 06-Nov-94 08:49:37 GMT")]), Some(0));
    assert_eq!(wait(&[("retry-after", "Sun, 99 Nov 2099 08:49:37 GMT")]), None);
}

#[test]
fn a_retry_date_is_compared_with_the_date_header() {
    assert_eq!(wait(&[("retry-after", &date(3690)), ("date", &date(3600))]), Some(90));
    assert_eq!(wait(&[("retry-after", &date(90)), ("date", "noon")]), Some(90));
}

#[test]
fn a_base_url_keeps_its_path_and_must_have_no_query_or_fragment() {
    for base in ["https://a.example/x", "https://a.example/x/", "https://a.example/x//"] {
        assert_eq!(join_path("base", base, "token").unwrap(), "https://a.example/x/token");
    }
    for base in ["https://a.example?x=1", "https://a.example/#x"] {
        assert!(join_path("base", base, "token").unwrap_err().is_invalid(), "{base}");
    }
}
