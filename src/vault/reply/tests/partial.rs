//! Answers of which only a part can be read, or that say something which stands for anything.

use super::*;

#[test]
fn of_a_body_that_is_not_the_whole_answer_counts_what_can_be_read() {
    let known = br#"{"error":"invalid_grant","message":"#;
    let token = r#"{"access_token":"opaque","token_type":"bearer","expires_in":60}"#;
    for why in [Unreadable::TooLong, Unreadable::Encoded, Unreadable::CutOff] {
        for (status, nothing_read) in [
            (200, if why == Unreadable::CutOff { "unavailable 7 " } else { "invalid" }),
            (400, "undocumented 7 "),
            (401, "Credentials "),
            (404, "unavailable 7 "),
            (503, "unavailable 7 "),
            (429, "User 7 "),
        ] {
            let unread = Reply { unreadable: Some(why), ..reply(status, &["7"], b"\x1f\x8b\x08\0") };
            let said = |reply: &Reply<'_>| kind(&classify(reply, &asked()).map(|granted| granted.grant));
            assert_eq!(said(&unread), nothing_read, "{status} {why:?}");
            let begun = Reply { body: known, ..unread };
            assert_eq!(said(&begun), "Credentials invalid_grant", "{status} {why:?}");
        }
        // A token that is all here counts, whatever ended what carried it.
        let whole = Reply { unreadable: Some(why), ..reply(200, &[], token.as_bytes()) };
        let cut = Reply { body: token.trim_end_matches('}').as_bytes(), ..whole };
        let said = |reply: &Reply<'_>| kind(&classify(reply, &asked()).map(|granted| granted.grant));
        let is_cut_off = why == Unreadable::CutOff;
        assert_eq!(said(&whole).starts_with("token"), is_cut_off, "{why:?}");
        assert_eq!(said(&cut), if is_cut_off { "unavailable " } else { "invalid" }, "{why:?}");
    }
}

/// Words and numbers that stand for anything excuse no refusal, and OAuth's are not the vault's.
#[test]
fn what_stands_for_anything_hides_no_no() {
    for status in [400, 403] {
        for (body, expected) in [
            (r#"{"errorId":0,"error":{"code":"invalid_grant"}}"#, "Credentials"),
            (r#"{"error":"COMMON","cause":{"errorId":11}}"#, "Credentials"),
            (r#"{"errorId":0,"errors":[{"code":"INVALID_GRANT"}]}"#, "Credentials"),
            (r#"{"errorId":0,"error":{"code":"whatever"}}"#, "undocumented"),
            (r#"{"errorId":0,"error":7}"#, "undocumented"),
            (r#"{"error":"server_error"}"#, "undocumented"),
            (r#"{"error":"TEMPORARILY_UNAVAILABLE"}"#, "undocumented"),
            (r#"{"error":"COMMON"}"#, "unavailable"),
            (r#"{"errorId":0,"error":""}"#, "unavailable"),
        ] {
            let said = kind(&read(status, body));
            assert_eq!(said.split(' ').next(), Some(expected), "{status} {body}");
        }
    }
    for (status, expected) in [(500, "unavailable"), (404, "unavailable"), (401, "Credentials"), (429, "User")] {
        let said = kind(&read(status, r#"{"error":"server_error"}"#));
        assert_eq!(said.split(' ').next(), Some(expected), "{status}");
    }
}
