//! Credentials: `[[users]]`, in the main file and in the files that `credentials_files` names, each read by itself.
//!
//! Must never change a password, nor put one, or a number in clear, into a fault.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fs,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{
    User,
    faults::{At, Fault, Findings, Report},
    limits,
    reader::{self, Found, Reader},
    source::{self, Source},
};
use crate::{
    model::{MerchantId, Number, UserKey},
    secret::Secret,
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
    password_files: usize,
    first_password_file: Option<At>,
}

impl CredentialsFile {
    /// Reads a file that holds `[[users]]` and nothing else; no users where it can't be read, which is reported.
    pub(super) fn read(path: &Path) -> (Self, Report) {
        let nothing = |report| (Self { path: Arc::from(path), entries: Vec::new() }, report);
        let source = match Source::open(path, "let this process read it, or take it out of credentials_files") {
            Ok(source) => source,
            Err(report) => return nothing(report),
        };
        let table = match reader::parse(&source) {
            Ok(table) => table,
            Err(report) => return nothing(report),
        };
        let findings = Findings::new(&source);
        let mut root = Reader::root(&findings, table);
        let file = Self::collect(&mut root);
        root.finish();
        (file, findings.into_report())
    }

    /// Takes the users out of a file's root table.
    pub(super) fn collect(root: &mut Reader<'_, '_>) -> Self {
        let findings = root.findings();
        let mut open = OpenToOthers::default();
        let entries = root.tables("users", "users").filter_map(|table| read_user(table, &mut open)).collect();
        open.tell(findings);
        Self { path: Arc::clone(findings.source().path()), entries }
    }

    /// The users whose credential is whole.
    pub(super) fn into_users(self) -> impl Iterator<Item = User> {
        self.entries
            .into_iter()
            .filter_map(|Entry { key, password, attempt, .. }| Some(User { key, password: password?, attempt }))
    }

    /// Whether the file names no user.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Finds users that are configured twice, in one file or in two; the fault goes to the later place.
pub(super) fn compare(files: &[CredentialsFile], reports: &mut [Report]) {
    let mut places: HashMap<&UserKey, (&Path, usize)> = HashMap::with_capacity(files.iter().map(|file| file.entries.len()).sum());
    for (file, report) in files.iter().zip(reports) {
        for Entry { key, line, .. } in &file.entries {
            if let Some((other, other_line)) = places.get(key) {
                report.push(Fault {
                    file: Arc::clone(&file.path),
                    line: Some(*line),
                    key: "users".to_owned(),
                    message: format!("{key} is configured already, at {}:{other_line}: remove one of the two", other.display()),
                });
            } else {
                places.insert(key, (&file.path, *line));
            }
        }
    }
}

fn read_user(mut table: Reader<'_, '_>, open: &mut OpenToOthers) -> Option<Entry> {
    let merchant = required(&mut table, "merchant_id", MerchantId::parse);
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
    let path = table.findings().source().directory().join(&*value);
    // Room for the line break that isn't the password's.
    let contents = match source::read(&path, limits::PASSWORD_BYTES + 2) {
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
    if contents.open_to_others {
        open.password_files += 1;
        open.first_password_file = open.first_password_file.or(Some(at));
    }
    let Ok(text) = std::str::from_utf8(&contents.bytes) else {
        fault("names a file that is not UTF-8: save it as UTF-8");
        return None;
    };
    // Editors and `echo` end a file with a line break; it is the file's, and only one is.
    let password = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    checked(table, at, "password_file", Secret::from(password))
}

fn checked(table: &Reader<'_, '_>, at: At, key: &str, password: Secret) -> Option<Secret> {
    let bytes = u64::try_from(password.expose().len()).unwrap_or(u64::MAX);
    if bytes == 0 {
        table.fault(at, key, "is empty: give the user's password");
    } else if bytes > limits::PASSWORD_BYTES {
        table.fault(at, key, "is longer than a password can be: 4 KiB at most");
    } else {
        return Some(password);
    }
    None
}

impl OpenToOthers {
    fn tell(self, findings: &Findings<'_>) {
        const REMEDY: &str = "take that away (chmod o-rwx; for a Kubernetes Secret, defaultMode: 0440 with fsGroup)";
        if let (true, Some(at)) = (findings.source().open_to_others(), self.inline) {
            let message = format!("stands in a file that every user of this machine can get at: {REMEDY}");
            findings.warn(at, "users.password", message);
        }
        if let Some(at) = self.first_password_file {
            let more = match self.password_files {
                1 => String::new(),
                count => format!(", and so do {} more below", count - 1),
            };
            let message = format!("names a file that every user of this machine can get at{more}: {REMEDY}");
            findings.warn(at, "users.password_file", message);
        }
    }
}

/// One of `credentials_files`.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) at: At,
}

/// The files that the patterns name, each once, in the patterns' order and then by name.
pub(super) fn expand(patterns: &[Pattern], findings: &Findings<'_>) -> Vec<PathBuf> {
    const KEY: &str = "credentials_files";
    let mut seen: HashSet<PathBuf> = fs::canonicalize(findings.source().path()).into_iter().collect();
    let mut files = Vec::new();
    for Pattern { text, at } in patterns {
        let directory = findings.source().directory();
        let found = if text.contains(['*', '?', '[']) {
            matches(directory, text)
        } else {
            let path = directory.join(text);
            let probed =
                source::probe(&path).map_err(|why| format!("names a file that {why}: mend the path, relative to this file"));
            probed.map(|()| vec![path])
        };
        match found {
            Err(why) => findings.fault(*at, KEY, why),
            Ok(found) if found.is_empty() => {
                findings.warn(*at, KEY, "matches no file: mend the pattern, which is relative to this file, or remove it");
            }
            // A file that two patterns match is read once, and the main file, matched by its own pattern, has been read.
            Ok(found) => files.extend(found.into_iter().filter(|path| match fs::canonicalize(path) {
                Ok(canonical) => seen.insert(canonical),
                Err(_) => true,
            })),
        }
        if files.len() > limits::CREDENTIALS_FILES {
            findings.fault(*at, KEY, format!("matches more than {} files: narrow the pattern", limits::CREDENTIALS_FILES));
            return Vec::new();
        }
    }
    files
}

/// The regular files that a pattern matches.
fn matches(directory: &Path, text: &str) -> Result<Vec<PathBuf>, String> {
    const UNREADABLE: &str = "leads into a directory that can't be read: let this process read it, or narrow the pattern";
    let base = directory.to_str().ok_or("is a pattern, and its directory's name is not UTF-8: name the files one by one")?;
    let full = Path::new(&glob::Pattern::escape(base)).join(text);
    let paths = glob::glob(&full.to_string_lossy())
        .map_err(|error| format!("is not a pattern ({}): mend it, or name the files one by one", error.msg))?;
    // The directory's own name may have hidden parts.
    let given = if Path::new(text).is_absolute() { 0 } else { parts(directory).count() };
    let named: Vec<glob::Pattern> =
        text.split('/').filter(|part| part.starts_with('.')).filter_map(|part| glob::Pattern::new(part).ok()).collect();
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| format!("{UNREADABLE} ({})", error.error().kind()))?;
        let hidden = parts(&path).skip(given).any(|name| name.starts_with('.') && !named.iter().any(|part| part.matches(&name)));
        if !hidden && path.is_file() {
            files.push(path);
        }
        if files.len() > limits::CREDENTIALS_FILES {
            break;
        }
    }
    Ok(files)
}

/// A path's names. Those that begin with a dot are skipped unless the pattern names the dot: Kubernetes keeps a second view of
/// each mounted file in `..data`, and editors keep old copies in hidden files. (The glob crate's own option for this panics at
/// a file name that isn't UTF-8.)
fn parts(path: &Path) -> impl Iterator<Item = Cow<'_, str>> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    })
}
