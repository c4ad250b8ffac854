//! A text as it would be without its escapes, with the way back to where each byte stood.

/// One reading of a text.
pub(super) struct View {
    /// What it says, in small letters.
    pub(super) bytes: Vec<u8>,
    /// Where in the text each byte begins; at the end where the view ends.
    pub(super) starts: Vec<usize>,
    pub(super) text_length: usize,
}

/// Which escapes a reading resolves.
#[derive(Clone, Copy, Default)]
struct Escapes {
    /// `%2F`, of forms and URLs.
    percent: bool,
    /// `+` for a space, of forms.
    plus: bool,
    /// `\/`, of JSON.
    backslash: bool,
    /// `&amp;`, of HTML.
    ampersand: bool,
}

/// No escape of one character is longer.
const LONGEST_ESCAPE: usize = "&#x10ffff;".len();

/// The text itself, and each reading that says something else.
pub(super) fn views(text: &str) -> Vec<View> {
    let none = Escapes::default();
    let readings = [
        (Escapes { percent: true, ..none }, "%"),
        (Escapes { percent: true, plus: true, ..none }, "+"),
        (Escapes { backslash: true, ..none }, "\\"),
        (Escapes { ampersand: true, ..none }, "&"),
        (Escapes { percent: true, plus: true, backslash: true, ampersand: true }, "+"),
        (Escapes { percent: true, plus: false, backslash: true, ampersand: true }, ""),
    ];
    let differs = |(_, sign): &&(Escapes, &str)| match *sign {
        // The mixed reading adds something only if there is something to mix.
        "" => ["%", "\\", "&"].iter().filter(|sign| text.contains(**sign)).count() > 1,
        sign => text.contains(sign),
    };
    let escaped = readings.iter().filter(differs).map(|(escapes, _)| view(text, *escapes));
    std::iter::once(view(text, none)).chain(escaped).collect()
}

fn view(text: &str, escapes: Escapes) -> View {
    let (mut bytes, mut starts) = (Vec::with_capacity(text.len()), Vec::with_capacity(text.len() + 1));
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        let mut decoded = [0; 4];
        let (said, length) = match unescaped(rest, escapes, &mut decoded) {
            Some(escape) => escape,
            None if is_first_part(rest, escapes) => break,
            None => (&rest[..1], 1),
        };
        for byte in said {
            bytes.push(byte.to_ascii_lowercase());
            starts.push(at);
        }
        at += length;
    }
    starts.push(at);
    View { bytes, starts, text_length: text.len() }
}

/// The bytes that the escape at the start of the text stands for, and its length.
fn unescaped<'a>(text: &[u8], escapes: Escapes, decoded: &'a mut [u8; 4]) -> Option<(&'a [u8], usize)> {
    let one = |decoded: &'a mut [u8; 4], byte: u8, length| {
        decoded[0] = byte;
        Some((&decoded[..1], length))
    };
    match text[0] {
        b'+' if escapes.plus => one(decoded, b' ', 1),
        b'%' if escapes.percent => one(decoded, hex(text.get(1..3)?)?.try_into().ok()?, 3),
        b'\\' if escapes.backslash => match text.get(1)? {
            b'u' => {
                let first = hex(text.get(2..6)?)?;
                let second = text.get(6..12).filter(|next| next.starts_with(b"\\u")).and_then(|next| hex(&next[2..]));
                match (first, second) {
                    (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
                        let c = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?;
                        Some((c.encode_utf8(decoded).as_bytes(), 12))
                    }
                    _ => Some((char::from_u32(first)?.encode_utf8(decoded).as_bytes(), 6)),
                }
            }
            b'n' => one(decoded, b'\n', 2),
            b'r' => one(decoded, b'\r', 2),
            b't' => one(decoded, b'\t', 2),
            escaped @ (b'\\' | b'/' | b'"') => one(decoded, *escaped, 2),
            _ => None,
        },
        b'&' if escapes.ampersand => {
            let length = text.iter().take(LONGEST_ESCAPE).position(|byte| *byte == b';')?;
            let c = match str::from_utf8(&text[1..length]).ok()? {
                "quot" => '"',
                "apos" => '\'',
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                name => {
                    let number = name.strip_prefix('#')?;
                    let hex = number.strip_prefix(['x', 'X']).map(|digits| u32::from_str_radix(digits, 16));
                    char::from_u32(hex.unwrap_or_else(|| number.parse()).ok()?)?
                }
            };
            Some((c.encode_utf8(decoded).as_bytes(), length + 1))
        }
        _ => None,
    }
}

/// Whether the text is the first part of an escape that is cut off.
fn is_first_part(text: &[u8], escapes: Escapes) -> bool {
    let rest = &text[1..];
    match text[0] {
        b'%' if escapes.percent => rest.len() < 2 && rest.iter().all(u8::is_ascii_hexdigit),
        b'\\' if escapes.backslash => match rest {
            [] => true,
            [b'u', digits @ ..] => digits.len() < 4 && digits.iter().all(u8::is_ascii_hexdigit),
            _ => false,
        },
        b'&' if escapes.ampersand => {
            text.len() < LONGEST_ESCAPE && rest.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'#')
        }
        _ => false,
    }
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| Some(number << 4 | char::from(*digit).to_digit(16)?))
}
