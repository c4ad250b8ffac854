//! Views: a text with its escapes decoded, and the position of each decoded byte in the text.

/// A text with some kinds of escapes decoded.
pub(super) struct View {
    /// The decoded text, in lower case.
    pub(super) bytes: Vec<u8>,
    /// The position in the text of each byte, followed by the position at which the view ends.
    pub(super) starts: Vec<usize>,
    pub(super) text_length: usize,
}

/// The escapes that a view decodes.
#[derive(Clone, Copy, Default)]
struct Escapes {
    /// `%2F`, in forms and URLs.
    percent: bool,
    /// `+` for a space, in forms.
    plus: bool,
    /// `\/`, in JSON.
    backslash: bool,
    /// `&amp;`, in HTML.
    ampersand: bool,
}

/// The longest escape of one character.
const LONGEST_ESCAPE: usize = "&#x10ffff;".len();

/// Returns the text itself, and each view that may differ from it.
pub(super) fn views(text: &str) -> Vec<View> {
    let none = Escapes::default();
    let candidates = [
        (Escapes { percent: true, ..none }, "%"),
        (Escapes { percent: true, plus: true, ..none }, "+"),
        (Escapes { backslash: true, ..none }, "\\"),
        (Escapes { ampersand: true, ..none }, "&"),
        (Escapes { percent: true, plus: true, backslash: true, ampersand: true }, "+"),
        (Escapes { percent: true, plus: false, backslash: true, ampersand: true }, ""),
    ];
    let differs = |(_, sign): &&(Escapes, &str)| match *sign {
        // The mixed view differs from the others only if the text holds several kinds of escapes.
        "" => ["%", "\\", "&"].iter().filter(|sign| text.contains(**sign)).count() > 1,
        sign => text.contains(sign),
    };
    let escaped = candidates.iter().filter(differs).map(|(escapes, _)| view(text, *escapes));
    std::iter::once(view(text, none)).chain(escaped).collect()
}

fn view(text: &str, escapes: Escapes) -> View {
    let (mut bytes, mut starts) = (Vec::with_capacity(text.len()), Vec::with_capacity(text.len() + 1));
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        let mut decoded = [0; 4];
        let (bytes_decoded, length) = match unescaped(rest, escapes, &mut decoded) {
            Some(escape) => escape,
            None if is_truncated_escape(rest, escapes) => break,
            None => (&rest[..1], 1),
        };
        for byte in bytes_decoded {
            bytes.push(byte.to_ascii_lowercase());
            starts.push(at);
        }
        at += length;
    }
    starts.push(at);
    View { bytes, starts, text_length: text.len() }
}

/// Decodes the escape at the start of the text. Returns its bytes and its length in the text.
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

/// Whether the text is the beginning of a truncated escape.
fn is_truncated_escape(text: &[u8], escapes: Escapes) -> bool {
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
