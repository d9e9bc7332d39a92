//! A real Redis on a free port, and what a test does to it behind the brokers' backs.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::PATIENCE;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Int(i64),
    Text(Vec<u8>),
    List(Vec<Reply>),
    Error(String),
}

/// A server. Dropped, it is killed.
pub(crate) struct Redis {
    child: Child,
    pub(crate) port: u16,
    options: Vec<String>,
    directory: TempDir,
}

impl Redis {
    /// One with these options beside a port, without files of its own.
    pub(crate) fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let mut redis = Self { child: spawn(port, &options, &directory), port, options, directory };
        redis.wait();
        redis
    }

    /// Where it is, for brokers.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Starts it again, empty, where it was.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.options, &self.directory);
        self.wait();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("is a pid");
        kill_process(Pid::from_raw(pid).expect("is a pid"), signal).expect("it runs");
    }

    /// Asks it something.
    pub(crate) fn ask(&self, words: &[&[u8]]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("can be set");
        say(&mut stream, words).expect("it answers")
    }

    pub(crate) fn command(&self, words: &str) -> Reply {
        let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        self.ask(&words)
    }

    /// The names that begin so.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        let Reply::List(names) = self.command(&format!("KEYS {prefix}*")) else { panic!("no list") };
        let text =
            |name| if let Reply::Text(text) = name { String::from_utf8(text).expect("is text") } else { panic!("no text") };
        let mut names: Vec<_> = names.into_iter().map(text).collect();
        names.sort();
        names
    }

    pub(crate) fn get(&self, name: &str) -> Vec<u8> {
        if let Reply::Text(value) = self.command(&format!("GET {name}")) { value } else { panic!("{name} is not there") }
    }

    /// Puts a value in another one's place, which ends when that did.
    pub(crate) fn replace(&self, name: &str, value: &[u8]) {
        let said = self.ask(&[b"SET", name.as_bytes(), value, b"KEEPTTL"]);
        assert_eq!(said, Reply::Text(b"OK".to_vec()));
    }

    fn wait(&mut self) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            assert_eq!(self.child.try_wait().expect("can be asked"), None, "it ended at once");
            let asked = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| say(&mut stream, &[b"PING"]));
            // One that wants a password, or TLS, answers with an error, or not at all.
            if asked.is_ok()
                || self.options.iter().any(|option| option == "--tls-port")
                    && asked.is_err()
                    && began.elapsed() > Duration::from_millis(300)
            {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        panic!("it never answered");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A stopped one too.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(port: u16, options: &[String], directory: &TempDir) -> Child {
    let plain = if options.iter().any(|option| option == "--tls-port") { "0".to_owned() } else { port.to_string() };
    let options = options.iter().map(|option| if option == "TLS-PORT" { port.to_string() } else { option.clone() });
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &plain, "--dir"])
        .arg(directory.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed (apt-get install redis-server)")
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("is bound").port()
}

fn say(stream: &mut TcpStream, words: &[&[u8]]) -> std::io::Result<Reply> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    stream.write_all(&bytes)?;
    read(&mut BufReader::new(stream))
}

fn read(stream: &mut BufReader<&mut TcpStream>) -> std::io::Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let (kind, rest) = line.trim_end().split_at(1);
    let number = || rest.parse::<i64>().expect("is a number");
    Ok(match kind {
        "+" => Reply::Text(rest.as_bytes().to_vec()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Int(number()),
        "$" if number() < 0 => Reply::Nil,
        "$" => {
            let mut text = vec![0; usize::try_from(number()).expect("is a length") + 2];
            stream.read_exact(&mut text)?;
            text.truncate(text.len() - 2);
            Reply::Text(text)
        }
        "*" => {
            let mut list = Vec::new();
            for _ in 0..number().max(0) {
                list.push(read(stream)?);
            }
            Reply::List(list)
        }
        _ => panic!("{line:?} is no answer"),
    })
}
