//! The issuer's words, as far as they can be repeated: known secrets replaced, control characters gone, bounded.

use crate::secret::Secret;

/// How much of an issuer's text an error repeats, in characters.
const LONGEST_TEXT: usize = 256;
/// Of a secret that the end of the text cuts off, so much counts as the secret, in characters.
const CUT_OFF: usize = 4;

pub(crate) fn clean(text: &str, secrets: &[Secret]) -> String {
    cleaned(text, secrets, LONGEST_TEXT)
}

/// The same of the end of a text, where programs say what stopped them.
#[cfg(feature = "exec")]
pub(crate) fn clean_end(text: &str, secrets: &[Secret]) -> String {
    // All of it first: a cut through a secret would leave a half that nobody knows.
    let clean = cleaned(text, secrets, usize::MAX);
    let start = clean.char_indices().rev().nth(LONGEST_TEXT - 1).map_or(0, |(start, _)| start);
    clean[start..].trim().to_owned()
}

fn cleaned(text: &str, secrets: &[Secret], mut remaining: usize) -> String {
    const REDACTED: &str = "[redacted]";
    let (mut clean, mut rest) = (String::new(), text);
    // The bound counts what is written and not what is read: it can cut no secret in two.
    while remaining > 0
        && let Some(c) = rest.chars().next()
    {
        let matched = secrets.iter().filter_map(|secret| match_secret(rest, secret.expose())).max();
        if matched.is_some() {
            clean.push_str(REDACTED);
            remaining = remaining.saturating_sub(REDACTED.len());
        } else {
            clean.push(if is_printable(c) { c } else { ' ' });
            remaining -= 1;
        }
        rest = &rest[matched.unwrap_or(c.len_utf8())..];
    }
    clean.trim().to_owned()
}

/// How many bytes at the start of `text` repeat the secret, each character in any of its encodings.
fn match_secret(text: &str, secret: &str) -> Option<usize> {
    let (mut ends, mut next) = (vec![0], Vec::new());
    for (seen, c) in secret.chars().enumerate() {
        for end in &ends {
            encodings_of(c, &text[*end..], |length| next.push(end + length));
        }
        if next.is_empty() {
            let is_cut_off = seen >= CUT_OFF && ends.iter().any(|end| is_cut_off(&text[*end..]));
            return is_cut_off.then_some(text.len());
        }
        // Two ways that meet are one; else a text of backslashes would make more ways than there is time.
        next.sort_unstable();
        next.dedup();
        ends.clear();
        std::mem::swap(&mut ends, &mut next);
    }
    ends.pop().filter(|end| *end > 0)
}

/// Whether this is the end of the text, or the first part of one last escape.
fn is_cut_off(text: &str) -> bool {
    text.is_empty() || (text.starts_with(ESCAPES) && text.len() < "%f0%9f%94%91".len())
}

/// Finds what stands at the start of `text` and means `c`, and tells its length: the character itself, or how forms,
/// URLs, JSON and HTML write it.
fn encodings_of(c: char, text: &str, mut found: impl FnMut(usize)) {
    if text.starts_with(c) {
        found(c.len_utf8());
    }
    if text.starts_with(ESCAPES) {
        let percent: String = c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02x}")).collect();
        let unicode: String = c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let is_next = |escape: &&&str| text.get(..escape.len()).is_some_and(|next| next.eq_ignore_ascii_case(escape));
        [&*percent, &*unicode].iter().chain(escapes(c)).filter(is_next).for_each(|escape| found(escape.len()));
    }
}

/// What an escape begins with.
const ESCAPES: [char; 4] = ['%', '+', '\\', '&'];

fn escapes(c: char) -> &'static [&'static str] {
    match c {
        ' ' => &["+"],
        '\n' => &["\\n"],
        '\r' => &["\\r"],
        '\t' => &["\\t"],
        '\\' => &["\\\\"],
        '/' => &["\\/"],
        '"' => &["\\\"", "&quot;", "&#34;"],
        '\'' => &["&#39;", "&#x27;", "&apos;"],
        '&' => &["&amp;"],
        '<' => &["&lt;"],
        '>' => &["&gt;"],
        _ => &[],
    }
}

/// Neither a control character nor one that turns or hides its neighbours.
fn is_printable(c: char) -> bool {
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !hides
}

#[cfg(test)]
mod tests;
