//! Pure but for the nonces: names that say nothing, and entries that nobody reads, changes or moves who hasn't the keys.
//!
//! Must never seal under a key that is not configured, nor open what was sealed as something else: under another name, of another kind,
//! for another user, merchant, vault or credential, or by another version of this form.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use zeroize::Zeroizing;

use crate::{
    config::SealingKey,
    hex,
    keyed_hash::{KEY_BYTES, KeyedHash, SecretKey, first},
    tokens::version::{Version, Versions},
    user::UserKey,
};

/// Which form an entry has: of another one nothing is read, and names differ too.
const FORM: u8 = 1;
/// The form, the key's id, the nonce.
const HEAD_BYTES: usize = 1 + 4 + NONCE_LEN;
/// What proves that nothing was changed.
const TAG_BYTES: usize = 16;
/// Before every name of ours, so that an ACL can allow just these. The form is in it: brokers of other forms don't meet.
pub(super) const PREFIX: &str = "tb1:";

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Token,
    Stop,
    Merchant,
    /// That an operator lifted the merchant's waits.
    Lifted,
}

impl Kind {
    fn letter(self) -> &'static str {
        match self {
            Self::Token => "t",
            Self::Stop => "s",
            Self::Merchant => "m",
            Self::Lifted => "o",
        }
    }
}

/// Who is meant, as far as the server may know.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; 32]);

impl Name {
    /// In hex, as it stands in keys and news.
    pub(super) fn text(&self) -> &str {
        hex::text(&self.0)
    }

    /// One that came as news.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let text = <[u8; 32]>::try_from(bytes).ok()?;
        text.iter().all(u8::is_ascii_hexdigit).then_some(Self(text))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Name")
    }
}

/// One version of a user's credential at one vault, and its merchant there: what entries are bound to.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    user: [u8; KEY_BYTES],
    merchant: [u8; KEY_BYTES],
}

impl Subject {
    /// What its news is known by.
    #[must_use]
    pub fn name(&self) -> Name {
        Name(hex::of(first(&self.user)))
    }

    /// What its merchant's news is known by.
    #[must_use]
    pub fn merchant_name(&self) -> Name {
        Name(hex::of(first(&self.merchant)))
    }

    /// Where an entry is kept.
    pub(super) fn key(&self, kind: Kind) -> String {
        let name: Name = Name(hex::of(first(self.of(kind))));
        format!("{PREFIX}{}:{}", kind.letter(), name.text())
    }

    /// Where the lock is.
    pub(super) fn lock(&self) -> String {
        format!("{PREFIX}l:{}", self.name().text())
    }

    fn of(&self, kind: Kind) -> &[u8; KEY_BYTES] {
        match kind {
            Kind::Token | Kind::Stop => &self.user,
            Kind::Merchant | Kind::Lifted => &self.merchant,
        }
    }

    /// What an entry is sealed together with.
    fn bound_to(&self, kind: Kind, head: &[u8]) -> Vec<u8> {
        [head.get(..1 + 4).unwrap_or_default(), kind.letter().as_bytes(), self.of(kind)].concat()
    }
}

/// Names subjects. Its key never rotates with those that seal.
#[derive(Clone, Debug)]
pub(super) struct Namer {
    names: KeyedHash,
    versions: KeyedHash,
}

impl Namer {
    pub(super) fn new(key: &SecretKey) -> Self {
        let key = KeyedHash::new(key.expose());
        Self { names: key.derived("names of entries"), versions: key.derived("versions of credentials") }
    }

    /// What makes versions that are the same for all replicas.
    pub(super) fn versions(&self) -> Versions {
        Versions::new(self.versions.clone())
    }

    /// Of the credential only the mark goes into a name: whoever holds the key of names, and looks at the server, can't tell it from many
    /// others.
    pub(super) fn subject(&self, user: &UserKey, version: Version) -> Subject {
        let (merchant, number) = (user.merchant.as_str().as_bytes(), user.number.expose().as_bytes());
        let upstream = version.upstream.0.to_le_bytes();
        Subject {
            user: self.names.of(&[b"user", merchant, number, &upstream, &version.mark().bytes()]),
            merchant: self.names.of(&[b"merchant", merchant, &upstream]),
        }
    }
}

/// Why an entry can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// It is of another form, or sealed under a key that isn't configured here.
    Foreign,
    /// It was changed, or is another entry than it stands for.
    Tampered,
}

/// Seals and opens.
pub(super) struct Sealer {
    /// The first seals.
    keys: Vec<(u32, LessSafeKey)>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    pub(super) fn new(keys: &[SealingKey]) -> Self {
        // A key of another length is none, which its type rules out.
        let key = |key: &SealingKey| Some((key.id, LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key.key.expose()).ok()?)));
        Self { keys: keys.iter().filter_map(key).collect() }
    }

    /// Room for an entry of so many bytes, so that a secret in it is never moved and left behind.
    pub(super) fn room(length: usize) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(Vec::with_capacity(length + TAG_BYTES))
    }

    /// Seals an entry where it stands; none if there is no key or no randomness.
    pub(super) fn seal(&self, subject: &Subject, kind: Kind, mut plain: Zeroizing<Vec<u8>>) -> Option<Vec<u8>> {
        let (id, key) = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(HEAD_BYTES + plain.len() + TAG_BYTES);
        sealed.push(FORM);
        sealed.extend_from_slice(&id.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        let bound = Aad::from(subject.bound_to(kind, &sealed));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound, &mut *plain).ok()?;
        sealed.extend_from_slice(&plain);
        Some(sealed)
    }

    /// Opens an entry.
    ///
    /// # Errors
    /// Why it is none for this subject.
    pub(super) fn open(&self, subject: &Subject, kind: Kind, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let (head, text) = sealed.split_at_checked(HEAD_BYTES).ok_or(Unopened::Foreign)?;
        let (form, rest) = head.split_first().ok_or(Unopened::Foreign)?;
        let (id, nonce) = rest.split_at_checked(4).ok_or(Unopened::Foreign)?;
        let id = u32::from_be_bytes(first(id));
        let known = self.keys.iter().find(|(known, _)| *form == FORM && *known == id);
        let (_, key) = known.ok_or(Unopened::Foreign)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(first(nonce));
        let opened = key.open_in_place(nonce, Aad::from(subject.bound_to(kind, head)), &mut text);
        let length = opened.map_err(|_unspecified| Unopened::Tampered)?.len();
        text.truncate(length);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        secret::Secret,
        user::{MerchantId, Number},
    };

    fn keys(ids: &[u32]) -> Vec<SealingKey> {
        ids.iter().map(|id| SealingKey { id: *id, key: SecretKey::of(&[u8::try_from(*id).expect("is small"); 32]) }).collect()
    }

    fn user(merchant: &str, number: &str) -> UserKey {
        let merchant = MerchantId::parse(merchant.to_owned()).expect("is valid");
        UserKey { merchant, number: Number::parse(number.to_owned()).expect("is valid") }
    }

    fn namer(key: u8) -> Namer {
        Namer::new(&SecretKey::of(&[key; 32]))
    }

    fn version(namer: &Namer, password: &str, attempt: u64, upstream: &str) -> Version {
        let versions = namer.versions();
        versions.of(&Secret::from(password), attempt, versions.upstream(upstream))
    }

    fn subject(namer: &Namer) -> Subject {
        namer.subject(&user("m", "+447871239999"), version(namer, "1234Qwerty", 0, "https://a"))
    }

    fn plain(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut room = Sealer::room(bytes.len());
        room.extend_from_slice(bytes);
        room
    }

    #[test]
    fn whatever_tells_two_subjects_apart_gives_them_other_names() {
        let ours = namer(1);
        let of = |merchant: &str, number: &str, password: &str, attempt, upstream: &str| {
            ours.subject(&user(merchant, number), version(&ours, password, attempt, upstream))
        };
        let one = of("m", "+447871239999", "a", 0, "https://a");
        for (n, other) in [
            of("n", "+447871239999", "a", 0, "https://a"),
            of("m", "+447871239998", "a", 0, "https://a"),
            of("m", "+447871239999", "b", 0, "https://a"),
            of("m", "+447871239999", "a", 1, "https://a"),
            of("m", "+447871239999", "a", 0, "https://b"),
            namer(2).subject(&user("m", "+447871239999"), version(&namer(2), "a", 0, "https://a")),
        ]
        .iter()
        .enumerate()
        {
            assert_ne!(one.name(), other.name(), "{n}");
            assert!(one.key(Kind::Token) != other.key(Kind::Token) && one.lock() != other.lock());
        }
        let again = namer(1).subject(&user("m", "+447871239999"), version(&namer(1), "a", 0, "https://a"));
        assert_eq!((one.name(), one.key(Kind::Stop)), (again.name(), again.key(Kind::Stop)), "another replica's is the same");
        let colleague = of("m", "+447871230000", "b", 3, "https://a");
        assert_eq!(one.key(Kind::Merchant), colleague.key(Kind::Merchant), "of one merchant");
    }

    #[test]
    fn every_key_opens_and_the_first_seals() {
        let subject = subject(&namer(1));
        let (old, both, new) = (Sealer::new(&keys(&[1])), Sealer::new(&keys(&[2, 1])), Sealer::new(&keys(&[2])));
        let before = old.seal(&subject, Kind::Token, plain(b"text")).expect("is sealed");
        assert_eq!(both.open(&subject, Kind::Token, &before).expect("is open").as_slice(), b"text");
        assert_eq!(new.open(&subject, Kind::Token, &before), Err(Unopened::Foreign));
        let after = both.seal(&subject, Kind::Token, plain(b"text")).expect("is sealed");
        assert_eq!(old.open(&subject, Kind::Token, &after), Err(Unopened::Foreign));
        assert_eq!(new.open(&subject, Kind::Token, &after).expect("is open").as_slice(), b"text");
        assert!(Sealer::new(&[]).seal(&subject, Kind::Token, plain(b"")).is_none());
    }

    #[test]
    fn what_stands_elsewhere_than_it_was_sealed_for_is_none() {
        let ours = namer(1);
        let (sealer, one) = (Sealer::new(&keys(&[1])), subject(&ours));
        let sealed = sealer.seal(&one, Kind::Token, plain(b"text")).expect("is sealed");
        let others = [
            ours.subject(&user("m", "+447871239998"), version(&ours, "1234Qwerty", 0, "https://a")),
            ours.subject(&user("m", "+447871239999"), version(&ours, "another", 0, "https://a")),
            subject(&namer(2)),
        ];
        for other in others {
            assert_eq!(sealer.open(&other, Kind::Token, &sealed), Err(Unopened::Tampered));
        }
        assert_eq!(sealer.open(&one, Kind::Stop, &sealed), Err(Unopened::Tampered));
        let mut renamed = sealed.clone();
        renamed[4] = 2;
        let twice = [SealingKey { id: 2, ..keys(&[1])[0].clone() }];
        assert_eq!(Sealer::new(&twice).open(&one, Kind::Token, &renamed), Err(Unopened::Tampered), "the id is sealed too");
    }

    proptest! {
        /// Whatever becomes of an entry's bytes, it is opened as it was or not at all; and nothing of it shows.
        #[test]
        fn a_changed_entry_is_none(
            text in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
        ) {
            let (sealer, subject) = (Sealer::new(&keys(&[1])), subject(&namer(1)));
            let sealed = sealer.seal(&subject, Kind::Token, plain(&text)).expect("is sealed");
            prop_assert_eq!(sealer.open(&subject, Kind::Token, &sealed).expect("is open").to_vec(), text.clone());
            prop_assert!(text.len() < 8 || !sealed.windows(text.len()).any(|window| window == text));
            let (was, at) = (sealed.clone(), at.index(sealed.len()));
            let mut changed = sealed;
            if cut { changed.truncate(at) } else { changed[at] = byte }
            if changed != was {
                prop_assert!(sealer.open(&subject, Kind::Token, &changed).is_err());
            }
        }
    }
}
