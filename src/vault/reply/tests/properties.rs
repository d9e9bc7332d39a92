//! What holds for any answer.

use proptest::prelude::*;

use super::*;

/// JSON with the fields that are looked at, and nonsense in them.
fn json() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just(format!(r#""{PASSWORD}""#)),
        Just(format!(r#""x{}""#, PASSWORD.trim())),
        Just(r#""bearer""#.to_owned()),
        Just(r#""wait 5 minutes""#.to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u16>().prop_map(|n| n.to_string()),
        "-?[1-9][0-9]{0,30}(\\.[0-9]{1,4})?([eE]-?[0-9]{1,3})?",
        "\"[ -!#-\\[\\]-~]{0,30}\"",
        ("[0-9]{1,12}", "[0-9]{1,12}").prop_map(|(exp, iat)| format!(r#""{}""#, jwt(&format!(r#"{{"exp":{exp},"iat":{iat}}}"#)))),
    ];
    let name = prop::sample::select(vec![
        "access_token",
        "token_type",
        "expires_in",
        "scope",
        "error",
        "errorId",
        "message",
        "error_description",
        "status",
        "key",
        "errors",
    ]);
    scalar.prop_recursive(3, 40, 12, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..3).prop_map(|list| format!("[{}]", list.join(","))),
            4 => prop::collection::vec((name.clone(), inner), 0..12).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

/// Shows nothing that was sent, and gives only what its types promise.
fn holds_its_promises(result: &Result<Grant, Failure>) {
    let shown = format!("{result:?}");
    for secret in [PASSWORD, PASSWORD.trim(), "1234 Qwerty", "1234Qwerty", NUMBER, "447871239999"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let name = |name: &str| name.len() <= 64 && plain(name).count() == name.len();
    let day = Duration::from_secs(86_400);
    assert!(
        match result {
            Ok(grant) =>
                grant.lifetime > Duration::ZERO
                    && grant.lifetime <= 7 * day
                    && (1..=16_384).contains(&grant.access_token.expose().len())
                    && grant.access_token.expose().bytes().all(|byte| byte.is_ascii_graphic()),
            Err(Failure::Refused { why: Refusal::Credentials | Refusal::SecondFactor | Refusal::Request, vault_error }) =>
                name(vault_error),
            Err(Failure::Throttled { scope: Scope::User | Scope::Merchant, wait, vault_error }) =>
                name(vault_error) && *wait > Duration::ZERO && *wait <= day,
            Err(Failure::Unavailable { wait, vault_error, .. } | Failure::Undocumented { wait, vault_error, .. }) =>
                name(vault_error) && wait.is_none_or(|wait| wait > Duration::ZERO && wait <= day),
            Err(Failure::Invalid { .. }) => true,
            Err(Failure::Broken) => false,
        },
        "{shown}"
    );
}

proptest! {
    #[test]
    fn any_bytes(status in 0_u16..1000, retry_after in proptest::option::of(".{0,40}"), body in prop::collection::vec(any::<u8>(), 0..400)) {
        let headers: Vec<_> = retry_after.as_deref().into_iter().collect();
        holds_its_promises(&classify(&reply(status, &headers, &body), &asked()).map(|granted| granted.grant));
    }

    #[test]
    fn any_json(status in prop_oneof![Just(200), Just(400), Just(429), 0_u16..1000], retry_after in proptest::option::of("[0-9]{0,30}"), body in json()) {
        let headers: Vec<_> = retry_after.as_deref().into_iter().collect();
        holds_its_promises(&classify(&reply(status, &headers, body.as_bytes()), &asked()).map(|granted| granted.grant));
    }

    /// However it is wrapped: a documented no is a no, and a 4xx that may be one is never taken for an outage.
    #[test]
    fn no_no_is_taken_for_an_outage(status in 400_u16..500, before in prop::collection::vec(any::<u8>(), 0..40), behind in prop::collection::vec(any::<u8>(), 0..40), name in "[a-zA-Z_]{0,20}") {
        let known = [&before[..], br#" {"errorId":11} "#, &behind].concat();
        // What happens to stand before may be an object of its own, or an unfinished text.
        if !before.iter().any(|byte| b"{\"".contains(byte)) {
            prop_assert!(kind(&read(status, &known)).starts_with("Credentials"), "{}", known.escape_ascii());
        }
        let unknown = read(status, &format!(r#"{{"error":"x{name}"}}"#));
        let passes = matches!(unknown, Err(Failure::Unavailable { .. }));
        prop_assert_eq!(passes, [404, 405, 408, 410, 413, 421, 425, 431].contains(&status), "{:?}", unknown);
    }

    #[test]
    fn any_token(
        exp in "-?[1-9][0-9]{0,29}(e[0-9]{1,3})?", iat in "-?[1-9][0-9]{0,11}", expires_in in "-?[1-9][0-9]{0,30}(e-?[0-9]{1,3})?", scope in "[ -!#-\\[\\]-~]{0,20}",
    ) {
        let token = jwt(&format!(r#"{{"exp":{exp},"iat":{iat}}}"#));
        let body = format!(r#"{{"access_token":"{token}","token_type":"bearer","expires_in":{expires_in},"scope":"{scope}"}}"#);
        let result = read(200, &body);
        holds_its_promises(&result);
        let number = |text: &str| text.parse::<f64>().expect("is a number");
        // What is beyond the year 33658 is meant in milliseconds.
        let seconds = |text: &str| {
            let at = number(text);
            if at > 1e12 { at / 1_000.0 } else { at }
        };
        let (now, exp, iat) = (NOW.as_secs_f64(), seconds(&exp), seconds(&iat));
        // By the wall clock too, unless it was issued just now, or ended so long ago that it is the clock that is wrong.
        let past = now - exp > 3_600.0 || (now - iat).abs() <= 5.0;
        let jwt = if past { exp - iat } else { (exp - iat).min(exp - now) };
        let said = number(&expires_in).trunc().min(jwt.trunc());
        let expected = (said >= 1.0).then(|| Duration::from_secs_f64(said.min(604_800.0)));
        prop_assert_eq!(result.ok().map(|grant| grant.lifetime), expected);
    }
}
