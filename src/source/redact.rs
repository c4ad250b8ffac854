//! The issuer's words, as far as they can be repeated: known secrets replaced, control characters gone, bounded.
//!
//! A secret is recognised whatever the case of its letters, and
//! - as it is, or as forms, URLs, JSON and HTML write it, each of its characters in any of these ways;
//! - in base64 or hexadecimal digits, if it has 8 characters or more;
//! - from its beginning to where the text ends, because the issuer or its gateway may have cut the text off.
//!
//! What cannot be recognised: a part of a secret from its middle, a secret that is encoded twice, encrypted or hashed, in
//! another order, or with other texts in between; and a secret that this crate does not know.
//!
//! The work is linear in the text and in the secrets: each view of the text is read once for each secret, by the
//! algorithm of Knuth, Morris and Pratt.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use crate::secret::Secret;
use crate::source::redact::view::{View, views};

mod view;

/// How much of an issuer's text an error repeats, in characters.
const LONGEST_TEXT: usize = 256;
/// How much of an issuer's text is looked at for that, in bytes.
const LONGEST_READ: usize = 4096;
/// Of a secret that the end of the text cuts off, so much counts as the secret, in bytes.
const CUT_OFF: usize = 4;
/// Shorter secrets are not looked for in other encodings, where they would be found by chance.
const SHORTEST_ENCODED: usize = 8;
/// With more secrets than this nothing is repeated.
const MOST_SECRETS: usize = 256;
const REDACTED: &str = "[redacted]";

/// The text's beginning.
pub(crate) fn clean(text: &str, secrets: &[Secret]) -> String {
    cleaned(text, secrets, Bounds { is_cut_off: true, characters: LONGEST_TEXT, bytes: LONGEST_READ })
}

/// The same of a code, which nothing cuts off: `invalid_token` is not the first part of the secret `token-1`.
pub(crate) fn clean_code(code: &str, secrets: &[Secret]) -> String {
    // Nobody writes a code that long.
    let is_cut_off = code.len() > LONGEST_TEXT;
    cleaned(code, secrets, Bounds { is_cut_off, characters: LONGEST_TEXT, bytes: LONGEST_READ })
}

/// The same of the end of a text, where programs say what stopped them.
#[cfg(feature = "exec")]
pub(crate) fn clean_end(text: &str, secrets: &[Secret]) -> String {
    // All of it first: a cut through a secret would leave a half that nobody knows.
    let bounds = Bounds { is_cut_off: true, characters: usize::MAX, bytes: usize::MAX };
    let clean = cleaned(text, secrets, bounds);
    let start = clean.char_indices().rev().nth(LONGEST_TEXT - 1).map_or(0, |(start, _)| start);
    clean[start..].trim().to_owned()
}

struct Bounds {
    /// Whether the text may end within a secret, as it does where less than all of it is read.
    is_cut_off: bool,
    /// How much is written.
    characters: usize,
    /// How much is read.
    bytes: usize,
}

fn cleaned(text: &str, secrets: &[Secret], bounds: Bounds) -> String {
    let text = text.trim();
    let read = &text[..floor_char_boundary(text, bounds.bytes)];
    let mut hidden = hidden(read, secrets, bounds.is_cut_off).into_iter().peekable();
    let (mut clean, mut remaining, mut at) = (String::new(), bounds.characters, 0);
    // The bound counts what is written and not what is read: it can cut no secret in two.
    while remaining > 0
        && let Some(c) = read[at..].chars().next()
    {
        if let Some((_, end)) = hidden.next_if(|(start, _)| *start <= at) {
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

/// Where in the text secrets are: ranges of whole characters in order, none of which overlap.
fn hidden(text: &str, secrets: &[Secret], is_cut_off: bool) -> Vec<(usize, usize)> {
    if secrets.len() > MOST_SECRETS {
        return vec![(0, text.len())];
    }
    let views = views(text);
    let mut found = Vec::new();
    for secret in secrets {
        for pattern in patterns(secret.expose(), text.len()) {
            views.iter().for_each(|view| pattern.search(view, is_cut_off, &mut found));
        }
    }
    found.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in found {
        // A view may begin and end a match within a character.
        let start = floor_char_boundary(text, start);
        let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        match merged.last_mut() {
            Some((_, last)) if start < *last => *last = end.max(*last),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// A secret, or an encoding of it, in small letters.
struct Pattern {
    bytes: Vec<u8>,
    /// For each length of a part that matched: how much of its end is the pattern's beginning.
    failures: Vec<usize>,
    /// Of a pattern that the end of the text cuts off, so much counts as the pattern.
    cut_off: usize,
}

/// What is looked for, no longer than matters for a text of `length`.
fn patterns(secret: &str, length: usize) -> Vec<Pattern> {
    // One more than fits: such a pattern can be cut off by the end of the text, and be found in no other way.
    let secret = &secret.as_bytes()[..secret.len().min(length.saturating_add(1))];
    let mut patterns = vec![Pattern::new(secret.to_vec(), CUT_OFF)];
    if secret.len() >= SHORTEST_ENCODED {
        let hex = secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
        let base64 = [STANDARD_NO_PAD.encode(secret).into(), URL_SAFE_NO_PAD.encode(secret).into()];
        patterns.extend(base64.into_iter().chain([hex]).map(|bytes| Pattern::new(bytes, SHORTEST_ENCODED)));
    }
    patterns.retain(|pattern| !pattern.bytes.is_empty());
    patterns
}

// === impl Pattern ===

impl Pattern {
    fn new(mut bytes: Vec<u8>, cut_off: usize) -> Self {
        bytes.make_ascii_lowercase();
        let mut pattern = Self { failures: vec![0; bytes.len() + 1], bytes, cut_off };
        let mut matched = 0;
        for at in 1..pattern.bytes.len() {
            matched = pattern.step(matched, pattern.bytes[at]);
            pattern.failures[at + 1] = matched;
        }
        pattern
    }

    /// How much has matched after this byte.
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        count_step();
        while matched > 0 && self.bytes[matched] != byte {
            count_step();
            matched = self.failures[matched];
        }
        matched + usize::from(self.bytes[matched] == byte)
    }

    /// Finds the pattern in one view of the text. Matches do not overlap.
    fn search(&self, view: &View, is_cut_off: bool, found: &mut Vec<(usize, usize)>) {
        let mut matched = 0;
        for (at, byte) in view.bytes.iter().enumerate() {
            matched = self.step(matched, *byte);
            if matched == self.bytes.len() {
                found.push((view.starts[at + 1 - matched], view.starts[at + 1]));
                matched = 0;
            }
        }
        if is_cut_off && matched >= self.cut_off {
            // Up to the end of the text, which may be the first part of an escape.
            found.push((view.starts[view.bytes.len() - matched], view.text_length));
        }
    }
}

/// Neither a control character nor one that turns or hides its neighbours.
fn is_printable(c: char) -> bool {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !hides
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// What the tests count instead of time.
#[inline]
fn count_step() {
    #[cfg(test)]
    tests::STEPS.with(|steps| steps.set(steps.get() + 1));
}

#[cfg(test)]
mod tests;
