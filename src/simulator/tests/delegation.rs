//! Tests what a person's token reads: their own calendars, and what others share.

use serde_json::json;

use super::device_code::signed_in;
use super::*;

const BOB: &str = "bob@contoso.example";
const SHARED: &str = "Calendars.Read Calendars.Read.Shared";

async fn token(simulator: &Simulator, scopes: &str) -> String {
    let answer = signed_in(simulator, BOB, scopes).await;
    answer["access_token"].as_str().unwrap().to_owned()
}

async fn read(simulator: &Simulator, token: &str, path: &str) -> (u16, Value) {
    let url = format!("https://graph.example/v1.0/{path}");
    get_with(simulator, token, &url, "odata.maxpagesize=5").await
}

#[tokio::test(start_paused = true)]
async fn me_is_the_person_of_the_token() {
    let simulator = small(1, Behaviour::calm());
    let token = token(&simulator, "Calendars.Read").await;
    let (status, calendar) = read(&simulator, &token, "me/calendar").await;
    assert_eq!((status, &calendar["owner"]["address"]), (200, &json!(BOB)));
    let view = format!("me/calendarView/delta?startDateTime={START}&endDateTime={END}");
    assert_eq!(read(&simulator, &token, &view).await.0, 200);
    assert_eq!(read(&simulator, &token, "me/calendars").await.0, 200);
    // An application has no `/me` (fact 20).
    let (status, body) = read(&simulator, &simulator.access_token(), &view).await;
    assert_eq!((status, code(&body)), (400, "BadRequest"));
    assert!(body["error"]["message"].as_str().unwrap().contains("delegated authentication"));
    // The documentation requires `User.Read` for `/me` itself.
    assert_eq!(read(&simulator, &token, "me?$select=id").await.0, 200);
    simulator.set_profile_needs_scope(true);
    let (status, body) = read(&simulator, &token, "me?$select=id").await;
    assert_eq!((status, code(&body)), (403, "Authorization_RequestDenied"));
    let token = signed_in(&simulator, BOB, "User.Read").await["access_token"].to_string();
    let token = token.trim_matches('"');
    assert_eq!(read(&simulator, token, "me?$select=id").await.0, 200);
    let (status, body) = read(&simulator, token, &view).await;
    assert_eq!((status, code(&body)), (403, "ErrorAccessDenied"));
}

#[tokio::test(start_paused = true)]
async fn others_are_read_only_if_they_share_their_default_calendar() {
    let simulator = small(1, Behaviour::calm());
    let other = simulator.add_calendar(ALICE, "Projects");
    let (own, shared) =
        (token(&simulator, "Calendars.Read").await, token(&simulator, SHARED).await);
    let view = format!("users/{ALICE}/calendarView/delta?startDateTime={START}&endDateTime={END}");
    let (status, body) = read(&simulator, &shared, &view).await;
    assert_eq!((status, code(&body)), (403, "ErrorAccessDenied"));
    assert!(simulator.share_calendar(ALICE, BOB, true));
    assert_eq!(read(&simulator, &own, &view).await.0, 403, "the scope is missing");
    let (status, page) = read(&simulator, &shared, &view).await;
    assert_eq!(status, 200);
    for path in [
        format!(
            "users/{ALICE}/calendars/{}/calendarView?startDateTime={START}&endDateTime={END}",
            other.replace('=', "%3D")
        ),
        format!("users/{ALICE}/calendars"),
        format!("users/{ALICE}"),
    ] {
        assert_eq!(read(&simulator, &shared, &path).await.0, 403, "{path}");
    }
    // The first page works and its link does not (fact 14).
    let next = page["@odata.nextLink"].as_str().unwrap();
    assert_eq!(get_with(&simulator, &shared, next, "").await.0, 200);
    simulator.set_shared_links(false);
    assert_eq!(read(&simulator, &shared, &view).await.0, 200);
    let (status, body) = get_with(&simulator, &shared, next, "").await;
    assert_eq!((status, code(&body)), (403, "ErrorAccessDenied"));
    let plain = format!("users/{ALICE}/calendarView?startDateTime={START}&endDateTime={END}");
    let (status, page) = read(&simulator, &shared, &plain).await;
    assert_eq!(status, 200);
    let next = page["@odata.nextLink"].as_str().unwrap();
    assert_eq!(get_with(&simulator, &shared, next, "").await.0, 200, "plain views go on");
    assert!(simulator.share_calendar(ALICE, BOB, false));
    assert_eq!(read(&simulator, &shared, &plain).await.0, 403);
}

#[tokio::test(start_paused = true)]
async fn a_delegate_lists_private_events_but_cannot_fetch_them() {
    let simulator = small(1, Behaviour::calm());
    for number in 0..40 {
        let start = format!("2026-03-0{}T09:00:00Z", 1 + number % 9);
        let subject = format!("Private {number}");
        edit(&simulator, Edit::CreateSingle { subject, start: at(&start), minutes: 30 });
    }
    simulator.share_calendar(ALICE, BOB, true);
    let token = token(&simulator, SHARED).await;
    let view =
        format!("users/{ALICE}/calendarView?startDateTime={START}&endDateTime={END}&$top=500");
    let (_, page) = read(&simulator, &token, &view).await;
    let events = page["value"].as_array().unwrap();
    let (mut private, mut normal) = (0, 0);
    for event in events.iter().filter(|event| event["type"] == "singleInstance") {
        let id = event["id"].as_str().unwrap().replace('=', "%3D");
        let (status, _) = read(&simulator, &token, &format!("users/{ALICE}/events/{id}")).await;
        let is_private = event["sensitivity"] == "private";
        assert_eq!(status, if is_private { 404 } else { 200 });
        if is_private { private += 1 } else { normal += 1 }
    }
    assert!(private > 0 && normal > 0, "{private} {normal}");
}

#[tokio::test(start_paused = true)]
async fn the_page_and_the_control_plane_enter_codes() {
    let simulator = small(1, Behaviour::calm());
    let send = async |method: &str, path: &str, body: String| {
        let request =
            http::Request::builder().method(method).uri(format!("http://localhost{path}"));
        let request = request.body(Bytes::from(body)).unwrap();
        let answer = simulator.answer(request).await;
        let SimulatedResponse::Response(response) = answer else { panic!("no response") };
        (response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned())
    };
    let started = async || {
        let form = "client_id=app&scope=Calendars.Read".to_owned();
        let (_, body) = send("POST", "/common/oauth2/v2.0/devicecode", form).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        body["user_code"].as_str().unwrap().to_owned()
    };
    assert!(send("GET", "/devicelogin", String::new()).await.1.contains("<form"));
    let user_code = started().await;
    let wrong = send("POST", "/devicelogin", format!("code={user_code}&person=nobody")).await;
    assert!(wrong.1.contains("Unknown code"));
    let form = format!("code={user_code}&person=bob%40contoso.example");
    assert!(send("POST", "/devicelogin", form).await.1.contains("You have signed in"));
    let user_code = started().await;
    let codes = send("GET", "/control/user-codes", String::new()).await.1;
    assert_eq!(codes, json!([user_code]).to_string());
    let form = json!({"user_code": user_code, "person": BOB}).to_string();
    assert_eq!(send("POST", "/control/user-codes", form.clone()).await.0, 200);
    assert_eq!(send("POST", "/control/user-codes", form).await.0, 404);
    let share = json!({"owner": ALICE, "reader": BOB}).to_string();
    assert_eq!(send("PUT", "/control/shares", share).await.0, 200);
    let person = json!({"person": BOB}).to_string();
    assert_eq!(send("POST", "/control/revoke", person).await, (200, "{\"revoked\":0}".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn claims_are_demanded_in_both_forms() {
    let simulator = small(1, Behaviour::calm());
    simulator.plan(PlannedFault::once(Fault::ClaimsChallenge));
    let answer = simulator.answer(request(&simulator.access_token(), &window_url(ALICE), "")).await;
    let SimulatedResponse::Response(response) = answer else { panic!("no response") };
    assert_eq!(response.status(), 401);
    let challenge = response.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.starts_with("Bearer realm=\"\", authorization_uri=\"https://"),
        "{challenge}"
    );
    assert!(challenge.contains("error=\"insufficient_claims\", claims=\"eyJ"), "{challenge}");
    let how = MailboxFault::InsufficientClaims;
    simulator.plan(PlannedFault::once(Fault::Mailbox { how }));
    let (status, body) = get(&simulator, &window_url(ALICE), "").await;
    assert_eq!((status, code(&body)), (403, "insufficient_claims"));
}
