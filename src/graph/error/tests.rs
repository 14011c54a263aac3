//! What every answer means, and what of it is shown.
#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use super::*;

fn refusal(asked: Asked, status: u16, headers: &[(&str, &str)], body: &str) -> Refusal {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    Refusal::read(asked, status, &map, body.as_bytes(), Timestamp::UNIX_EPOCH, &[])
}

fn class(asked: Asked, status: u16, body: &str) -> Class {
    refusal(asked, status, &[], body).class
}

fn coded(code: &str) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"told so"}}}}"#)
}

#[test]
fn every_row_of_the_answers_is_known() {
    use Class::{LinkDead, SegmentTooLong, SignIn, Throttled, Transient};
    let forbidden = Class::Quarantine(Quarantine::Forbidden);
    let gone = Class::Quarantine(Quarantine::Gone);
    let refused = Class::Quarantine(Quarantine::Refused);
    let days = r#"{"error":{"code":"errorinvalidrequest","message":"Your request can't be completed. The range is greater than the allowed range. Maximum number of days: 1825"}}"#;
    let token = r#"{"error":{"code":"ErrorInvalidParameter","message":"Badly formed token."}}"#;
    for (asked, status, body, expected) in [
        (Asked::Start, 401, coded("InvalidAuthenticationToken"), SignIn),
        (Asked::Start, 401, String::new(), SignIn),
        (Asked::Start, 403, coded("insufficient_claims"), SignIn),
        (Asked::Start, 403, coded("ErrorAccessDenied"), forbidden),
        (Asked::Link, 403, String::new(), forbidden),
        (Asked::Start, 404, coded("ErrorItemNotFound"), gone),
        (Asked::Start, 404, coded("MailboxNotEnabledForRESTAPI"), gone),
        (Asked::Start, 404, coded("ResourceNotFound"), gone),
        (Asked::Link, 404, String::new(), gone),
        (Asked::Event, 404, coded("erroritemnotfound"), Class::NotFound),
        (Asked::Event, 404, String::new(), gone),
        (Asked::Event, 404, coded("ErrorInvalidUser"), gone),
        (Asked::Link, 410, String::new(), LinkDead),
        (Asked::Start, 410, "<html>".into(), LinkDead),
        (Asked::Start, 400, days.into(), SegmentTooLong),
        (Asked::Link, 400, token.into(), LinkDead),
        (Asked::Start, 400, token.into(), refused),
        (Asked::Start, 400, coded("ErrorInvalidParameter"), refused),
        (Asked::Start, 400, String::new(), refused),
        (Asked::Start, 405, String::new(), refused),
        (Asked::Start, 501, coded("NotImplemented"), refused),
        (Asked::Start, 429, String::new(), Throttled),
        (Asked::Link, 429, coded("SyncStateNotFound"), Throttled),
        (Asked::Link, 408, String::new(), Transient),
        (Asked::Link, 500, coded("ErrorInternalServerError"), Transient),
        (Asked::Link, 502, "<html>Bad Gateway</html>".into(), Transient),
        (Asked::Link, 503, coded("UnknownError"), Transient),
        (Asked::Link, 504, String::new(), Transient),
        (Asked::Link, 509, String::new(), Transient),
        (Asked::Link, 302, String::new(), Transient),
    ] {
        assert_eq!(class(asked, status, &body), expected, "{asked:?} {status} {body}");
    }
    for code in DEAD_LINK_CODES {
        for status in [400, 403, 404, 409, 410, 412, 422] {
            for code in [code.to_owned(), code.to_ascii_uppercase()] {
                assert_eq!(class(Asked::Link, status, &coded(&code)), LinkDead, "{code}");
            }
        }
        assert_eq!(class(Asked::Link, 500, &coded(code)), Transient);
    }
}

#[test]
fn a_503_that_names_a_wait_is_throttling() {
    let refusal = refusal(Asked::Link, 503, &[("retry-after", "2.5")], "");
    assert_eq!(refusal.class, Class::Throttled);
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(2500)));
    let unreadable = self::refusal(Asked::Link, 503, &[("retry-after", "-1")], "");
    assert_eq!((unreadable.class, unreadable.retry_after), (Class::Throttled, None));
}

#[test]
fn a_claims_challenge_asks_for_a_person_and_not_for_a_new_token() {
    let challenge = r#"Bearer realm="", error="insufficient_claims", claims="eyJ9""#;
    for status in [401, 403] {
        let refusal = refusal(Asked::Start, status, &[("www-authenticate", challenge)], "");
        assert_eq!(refusal.class, Class::SignIn);
        assert!(!refusal.token_refused);
    }
    assert!(refusal(Asked::Start, 401, &[], "").token_refused);
}

#[test]
fn codes_are_found_deeper_and_without_wrapping() {
    let deeper = r#"{"error":{"code":"itemNotFound","innerError":{"innererror":{"code":"ResyncApplyDifferences"}}}}"#;
    assert_eq!(class(Asked::Link, 404, deeper), Class::LinkDead);
    let marked = format!("\u{feff}{}", coded("SyncStateNotFound"));
    assert_eq!(class(Asked::Link, 400, &marked), Class::LinkDead, "a byte order mark before it");
    let bare =
        r#"{"code":"SyncStateNotFound","message":"The sync state root folder is not found."}"#;
    assert_eq!(class(Asked::Link, 404, bare), Class::LinkDead);
}

#[test]
fn what_a_support_case_needs_is_kept() {
    let body = r#"{"error":{"code":"ErrorAccessDenied","message":"Access to OData is disabled.","innerError":{"request-id":"9d016848-179e"}}}"#;
    let error = GraphError::Refused(Box::new(refusal(Asked::Start, 403, &[], body)));
    assert_eq!(error.code(), Some("ErrorAccessDenied"));
    assert_eq!(error.request_id(), Some("9d016848-179e"));
    assert_eq!(error.kind(), "forbidden");
    assert_eq!(
        error.message(),
        "graph answered 403 ErrorAccessDenied: Access to OData is disabled."
    );
}

#[test]
fn messages_are_tamed() {
    for (message, expected) in [
        (
            "The value 'canary' of parameter '$deltaToken' is invalid.",
            "The value … of parameter … is invalid.",
        ),
        ("The requested user 'user@contoso.com' is invalid.", "The requested user … is invalid."),
        ("Look at https://x/?canary or ask a@b.c", "Look at … or ask …"),
        ("Your request can't be completed.", "Your request can't be completed."),
        ("'two words canary' were wrong", "… were wrong"),
        ("a\r\nb\u{0}c", "a …"),
    ] {
        assert_eq!(tame(message, &[]).as_deref(), Some(expected));
    }
    let link = "https://graph.example/v1.0/me/delta?$deltatoken=R0usmcCM996atia_s";
    assert_eq!(tame("token R0usmcCM996atia_s is bad", &[link]), None);
    assert_eq!(tame("bearer abc", &["abc"]), None);
    assert!(tame(&"word ".repeat(1000), &[]).unwrap().len() <= 200);
    assert_eq!(word("secret-code", &["secret-code"]), None);
}

proptest::proptest! {
    #[test]
    fn no_answer_makes_it_panic_or_leak(
        status in 100_u16..1000,
        body in "\\PC{0,40}",
        before in "\\PC{0,20}",
        raw in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
    ) {
        let secret = "s3cret-canary";
        let said = serde_json::json!({"error": {"code": body, "message": format!("{before}{secret}{body}")}});
        let status = StatusCode::from_u16(status).unwrap();
        for body in [said.to_string().into_bytes(), raw] {
            let now = Timestamp::UNIX_EPOCH;
            let refusal =
                Refusal::read(Asked::Link, status, &HeaderMap::new(), &body, now, &[secret]);
            let shown = format!("{refusal} {refusal:?}");
            proptest::prop_assert!(!shown.contains(secret));
        }
    }
}
