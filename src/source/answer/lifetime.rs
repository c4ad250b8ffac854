//! When a token ends: the one account that all sources share.
//!
//! The first of these that is there and can be read counts:
//!
//! | place | read as |
//! |---|---|
//! | what `expires_at` names | a moment; one that cannot be read is an error |
//! | what `lifetime_at` names, else `expires_in` | a number of units (`lifetime_unit`, 1 s) from when it was asked for |
//! | `expires_on`, `expires_at` | a moment; before 2001 it says nothing, as Go's zero time and 0 do |
//! | the `exp` of a token that is a JWT (RFC 7519 section 4.1.4) | a moment |
//! | nothing | the source's `default_lifetime` |
//!
//! A moment is seconds since 1970, milliseconds if the number is beyond 1e11, a date of RFC 3339, or an HTTP date. Numbers
//! may be texts and have fractions. A moment is held against the server's own clock if the answer tells it (`Date`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::Error;
use crate::source::answer;
use crate::token::MAX_LIFETIME;

/// Where an answer says when its token ends, and what is taken if it does not.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    lifetime_at: Option<String>,
    expires_at: Option<String>,
    unit: Duration,
    default: Option<Duration>,
}

/// A token, what came with it, and when.
pub(crate) struct Issued<'a> {
    pub(crate) answer: &'a Value,
    /// The object in which the token lies.
    pub(crate) beside: &'a Value,
    pub(crate) token: &'a str,
    /// When the answer was written.
    pub(crate) at: SystemTime,
    pub(crate) now: SystemTime,
}

/// Why an answer's end of a token is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoLifetime {
    /// What lies at the place that was named is no moment.
    Unreadable(String),
    /// The token ended so long ago.
    Ended(Duration),
}

/// A place that nothing names: the lifetime by RFC 6749 section 5.1, and the moments that many servers send.
const LIFETIME: &str = "/expires_in";
const MOMENTS: [&str; 2] = ["/expires_on", "/expires_at"];
/// No number of seconds since 1970 before the year 5138 is larger.
const MILLISECONDS_BEYOND: f64 = 1e11;
/// An earlier moment (2001) is the way of some servers to say that they know none.
const NO_MOMENT_BEFORE: Duration = Duration::from_secs(1_000_000_000);

// === impl Expiry ===

impl Expiry {
    pub(crate) fn new() -> Self {
        Self { lifetime_at: None, expires_at: None, unit: Duration::from_secs(1), default: None }
    }

    pub(crate) fn lifetime_at(self, pointer: impl Into<String>) -> Self {
        Self { lifetime_at: Some(pointer.into()), ..self }
    }

    pub(crate) fn expires_at(self, pointer: impl Into<String>) -> Self {
        Self { expires_at: Some(pointer.into()), ..self }
    }

    pub(crate) fn lifetime_unit(self, unit: Duration) -> Self {
        Self { unit, ..self }
    }

    pub(crate) fn default_lifetime(self, lifetime: Duration) -> Self {
        Self { default: Some(lifetime), ..self }
    }

    /// Checks the settings.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (field, place) in [("lifetime_at", &self.lifetime_at), ("expires_at", &self.expires_at)] {
            place.as_deref().map_or(Ok(()), |place| answer::check_pointer(field, place))?;
        }
        if self.unit.is_zero() {
            return Err(Error::invalid("lifetime_unit", "a unit without a length counts nothing"));
        }
        if self.default.is_some_and(|lifetime| lifetime.is_zero()) {
            return Err(Error::invalid("default_lifetime", "a token without a life cannot be used"));
        }
        Ok(())
    }

    /// How long this token lives; `default` if nothing says so and nothing was set.
    pub(crate) fn read(&self, issued: &Issued<'_>, default: Duration) -> Result<Duration, NoLifetime> {
        let Issued { answer, beside, token, at, now } = *issued;
        let named = |pointer: &str| answer.pointer(pointer).filter(|value| !value.is_null());
        if let Some(place) = &self.expires_at
            && let Some(end) = named(place)
        {
            return until(moment(end).ok_or_else(|| NoLifetime::Unreadable(place.clone()))?, now);
        }
        let unnamed = |pointer: &str| beside.pointer(pointer).or_else(|| named(pointer));
        let lifetime = match &self.lifetime_at {
            Some(place) => named(place),
            None => unnamed(LIFETIME),
        };
        if let Some(count) = lifetime.and_then(number) {
            let lifetime = units(count, self.unit);
            return match now.duration_since(at).unwrap_or_default() {
                Duration::ZERO => Ok(lifetime),
                age if age < lifetime => Ok(lifetime - age),
                age => Err(NoLifetime::Ended(age - lifetime)),
            };
        }
        let said = MOMENTS.iter().filter_map(|place| moment(unnamed(place)?)).find(|end| *end >= NO_MOMENT_BEFORE);
        let exp = || moment(jwt_claims(token).ok()?.get("exp")?).filter(|end| *end >= NO_MOMENT_BEFORE);
        said.or_else(exp).map_or_else(|| Ok(self.default.unwrap_or(default)), |end| until(end, now))
    }
}

// === impl NoLifetime ===

impl NoLifetime {
    /// What is wrong, and why a token that has ended may come from here.
    pub(crate) fn describe(&self, cause: &str) -> String {
        match self {
            Self::Unreadable(place) => {
                format!(
                    "when its token ends is neither a date (RFC 3339) nor a number of seconds since 1970 (at {place})"
                )
            }
            Self::Ended(ago) => {
                format!("its token ended {} s ago: {cause}, or this machine's clock is wrong", ago.as_secs())
            }
        }
    }
}

// === reading ===

/// How long it is until this moment, counted from 1970.
fn until(end: Duration, now: SystemTime) -> Result<Duration, NoLifetime> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    end.checked_sub(now).filter(|left| !left.is_zero()).ok_or(NoLifetime::Ended(now.saturating_sub(end)))
}

/// A number of seconds, in whatever form it comes: zero if it is negative, 100 years at most.
pub(crate) fn seconds(value: &Value) -> Option<Duration> {
    Some(units(number(value)?, Duration::from_secs(1)))
}

/// A moment, counted from 1970.
pub(crate) fn moment(value: &Value) -> Option<Duration> {
    if let Some(number) = number(value) {
        let seconds = if number > MILLISECONDS_BEYOND { number / 1000.0 } else { number };
        // Cut first: a `Duration` cannot hold every number.
        return Some(Duration::from_secs_f64(seconds.clamp(0.0, MILLISECONDS_BEYOND)));
    }
    let text = value.as_str()?.trim();
    // RFC 3339 section 5.6 leaves a space between date and time to applications.
    let date =
        OffsetDateTime::parse(text, &Rfc3339).or_else(|_| OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339));
    match date {
        Ok(date) => Some(Duration::new(date.unix_timestamp().try_into().unwrap_or(0), date.nanosecond())),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok(),
    }
}

/// The claims of a JWT (RFC 7519 section 3), none for every other text; an error for a JWT that breaks off.
pub(crate) fn jwt_claims(text: &str) -> Result<Map<String, Value>, &'static str> {
    const BREAKS_OFF: &str = "it begins as a JWT and breaks off, as if it were half written";
    let mut parts = text.split('.');
    let header = parts.next().and_then(object);
    match (header, parts.next(), parts.next()) {
        // The beginning of `{"`, in the alphabet of JWTs, and no whole object.
        (None, ..) if text.starts_with("eyJ") && text.bytes().all(is_of_a_jwt) => Err(BREAKS_OFF),
        // RFC 7515 section 4.1.1, RFC 7516 section 4.1.1: the header of every JWT names an algorithm.
        (Some(header), ..) if !header.contains_key("alg") => Ok(Map::new()),
        (Some(_), None, _) | (Some(_), _, None) => Err(BREAKS_OFF),
        // One that is encrypted has other parts, which only the API can read.
        (Some(_), Some(claims), Some(_)) => Ok(object(claims).unwrap_or_default()),
        (None, ..) => Ok(Map::new()),
    }
}

fn is_of_a_jwt(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// A part of a JWT that is a JSON object (RFC 7515 section 2: base64url without padding).
fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// A number, or a text that is one.
fn number(value: &Value) -> Option<f64> {
    let number: f64 = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }?;
    number.is_finite().then_some(number)
}

fn units(count: f64, unit: Duration) -> Duration {
    // Cut first: a `Duration` cannot hold every number.
    Duration::from_secs_f64((count * unit.as_secs_f64()).clamp(0.0, MAX_LIFETIME.as_secs_f64()))
}

#[cfg(test)]
mod tests;
