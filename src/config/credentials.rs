//! Credentials: `[[users]]`, in the main file and in the files that `credentials_files` names, each read by itself.
//!
//! Must never change a password, nor put one, or a number in clear, into a fault.

use std::{borrow::Cow, collections::HashSet, path::Path, sync::Arc};

use toml::de::DeTable;

use super::{
    faults::Fault,
    findings::{At, Findings},
    limits,
    permissions::Writers,
    reader::{Found, Reader},
    source,
    values::UserConfig,
};
use crate::{
    secret::Secret,
    text,
    user::{MerchantId, Number, UserKey},
};

/// The users of one file: what a reload reads again when the file has changed.
#[derive(Debug)]
pub(super) struct CredentialsFile {
    path: Arc<Path>,
    entries: Vec<Entry>,
}

/// One `[[users]]`.
#[derive(Debug)]
struct Entry {
    key: UserKey,
    line: usize,
    /// None where it is missing or faulty, which is reported; the key still counts when users are compared.
    password: Option<Secret>,
    attempt: u64,
}

/// What is told once a file, and not once a user.
#[derive(Default)]
struct OpenToOthers {
    inline: Option<At>,
    password_files: Counted,
    written_by_all: Counted,
    written_by_group: Counted,
}

/// How many there are of something, and where the first stands.
#[derive(Clone, Copy, Default)]
struct Counted {
    count: usize,
    first: Option<At>,
}

impl Counted {
    fn add(&mut self, at: At) {
        self.count += 1;
        self.first = self.first.or(Some(at));
    }

    /// Of the others.
    fn more(&self) -> String {
        if self.count > 1 { format!(", and so do {} more below", self.count - 1) } else { String::new() }
    }
}

impl CredentialsFile {
    /// Reads a file that holds `[[users]]` and nothing else.
    pub(super) fn read(findings: &Findings<'_>, table: DeTable<'_>) -> Self {
        let mut root = Reader::root(findings, table);
        let file = Self::collect(&mut root);
        root.finish();
        findings.own_writers();
        file
    }

    /// With users of these last digits.
    #[cfg(test)]
    pub(super) fn of_digits(digits: impl IntoIterator<Item = u8>) -> Self {
        let entry = |digit| {
            let number = Number::parse(format!("+44787123999{digit}")).expect("is valid");
            let key = UserKey { merchant: MerchantId::parse("m".to_owned()).expect("is valid"), number };
            Entry { key, line: usize::from(digit), password: None, attempt: 0 }
        };
        Self { path: Arc::from(Path::new("users.toml")), entries: digits.into_iter().map(entry).collect() }
    }

    /// Takes the users out of a file's root table.
    pub(super) fn collect(root: &mut Reader<'_, '_>) -> Self {
        let findings = root.findings();
        let (mut open, mut merchants) = (OpenToOthers::default(), HashSet::new());
        let entries = root.tables("users", "users").filter_map(|table| read_user(table, &mut open, &mut merchants)).collect();
        open.tell(findings);
        Self { path: Arc::clone(findings.source().path()), entries }
    }

    /// The users whose credential is whole.
    pub(super) fn users(&self) -> impl Iterator<Item = UserConfig> {
        self.entries.iter().filter_map(|Entry { key, password, attempt, .. }| {
            Some(UserConfig { key: key.clone(), password: password.clone()?, attempt: *attempt })
        })
    }

    /// Whose credentials the file holds.
    pub(super) fn keys(&self) -> HashSet<&UserKey> {
        self.entries.iter().map(|entry| &entry.key).collect()
    }

    /// Whose credentials the file holds, each with its attempt.
    pub(super) fn attempts(&self) -> impl Iterator<Item = (&UserKey, u64)> {
        self.entries.iter().map(|entry| (&entry.key, entry.attempt))
    }

    /// Where each user stands in the file, which has this index among those compared.
    pub(super) fn places(&self, index: usize) -> impl Iterator<Item = (&UserKey, Place<'_>)> {
        self.entries.iter().map(move |Entry { key, line, .. }| (key, Place { index, path: &self.path, line: *line }))
    }

    /// How many users the file names.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Where a user is configured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'f> {
    /// The file's index among those compared.
    pub(super) index: usize,
    path: &'f Arc<Path>,
    line: usize,
}

impl Place<'_> {
    /// The fault of this place where another one has the same user.
    pub(super) fn is_taken(&self, key: &UserKey, other: &Self) -> Fault {
        let message = format!("{key} is configured already, at {}:{}: remove one of the two", other.path.display(), other.line);
        Fault { file: Arc::clone(self.path), line: Some(self.line), key: "users".to_owned(), message }
    }
}

/// Reads a user; `merchants` are those of the users before, so that all users of one share its text.
fn read_user(mut table: Reader<'_, '_>, open: &mut OpenToOthers, merchants: &mut HashSet<MerchantId>) -> Option<Entry> {
    let merchant = required(&mut table, "merchant_id", MerchantId::parse).map(|read| {
        let shared = merchants.get(&read).cloned();
        shared.unwrap_or_else(|| {
            merchants.insert(read.clone());
            read
        })
    });
    let number = required(&mut table, "number", Number::parse);
    let password = read_password(&mut table, open);
    let attempt = table.integer("attempt", &limits::ATTEMPT);
    let line = table.at().0.map_or(1, |offset| table.findings().source().line(offset));
    table.finish();
    Some(Entry { key: UserKey { merchant: merchant?, number: number? }, line, password, attempt })
}

fn required<T>(table: &mut Reader<'_, '_>, key: &'static str, parse: fn(String) -> Result<T, &'static str>) -> Option<T> {
    let (value, at) = if table.has(key) {
        let Found { value, at } = table.string(key)?;
        (value.into_owned(), at)
    } else {
        // Asked for nevertheless, so that it is known. What is missing has the fault of what is empty.
        table.string(key);
        (String::new(), table.at())
    };
    parse(value).map_err(|why| table.fault(at, key, why)).ok()
}

fn read_password(table: &mut Reader<'_, '_>, open: &mut OpenToOthers) -> Option<Secret> {
    if !table.has("password") && !table.has("password_file") {
        table.fault(table.at(), "password", "is missing: give the user's password, or the file that holds it as password_file");
    }
    let inline = table.string("password");
    let file = table.string("password_file");
    if let (Some(_), Some(Found { at, .. })) = (&inline, &file) {
        table.fault(*at, "password_file", "stands beside password: keep one of the two");
    }
    let Some(Found { value, at }) = inline else { return read_password_file(table, file?, open) };
    open.inline = open.inline.or(Some(at));
    let password = match value {
        Cow::Borrowed(value) => Secret::from(value),
        Cow::Owned(value) => Secret::from(value),
    };
    checked(table, at, "password", password)
}

fn read_password_file(
    table: &Reader<'_, '_>,
    Found { value, at }: Found<Cow<'_, str>>,
    open: &mut OpenToOthers,
) -> Option<Secret> {
    // No fault shows the path: whoever mistakes this key for `password` writes a password here.
    let fault = |why: &str| table.fault(at, "password_file", why);
    // Room for the line break that isn't the password's.
    let contents = match table.findings().source().read_beside(&value, limits::PASSWORD_BYTES + 2) {
        Ok(contents) => contents,
        Err(source::Unreadable::TooLong(_)) => {
            fault("names a file longer than a password can be: 4 KiB at most");
            return None;
        }
        Err(why) => {
            fault(&format!("names a file that {why}: give its path relative to this file, and let this process read it"));
            return None;
        }
    };
    if contents.permissions.open_to_others() {
        open.password_files.add(at);
    }
    match contents.permissions.writers() {
        Some(Writers::Everyone) => open.written_by_all.add(at),
        Some(Writers::Group) => open.written_by_group.add(at),
        None => {}
    }
    let password = text::secret(&contents.bytes).map_err(|flaw| fault(&format!("names a file that {flaw}"))).ok()?;
    checked(table, at, "password_file", Secret::from(password))
}

fn checked(table: &Reader<'_, '_>, at: At, key: &str, password: Secret) -> Option<Secret> {
    let bytes = u64::try_from(password.expose().len()).unwrap_or(u64::MAX);
    if bytes == 0 {
        table.fault(at, key, "is empty: give the user's password");
    } else if bytes > limits::PASSWORD_BYTES {
        table.fault(at, key, "is longer than a password can be: 4 KiB at most");
    } else if let Err(flaw) = text::is_one_line(password.expose()) {
        table.fault(at, key, flaw.to_string());
    } else {
        if text::has_unseen(password.expose()) {
            let message = "has a character that nobody sees, as copying from a page leaves it, and it will be sent along: see whether the \
                           password has it, or type it anew";
            table.findings().warn(at, table.key(key), message);
        }
        return Some(password);
    }
    None
}

impl OpenToOthers {
    fn tell(self, findings: &Findings<'_>) {
        const REMEDY: &str = "take that away (chmod o-rwx; for a Kubernetes Secret, defaultMode: 0440 with fsGroup)";
        if let (true, Some(at)) = (findings.source().permissions().open_to_others(), self.inline) {
            let message = format!("stands in a file that every user of this machine can get at: {REMEDY}");
            findings.warn(at, "users.password", message);
        }
        if let Some(at) = self.password_files.first {
            let message =
                format!("names a file that every user of this machine can get at{}: {REMEDY}", self.password_files.more());
            findings.warn(at, "users.password_file", message);
        }
        for (writers, files) in [(Writers::Everyone, self.written_by_all), (Writers::Group, self.written_by_group)] {
            if let Some(at) = files.first {
                findings.written_by(writers, at, "users.password_file", "names a file to which", &files.more());
            }
        }
    }
}
