//! The vault's rules: who may sign in, what they get, and which tokens work.
//!
//! Pure but for its own state: no sockets, no clock, no delays, no faults. Must never know that it is being tested.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::{
    Method, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};
use serde_json::json;

use crate::{
    mint::{self, Claims, Mint},
    options::{Mode, Options, User},
    seen::Seen,
    shapes::{self, Answer},
    tokens::{self, Tokens},
};

/// The longest lifetime that is minted, a hundred years: what is added to a clock must stay within its range.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 86_400);

/// One sign-in's outcome.
pub(crate) struct Verdict {
    pub(crate) granted: bool,
    pub(crate) answer: Answer,
}

/// What a bearer token turned out to be.
pub(crate) enum Bearer {
    Live { number: Arc<str> },
    Dead(Answer),
}

struct Account {
    password: String,
    number: Arc<str>,
    subject: String,
    wrong_in_a_row: u32,
    locked: bool,
    current: Option<Grant>,
}

#[derive(Clone)]
struct Grant {
    access_token: String,
    refresh_token: String,
    jti: String,
    expires: SystemTime,
}

pub(crate) struct Vault {
    merchants: HashMap<String, HashMap<String, Account>>,
    tokens: Tokens,
    mint: Mint,
    pub(crate) lifetime: Duration,
    pub(crate) mode: Mode,
    unique_tokens: bool,
    wrong_passwords_to_lock: u32,
}

impl Vault {
    pub(crate) fn new(options: Options) -> Self {
        let Options { users, lifetime, mode, delay: _, unique_tokens, wrong_passwords_to_lock, tls: _ } = options;
        let (merchants, tokens, mint) = (HashMap::new(), Tokens::default(), Mint::new());
        let mut vault = Self { merchants, tokens, mint, lifetime, mode, unique_tokens, wrong_passwords_to_lock };
        users.into_iter().for_each(|user| vault.add_user(user));
        vault
    }

    /// Adds a user, or puts a new one in its place: unlocked, without a token of its own.
    pub(crate) fn add_user(&mut self, user: User) {
        let User { merchant_id, number, password } = user;
        let subject = mint::subject(&merchant_id, &number);
        let account =
            Account { password, number: number.as_str().into(), subject, wrong_in_a_row: 0, locked: false, current: None };
        self.merchants.entry(merchant_id).or_default().insert(number, account);
    }

    /// Removes a user; whether there was one. Its merchant stays known while it has others.
    pub(crate) fn remove_user(&mut self, merchant_id: &str, number: &str) -> bool {
        let Some(users) = self.merchants.get_mut(merchant_id) else { return false };
        let gone = users.remove(number);
        if users.is_empty() {
            self.merchants.remove(merchant_id);
        }
        gone.is_some()
    }

    /// Changes a password; whether there is such a user. The lock stays as it is; the count of wrong ones begins anew.
    pub(crate) fn set_password(&mut self, merchant_id: &str, number: &str, password: String) -> bool {
        let account = self.account(merchant_id, number);
        account.map(|account| (account.password, account.wrong_in_a_row) = (password, 0)).is_some()
    }

    /// Locks or unlocks a user; whether there is such a one.
    pub(crate) fn set_locked(&mut self, merchant_id: &str, number: &str, locked: bool) -> bool {
        let account = self.account(merchant_id, number);
        account.map(|account| (account.locked, account.wrong_in_a_row) = (locked, 0)).is_some()
    }

    fn account(&mut self, merchant_id: &str, number: &str) -> Option<&mut Account> {
        self.merchants.get_mut(merchant_id)?.get_mut(number)
    }

    /// Judges a sign-in as the vault would.
    pub(crate) fn sign_in(&mut self, request: &Seen, now: SystemTime) -> Verdict {
        match self.judge(request, now) {
            Ok(grant) => Verdict { granted: true, answer: granted(&grant, now) },
            Err(answer) => Verdict { granted: false, answer: *answer },
        }
    }

    fn judge(&mut self, request: &Seen, now: SystemTime) -> Result<Grant, Box<Answer>> {
        let not_valid = |field| Answer::json(StatusCode::BAD_REQUEST, &shapes::not_valid(field));
        if request.method != Method::POST {
            return Err(method_not_allowed(&request.method, "POST").into());
        }
        // What the vault says of an unknown merchant is not documented: this is the likeliest of its refusals.
        let users = request.header("x-merchant-id").and_then(|merchant| self.merchants.get_mut(merchant));
        let users = users.ok_or_else(|| not_valid("X-Merchant-ID"))?;
        check_grant(request)?;
        let number = request.field("number").filter(|number| !number.is_empty()).ok_or_else(|| not_valid("number"))?;
        let password = request.field("password").filter(|password| !password.is_empty()).ok_or_else(|| not_valid("password"))?;

        let account = users.get_mut(number).ok_or_else(|| Answer::refusal(&shapes::NO_SUCH_USER))?;
        if account.locked {
            return Err(Answer::refusal(&shapes::LOCKED).into());
        }
        if account.password != password {
            account.wrong_in_a_row = account.wrong_in_a_row.saturating_add(1);
            account.locked = self.wrong_passwords_to_lock > 0 && account.wrong_in_a_row >= self.wrong_passwords_to_lock;
            return Err(Answer::refusal(&shapes::WRONG_PASSWORD).into());
        }
        account.wrong_in_a_row = 0;

        let former = account.current.take();
        if let Some(former) = former {
            let key = tokens::key(&former.access_token);
            match self.mode {
                Mode::SameToken if self.tokens.number(&key, now).is_some() => {
                    account.current = Some(former.clone());
                    return Ok(former);
                }
                Mode::RevokeOld => {
                    self.tokens.remove(&key);
                }
                Mode::SameToken | Mode::Fresh => {}
            }
        }
        let expires = now.checked_add(self.lifetime.min(MAX_LIFETIME)).unwrap_or(now);
        let jti = self.mint.random();
        let unique = self.unique_tokens.then_some(jti.as_str());
        let access_token = self.mint.token(&Claims { subject: &account.subject, issued: now, expires, unique });
        let grant = Grant { access_token, refresh_token: self.mint.random(), jti, expires };
        self.tokens.insert(tokens::key(&grant.access_token), expires, Arc::clone(&account.number), now);
        account.current = Some(grant.clone());
        Ok(grant)
    }

    /// What the token of an `Authorization` header is worth.
    pub(crate) fn bearer(&self, authorization: Option<&str>, now: SystemTime) -> Bearer {
        let token =
            authorization.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, token)) = token else {
            let mut answer = Answer::spring(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "Full authentication is required to access this resource",
            );
            answer
                .headers
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="oauth2-resource", error="unauthorized""#));
            return Bearer::Dead(answer);
        };
        if let Some(number) = self.tokens.number(&tokens::key(token), now) {
            return Bearer::Live { number };
        }
        let expired = self.mint.is_ours_and_expired(token, now);
        let message = if expired { "Access token expired" } else { "Invalid access token" };
        Bearer::Dead(Answer::json(StatusCode::UNAUTHORIZED, &shapes::dead_token(message)))
    }

    pub(crate) fn is_live(&self, access_token: &str, now: SystemTime) -> bool {
        self.tokens.number(&tokens::key(access_token), now).is_some()
    }

    /// Kills a token; whether it was one that could have worked.
    pub(crate) fn revoke(&mut self, access_token: &str) -> bool {
        self.tokens.remove(&tokens::key(access_token))
    }

    /// Kills every token; how many there were.
    pub(crate) fn revoke_all(&mut self) -> usize {
        self.tokens.clear()
    }

    pub(crate) fn request_id(&mut self) -> String {
        self.mint.request_id()
    }
}

/// Spring's checks of the form: a body of another type has no parameters at all for it.
fn check_grant(request: &Seen) -> Result<(), Box<Answer>> {
    let media_type = request.header(CONTENT_TYPE.as_str()).and_then(|value| value.split(';').next()).map(str::trim);
    let is_form = media_type.is_some_and(|it| it.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    match request.field("grant_type").filter(|_| is_form) {
        Some("mobile_phone") => Ok(()),
        None | Some("") => Err(Answer::spring(StatusCode::BAD_REQUEST, "invalid_request", "Missing grant type").into()),
        Some(other) => {
            let description = format!("Unsupported grant type: {other}");
            Err(Answer::spring(StatusCode::BAD_REQUEST, "unsupported_grant_type", &description).into())
        }
    }
}

/// The documented success. `expires_in` is counted as the reply is written, as Spring does.
fn granted(grant: &Grant, now: SystemTime) -> Answer {
    let left = grant.expires.duration_since(now).unwrap_or_default();
    let body = json!({
        "access_token": grant.access_token,
        "token_type": "bearer",
        "refresh_token": grant.refresh_token,
        // The time that the vault itself takes is never nothing: a fresh token of 86,400 s shows 86399 in every sample.
        "expires_in": left.saturating_sub(Duration::from_nanos(1)).as_secs(),
        "scope": "read write",
        "jti": grant.jti,
    });
    Answer::json(StatusCode::OK, &body)
}

/// Spring's 405.
pub(crate) fn method_not_allowed(method: &Method, allowed: &'static str) -> Answer {
    let description = format!("Request method '{method}' not supported");
    let mut answer = Answer::spring(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &description);
    answer.headers.insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
