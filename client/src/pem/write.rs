//! Pure: PEM written anew, as every reader of it understands it.
//!
//! Must never leave a copy behind that nobody wipes: there may be a key in it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{BEGIN, Block, DASHES, END, Kind};

/// Characters a line (RFC 7468, 2).
const LINE: usize = 64;

/// The blocks as text; a library that reads them may pass over what it doesn't understand in the text that they came from.
pub fn write<'b>(blocks: impl IntoIterator<Item = &'b Block>) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::new());
    for block in blocks {
        let label: &[u8] = match block.kind {
            Kind::Certificate => b"CERTIFICATE",
            Kind::Pkcs8 => b"PRIVATE KEY",
            Kind::Pkcs1 => b"RSA PRIVATE KEY",
            Kind::Sec1 => b"EC PRIVATE KEY",
            Kind::Curve => b"EC PARAMETERS",
        };
        let body = Zeroizing::new(STANDARD.encode(&*block.der));
        // All at once: a buffer that grows leaves copies behind that nobody wipes.
        let mut grown = Zeroizing::new(Vec::with_capacity(text.len() + body.len() + body.len() / LINE + 2 * label.len() + LINE));
        grown.extend_from_slice(&text);
        for part in [BEGIN, label, DASHES, b"\n"] {
            grown.extend_from_slice(part);
        }
        for line in body.as_bytes().chunks(LINE) {
            grown.extend_from_slice(line);
            grown.push(b'\n');
        }
        for part in [END, label, DASHES, b"\n"] {
            grown.extend_from_slice(part);
        }
        text = grown;
    }
    text
}
