//! The class of every answer, and what is shown of it.
use super::*;

fn refusal(kind: RequestKind, status: u16, headers: &[(&str, &str)], body: &str) -> ErrorResponse {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    ErrorResponse::read(kind, status, &map, body.as_bytes(), Timestamp::UNIX_EPOCH, &[])
}

fn class(kind: RequestKind, status: u16, body: &str) -> ErrorClass {
    refusal(kind, status, &[], body).class
}

fn coded(code: &str) -> String {
    format!(r#"{{"error":{{"code":"{code}","message":"told so"}}}}"#)
}

#[test]
fn every_documented_response_is_classified() {
    use ErrorClass::{LinkDead, SegmentTooLong, SignIn, Throttled, Transient};
    let forbidden = ErrorClass::Forbidden;
    let gone = ErrorClass::Gone;
    let refused = ErrorClass::Refused;
    let days = r#"{"error":{"code":"errorinvalidrequest","message":"Your request can't be completed. The range is greater than the allowed range. Maximum number of days: 1825"}}"#;
    let token = r#"{"error":{"code":"ErrorInvalidParameter","message":"Badly formed token."}}"#;
    for (kind, status, body, expected) in [
        (RequestKind::Start, 401, coded("InvalidAuthenticationToken"), SignIn),
        (RequestKind::Start, 401, String::new(), SignIn),
        (RequestKind::Start, 403, coded("insufficient_claims"), SignIn),
        (RequestKind::Start, 403, coded("ErrorAccessDenied"), forbidden),
        (RequestKind::Link, 403, String::new(), forbidden),
        (RequestKind::Start, 404, coded("ErrorItemNotFound"), gone),
        (RequestKind::Start, 404, coded("MailboxNotEnabledForRESTAPI"), gone),
        (RequestKind::Start, 404, coded("ResourceNotFound"), gone),
        (RequestKind::Link, 404, String::new(), gone),
        (RequestKind::Event, 404, coded("erroritemnotfound"), ErrorClass::NotFound),
        (RequestKind::Event, 404, String::new(), gone),
        (RequestKind::Event, 404, coded("ErrorInvalidUser"), gone),
        (RequestKind::Link, 410, String::new(), LinkDead),
        (RequestKind::Start, 410, "<html>".into(), LinkDead),
        (RequestKind::Start, 400, days.into(), SegmentTooLong),
        (RequestKind::Link, 400, token.into(), LinkDead),
        (RequestKind::Start, 400, token.into(), refused),
        (RequestKind::Start, 400, coded("ErrorInvalidParameter"), refused),
        (RequestKind::Start, 400, String::new(), refused),
        (RequestKind::Start, 405, String::new(), refused),
        (RequestKind::Start, 501, coded("NotImplemented"), refused),
        (RequestKind::Start, 429, String::new(), Throttled),
        (RequestKind::Link, 429, coded("SyncStateNotFound"), Throttled),
        (RequestKind::Link, 408, String::new(), Transient),
        (RequestKind::Link, 500, coded("ErrorInternalServerError"), Transient),
        (RequestKind::Link, 502, "<html>Bad Gateway</html>".into(), Transient),
        (RequestKind::Link, 503, coded("UnknownError"), Transient),
        (RequestKind::Link, 504, String::new(), Transient),
        (RequestKind::Link, 509, String::new(), Transient),
        (RequestKind::Link, 302, String::new(), Transient),
    ] {
        assert_eq!(class(kind, status, &body), expected, "{kind:?} {status} {body}");
    }
    for code in DEAD_LINK_CODES {
        for status in [400, 403, 404, 409, 410, 412, 422] {
            for code in [code.to_owned(), code.to_ascii_uppercase()] {
                assert_eq!(class(RequestKind::Link, status, &coded(&code)), LinkDead, "{code}");
            }
        }
        assert_eq!(class(RequestKind::Link, 500, &coded(code)), Transient);
    }
}

#[test]
fn a_503_with_retry_after_is_throttling() {
    let refusal = refusal(RequestKind::Link, 503, &[("retry-after", "2.5")], "");
    assert_eq!(refusal.class, ErrorClass::Throttled);
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(2500)));
    let unreadable = self::refusal(RequestKind::Link, 503, &[("retry-after", "-1")], "");
    assert_eq!((unreadable.class, unreadable.retry_after), (ErrorClass::Throttled, None));
}

#[test]
fn a_claims_challenge_needs_a_person_and_not_a_new_token() {
    let challenge = r#"Bearer realm="", error="insufficient_claims", claims="eyJ9""#;
    for status in [401, 403] {
        let refusal = refusal(RequestKind::Start, status, &[("www-authenticate", challenge)], "");
        assert_eq!(refusal.class, ErrorClass::SignIn);
        assert!(!refusal.token_refused);
    }
    assert!(refusal(RequestKind::Start, 401, &[], "").token_refused);
}

#[test]
fn error_codes_are_found_at_any_depth() {
    let deeper = r#"{"error":{"code":"itemNotFound","innerError":{"innererror":{"code":"ResyncApplyDifferences"}}}}"#;
    assert_eq!(class(RequestKind::Link, 404, deeper), ErrorClass::LinkDead);
    let marked = format!("\u{feff}{}", coded("SyncStateNotFound"));
    assert_eq!(
        class(RequestKind::Link, 400, &marked),
        ErrorClass::LinkDead,
        "a byte order mark before it"
    );
    let bare =
        r#"{"code":"SyncStateNotFound","message":"The sync state root folder is not found."}"#;
    assert_eq!(class(RequestKind::Link, 404, bare), ErrorClass::LinkDead);
}

#[test]
fn request_ids_and_codes_are_kept_for_support_cases() {
    let body = r#"{"error":{"code":"ErrorAccessDenied","message":"Access to OData is disabled.","innerError":{"request-id":"9d016848-179e"}}}"#;
    let error = GraphError::Response(Box::new(refusal(RequestKind::Start, 403, &[], body)));
    assert_eq!(error.code(), Some("ErrorAccessDenied"));
    assert_eq!(error.request_id(), Some("9d016848-179e"));
    assert_eq!(error.class().as_str(), "forbidden");
    assert_eq!(
        error.message(),
        "graph answered 403 ErrorAccessDenied: Access to OData is disabled."
    );
}

#[test]
fn error_messages_are_sanitised() {
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
        assert_eq!(sanitize(message, &[]).as_deref(), Some(expected));
    }
    let link = "https://graph.example/v1.0/me/delta?$deltatoken=R0usmcCM996atia_s";
    assert_eq!(sanitize("token R0usmcCM996atia_s is bad", &[link]), None);
    assert_eq!(sanitize("bearer abc", &["abc"]), None);
    assert!(sanitize(&"word ".repeat(1000), &[]).unwrap().len() <= 200);
    assert_eq!(sanitize_id("secret-code", &["secret-code"]), None);
}

proptest::proptest! {
    #[test]
    fn no_response_panics_or_leaks(
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
                ErrorResponse::read(RequestKind::Link, status, &HeaderMap::new(), &body, now, &[secret]);
            let shown = format!("{refusal} {refusal:?}");
            proptest::prop_assert!(!shown.contains(secret));
        }
    }
}
