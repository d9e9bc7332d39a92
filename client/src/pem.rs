//! Pure: certificates and keys out of PEM (RFC 7468) as people write and paste it. The only reader of PEM there is here.
//!
//! Must never pass over a block in silence: each is taken, or is a fault with its line and a remedy. Must never repeat what
//! stands in the text, which may be a key.
//!
//! Taken: any line ends and white space, marks before a block, blocks that follow each other on one line, a block on one line, and
//! text between blocks, as openssl writes it. What looks like a block, or a part of one, and isn't one is a fault.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::text;

mod stray;
#[cfg(test)]
mod tests;
mod write;

pub use self::write::write;

const DASHES: &[u8] = b"-----";
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Certificate,
    Pkcs8,
    Pkcs1,
    Sec1,
    /// Names the curve of a key, which says it again.
    Curve,
}

/// One block; wiped, since it may be a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    pub kind: Kind,
    /// Where it begins, from 1.
    pub line: usize,
    pub der: Zeroizing<Vec<u8>>,
}

/// Without what it holds.
impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("kind", &self.kind).field("line", &self.line).finish_non_exhaustive()
    }
}

/// What is wrong, and the remedy.
pub type Words = (&'static str, &'static str);

/// Why a PEM text isn't taken. Its display fits behind "a file", and ends with the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// None where all of the text is at fault.
    pub line: Option<usize>,
    words: Words,
}

impl Fault {
    /// Of what begins in this line.
    pub const fn at(line: usize, words: Words) -> Self {
        Self { line: Some(line), words }
    }

    const fn of_all(what: &'static str, remedy: &'static str) -> Self {
        Self { line: None, words: (what, remedy) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "whose line {line} ")?;
        }
        let (what, remedy) = self.words;
        write!(f, "{what}: {remedy}")
    }
}

const NO_CERTIFICATE: Fault = Fault::of_all("without a certificate", "give it in PEM (-----BEGIN CERTIFICATE-----)");
const NO_KEY: Fault = Fault::of_all("without a private key in PEM", "give PKCS #8, PKCS #1 or SEC 1, not encrypted");

/// Of a certificate that is whole, and yet none that can be read.
pub const fn unreadable(line: usize) -> Fault {
    Fault::at(line, ("begins a certificate that can't be read", "give it as it was made, and CAs' own where CAs are asked for"))
}

/// Certificates and nothing else: those of authorities.
pub fn authorities(text: &[u8]) -> Result<Vec<Block>, Fault> {
    let blocks = blocks(text)?;
    let stray = blocks.iter().find(|block| block.kind != Kind::Certificate);
    match stray {
        Some(Block { kind: Kind::Curve, line, .. }) => {
            Err(Fault::at(*line, ("begins the name of a curve", "leave certificates alone in it")))
        }
        Some(Block { line, .. }) => Err(Fault::at(*line, KEY_AMONG_CAS)),
        None if blocks.is_empty() => Err(NO_CERTIFICATE),
        None => Ok(blocks),
    }
}

/// A certificate with those that lead to its authority, and the key that may stand beside them.
#[derive(Debug)]
pub struct Chain {
    pub certificates: Vec<Block>,
    keys: Vec<Block>,
}

impl Chain {
    pub fn read(text: &[u8]) -> Result<Self, Fault> {
        let (certificates, keys): (Vec<_>, Vec<_>) = blocks(text)?.into_iter().partition(|block| block.kind == Kind::Certificate);
        if certificates.is_empty() {
            return Err(NO_CERTIFICATE);
        }
        Ok(Self { certificates, keys: keys.into_iter().filter(|block| block.kind != Kind::Curve).collect() })
    }

    /// A key beside the certificates is the one that is used, or a mistake.
    pub fn goes_with(&self, key: &Key) -> Result<(), Fault> {
        match self.keys.iter().find(|beside| beside.der != key.key.der) {
            Some(stray) => Err(Fault::at(stray.line, OTHER_KEY)),
            None => Ok(()),
        }
    }
}

/// A private key. Certificates may stand beside it, and are those of the [`Chain`].
#[derive(Debug)]
pub struct Key {
    pub key: Block,
    certificates: Vec<Block>,
}

impl Key {
    pub fn read(text: &[u8]) -> Result<Self, Fault> {
        let (certificates, keys): (Vec<_>, Vec<_>) = blocks(text)?.into_iter().partition(|block| block.kind == Kind::Certificate);
        let mut keys = keys.into_iter().filter(|block| block.kind != Kind::Curve);
        let key = keys.next().ok_or(NO_KEY)?;
        match keys.next() {
            Some(second) => {
                Err(Fault::at(second.line, ("begins a second private key", "leave the certificate's own alone in it")))
            }
            None => Ok(Self { key, certificates }),
        }
    }

    /// The line of a certificate beside the key that is not in the chain, and so isn't shown to anybody.
    pub fn unused(&self, chain: &Chain) -> Option<usize> {
        let is_used = |block: &&Block| chain.certificates.iter().any(|used| used.der == block.der);
        self.certificates.iter().find(|block| !is_used(block)).map(|block| block.line)
    }
}

/// Every block of a text, in order.
pub fn blocks(text: &[u8]) -> Result<Vec<Block>, Fault> {
    if text::is_wide(text) {
        return Err(Fault::of_all("that is UTF-16 or UTF-32", "save it as UTF-8"));
    }
    let mut scan = Scan { text, at: 0, counted: (0, 1) };
    if let Some(nul) = text.iter().position(|byte| *byte == 0) {
        return Err(match text.first() {
            // A SEQUENCE, as certificates, keys and PKCS #12 begin.
            Some(0x30) => Fault::of_all("that is binary (DER or PKCS #12)", "convert it to PEM (openssl x509, pkey or pkcs12)"),
            Some(_) | None => Fault::at(scan.line(nul), ("has a NUL", "give text: PEM")),
        });
    }
    let mut blocks = Vec::new();
    while let Some(block) = scan.next()? {
        blocks.push(block);
    }
    Ok(blocks)
}

/// A text, read as far as `at`.
struct Scan<'t> {
    text: &'t [u8],
    at: usize,
    /// A byte, and its line: the last that was asked for.
    counted: (usize, usize),
}

impl<'t> Scan<'t> {
    fn from(&self, at: usize) -> &'t [u8] {
        self.text.get(at..).unwrap_or_default()
    }

    /// The line of a byte, from 1, none before the last one asked for. `\r\n` is one break, and so are `\r` and `\n` alone.
    fn line(&mut self, at: usize) -> usize {
        let (from, line) = self.counted;
        let between = self.text.get(from..at).unwrap_or_default();
        let breaks = between.iter().enumerate().filter(|(behind, byte)| match byte {
            b'\n' => true,
            b'\r' => self.text.get(from + behind + 1) != Some(&b'\n'),
            _ => false,
        });
        self.counted = (at.max(from), line + breaks.count());
        self.counted.1
    }

    /// The next block, past lines that are no part of any.
    fn next(&mut self) -> Result<Option<Block>, Fault> {
        while self.at < self.text.len() {
            let rest = self.from(self.at);
            let length = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
            let line = rest.get(..length).unwrap_or(rest);
            let bare = without_blanks(line);
            let begins = self.at + (line.len() - bare.len());
            if bare.starts_with(BEGIN) {
                return self.block(begins).map(Some);
            }
            if let Some(words) = stray::find(bare) {
                return Err(Fault::at(self.line(begins), words));
            }
            self.at += length + 1;
        }
        Ok(None)
    }

    /// The block that begins here.
    fn block(&mut self, begins: usize) -> Result<Block, Fault> {
        let line = self.line(begins);
        let label_at = begins + BEGIN.len();
        let label = find(self.from(label_at), DASHES).and_then(|length| self.from(label_at).get(..length));
        let label = label.filter(|label| !label.contains(&b'\n') && !label.contains(&b'\r'));
        let label = label.ok_or(Fault::at(line, stray::BEGINS))?;
        let kind = kind(label).map_err(|words| Fault::at(line, words))?;
        let body_at = label_at + label.len() + DASHES.len();
        let no_end = Fault::at(line, NO_END);
        let length = find(self.from(body_at), DASHES).ok_or(no_end)?;
        let ends = body_at + length;
        let rest = self.from(ends);
        let ended = rest.strip_prefix(END).and_then(|rest| rest.strip_prefix(label)).and_then(|rest| rest.strip_prefix(DASHES));
        match ended {
            // Some of its last dashes are those of the next one's BEGIN as well.
            Some(rest)
                if (1..=DASHES.len()).any(|shared| self.from(self.text.len() - rest.len() - shared).starts_with(BEGIN)) =>
            {
                return Err(Fault::at(self.line(ends), stray::BEGINS));
            }
            Some(rest) => self.at = self.text.len() - rest.len(),
            None if rest.starts_with(BEGIN) => return Err(no_end),
            None => return Err(Fault::at(self.line(ends), OTHER_END)),
        }
        let body = self.from(body_at).get(..length).unwrap_or_default();
        let der = match decode(body) {
            Ok(der) => der,
            Err((at, words)) => return Err(Fault::at(at.map_or(line, |at| self.line(body_at + at)), words)),
        };
        if kind != Kind::Curve && !is_whole(&der) {
            return Err(Fault::at(line, CUT_OFF));
        }
        Ok(Block { kind, line, der })
    }
}

/// A line without white space and marks before what it says.
fn without_blanks(mut line: &[u8]) -> &[u8] {
    loop {
        line = line.trim_ascii_start();
        match line.strip_prefix(text::MARK) {
            Some(rest) => line = rest,
            None => return line,
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// What the block of this label is to us: a fault and its remedy where it is nothing.
fn kind(label: &[u8]) -> Result<Kind, Words> {
    const NO_USE: &str = "take it out";
    Ok(match label {
        // The second is what openssl wrote long ago; they hold the same.
        b"CERTIFICATE" | b"X509 CERTIFICATE" => Kind::Certificate,
        b"PRIVATE KEY" => Kind::Pkcs8,
        b"RSA PRIVATE KEY" => Kind::Pkcs1,
        b"EC PRIVATE KEY" => Kind::Sec1,
        b"EC PARAMETERS" => Kind::Curve,
        b"TRUSTED CERTIFICATE" => {
            let what = "begins a TRUSTED CERTIFICATE, whose settings of trust would not be heeded";
            return Err((what, "write it as a plain one (openssl x509 -in FILE -out FILE)"));
        }
        b"ENCRYPTED PRIVATE KEY" => return Err(ENCRYPTED),
        b"DSA PRIVATE KEY" | b"OPENSSH PRIVATE KEY" | b"ANY PRIVATE KEY" => {
            return Err(("begins a private key that TLS has no use for", "give PKCS #8, PKCS #1 or SEC 1, not encrypted"));
        }
        b"PUBLIC KEY" | b"RSA PUBLIC KEY" => {
            return Err((
                "begins a public key, which has no use here",
                "give the certificate, or the private key, that it belongs to",
            ));
        }
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => {
            return Err(("begins a request for a certificate", "give the certificate that the CA made of it"));
        }
        b"X509 CRL" => return Err(("begins a list of revoked certificates, which would not be heeded", NO_USE)),
        b"PKCS7" | b"CMS" => {
            return Err((
                "begins a PKCS #7 block",
                "write its certificates one by one (openssl pkcs7 -print_certs -in FILE -out FILE)",
            ));
        }
        _ if stray::is_label(label) => return Err(stray::BEGINS),
        _ => return Err(("begins a block of a kind that has no use here", NO_USE)),
    })
}

const ENCRYPTED: Words = (
    "begins a private key that is encrypted",
    "decrypt it (openssl pkey -in FILE -out FILE): give PKCS #8, PKCS #1 or SEC 1, not encrypted",
);

const OTHER_END: Words = (
    "is not the END line of the block that began before it",
    "give each block whole, from BEGIN to END, with the same words in both",
);

const DAMAGED: Words = ("begins a block whose base64 can't be read, since it is cut off or damaged", "give it as it was made");
const HEADERS: Words = ("begins a block with headers", "leave base64 alone between BEGIN and END");
const CUT_OFF: Words = (
    "begins a block whose contents can't be read, since they are cut off or damaged",
    "give the whole of it, from -----BEGIN to -----END, as it was made",
);
const NO_END: Words = ("begins a block that does not end", "give the whole of it, up to its -----END line");
const KEY_AMONG_CAS: Words = (
    "begins a private key, which has no place beside the certificates of CAs",
    "take it out, and if others may read the file, replace that key",
);
const OTHER_KEY: Words = (
    "begins a private key other than the one that is used, which is the key file's",
    "take it out, or name the same file for both",
);

/// A block's bytes; or what is wrong, and where if not from its beginning on.
fn decode(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, (Option<usize>, Words)> {
    if body.contains(&b':') {
        // RFC 1421's headers, as openssl writes them for keys with a passphrase.
        return Err(match find(body, b"ENCRYPTED") {
            Some(_) => (None, ENCRYPTED),
            None => (None, HEADERS),
        });
    }
    let is_ours = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte) || byte.is_ascii_whitespace();
    if let Some((at, byte)) = body.iter().enumerate().find(|(_, byte)| !is_ours(byte)) {
        return Err(match byte {
            b'\\' => (Some(at), ("has a backslash in a block, as \\n for a line break", "write line breaks as such")),
            _ => (Some(at), ("has something other than base64 in a block", "give it as it was made")),
        });
    }
    let mut compact = Zeroizing::new(Vec::with_capacity(body.len()));
    compact.extend(body.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(compact.len())]);
    let Ok(length) = STANDARD.decode_slice(&*compact, &mut der) else {
        return Err((None, DAMAGED));
    };
    der.truncate(length);
    Ok(der)
}

/// Whether this is one SEQUENCE in DER, to its last byte: what every certificate and key is.
fn is_whole(der: &[u8]) -> bool {
    let Some((0x30, rest)) = der.split_first().map(|(tag, rest)| (*tag, rest)) else { return false };
    let Some((first, rest)) = rest.split_first() else { return false };
    let Some(long) = first.checked_sub(0x80) else { return usize::from(*first) == rest.len() };
    let bytes = usize::from(long);
    // Longer than a file may be.
    let Some((length, content)) = (1..=4).contains(&bytes).then(|| rest.split_at_checked(bytes)).flatten() else { return false };
    length.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte)) == content.len()
}
