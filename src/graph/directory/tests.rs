//! Listings from scripted answers.

use std::collections::BTreeSet;

use http::Request;

use super::*;
use crate::graph::script::{BASE, Script, ScriptedResponse, client, granted, reply, tokens};

/// A directory that answers from a script.
fn directory(
    answers: impl IntoIterator<Item = ScriptedResponse>,
) -> (Arc<Script>, DirectoryClient) {
    let script = Script::new([granted("t1", 3600), granted("t2", 3600)], answers);
    let directory = client(&script).directory(&tokens(&script));
    (script, directory)
}

fn error(status: u16, code: &str) -> ScriptedResponse {
    reply(status, format!(r#"{{"error":{{"code":"{code}","message":"no"}}}}"#))
}

fn header(request: &Request<bytes::Bytes>, name: &str) -> Option<String> {
    request.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

/// The requests to Graph: addresses below the base, and `ConsistencyLevel`.
fn asked(script: &Script) -> Vec<(String, Option<String>)> {
    let graph = script.asked().into_iter().filter(|request| request.method() == "GET");
    let shown = graph.map(|request| {
        let url = request.uri().to_string();
        (url.strip_prefix(BASE).unwrap().to_owned(), header(&request, "consistencylevel"))
    });
    shown.collect()
}

fn shown(mailboxes: &[ListedMailbox]) -> Vec<(&str, &str, &str)> {
    mailboxes.iter().map(|one| (&*one.id, &*one.address, &*one.name)).collect()
}

const EVENTUAL: Option<&str> = Some("eventual");
const SELECTED: &str = "$select=id,mail,userPrincipalName,displayName&$count=true&$top=999";

#[tokio::test(start_paused = true)]
async fn members_of_a_group_are_read_to_the_last_page() {
    let next = format!("{BASE}/groups/g%201/transitiveMembers/x?$skiptoken=a%2Bb");
    let (script, directory) = directory([
        reply(
            200,
            format!(
                r#"{{"@odata.count":3,"@odata.nextLink":"{next}","value":[
                {{"id":"1","mail":"Ann@contoso.com","userPrincipalName":"a1@contoso.com","displayName":"Ann"}},
                {{"id":"2","mail":null,"userPrincipalName":"bob@contoso.com","displayName":null}}]}}"#
            ),
        ),
        reply(
            200,
            "\u{feff}{\"value\":[{\"id\":\"3\",\"mail\":\"  \",\"userPrincipalName\":\"c@x\"}]}",
        ),
    ]);
    let members = directory.members("g 1").await.unwrap();
    let expected =
        [("1", "Ann@contoso.com", "Ann"), ("2", "bob@contoso.com", ""), ("3", "c@x", "")];
    assert_eq!(shown(&members), expected);
    assert!(members.iter().all(|member| member.place.is_none()));
    let eventual = EVENTUAL.map(str::to_owned);
    let first = format!("/groups/g%201/transitiveMembers/microsoft.graph.user?{SELECTED}");
    let second = next.strip_prefix(BASE).unwrap().to_owned();
    assert_eq!(asked(&script), [(first, eventual.clone()), (second, eventual)]);
    for request in script.asked().iter().filter(|request| request.method() == "GET") {
        assert_eq!(header(request, "authorization").unwrap(), "Bearer t1");
        assert_eq!(header(request, "prefer"), None, "preferences are for events");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_is_found_by_its_address() {
    let (script, directory) = directory([
        reply(200, r#"{"value":[{"id":"g7"}]}"#),
        reply(200, r#"{"value":[]}"#),
        reply(200, r#"{"value":[]}"#),
    ]);
    assert_eq!(directory.members("o'neil+a@contoso.com").await.unwrap(), []);
    let none = directory.members("nobody@contoso.com").await.unwrap_err();
    assert!(matches!(none, GraphError::Directory(DirectoryError::NoGroup)), "{none}");
    assert_eq!(none.class(), ErrorClass::Gone);
    let urls: Vec<String> = asked(&script).into_iter().map(|(url, _)| url).collect();
    let filter = "mail%20eq%20%27o%27%27neil%2Ba%40contoso.com%27";
    assert_eq!(urls[0], format!("/groups?$filter={filter}&$select=id"));
    assert!(urls[1].starts_with("/groups/g7/transitiveMembers/microsoft.graph.user?"));
    assert_eq!(urls.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn users_whose_addresses_are_hidden_are_no_members() {
    let hidden = r#"{"value":[{"id":"1","mail":null,"userPrincipalName":null}]}"#;
    let (_, directory) = directory([reply(200, hidden)]);
    let error = directory.members("g").await.unwrap_err();
    assert!(matches!(error, GraphError::Directory(DirectoryError::HiddenUsers)), "{error}");
    assert_eq!(error.class(), ErrorClass::Forbidden);
    assert!(error.message().contains("User.Read.All"));
}

#[tokio::test(start_paused = true)]
async fn users_are_selected_by_a_filter() {
    let one = r#"{"value":[{"id":"1","mail":"a@b","displayName":"A"}]}"#;
    let (script, directory) = directory([reply(200, one), error(400, "Request_UnsupportedQuery")]);
    let filter = "department eq 'R&D' and accountEnabled eq true";
    assert_eq!(shown(&directory.users(filter).await.unwrap()), [("1", "a@b", "A")]);
    let encoded = "department%20eq%20%27R%26D%27%20and%20accountEnabled%20eq%20true";
    let url = format!("/users?$filter={encoded}&{SELECTED}");
    assert_eq!(asked(&script), [(url, EVENTUAL.map(str::to_owned))]);
    let error = directory.users("x").await.unwrap_err();
    assert_eq!(
        (error.class(), error.code()),
        (ErrorClass::Refused, Some("Request_UnsupportedQuery"))
    );
}

#[tokio::test(start_paused = true)]
async fn rooms_have_their_place() {
    let rooms = r#"{"value":[
        {"id":"p1","emailAddress":"a@x","displayName":"A","building":"B1","floorLabel":"G","floorNumber":0,"capacity":12},
        {"id":"p2","emailAddress":"b@x","displayName":"B","building":"","floorLabel":null,"floorNumber":-1,"capacity":null},
        {"id":"p3","emailAddress":null,"displayName":"without a mailbox"},
        {"id":"p4","emailAddress":"d@x","capacity":-1}]}"#;
    let (script, directory) = directory([reply(200, rooms), reply(200, r#"{"value":[]}"#)]);
    let listed = directory.rooms().await.unwrap();
    assert_eq!(shown(&listed), [("p1", "a@x", "A"), ("p2", "b@x", "B"), ("p4", "d@x", "")]);
    let places: Vec<Place> =
        listed.iter().map(|room| (**room.place.as_ref().unwrap()).clone()).collect();
    let place = |building: Option<&str>, floor: Option<&str>, capacity| Place {
        building: building.map(Arc::from),
        floor: floor.map(Arc::from),
        capacity,
    };
    let expected = [
        place(Some("B1"), Some("G"), Some(12)),
        place(None, Some("-1"), None),
        place(None, None, None),
    ];
    assert_eq!(places, expected);
    assert_eq!(directory.rooms_of("first floor@x").await.unwrap(), []);
    let urls = [
        "/places/microsoft.graph.room?$top=100",
        "/places/first%20floor@x/microsoft.graph.roomlist/rooms?$top=100",
    ];
    assert_eq!(asked(&script), urls.map(|url| (url.to_owned(), None)));
}

#[tokio::test(start_paused = true)]
async fn calendars_that_exchange_fills_are_not_written_by_people() {
    let calendars = r#"{"value":[
        {"id":"c2","name":"Birthdays","isDefaultCalendar":false,"canEdit":false,"owner":{"address":"ann@x"}},
        {"id":"c1","name":"Kalender","isDefaultCalendar":true,"canEdit":true,"owner":{"address":"Ann@X"}},
        {"id":"c3","name":"Holidays","isDefaultCalendar":false,"canEdit":false},
        {"id":"c4","name":"Birthdays","isDefaultCalendar":false,"canEdit":true,"owner":{"address":"ann@x"}},
        {"id":"c5","name":"Bob","isDefaultCalendar":false,"canEdit":false,"owner":{"address":"bob@x"}},
        {"id":"c6","name":"Other"}]}"#;
    let only_default = r#"{"value":[{"id":"c","name":"K","isDefaultCalendar":true,"canEdit":false,"owner":null}]}"#;
    let (script, directory) = directory([reply(200, calendars), reply(200, only_default)]);
    let listed = directory.calendars("ann@x").await.unwrap();
    let id = |id: &str| CalendarRef::Id(id.into());
    let expected = [
        (id("c2"), "Birthdays", false),
        (CalendarRef::Default, "Kalender", true),
        (id("c3"), "Holidays", false),
        (id("c4"), "Birthdays", true),
        (id("c5"), "Bob", true),
        (id("c6"), "Other", true),
    ];
    let found: Vec<_> =
        listed.iter().map(|c| (c.calendar.clone(), &*c.name, c.is_written)).collect();
    assert_eq!(found, expected);
    let own = directory.calendars("me").await.unwrap();
    assert_eq!((own.len(), &own[0].calendar, own[0].is_written), (1, &CalendarRef::Default, true));
    let urls: Vec<String> = asked(&script).into_iter().map(|(url, _)| url).collect();
    assert_eq!(urls[0], format!("/users/ann@x/calendars?{CALENDARS}"));
    assert_eq!(urls[1], format!("/me/calendars?{CALENDARS}"));
}

#[tokio::test(start_paused = true)]
async fn a_user_that_is_unknown_or_hidden_has_no_id() {
    let (script, directory) = directory([
        reply(200, r#"{"id":"u1"}"#),
        error(404, "Request_ResourceNotFound"),
        error(403, "Authorization_RequestDenied"),
        error(503, "x"),
    ]);
    assert_eq!(directory.user_id("a b@x").await.unwrap().as_deref(), Some("u1"));
    assert_eq!(directory.user_id("b@x").await.unwrap(), None);
    assert_eq!(directory.user_id("c@x").await.unwrap(), None);
    assert_eq!(directory.user_id("d@x").await.unwrap_err().class(), ErrorClass::Transient);
    assert_eq!(asked(&script)[0].0, "/users/a%20b@x?$select=id");
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_not_in_exchange_is_none() {
    for (answer, expected) in [
        (reply(200, r#"{"id":"c"}"#), Ok(true)),
        (error(404, "MailboxNotEnabledForRESTAPI"), Ok(false)),
        (error(404, "ResourceNotFound"), Ok(false)),
        (error(404, "ErrorInvalidUser"), Ok(false)),
        (error(404, "Request_ResourceNotFound"), Ok(false)),
        (reply(404, ""), Ok(false)),
        (error(404, "ErrorItemNotFound"), Err(ErrorClass::Gone)),
        (error(403, "ErrorAccessDenied"), Err(ErrorClass::Forbidden)),
        (error(500, "x"), Err(ErrorClass::Transient)),
        (reply(200, "{}"), Err(ErrorClass::MalformedPage)),
    ] {
        let (script, directory) = directory([answer]);
        let found = directory.has_mailbox("u1").await.map_err(|error| error.class());
        assert_eq!(found, expected);
        assert_eq!(asked(&script), [("/users/u1/calendar?$select=id".to_owned(), None)]);
    }
}

#[tokio::test(start_paused = true)]
async fn listings_that_cannot_be_trusted_are_errors() {
    let foreign = r#"{"value":[],"@odata.nextLink":"https://evil.example/v1.0/users?x"}"#;
    for (answer, class) in [
        (reply(200, foreign), ErrorClass::ForeignLink),
        (reply(200, "<html>"), ErrorClass::MalformedPage),
        (reply(200, r#"{"value":null}"#), ErrorClass::MalformedPage),
        (reply(200, r#"{"value":[{"mail":"a@b"}]}"#), ErrorClass::MalformedPage),
        (error(429, "TooManyRequests"), ErrorClass::Throttled),
    ] {
        let (script, directory) = directory([answer]);
        assert_eq!(directory.users("x").await.unwrap_err().class(), class);
        assert_eq!(asked(&script).len(), 1);
    }
    let (script, directory) = directory([]);
    for strange in ["", ".", ".."] {
        let error = directory.members(strange).await.unwrap_err();
        assert!(matches!(error, GraphError::InvalidRequest(_)), "{error}");
        directory.rooms_of(strange).await.unwrap_err();
    }
    assert_eq!(script.asked().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_listing_without_end_is_given_up() {
    let page = |n: usize| {
        let next = format!("{BASE}/users?$skiptoken={n}");
        reply(
            200,
            format!(r#"{{"value":[{{"id":"{n}","mail":"{n}@x"}}],"@odata.nextLink":"{next}"}}"#),
        )
    };
    let (script, directory) = directory((0..MAX_PAGES).map(page));
    let error = directory.users("x").await.unwrap_err();
    assert!(matches!(error, GraphError::Directory(DirectoryError::Endless)), "{error}");
    let urls: BTreeSet<String> = asked(&script).into_iter().map(|(url, _)| url).collect();
    assert_eq!(urls.len(), MAX_PAGES);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_and_a_throttled_listing_pauses_no_mailbox() {
    let (script, directory) = directory([
        error(401, "InvalidAuthenticationToken"),
        reply(200, r#"{"value":[]}"#),
        error(429, "TooManyRequests").with("retry-after", "100"),
        reply(200, r#"{"id":"c"}"#),
        reply(200, r#"{"value":[]}"#),
    ]);
    assert_eq!(directory.rooms().await.unwrap(), []);
    assert_eq!(script.sign_ins(), 2);
    let began = tokio::time::Instant::now();
    assert_eq!(directory.rooms().await.unwrap_err().class(), ErrorClass::Throttled);
    assert!(directory.has_mailbox("u1").await.unwrap());
    assert_eq!(began.elapsed().as_secs(), 0, "a mailbox waits for the directory");
    directory.rooms().await.unwrap();
    assert!(began.elapsed().as_secs() >= 100, "the directory was not left alone");
}
