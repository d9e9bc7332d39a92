//! What a simulated server holds, and the few commands that are asked of it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::script::{Value, number, run};

/// A value, and when it ends.
pub(crate) type Held = (Vec<u8>, Option<Instant>);

/// What the server does instead of what it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Honest,
    ReadOnly,
    Full,
    Loading,
    /// Says that it wrote, and did for every other time only.
    Losing,
}

/// The server's memory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    held: BTreeMap<Vec<u8>, Held>,
    news: Vec<((u64, u64), Vec<u8>)>,
    pub(super) last: (u64, u64),
    /// What keys held before, for lies.
    former: Vec<(Vec<u8>, Vec<u8>)>,
    /// Owners of locks, and from when to when they had them.
    pub(super) leases: Vec<(Vec<u8>, Instant, Duration)>,
    /// Since 1970.
    pub(super) clock: SystemTime,
    pub(super) mode: Mode,
    writes: u64,
    /// What a script did that it must not.
    pub(super) faults: Vec<String>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            news: Vec::new(),
            last: (0, 0),
            former: Vec::new(),
            leases: Vec::new(),
            clock: SystemTime::UNIX_EPOCH,
            mode: Mode::Honest,
            writes: 0,
            faults: Vec::new(),
        }
    }

    /// Answers a command, but one that waits.
    pub(super) fn answer(&mut self, words: &[Vec<u8>]) -> Result<Value, String> {
        if self.mode == Mode::Loading {
            return Err("LOADING it is being read".to_owned());
        }
        let now = Instant::now();
        self.held.retain(|_, (_, end)| end.is_none_or(|end| end > now));
        if words[0] != b"EVAL" {
            return self.command(words);
        }
        let script = std::str::from_utf8(&words[1]).expect("is text");
        let (keys, arguments) = words[3..].split_at(usize::try_from(number(&words[2])).expect("is a count"));
        // Written under a lock, but for what the lock itself is: whoever has it then must be the first argument.
        let owner = |store: &Self| keys.iter().find(|key| key.starts_with(b"tb1:l:")).map(|lock| store.value(lock));
        let had = owner(self);
        run(script, keys, arguments, &mut |words| {
            let entry = words.get(1).is_some_and(|key| key.starts_with(b"tb1:") && !key.starts_with(b"tb1:probe"));
            let writes = words[0] == b"DEL" || words[0] == b"SET" && !words.get(1).is_some_and(|key| key.starts_with(b"tb1:l:"));
            if entry && writes && had.as_ref() != Some(&Some(arguments[0].clone())) {
                self.faults.push(format!("{} by who has not got the lock", String::from_utf8_lossy(&words[0])));
            }
            self.command(words)
        })
    }

    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.held.get(key).map(|(value, _)| value.clone())
    }

    fn command(&mut self, words: &[Vec<u8>]) -> Result<Value, String> {
        let text = |value: Option<Vec<u8>>| value.map_or(Value::Nil, Value::Text);
        let name = words[0].to_ascii_uppercase();
        if matches!(&*name, b"SET" | b"DEL" | b"XADD") {
            match self.mode {
                Mode::ReadOnly => return Err("READONLY it is a replica".to_owned()),
                Mode::Full if name != b"DEL" => return Err("OOM it is full".to_owned()),
                Mode::Honest | Mode::Full | Mode::Loading | Mode::Losing => {}
            }
        }
        Ok(match &*name {
            b"GET" => text(self.value(&words[1])),
            b"MGET" => Value::List(words[1..].iter().map(|key| text(self.value(key))).collect()),
            b"EXISTS" => Value::Int(i64::from(self.held.contains_key(&words[1]))),
            b"PTTL" => Value::Int(match self.held.get(&words[1]) {
                Some((_, Some(end))) => i64::try_from((*end - Instant::now()).as_millis()).expect("is small"),
                Some((_, None)) => -1,
                None => -2,
            }),
            b"TIME" => {
                let since = self.clock.duration_since(SystemTime::UNIX_EPOCH).expect("is later");
                Value::List(vec![Value::Text(since.as_secs().to_string().into_bytes()), Value::Text(b"0".to_vec())])
            }
            b"SET" => self.set(words),
            b"DEL" => Value::Int(i64::from(self.held.remove(&words[1]).is_some())),
            b"XADD" => self.tell(words),
            b"XREVRANGE" => {
                let last = self.news.last().map(|(id, name)| entry(*id, name));
                Value::List(last.into_iter().collect())
            }
            // The password, and what the client says of itself.
            b"SELECT" | b"CLIENT" | b"AUTH" | b"PING" => Value::Text(b"OK".to_vec()),
            other => panic!("{}", String::from_utf8_lossy(other)),
        })
    }

    fn set(&mut self, words: &[Vec<u8>]) -> Value {
        let (key, value) = (&words[1], &words[2]);
        if words.iter().any(|word| word == b"NX") && self.held.contains_key(key) {
            return Value::Nil;
        }
        let kept = words.iter().position(|word| word == b"PX").map(|at| number(&words[at + 1]));
        let kept = Duration::from_millis(u64::try_from(kept.expect("is always said")).expect("is positive"));
        let now = Instant::now();
        if key.starts_with(b"tb1:l:") {
            self.leases.push((value.clone(), now, kept));
        }
        self.writes += 1;
        if self.mode == Mode::Losing && self.writes.is_multiple_of(2) {
            return Value::Text(b"OK".to_vec());
        }
        if let Some((former, _)) = self.held.insert(key.clone(), (value.clone(), Some(now + kept))) {
            self.former.push((key.clone(), former));
        }
        Value::Text(b"OK".to_vec())
    }

    fn tell(&mut self, words: &[Vec<u8>]) -> Value {
        if words.iter().any(|word| word == b"NOMKSTREAM") {
            return Value::Nil;
        }
        let time = self.clock.duration_since(SystemTime::UNIX_EPOCH).expect("is later");
        let time = u64::try_from(time.as_millis()).expect("is small");
        self.last = if time > self.last.0 { (time, 0) } else { (self.last.0, self.last.1 + 1) };
        self.news.push((self.last, words.last().expect("is there").clone()));
        Value::Nil
    }

    /// What an `XREAD` finds, if anything.
    pub(super) fn news(&self, words: &[Vec<u8>]) -> Option<Value> {
        let after = std::str::from_utf8(words.last()?).ok()?;
        let (time, count) = after.split_once('-')?;
        let after = (time.parse::<u64>().ok()?, count.parse::<u64>().ok()?);
        let entries: Vec<_> = self.news.iter().filter(|(id, _)| *id > after).map(|(id, name)| entry(*id, name)).collect();
        let stream = || Value::List(vec![Value::List(vec![Value::Text(b"tb1:news".to_vec()), Value::List(entries.clone())])]);
        (!entries.is_empty()).then(stream)
    }

    /// Forgets all of it.
    pub(crate) fn flush(&mut self) {
        self.held.clear();
        self.news.clear();
        self.last = (0, 0);
    }

    /// Becomes what it was once, as one does that took over from another.
    pub(super) fn fail_over(&mut self, former: &Self) {
        let faults = std::mem::take(&mut self.faults);
        *self = Self { faults, clock: self.clock, mode: self.mode, leases: self.leases.clone(), ..former.clone() };
    }

    /// Puts something in an entry's place: a former one, another's, or nonsense; or removes it.
    pub(super) fn lie(&mut self, random: &mut fastrand::Rng) -> &'static str {
        let kept = Some(Instant::now() + Duration::from_millis(random.u64(1..100_000)));
        if random.bool()
            && let Some((key, value)) = self.former.get(random.usize(..=self.former.len())).cloned()
        {
            self.held.insert(key, (value, kept));
            return "a former entry is back";
        }
        let keys: Vec<_> = self.held.keys().cloned().collect();
        if keys.is_empty() {
            return "nothing";
        }
        let key = keys[random.usize(..keys.len())].clone();
        let other = keys[random.usize(..keys.len())].clone();
        // A lock that nobody has would last beyond the lie.
        let is_lock = key.starts_with(b"tb1:l:") || other.starts_with(b"tb1:l:");
        match random.u8(if is_lock { 2 } else { 0 }..4) {
            0 => {
                let other = self.held[&other].clone();
                self.held.insert(key, other);
                "an entry is in another one's place"
            }
            2 => {
                self.held.remove(&key);
                "an entry is gone"
            }
            1 => {
                self.held.get_mut(&key).expect("is there").1 = None;
                "an entry is kept for ever"
            }
            _ => {
                let value = &mut self.held.get_mut(&key).expect("is there").0;
                let at = random.usize(..value.len());
                value[at] ^= 1 << random.u8(..8);
                "an entry is changed"
            }
        }
    }

    /// What is kept under names that begin so, and until when.
    pub(crate) fn entries(&mut self, prefix: &[u8]) -> Vec<&mut Held> {
        self.held.iter_mut().filter(|(key, _)| key.starts_with(prefix)).map(|(_, held)| held).collect()
    }

    /// Whether any lock is held.
    pub(crate) fn is_locked(&self) -> bool {
        let now = Instant::now();
        self.held.iter().any(|(key, (_, end))| key.starts_with(b"tb1:l:") && end.is_some_and(|end| end > now))
    }
}

fn entry((time, count): (u64, u64), name: &[u8]) -> Value {
    let fields = Value::List(vec![Value::Text(b"n".to_vec()), Value::Text(name.to_vec())]);
    Value::List(vec![Value::Text(format!("{time}-{count}").into_bytes()), fields])
}
