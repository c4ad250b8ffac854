//! Redaction: cleans an issuer's text for an error. Replaces known secrets and control characters, and bounds the
//! length.
//!
//! A secret is recognised in any case of its letters, and
//! - as it is, or escaped for forms, URLs, JSON or HTML, even if its characters are escaped in different ways;
//! - in base64 or hexadecimal digits, if it has at least 8 characters;
//! - if only its beginning is at the end of the text, because the issuer or its gateway may have truncated the text.
//!
//! Some secrets cannot be recognised:
//! - a part from the middle of a secret;
//! - a secret that is encoded twice, encrypted, hashed, reordered or interspersed with other text;
//! - a secret that this crate does not know.
//!
//! The work is linear in the text and in the secrets: the algorithm of Knuth, Morris and Pratt reads each view of the
//! text once for each secret.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::secret::Secret;
use crate::source::redact::view::{View, views};

mod view;

/// The longest text in an error, in characters.
const MAX_TEXT: usize = 256;
/// How much of an issuer's text is read for it, in bytes.
const MAX_READ: usize = 4096;
/// The shortest beginning of a secret that is redacted at the end of a truncated text, in bytes.
const MIN_TRUNCATED: usize = 4;
/// The shortest secret that is searched for in base64 and in hexadecimal digits. A shorter one would match by chance.
const MIN_ENCODED: usize = 8;
/// With more secrets than this, the whole text is redacted.
const MAX_SECRETS: usize = 256;
const REDACTED: &str = "[redacted]";

/// Cleans the beginning of the text.
pub(crate) fn clean(text: &str, secrets: &[Secret]) -> String {
    cleaned(text, secrets, Bounds { is_truncated: true, characters: MAX_TEXT, bytes: MAX_READ })
}

/// Cleans an error code, which is not truncated: `invalid_token` does not end in the beginning of the secret `token-1`.
pub(crate) fn clean_code(code: &str, secrets: &[Secret]) -> String {
    // A longer code may be a truncated text.
    let is_truncated = code.len() > MAX_TEXT;
    cleaned(code, secrets, Bounds { is_truncated, characters: MAX_TEXT, bytes: MAX_READ })
}

/// Cleans the end of a text, because a program prints there why it stopped.
#[cfg(feature = "exec")]
pub(crate) fn clean_end(text: &str, secrets: &[Secret]) -> String {
    // Clean the whole text first: a cut through a secret would leave an end that cannot be recognised.
    let bounds = Bounds { is_truncated: true, characters: usize::MAX, bytes: usize::MAX };
    let clean = cleaned(text, secrets, bounds);
    let start = clean.char_indices().rev().nth(MAX_TEXT - 1).map_or(0, |(start, _)| start);
    clean[start..].trim().to_owned()
}

struct Bounds {
    /// Whether the text may end within a secret.
    is_truncated: bool,
    /// How much is written, in characters.
    characters: usize,
    /// How much is read, in bytes.
    bytes: usize,
}

fn cleaned(text: &str, secrets: &[Secret], bounds: Bounds) -> String {
    let text = text.trim();
    let read = &text[..floor_char_boundary(text, bounds.bytes)];
    let mut secret_ranges = secret_ranges(read, secrets, bounds.is_truncated).into_iter().peekable();
    let (mut clean, mut remaining, mut at) = (String::new(), bounds.characters, 0);
    // The bound counts what is written and not what is read, so that it cuts no secret in two.
    while remaining > 0
        && let Some(c) = read[at..].chars().next()
    {
        if let Some((_, end)) = secret_ranges.next_if(|(start, _)| *start <= at) {
            clean.push_str(REDACTED);
            remaining = remaining.saturating_sub(REDACTED.len());
            at = end;
        } else {
            clean.push(if is_printable(c) { c } else { ' ' });
            remaining -= 1;
            at += c.len_utf8();
        }
    }
    clean.trim().to_owned()
}

/// Returns where secrets are in the text: ordered ranges of whole characters that do not overlap.
fn secret_ranges(text: &str, secrets: &[Secret], is_truncated: bool) -> Vec<(usize, usize)> {
    if secrets.len() > MAX_SECRETS {
        return vec![(0, text.len())];
    }
    let views = views(text);
    let mut found = Vec::new();
    for secret in secrets {
        for pattern in patterns(secret.expose(), text.len()) {
            views.iter().for_each(|view| pattern.search(view, is_truncated, &mut found));
        }
    }
    found.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in found {
        // A match in a view may begin and end within a character.
        let start = floor_char_boundary(text, start);
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        match merged.last_mut() {
            Some((_, last)) if start < *last => *last = end.max(*last),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// A secret, or an encoding of it, in lower case.
struct Pattern {
    bytes: Vec<u8>,
    /// The failure function: for each length of a matched part, the length of its longest end that begins the pattern.
    failures: Vec<usize>,
    /// The shortest beginning of the pattern that matches at the end of a truncated text.
    min_truncated: usize,
}

/// Returns the patterns to search for, each no longer than needed for a text of this length.
fn patterns(secret: &str, length: usize) -> Vec<Pattern> {
    // One byte more than fits: such a pattern matches only where the text is truncated.
    let secret = &secret.as_bytes()[..secret.len().min(length.saturating_add(1))];
    let mut patterns = vec![Pattern::new(secret.to_vec(), MIN_TRUNCATED)];
    if secret.len() >= MIN_ENCODED {
        let hex = secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
        let base64 = [STANDARD_NO_PAD.encode(secret).into(), URL_SAFE_NO_PAD.encode(secret).into()];
        patterns.extend(base64.into_iter().chain([hex]).map(|bytes| Pattern::new(bytes, MIN_ENCODED)));
    }
    patterns.retain(|pattern| !pattern.bytes.is_empty());
    patterns
}

// === impl Pattern ===

impl Pattern {
    fn new(mut bytes: Vec<u8>, min_truncated: usize) -> Self {
        bytes.make_ascii_lowercase();
        let mut pattern = Self { failures: vec![0; bytes.len() + 1], bytes, min_truncated };
        let mut matched = 0;
        for at in 1..pattern.bytes.len() {
            matched = pattern.step(matched, pattern.bytes[at]);
            pattern.failures[at + 1] = matched;
        }
        pattern
    }

    /// Returns how much of the pattern matches after this byte.
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        count_step();
        while matched > 0 && self.bytes[matched] != byte {
            count_step();
            matched = self.failures[matched];
        }
        matched + usize::from(self.bytes[matched] == byte)
    }

    /// Finds the pattern in one view of the text. Matches do not overlap.
    fn search(&self, view: &View, is_truncated: bool, found: &mut Vec<(usize, usize)>) {
        let mut matched = 0;
        for (at, byte) in view.bytes.iter().enumerate() {
            matched = self.step(matched, *byte);
            if matched == self.bytes.len() {
                found.push((view.starts[at + 1 - matched], view.starts[at + 1]));
                matched = 0;
            }
        }
        if is_truncated && matched >= self.min_truncated {
            // The match ends where the text ends, because the view leaves out an escape that is truncated.
            found.push((view.starts[view.bytes.len() - matched], view.text_length));
        }
    }
}

/// Whether this is neither a control character nor an invisible one that changes how its neighbours are shown.
fn is_printable(c: char) -> bool {
    let is_invisible = matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    !c.is_control() && !is_invisible
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Counts a step, so that tests can measure the work without a clock.
#[inline]
fn count_step() {
    #[cfg(test)]
    tests::STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
mod tests;
