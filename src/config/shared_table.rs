//! `[shared]`: the server that replicas share tokens through, and the keys that what is put there is sealed and named with.
//!
//! Must never let a password or a token go there in plaintext but on this machine, nor repeat anything of a key.

use std::{borrow::Cow, collections::HashSet};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    addresses::address,
    findings::At,
    limits,
    reader::{Found, Reader},
    source,
    values::{SealingKey, SharedConfig, SharedServer},
    vault_table::ca_file,
};
use crate::{
    keyed_hash::{KEY_BYTES, SecretKey},
    secret::Secret,
    text,
};

/// Where Redis and Valkey listen.
const PORT: u16 = 6379;
/// A key in base64 has 44 characters; who names a certificate or a disk is to be told so.
const KEY_FILE_BYTES: u64 = 1 << 10;

/// Where the server is, and as whom and in which of its databases it is used.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
    user: Option<String>,
    database: u32,
}

/// Reads the table; none where it is at fault.
pub(super) fn read(mut table: Reader<'_, '_>) -> Option<SharedConfig> {
    let missing = [
        ("url", "is missing: give the server's address, such as \"rediss://redis.example.org:6379\""),
        (
            "name_key_file",
            "is missing: name a file with 32 random bytes in base64 (openssl rand -base64 32), the same for all replicas",
        ),
        ("keys", "are missing: give one at least, such as [{ id = 1, file = \"keys/1\" }]; the first seals, all open"),
    ];
    for (key, message) in missing {
        if table.lacks(key) {
            table.fault(table.at(), key, message);
        }
    }
    let url = table.string("url");
    let place = url.and_then(|Found { value, at }| place(&value).map_err(|why| table.fault(at, "url", why)).ok());
    let password = table.string("password_file").map(|found| {
        let at = found.at;
        (at, secret(&table, "password_file", &found, limits::PASSWORD_BYTES + 2).and_then(|text| password(&table, at, text)))
    });
    if let Some(place) = &place {
        check_password(&table, place, password.as_ref().map(|(at, _)| *at));
    }
    let ca = table.string("ca_file").map(|found| {
        if place.as_ref().is_some_and(|place| !place.tls) {
            let message = "has no effect, since url is redis://: remove it, or write rediss://";
            table.findings().warn(found.at, "shared.ca_file", message);
        }
        ca_file(&table, found)
    });
    let name_key = table.string("name_key_file").and_then(|found| key(&table, "name_key_file", &found));
    let keys = keys(&mut table, name_key.as_ref());
    table.finish();
    let Place { tls, host, port, user, database } = place?;
    let password = match password {
        Some((_, password)) => Some(password?),
        None => None,
    };
    let ca_file = match ca {
        Some(authorities) => Some(authorities?),
        None => None,
    };
    Some(SharedConfig {
        server: SharedServer { tls, host, port, user, database, password, ca_file },
        name_key: name_key?,
        keys: keys?,
    })
}

/// A user without a password could not prove itself.
fn check_password(table: &Reader<'_, '_>, place: &Place, password: Option<At>) {
    if place.user.is_some() && password.is_none() {
        table.fault(table.at(), "password_file", "is missing, since url names a user: name the file with its password");
    }
}

fn place(url: &str) -> Result<Place, &'static str> {
    const EXAMPLE: &str = "is not the address of a server: write it as \"rediss://host:6379\" or \"rediss://user@host:6379/0\"";
    let (scheme, rest) = url.split_once("://").ok_or(EXAMPLE)?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "rediss" => true,
        "redis" => false,
        _ => return Err("has a scheme other than rediss: write it as \"rediss://host:6379\", for Valkey too"),
    };
    if rest.contains(['?', '#']) {
        return Err("has a query or a fragment: leave out everything from `?` or `#` on");
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, server) = authority.rsplit_once('@').map_or((None, authority), |(user, server)| (Some(user), server));
    if user.is_some_and(|user| user.contains(':')) {
        return Err("holds a password: put that in a file, and name it as password_file");
    }
    if user
        .is_some_and(|user| user.is_empty() || !user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)))
    {
        return Err("names a user with something other than letters, digits, `-`, `.`, `_`, `~`: name another");
    }
    let (host, port) = match server.rsplit_once(':') {
        // The colons of an IPv6 address end with its bracket.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (server, None),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port {
        None => PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|number| is_digits(port) && *number != 0)
            .ok_or("has a port that is not a number from 1 to 65535")?,
    };
    let database = match database {
        "" => 0,
        text => text
            .parse()
            .ok()
            .filter(|_| is_digits(text))
            .ok_or("has a database that is no number: write it as \"rediss://host:6379/0\"")?,
    };
    // The same hosts that a vault may have, by the same rules.
    let target = address(&format!("http://{host}"), true).ok().filter(|_| !host.is_empty()).ok_or(EXAMPLE)?;
    if !tls && address(&format!("http://{host}"), false).is_err() {
        return Err("would send its password in plaintext: write rediss://; redis:// is for loopback addresses only");
    }
    let bare =
        target.absolute().map_or_else(|| target.url().host_str().unwrap_or_default().to_owned(), |host| format!("{host}."));
    let host = bare.trim_matches(['[', ']']).to_owned();
    Ok(Place { tls, host, port, user: user.map(str::to_owned), database })
}

/// The one line of a file that holds a secret.
fn secret(
    table: &Reader<'_, '_>,
    key: &'static str,
    Found { value, at }: &Found<Cow<'_, str>>,
    limit: u64,
) -> Option<Zeroizing<String>> {
    // No fault shows the path: whoever mistakes the key for one that takes the secret itself writes that here.
    let fault = |why: &str| table.fault(*at, key, why);
    let contents = match table.findings().source().read_beside(value, limit) {
        Ok(contents) => contents,
        Err(source::Unreadable::TooLong(_)) => {
            fault("names a file that is too long to hold what is asked for");
            return None;
        }
        Err(why) => {
            fault(&format!("names a file that {why}: give its path relative to this file, and let this process read it"));
            return None;
        }
    };
    if contents.permissions.open_to_others() {
        let message = "names a file that every user of this machine can get at: take that away (chmod o-rwx; for a Kubernetes Secret, \
                       defaultMode: 0440 with fsGroup)";
        table.findings().warn(*at, table.key(key), message);
    }
    table.findings().writers_of(*at, &table.key(key), contents.permissions);
    text::secret(&contents.bytes)
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|flaw| fault(&format!("names a file that {flaw}")))
        .ok()
}

fn password(table: &Reader<'_, '_>, at: At, text: Zeroizing<String>) -> Option<Secret> {
    if text.is_empty() {
        table.fault(at, "password_file", "names a file that is empty: write the password there, or remove the key");
        return None;
    }
    Some(Secret::from(text.as_str()))
}

/// A key of 32 bytes in base64.
fn key(table: &Reader<'_, '_>, name: &'static str, found: &Found<Cow<'_, str>>) -> Option<SecretKey> {
    const WHAT: &str = "names a file that does not hold 32 bytes in base64, on one line: make one with `openssl rand -base64 32`";
    let text = secret(table, name, found, KEY_FILE_BYTES)?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES + 3]);
    let decoded = BASE64_STANDARD.decode_slice(text.trim_ascii(), &mut *bytes).ok().filter(|length| *length == KEY_BYTES);
    if decoded.is_none() {
        table.fault(found.at, name, WHAT);
        return None;
    }
    Some(SecretKey::of(bytes.get(..KEY_BYTES).unwrap_or_default()))
}

/// `keys`: each with an id of its own.
fn keys(table: &mut Reader<'_, '_>, name_key: Option<&SecretKey>) -> Option<Vec<SealingKey>> {
    let at = table.at();
    let has = table.has("keys");
    let tables: Vec<_> = table.tables("keys", "shared.keys").collect();
    let fault = |at, why: &str| table.fault(at, "keys", why);
    if has && tables.is_empty() {
        fault(at, "is an empty list: give one key at least, such as [{ id = 1, file = \"keys/1\" }]");
    }
    if tables.len() > limits::SEALING_KEYS {
        fault(at, "has more keys than ever are in use at once: remove those that nothing is sealed with any more");
        return None;
    }
    let count = tables.len();
    let (mut keys, mut ids) = (Vec::with_capacity(count), HashSet::new());
    for mut one in tables {
        for name in ["id", "file"] {
            if one.lacks(name) {
                one.fault(one.at(), name, "is missing: write keys as [{ id = 1, file = \"keys/1\" }]");
            }
        }
        let (at, has_id) = (one.at(), one.has("id"));
        let id = one.integer("id", &limits::SEALING_KEY_ID);
        let read = one.string("file").and_then(|found| key(&one, "file", &found));
        if has_id && !ids.insert(id) {
            one.fault(at, "id", "is that of another key too: give each its own, and never one that was used before");
        } else if let Some(key) = read {
            if name_key == Some(&key) || keys.iter().any(|other: &SealingKey| other.key == key) {
                one.fault(at, "file", "holds the same key as another file of [shared]: make each with `openssl rand -base64 32`");
            } else if has_id {
                keys.push(SealingKey { id: u32::try_from(id).unwrap_or(u32::MAX), key });
            }
        }
        one.finish();
    }
    (keys.len() == count && count > 0).then_some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_out_of_urls() {
        for (url, tls, host, port, user, database) in [
            ("rediss://redis.example.org:6380", true, "redis.example.org", 6380, None, 0),
            ("rediss://Redis.example.org.", true, "redis.example.org.", 6379, None, 0),
            ("REDISS://broker@[2001:db8::1]:1/7", true, "2001:db8::1", 1, Some("broker"), 7),
            ("redis://127.0.0.1:6379/", false, "127.0.0.1", 6379, None, 0),
            ("redis://localhost/3", false, "localhost", 6379, None, 3),
        ] {
            let expected = Place { tls, host: host.to_owned(), port, user: user.map(str::to_owned), database };
            assert_eq!(place(url), Ok(expected), "{url}");
        }
        for (url, word) in [
            ("", "not the address"),
            ("redis.example.org:6379", "not the address"),
            ("rediss://", "not the address"),
            ("rediss://a b", "not the address"),
            ("http://127.0.0.1", "scheme"),
            ("redis://redis.example.org", "plaintext"),
            ("redis://127.1", "not the address"),
            ("rediss://user:word@host", "password"),
            ("rediss://@host", "user"),
            ("rediss://a%20b@host", "user"),
            ("rediss://host:0", "port"),
            ("rediss://host:+1", "port"),
            ("rediss://host:65536", "port"),
            ("rediss://host/x", "database"),
            ("rediss://host/-1", "database"),
            ("rediss://host?x=1", "query"),
        ] {
            let why = place(url).expect_err(url);
            assert!(why.contains(word), "{url}: {why}");
        }
    }
}
