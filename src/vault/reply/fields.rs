//! The fields of a JSON object, each read by itself, from whatever of a body can be read.
//!
//! A refusal that goes unread is sent again and locks an account, so everything around the fields is forgiven: marks, stray
//! bytes, another charset, what stands before and behind, and an end that is missing. Must never let one field spoil the
//! others, nor turn a large number into another one, nor recurse into what is nested.

use zeroize::Zeroizing;

/// Fields that are kept of one object: a reply has about ten.
const FIELDS_MAX: usize = 256;

/// A body as text: UTF-8 without its mark, with what is no UTF-8 replaced. As far as the names of errors and tokens go, UTF-16
/// and UTF-32 differ from it by zero bytes only, which JSON has no use for.
pub(super) fn readable(body: &[u8]) -> Zeroizing<String> {
    let marks = [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"];
    let body = marks.iter().find_map(|mark| body.strip_prefix(*mark)).unwrap_or(body);
    // With room for all of it: what grows leaves copies behind that nobody wipes.
    let mut plain = Zeroizing::new(Vec::with_capacity(body.len()));
    plain.extend(body.iter().copied().filter(|byte| *byte != 0));
    Zeroizing::new(String::from_utf8_lossy(&plain).into_owned())
}

/// An object's fields as they were written, in their order. `null` is no field.
#[derive(Default)]
pub(super) struct Fields<'a> {
    fields: Vec<(String, &'a str)>,
    whole: bool,
}

impl<'a> Fields<'a> {
    /// The fields of the first object in a text, up to where it ends or can't be understood any more.
    pub(super) fn parse(text: &'a str) -> Self {
        let (mut fields, mut whole) = (Vec::new(), false);
        let mut rest = text.find('{').and_then(|at| text.get(at + 1..)).unwrap_or_default();
        while fields.len() < FIELDS_MAX {
            // What stands between the fields, other than the object's end, is passed over up to the next name.
            let Some(at) = rest.find(['"', '}']) else { break };
            if rest.as_bytes().get(at) == Some(&b'}') {
                whole = true;
                break;
            }
            let Some((name, behind)) = split_value(rest.get(at..).unwrap_or_default()) else { break };
            let Some(value) = behind.trim_start().strip_prefix(':') else {
                rest = behind;
                continue;
            };
            let Some((value, behind)) = split_value(value.trim_start()) else { break };
            if value != "null" {
                fields.push((unquoted(name).unwrap_or_default(), value));
            }
            rest = behind;
        }
        Self { fields, whole }
    }

    /// Whether the object's end was found.
    pub(super) fn are_whole(&self) -> bool {
        self.whole
    }

    /// Whether the field is there, of whatever type.
    pub(super) fn has(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The field as it was written; of a name that stands twice, the last.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.all(name).last()
    }

    /// All values of a name, as they were written.
    pub(super) fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a str> {
        self.fields.iter().filter(move |(given, _)| given == name).map(|(_, value)| *value)
    }

    /// The field, if it is a string.
    pub(super) fn string(&self, name: &str) -> Option<String> {
        string(self.raw(name)?)
    }

    /// The objects of the field, if it is a list; whatever else stands in it is passed over.
    pub(super) fn list(&self, name: &str) -> Vec<Self> {
        let Some(mut rest) = self.raw(name).and_then(|list| list.strip_prefix('[')) else { return Vec::new() };
        let mut objects = Vec::new();
        while objects.len() < FIELDS_MAX {
            rest = rest.trim_start_matches([',', ' ', '\t', '\r', '\n']);
            let Some((value, behind)) = split_value(rest) else { break };
            objects.push(if value.starts_with('{') { Self::parse(value) } else { Self::default() });
            rest = behind;
        }
        objects
    }
}

/// A value that is a string, as it is meant; where it can't be, as it is written. Control characters are passed over.
pub(super) fn string(raw: &str) -> Option<String> {
    unquoted(raw).or_else(|| {
        let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
        let plain: String = inner.chars().filter(|char| !char.is_control()).collect();
        Some(unquoted(&format!("\"{plain}\"")).unwrap_or(plain))
    })
}

/// A value that is a string, to the letter.
pub(super) fn unquoted(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// A value that is a number, or a string that holds one. What is beyond the range of `f64` comes out as infinite.
pub(super) fn number(raw: &str) -> Option<f64> {
    let text = string(raw);
    let text = text.as_deref().unwrap_or(raw).trim();
    // Rust reads "inf" and "nan" as numbers too.
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|_| numeric)
}

/// The value that a text begins with, and what stands behind it. `None` where it doesn't begin with one, or where that is cut
/// off: half a value says something else.
fn split_value(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        let end = if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            (!quoted && depth == 0).then_some(at + 1)
        } else {
            match byte {
                // A number or a word ends where something else begins.
                b'"' | b'{' | b'[' if depth == 0 && at > 0 => Some(at),
                b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => Some(at),
                b'"' => {
                    quoted = true;
                    None
                }
                b'{' | b'[' => {
                    depth += 1;
                    None
                }
                b'}' | b']' => {
                    depth -= 1;
                    (depth == 0).then_some(at + 1)
                }
                _ => None,
            }
        };
        if let Some(end) = end {
            return text.split_at_checked(end).filter(|(value, _)| !value.is_empty());
        }
    }
    None
}
