//! As much of Lua as the broker's scripts are written in, so that a simulated server runs those very scripts.
//!
//! Evaluated as it is read; what is not to be done is read without. Whatever it doesn't know ends the test.

/// What a script handles; nil and false are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Nil,
    Int(i64),
    Text(Vec<u8>),
    List(Vec<Value>),
}

impl Value {
    fn is_true(&self) -> bool {
        *self != Self::Nil
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Lexeme {
    Word(String),
    Text(String),
    Number(i64),
    Sign(String),
}

fn lexemes(script: &str) -> Vec<Lexeme> {
    let (mut found, mut rest) = (Vec::new(), script.trim_start());
    while let Some(first) = rest.chars().next() {
        let length = |fits: fn(char) -> bool| rest.find(|letter| !fits(letter)).unwrap_or(rest.len());
        let (lexeme, taken) = match first {
            '\'' => {
                let end = 1 + rest[1..].find('\'').expect("ends");
                (Lexeme::Text(rest[1..end].to_owned()), end + 1)
            }
            '0'..='9' => {
                let end = length(|letter| letter.is_ascii_digit());
                (Lexeme::Number(rest[..end].parse().expect("is a number")), end)
            }
            letter if letter.is_ascii_alphabetic() => {
                // A dot only within `redis.call`.
                let end = length(|letter| letter.is_ascii_alphanumeric() || letter == '.' || letter == '_');
                (Lexeme::Word(rest[..end].to_owned()), end)
            }
            _ => {
                let end = if rest.starts_with("==") || rest.starts_with("~=") { 2 } else { 1 };
                (Lexeme::Sign(rest[..end].to_owned()), end)
            }
        };
        found.push(lexeme);
        rest = rest[taken..].trim_start();
    }
    found
}

/// What a script calls: a command of the server's.
pub(super) type Call<'a> = dyn FnMut(&[Vec<u8>]) -> Result<Value, String> + 'a;

struct Run<'a, 'c> {
    lexemes: Vec<Lexeme>,
    at: usize,
    locals: Vec<(String, Value)>,
    call: &'a mut Call<'c>,
    returned: Option<Value>,
}

/// Runs a script.
///
/// # Errors
/// What a command that it calls fails with.
pub(super) fn run(script: &str, keys: &[Vec<u8>], arguments: &[Vec<u8>], call: &mut Call<'_>) -> Result<Value, String> {
    let list = |texts: &[Vec<u8>]| Value::List(texts.iter().cloned().map(Value::Text).collect());
    let locals = vec![("KEYS".to_owned(), list(keys)), ("ARGV".to_owned(), list(arguments))];
    let mut run = Run { lexemes: lexemes(script), at: 0, locals, call, returned: None };
    run.block(true)?;
    assert_eq!(run.at, run.lexemes.len(), "{script}");
    Ok(run.returned.unwrap_or(Value::Nil))
}

impl Run<'_, '_> {
    fn next(&mut self) -> Lexeme {
        self.at += 1;
        self.lexemes[self.at - 1].clone()
    }

    fn is(&self, text: &str) -> bool {
        matches!(self.lexemes.get(self.at), Some(Lexeme::Word(found) | Lexeme::Sign(found)) if found == text)
    }

    fn take(&mut self, text: &str) -> bool {
        let is = self.is(text);
        self.at += usize::from(is);
        is
    }

    fn need(&mut self, text: &str) {
        assert!(self.take(text), "{text} instead of {:?}", self.lexemes.get(self.at));
    }

    fn name(&mut self) -> String {
        if let Lexeme::Word(name) = self.next() { name } else { panic!("no name") }
    }

    fn block(&mut self, live: bool) -> Result<(), String> {
        while self.at < self.lexemes.len() && !self.is("end") {
            let live = live && self.returned.is_none();
            if self.take("if") {
                let holds = self.either(live)?.is_true();
                self.need("then");
                self.block(live && holds)?;
                self.need("end");
            } else if self.take("return") {
                let value = self.either(live)?;
                if live {
                    self.returned = Some(value);
                }
            } else if self.is("redis.call") || self.is("redis.pcall") {
                self.either(live)?;
            } else {
                self.take("local");
                let name = self.name();
                self.need("=");
                let value = self.either(live)?;
                if live {
                    self.locals.push((name, value));
                }
            }
        }
        Ok(())
    }

    fn either(&mut self, live: bool) -> Result<Value, String> {
        let mut value = self.both(live)?;
        while self.take("or") {
            let other = self.both(live && !value.is_true())?;
            value = if value.is_true() { value } else { other };
        }
        Ok(value)
    }

    fn both(&mut self, live: bool) -> Result<Value, String> {
        let mut value = self.compared(live)?;
        while self.take("and") {
            let other = self.compared(live && value.is_true())?;
            value = if value.is_true() { other } else { value };
        }
        Ok(value)
    }

    fn compared(&mut self, live: bool) -> Result<Value, String> {
        let value = self.less(live)?;
        let holds = if self.take("==") {
            value == self.less(live)?
        } else if self.take("~=") {
            value != self.less(live)?
        } else if self.take("<") {
            match (value, self.less(live)?) {
                (Value::Int(one), Value::Int(other)) => one < other,
                (one, other) => {
                    assert!(!live, "{one:?} < {other:?}");
                    false
                }
            }
        } else {
            return Ok(value);
        };
        Ok(if holds { Value::Int(1) } else { Value::Nil })
    }

    /// A difference, or what stands alone.
    fn less(&mut self, live: bool) -> Result<Value, String> {
        let mut value = self.indexed(live)?;
        while self.take("-") {
            value = match (value, self.indexed(live)?) {
                (Value::Int(one), Value::Int(other)) => Value::Int(one - other),
                (one, other) => {
                    assert!(!live, "{one:?} - {other:?}");
                    Value::Nil
                }
            };
        }
        Ok(value)
    }

    fn indexed(&mut self, live: bool) -> Result<Value, String> {
        let mut value = self.simple(live)?;
        while self.take("[") {
            let index = self.either(live)?;
            self.need("]");
            value = match (value, index) {
                (Value::List(values), Value::Int(index)) => {
                    usize::try_from(index - 1).ok().and_then(|index| values.get(index).cloned()).unwrap_or(Value::Nil)
                }
                (value, index) => {
                    assert!(!live, "{value:?}[{index:?}]");
                    Value::Nil
                }
            };
        }
        Ok(value)
    }

    fn list(&mut self, end: &str, live: bool) -> Result<Vec<Value>, String> {
        let mut values = Vec::new();
        while !self.take(end) {
            values.push(self.either(live)?);
            self.take(",");
        }
        Ok(values)
    }

    fn simple(&mut self, live: bool) -> Result<Value, String> {
        let word = match self.next() {
            Lexeme::Text(text) => return Ok(Value::Text(text.into_bytes())),
            Lexeme::Number(number) => return Ok(Value::Int(number)),
            Lexeme::Sign(sign) if sign == "{" => return Ok(Value::List(self.list("}", live)?)),
            Lexeme::Sign(sign) if sign == "(" => {
                let value = self.either(live)?;
                self.need(")");
                return Ok(value);
            }
            Lexeme::Sign(sign) => panic!("{sign}"),
            Lexeme::Word(word) => word,
        };
        if !self.take("(") {
            let found = self.locals.iter().rev().find(|(name, _)| *name == word);
            return Ok(found.map_or(Value::Nil, |(_, value)| value.clone()));
        }
        let arguments = self.list(")", live)?;
        if !live {
            return Ok(Value::Nil);
        }
        let texts: Vec<_> = arguments.into_iter().map(text).collect();
        match word.as_str() {
            "redis.call" => (self.call)(&texts),
            "redis.pcall" => Ok((self.call)(&texts).unwrap_or(Value::Nil)),
            "tonumber" => Ok(Value::Int(number(&texts[0]))),
            "math.max" => Ok(Value::Int(number(&texts[0]).max(number(&texts[1])))),
            _ => panic!("{word}"),
        }
    }
}

fn text(value: Value) -> Vec<u8> {
    match value {
        Value::Text(text) => text,
        Value::Int(number) => number.to_string().into_bytes(),
        Value::Nil | Value::List(_) => panic!("{value:?} is no argument"),
    }
}

pub(super) fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("is a number")
}

#[test]
fn what_scripts_say_is_done() {
    let mut called = Vec::new();
    let mut call = |words: &[Vec<u8>]| {
        called.push(words[0].clone());
        if words[0] == b"FAIL" { Err("no".to_owned()) } else { Ok(Value::List(vec![Value::Nil, Value::Int(7)])) }
    };
    let script = "local won = 0 if ARGV[1] then if redis.call('A', KEYS[1]) or redis.call('B') == ARGV[1] then won = 1 end end \
        if ARGV[2] ~= '' and 3 < tonumber('9') - math.max(0, 5) then redis.pcall('FAIL') end \
        if ARGV[3] then redis.call('C') end return {won, redis.call('D')[2], ARGV[3]}";
    let arguments = [b"x".to_vec(), b"y".to_vec()];
    let value = run(script, &[b"k".to_vec()], &arguments, &mut call).expect("no failure");
    assert_eq!(value, Value::List(vec![Value::Int(1), Value::Int(7), Value::Nil]));
    assert_eq!(run("redis.call('FAIL') return 1", &[], &[], &mut call), Err("no".to_owned()));
    assert_eq!(called, [&b"A"[..], b"FAIL", b"D", b"FAIL"]);
}
