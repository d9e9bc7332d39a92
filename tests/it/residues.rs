//! What is left of a user's secrets in the process's memory once the user is gone: SECURITY.md has the list, and this test its figures.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::FileExt as _,
};

use token_broker::client::Client;
use token_broker_sandbox::{Fault, Options, Sandbox, User};
use tokio::time::{sleep, timeout};

use crate::support::{MERCHANT, NUMBER, PASSWORD, PATIENCE, process::Process, user};

/// Another user, who stays.
const OTHER: &str = "+447871230000";
/// The most copies of each that may be left, wherever they are: what HTTP/2 last wrote to the caller, whose connection is open still, and what
/// HTTP/1.1 read from the vault, in buffers that were given back and not written over. Three and one are usual.
const LEFT: Copies = Copies { access_token: 4, refresh_token: 1, password: 0 };
/// Of a secret, pieces as long as this are looked for: most of a copy may have been written over.
const PIECE: usize = 24;
/// How much of a process's memory is read at once.
const CHUNK: usize = 64 << 10;

/// How many copies there are, whole or for the most part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Copies {
    access_token: usize,
    refresh_token: usize,
    password: usize,
}

impl Copies {
    fn are_within(self, most: Self) -> bool {
        self.access_token <= most.access_token && self.refresh_token <= most.refresh_token && self.password <= most.password
    }
}

/// A user's secrets, of one test run.
struct Secrets {
    access_token: String,
    refresh_token: String,
    password: String,
}

impl Secrets {
    fn draw() -> Self {
        let text = |length| std::iter::repeat_with(fastrand::alphanumeric).take(length).collect::<String>();
        // As long as the documented ones.
        Self { access_token: text(240), refresh_token: text(48), password: text(32) }
    }

    fn grant(&self, lifetime_s: u64) -> Fault {
        let Self { access_token, refresh_token, .. } = self;
        let body = format!(
            r#"{{"access_token":"{access_token}","token_type":"bearer","refresh_token":"{refresh_token}","expires_in":{lifetime_s},"scope":"read write"}}"#
        );
        Fault::reply(200, body)
    }

    /// How often they stand in that memory; and where, for people.
    fn within(&self, memory: &Memory) -> (Copies, String) {
        let mut places = String::new();
        let mut count = |name: &str, secret: &str| {
            // A copy that lacks its head, or its tail, is one too; some bytes that a register left on a stack are none.
            let pieces = [0, (secret.len() - PIECE) / 2, secret.len() - PIECE];
            let mut found = pieces.map(|at| memory.find(&secret.as_bytes()[at..at + PIECE]));
            found.sort_by_key(Vec::len);
            let [_, most, _] = found;
            most.iter().for_each(|place| writeln!(places, "{name}: {place}").expect("is text"));
            most.len()
        };
        let copies = Copies {
            access_token: count("access token", &self.access_token),
            refresh_token: count("refresh token", &self.refresh_token),
            password: count("password", &self.password),
        };
        (copies, places)
    }
}

/// What a process can write to of its memory, as it was at one time.
struct Memory(Vec<Region>);

struct Region {
    name: String,
    start: u64,
    bytes: Vec<u8>,
}

impl Memory {
    /// Reads it; the kernel lets root alone, since the process can't be debugged.
    fn of(pid: u32) -> std::io::Result<Self> {
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut regions = Vec::new();
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (range, access) = (words.next().expect("has a range"), words.next().expect("says what may be done"));
            let (start, end) = range.split_once('-').expect("is a range");
            let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).expect("is an address"));
            if access.starts_with("rw") {
                let name = words.nth(3).unwrap_or("anonymous memory");
                regions.extend(read(&memory, start, end).map(|(start, bytes)| Region { name: name.to_owned(), start, bytes }));
            }
        }
        Ok(Self(regions))
    }

    fn find(&self, piece: &[u8]) -> Vec<String> {
        let in_region = |region: &Region| {
            let Region { name, start, bytes } = region;
            let mut found = Vec::new();
            let mut from = 0;
            while let Some(at) = position(&bytes[from..], piece) {
                let at = from + at;
                let before: String = bytes[at.saturating_sub(56)..at].escape_ascii().to_string();
                found.push(format!("{:#x} in {name}, behind {before}", start + at as u64));
                from = at + piece.len();
            }
            found
        };
        self.0.iter().flat_map(in_region).collect()
    }
}

/// What is there between two addresses, without long stretches of zeros: an allocator has room for much more than it uses. What was let go
/// of in the meantime can't be read, and holds nothing.
fn read(memory: &File, start: u64, end: u64) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut chunk = vec![0; CHUNK];
    let (mut at, mut goes_on) = (start, false);
    while at < end {
        let room = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let Ok(length @ 1..) = memory.read_at(&mut chunk[..room], at) else { break };
        let read = &chunk[..length];
        let is_used = read.iter().any(|byte| *byte != 0);
        if is_used && !goes_on {
            runs.push((at, Vec::new()));
        }
        if let Some((_, run)) = runs.last_mut().filter(|_| is_used) {
            run.extend_from_slice(read);
        }
        (at, goes_on) = (at + length as u64, is_used);
    }
    runs.into_iter()
}

fn position(bytes: &[u8], piece: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == piece[0]) {
        let at = from + at;
        if bytes[at..].starts_with(piece) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

/// Waits until no more is left than may be; connections that close meanwhile take their buffers with them.
async fn is_left(process: &Process, secrets: &Secrets, most: Copies) {
    let mut last = (Copies::default(), String::new());
    let looking = async {
        loop {
            last = secrets.within(&Memory::of(process.id()).expect("root may read it"));
            if last.0.are_within(most) {
                return;
            }
            sleep(PATIENCE / 40).await;
        }
    };
    let done = timeout(PATIENCE / 4, looking).await;
    println!("left: {:?}\n{}", last.0, last.1);
    assert!(done.is_ok(), "more is left than {most:?}: {:?}\n{}", last.0, last.1);
}

fn configured(sandbox: &Sandbox, users: &str) -> String {
    let url = sandbox.url();
    let vault = format!("[vault]\nbase_url = \"{url}\"\nmin_sign_in_interval = \"0s\"\nidle_after = \"1s\"\n");
    format!("{vault}[grpc]\nlisten = \"127.0.0.1:0\"\nlame_duck = \"0s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{users}")
}

#[tokio::test]
async fn little_is_left_of_who_is_gone_and_of_a_token_that_was_replaced() {
    let (secrets, next) = (Secrets::draw(), Secrets::draw());
    let options = Options { users: vec![User::new(MERCHANT, OTHER, PASSWORD)], ..Options::default() };
    let sandbox = Sandbox::start(options).await.expect("the sandbox starts");
    sandbox.script_for(NUMBER, secrets.grant(86_399));
    sandbox.script_for(NUMBER, next.grant(86_399));
    let stays = user(OTHER, PASSWORD);
    let process = Process::serve(&configured(&sandbox, &format!("{}{stays}", user(NUMBER, &secrets.password))), &[]).await;
    match Memory::of(process.id()) {
        Ok(_) => {}
        Err(error) => {
            assert!(error.kind() == ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root(), "{error}");
            println!("nobody but root can read the broker's memory: what is left in it is not looked for");
            return;
        }
    }

    let client = Client::new(&process.endpoint()).expect("is an endpoint").timeout(PATIENCE);
    for _ in 0..5 {
        let token = client.token(MERCHANT, NUMBER).await.expect("there is a token");
        assert_eq!(token.access_token, secrets.access_token);
        client.token(MERCHANT, OTHER).await.expect("there is a token");
    }
    let (held, places) = secrets.within(&Memory::of(process.id()).expect("root may read it"));
    println!("held: {held:?}\n{places}");
    assert!(held.access_token > 0 && held.password > 0, "what is held is found: {held:?}");

    // It is complained of, and the next one takes its place.
    let query = token_broker::client::Query {
        rejected_token_ids: vec![token_broker::tokens::token::TokenId::of(&secrets.access_token).to_string()],
        ..Default::default()
    };
    let token = client.token_with(MERCHANT, NUMBER, query).await.expect("there is another token");
    assert_eq!(token.access_token, next.access_token);
    println!("replaced");
    is_left(&process, &secrets, Copies { password: usize::MAX, ..LEFT }).await;

    process.replace(&configured(&sandbox, &stays));
    process.signal(rustix::process::Signal::HUP);
    process.line_like("configuration reloaded").await;
    println!("removed");
    is_left(&process, &Secrets { password: secrets.password, ..next }, LEFT).await;
}
