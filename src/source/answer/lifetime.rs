//! When a token expires. All sources share these rules.
//!
//! The first of these that is present and can be read counts:
//!
//! | place | read as |
//! |---|---|
//! | the member at the setting `expires_at` | a moment; if it cannot be read, that is an error |
//! | the member at the setting `lifetime_at`, else `expires_in` | a number of units (`lifetime_unit`, 1 s) since the request |
//! | `expires_on`, `expires_at` | a moment; one before 2001, such as 0 or Go's zero time, is ignored |
//! | the `exp` of a token that is a JWT (RFC 7519 section 4.1.4) | a moment |
//! | nothing | the source's `default_lifetime` |
//!
//! A moment is a number of seconds since 1970, or of milliseconds above 1e11, a date of RFC 3339, or an HTTP date.
//! Numbers may be texts and have fractions. A moment is compared with the server's clock if the answer has a `Date`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::Error;
use crate::source::answer;
use crate::token::MAX_LIFETIME;

/// Where an answer says when its token expires, and the lifetime if it does not.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    lifetime_at: Option<String>,
    expires_at: Option<String>,
    unit: Duration,
    default: Option<Duration>,
}

/// A token, the answer it came in, and the time.
pub(crate) struct Issued<'a> {
    pub(crate) answer: &'a Value,
    /// The object that has the token.
    pub(crate) parent: &'a Value,
    pub(crate) token: &'a str,
    /// When the answer was written.
    pub(crate) at: SystemTime,
    pub(crate) now: SystemTime,
}

/// Why the expiry in an answer cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoLifetime {
    /// The member at this pointer is not a moment.
    Unreadable(String),
    /// The token expired this long ago.
    Ended(Duration),
}

/// Where the lifetime is by default (RFC 6749 section 5.1), and the moments that many servers send.
const LIFETIME: &str = "/expires_in";
const MOMENTS: [&str; 2] = ["/expires_on", "/expires_at"];
/// Seconds since 1970 reach this number in the year 5138, so a larger number counts milliseconds.
const MILLISECONDS_BEYOND: f64 = 1e11;
/// Some servers send an earlier moment (before 2001) if the token does not expire.
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
            return Err(Error::invalid("lifetime_unit", "the unit is zero"));
        }
        if self.default.is_some_and(|lifetime| lifetime.is_zero()) {
            return Err(Error::invalid("default_lifetime", "the lifetime is zero"));
        }
        Ok(())
    }

    /// How long this token lives. `default` applies if neither the answer nor a setting says so.
    pub(crate) fn read(&self, issued: &Issued<'_>, default: Duration) -> Result<Duration, NoLifetime> {
        let Issued { answer, parent, token, at, now } = *issued;
        let named = |pointer: &str| answer.pointer(pointer).filter(|value| !value.is_null());
        if let Some(place) = &self.expires_at
            && let Some(end) = named(place)
        {
            return until(moment(end).ok_or_else(|| NoLifetime::Unreadable(place.clone()))?, now);
        }
        let unnamed = |pointer: &str| parent.pointer(pointer).or_else(|| named(pointer));
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
    /// Describes the problem. `cause` says why the source may return an expired token.
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

/// The time until this moment, which is counted from 1970.
fn until(end: Duration, now: SystemTime) -> Result<Duration, NoLifetime> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    end.checked_sub(now).filter(|left| !left.is_zero()).ok_or(NoLifetime::Ended(now.saturating_sub(end)))
}

/// Reads a number of seconds. A negative number is zero, and the maximum is 100 years.
pub(crate) fn seconds(value: &Value) -> Option<Duration> {
    Some(units(number(value)?, Duration::from_secs(1)))
}

/// Reads a moment, counted from 1970.
pub(crate) fn moment(value: &Value) -> Option<Duration> {
    if let Some(number) = number(value) {
        let seconds = if number > MILLISECONDS_BEYOND { number / 1000.0 } else { number };
        // Clamps first, because `Duration` panics on numbers that it cannot hold.
        return Some(Duration::from_secs_f64(seconds.clamp(0.0, MILLISECONDS_BEYOND)));
    }
    let text = value.as_str()?.trim();
    // RFC 3339 section 5.6 lets applications write a space between date and time.
    let date =
        OffsetDateTime::parse(text, &Rfc3339).or_else(|_| OffsetDateTime::parse(&text.replacen(' ', "T", 1), &Rfc3339));
    match date {
        Ok(date) => Some(Duration::new(date.unix_timestamp().try_into().unwrap_or(0), date.nanosecond())),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok(),
    }
}

/// The claims of a JWT (RFC 7519 section 3). Any other text has no claims. A JWT that is cut off is an error.
pub(crate) fn jwt_claims(text: &str) -> Result<Map<String, Value>, &'static str> {
    const CUT_OFF: &str = "it begins as a JWT and is cut off, as if it were half written";
    let mut parts = text.split('.');
    let header = parts.next().and_then(object);
    match (header, parts.next(), parts.next()) {
        // The text begins with `{"` in base64url and is not a whole object.
        (None, ..) if text.starts_with("eyJ") && text.bytes().all(is_jwt_byte) => Err(CUT_OFF),
        // The header of every JWT names an algorithm (RFC 7515 section 4.1.1, RFC 7516 section 4.1.1).
        (Some(header), ..) if !header.contains_key("alg") => Ok(Map::new()),
        (Some(_), None, _) | (Some(_), _, None) => Err(CUT_OFF),
        // An encrypted JWT has other parts, which only the API can read.
        (Some(_), Some(claims), Some(_)) => Ok(object(claims).unwrap_or_default()),
        (None, ..) => Ok(Map::new()),
    }
}

fn is_jwt_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// A part of a JWT that is a JSON object (RFC 7515 section 2: base64url without padding).
fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Reads a number, which may be a text.
fn number(value: &Value) -> Option<f64> {
    let number: f64 = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }?;
    number.is_finite().then_some(number)
}

fn units(count: f64, unit: Duration) -> Duration {
    // Clamps first, because `Duration` panics on numbers that it cannot hold.
    Duration::from_secs_f64((count * unit.as_secs_f64()).clamp(0.0, MAX_LIFETIME.as_secs_f64()))
}

#[cfg(test)]
mod tests;
