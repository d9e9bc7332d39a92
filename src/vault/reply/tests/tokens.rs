//! Replies with a token, good or bad.

use super::*;

#[test]
fn documented_tokens() {
    // The document's own reply: exp − iat is 86400, expires_in one less.
    let sample = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIwNTFhYTc3Mi0yNDk4LTQ0ZTEtODdmYi0zYzNhZDdlMTY1ODgiLCJleHAiOjE3MDk4MDQzNjksImlhdCI6MTcwOTcxNzk2OX0.9nA1ur5_fGwlap2mrPN35OhR6dJ0M5qmNLNjJ2iZM6g";
    let body = format!(
        r#"{{"access_token":"{sample}","token_type":"bearer","refresh_token":"qPMkKwoedBu2lVZzn9-51hkG_vg","expires_in":86399,"scope":"read write","jti":"nejUZ1PeSBnmTtrZdaAj81sQX44"}}"#
    );
    let grant = Grant {
        access_token: Secret::from(sample),
        scope: "read write".to_owned(),
        lifetime: Duration::from_secs(86_399),
        lifetime_is_bounded: true,
    };
    assert_eq!(read(200, &body), Ok(grant.clone()));
    assert_eq!(read(201, &body.replace("bearer", "Bearer")), Ok(grant.clone()));
    // Everything optional is left out.
    let body = format!(r#"{{"access_token":"{sample}","token_type":"BEARER"}}"#);
    let bare = Grant { scope: String::new(), lifetime: Duration::from_secs(86_400), ..grant };
    assert_eq!(read(200, &body), Ok(bare));
    // A token counts only in a reply that says it is one.
    assert_eq!(kind(&read(400, &body)), "undocumented ");
    // `error` beside a token doesn't undo it.
    assert_eq!(kind(&read(200, &body.replace('{', r#"{"error":"invalid_grant","#))), "token 86400");
    assert_eq!(kind(&read(200, r#"{"access_token":null,"error":"invalid_grant"}"#)), "Credentials invalid_grant");
}

#[test]
fn lifetimes() {
    for (expires_in, expected) in [
        ("86399", "token 86399"),
        ("3599.9", "token 3599"),
        (r#""3599""#, "token 3599"),
        (r#"" 3599.9 ""#, "token 3599"),
        ("1e3", "token 1000"),
        ("1e400", "token 604800"),
        (r#""1e400""#, "token 604800"),
        ("9999999999999999999999999999999999999999", "token 604800"),
        ("604801", "token 604800"),
        ("1e-400", "invalid"),
        ("0", "invalid"),
        ("0.9", "invalid"),
        ("-1", "invalid"),
        ("-1e400", "invalid"),
        (r#""-1""#, "invalid"),
        ("null", "token 300"),
        ("true", "token 300"),
        ("[5]", "token 300"),
        ("{}", "token 300"),
        (r#""""#, "token 300"),
        (r#""soon""#, "token 300"),
        (r#""inf""#, "token 300"),
        (r#""NaN""#, "token 300"),
        (r#""0x10""#, "token 300"),
        (r#""1 hour""#, "token 300"),
    ] {
        let body = token_with(&format!(r#","expires_in":{expires_in}"#));
        assert_eq!(kind(&read(200, &body)), expected, "{expires_in}");
    }
}

#[test]
fn a_jwt_bounds_the_lifetime() {
    let plain = |payload| URL_SAFE_NO_PAD.encode(payload);
    for (token, expected, bounded) in [
        (jwt(r#"{"sub":"s","exp":1709804369,"iat":1709717969}"#), "token 86000", true),
        (jwt(r#"{"exp":4600,"iat":1000}"#), "token 3600", true),
        (jwt(r#"{"exp":4600.5,"iat":1000.0}"#), "token 3600", true),
        (jwt(r#"{"exp":1e400,"iat":1000}"#), "token 86000", true),
        (jwt(r#"{"exp":1000,"iat":1000}"#), "invalid", true),
        (jwt(r#"{"exp":1000,"iat":1001}"#), "invalid", true),
        (jwt(r#"{"exp":1e400,"iat":1e400}"#), "token 86000", false),
        (jwt(r#"{"exp":"4600","iat":"1000"}"#), "token 3600", true), // no standard, but a bound
        (jwt(r#"{"exp":4600,"iat":1000,"exp":4000}"#), "token 3000", true),
        (jwt(r#"{"exp":253402300799,"iat":1709717969}"#), "token 86000", true), // the year 9999
        (jwt(r#"{"exp":253402300800}"#), "token 86000", true),
        (jwt(r#"{"exp":1709804369000,"iat":1709800769000}"#), "token 3600", true),
        (jwt(r#"{"exp":4600,"iat":1000}"#).replace(".c2ln", "==.c2ln"), "token 3600", true),
        (jwt(r#"{"exp":4600}"#), "token 86000", false), // ended in 1970: a clock that is off, and no iat to count from
        (jwt(r#"{"iat":1000}"#), "token 86000", false),
        (jwt(r#"[4600,1000]"#), "token 86000", false),
        (format!("a.{}", plain(r#"{"exp":4600,"iat":1000}"#)), "token 86000", false),
        (format!("a.{}.c.d", plain(r#"{"exp":4600,"iat":1000}"#)), "token 86000", false),
        ("a.!.c".to_owned(), "token 86000", false),
        ("..".to_owned(), "token 86000", false),
    ] {
        let body = format!(r#"{{"access_token":"{token}","token_type":"bearer","expires_in":86000}}"#);
        let result = read(200, &body);
        assert_eq!(kind(&result), expected, "{token}");
        if let Ok(grant) = result {
            assert_eq!(grant.lifetime_is_bounded, bounded, "{token}");
        }
    }
}

#[test]
fn tokens_that_are_none() {
    let long = "x".repeat(16_384);
    for (token, kind_of_token, expected) in [
        (r#""a""#.to_owned(), r#""bearer""#, "token 300"),
        (format!(r#""{long}""#), r#""bearer""#, "token 300"),
        (format!(r#""{long}x""#), r#""bearer""#, "invalid"),
        (r#""!~\u0041""#.to_owned(), r#""bearer""#, "token 300"),
        (r#""""#.to_owned(), r#""bearer""#, "invalid"),
        (r#""a b""#.to_owned(), r#""bearer""#, "invalid"),
        (r#"" a""#.to_owned(), r#""bearer""#, "invalid"),
        (r#""a\r\nx: y""#.to_owned(), r#""bearer""#, "invalid"),
        (r#""a\u0000""#.to_owned(), r#""bearer""#, "invalid"),
        (r#""a\u007f""#.to_owned(), r#""bearer""#, "invalid"),
        (r#""ä""#.to_owned(), r#""bearer""#, "invalid"),
        (r#""\ud800""#.to_owned(), r#""bearer""#, "invalid"),
        ("7".to_owned(), r#""bearer""#, "invalid"),
        ("{}".to_owned(), r#""bearer""#, "invalid"),
        (r#""a""#.to_owned(), r#""mac""#, "invalid"),
        (r#""a""#.to_owned(), r#""""#, "invalid"),
        (r#""a""#.to_owned(), "null", "token 300"),
        (r#""a""#.to_owned(), "1", "invalid"),
    ] {
        let body = format!(r#"{{"access_token":{token},"token_type":{kind_of_token}}}"#);
        assert_eq!(kind(&read(200, &body)), expected, "{body:.80}");
    }
    // RFC 6749 wants a type; a vault that leaves it out can mean one only.
    assert_eq!(kind(&read(200, r#"{"access_token":"a"}"#)), "token 300");
}

#[test]
fn scopes() {
    let long = "x".repeat(1_024);
    for (scope, expected) in [
        (r#""read write""#.to_owned(), "read write"),
        (format!(r#""{long}""#), long.as_str()),
        (format!(r#""{long}x""#), ""),
        (r#""""#.to_owned(), ""),
        (r#""a\nb""#.to_owned(), ""),
        (r#""ä""#.to_owned(), ""),
        (r#"["read"]"#.to_owned(), ""),
        ("null".to_owned(), ""),
        (r#""for opaque""#.to_owned(), ""),
        (r#""1234 qwerty""#.to_owned(), ""),
    ] {
        let grant = read(200, &token_with(&format!(r#","scope":{scope}"#))).expect("the token is good");
        assert_eq!(grant.scope, expected, "{scope:.80}");
    }
}

/// `exp` by the wall clock: tokens of the vault's own cache, and clocks that differ. Times are seconds from now.
#[test]
fn a_tokens_own_end_counts() {
    let now = i64::try_from(NOW.as_secs()).expect("is small");
    for (iat, exp, date, expected, ahead) in [
        // Issued just now, by clocks that differ by little.
        (Some(0), Some(3_600), None, "token 3599", None),
        (Some(-4), Some(3_596), None, "token 3599", None),
        (Some(4), Some(3_604), Some(4), "token 3599", None),
        (Some(-3), Some(-1), None, "token 2", None),
        // From a cache.
        (Some(-3_540), Some(60), None, "token 60", None),
        (Some(-3_540), Some(60), Some(0), "token 60", None),
        (Some(-86_000), Some(400), None, "token 400", None),
        (Some(-4_000), Some(-400), None, "invalid", None),
        (Some(-4_000), Some(-400), Some(1), "invalid", None),
        (Some(-7_000), Some(-3_400), None, "invalid", None),
        (Some(-3_600), Some(0), None, "invalid", None),
        // Without `iat`.
        (None, Some(60), None, "token 60", None),
        (None, Some(-400), None, "invalid", None),
        (None, Some(86_400), None, "token 3599", None),
        // The vault's clock is off, as its `Date` says: issued there just now, or from a cache.
        (Some(-600), Some(-300), Some(-600), "token 300", Some(-600)),
        (Some(-4_140), Some(-540), Some(-600), "token 60", Some(-600)),
        (Some(7_200), Some(10_800), Some(7_200), "token 3599", Some(7_199)),
        (Some(600), Some(900), Some(1_000), "invalid", Some(999)),
        (None, Some(-540), Some(-600), "token 60", Some(-600)),
        // By hours, and it doesn't say so.
        (Some(-7_300), Some(-3_700), None, "token 3599", Some(-3_700)),
        (Some(-86_400), Some(-82_800), Some(0), "token 3599", Some(-82_800)),
        (None, Some(-86_400), None, "token 3599", Some(-86_400)),
        (Some(7_200), Some(10_800), None, "token 3599", None),
    ] {
        let claim = |name: &str, at: Option<i64>| at.map(|at| format!(r#""{name}":{}"#, now + at));
        let claims: Vec<_> = [claim("iat", iat), claim("exp", exp)].into_iter().flatten().collect();
        let token = jwt(&format!("{{{}}}", claims.join(",")));
        let body = format!(r#"{{"access_token":"{token}","token_type":"bearer","expires_in":3599}}"#);
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(now + seconds).expect("is after 1970"));
        let reply = Reply { date: date.map(at), now: at(1), ..reply(200, &[], body.as_bytes()) };
        let granted = classify(&reply, &asked());
        let said = granted.as_ref().ok().and_then(|granted| granted.clock_ahead_s);
        assert_eq!(kind(&granted.map(|granted| granted.grant)), expected, "{iat:?} {exp:?} {date:?}");
        if expected != "invalid" {
            assert_eq!(said, ahead, "{iat:?} {exp:?} {date:?}");
        }
    }
}
