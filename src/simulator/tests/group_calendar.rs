//! Tests calendars of groups: who reads them, and what there is.

use serde_json::json;

use super::*;

const VIEW: &str = "startDateTime=2026-02-20T00:00:00Z&endDateTime=2026-03-20T00:00:00Z";

/// A group with a small calendar, of which Alice is a member. Returns its id.
fn with_group() -> (Simulator, String) {
    let simulator = small(1, Behaviour::calm());
    let group = simulator.add_group("Board", None);
    assert!(simulator.add_member(&group, ALICE));
    let mailbox = simulator.add_group_calendar(&group);
    assert_eq!(mailbox, format!("group:{group}"));
    let around = at("2026-03-02T08:00:00Z");
    let plan =
        Population { singles: 10, series: 3, all_day: 2, body_bytes: 300, around, spread_days: 40 };
    simulator.populate(&mailbox, None, plan);
    (simulator, group)
}

/// Reads with the token of a person.
async fn read(simulator: &Simulator, person: &str, scopes: &str, path: &str) -> (u16, Value) {
    let token = simulator.person_access_token(person, scopes).unwrap();
    get_with(simulator, &token, &format!("https://graph.example/v1.0/{path}"), "").await
}

#[tokio::test(start_paused = true)]
async fn a_member_reads_the_calendar_of_a_group() {
    let (simulator, group) = with_group();
    let member = async |path: &str| read(&simulator, ALICE, "Group.Read.All", path).await;
    let (status, calendar) = member(&format!("groups/{group}/calendar")).await;
    assert_eq!((status, &calendar["owner"]["address"]), (200, &json!("board@contoso.example")));
    let (status, page) = member(&format!("groups/{group}/calendarView?{VIEW}&$top=500")).await;
    assert_eq!(status, 200);
    let events = page["value"].as_array().unwrap();
    let (start, end) = (at("2026-02-20T00:00:00Z"), at("2026-03-20T00:00:00Z"));
    assert!(!events.is_empty());
    let listed: BTreeSet<String> =
        events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    let mailbox = format!("group:{group}");
    assert_eq!(listed, simulator.listed(&mailbox, None, start, end, false));
    let occurrence = events.iter().find(|event| event["type"] == "occurrence").unwrap();
    let master = occurrence["seriesMasterId"].as_str().unwrap().replace('=', "%3D");
    for path in ["", "calendar/"] {
        let master = format!("groups/{group}/{path}events/{master}");
        assert_eq!(member(&master).await.1["type"], "seriesMaster");
        let (status, instances) = member(&format!("{master}/instances?{VIEW}")).await;
        assert_eq!(status, 200);
        assert!(!instances["value"].as_array().unwrap().is_empty());
    }
    // Next links lead below the group.
    let (_, page) = member(&format!("groups/{group}/calendarView?{VIEW}")).await;
    let next = page["@odata.nextLink"].as_str().unwrap();
    assert!(next.contains(&format!("/groups/{group}/calendarView?")), "{next}");
    let (_, object) = member(&format!("groups/{group}")).await;
    assert_eq!(object["groupTypes"], json!(["Unified"]));
}

#[tokio::test(start_paused = true)]
async fn nobody_else_reads_it_and_it_reports_no_changes() {
    let (simulator, group) = with_group();
    let view = format!("groups/{group}/calendarView?{VIEW}");
    let denied = (403, "ErrorAccessDenied".to_owned());
    let outcome = |(status, body): (u16, Value)| (status, code(&body).to_owned());
    let url = format!("https://graph.example/v1.0/{view}");
    assert_eq!(outcome(get(&simulator, &url, "").await), denied, "an application");
    for (person, scopes) in
        [("bob@contoso.example", "Group.Read.All"), (ALICE, "Calendars.Read Calendars.Read.Shared")]
    {
        assert_eq!(outcome(read(&simulator, person, scopes, &view).await), denied, "{person}");
    }
    let member =
        async |path: String| outcome(read(&simulator, ALICE, "Group.Read.All", &path).await);
    let plain = simulator.add_group("Plain", None);
    for (path, refused) in [
        (format!("groups/{group}/calendarView/delta?{VIEW}"), (400, "ErrorInvalidRequest")),
        (format!("groups/{group}/events/delta"), (400, "ErrorInvalidRequest")),
        (format!("groups/{group}/calendars"), (400, "BadRequest")),
        (format!("users/{group}/calendarView?{VIEW}"), (400, "ErrorGroupIsUsedInNonGroupURI")),
        (format!("users/group:{group}/calendarView?{VIEW}"), (404, "ErrorInvalidUser")),
        (format!("groups/{plain}/calendarView?{VIEW}"), (404, "MailboxNotEnabledForRESTAPI")),
        (format!("groups/none/calendarView?{VIEW}"), (404, "Request_ResourceNotFound")),
    ] {
        assert_eq!(member(path.clone()).await, (refused.0, refused.1.to_owned()), "{path}");
    }
    let counted = simulator.statistics();
    assert_eq!(counted.mailboxes[&format!("group:{group}")].delta_requests, 2);
    // It is no user.
    assert_eq!(simulator.mailboxes().len(), 2);
    let users = get(&simulator, "https://graph.example/v1.0/users", "").await.1;
    assert_eq!(users["value"].as_array().unwrap().len(), 2);
    assert!(simulator.remove_object(&group));
    assert_eq!(member(view).await, (404, "Request_ResourceNotFound".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn its_calendar_changes_like_any_other() {
    let (simulator, group) = with_group();
    let mailbox = format!("group:{group}");
    let mutations: Vec<Mutation> = (0..60).filter_map(|_| simulator.mutate_randomly()).collect();
    assert!(mutations.iter().any(|mutation| mutation.mailbox == mailbox));
    let (replica, _) = with_group();
    for mutation in mutations {
        replica.mutate(mutation).unwrap();
    }
    let (start, end) = (at("2026-02-20T00:00:00Z"), at("2026-03-20T00:00:00Z"));
    assert_eq!(
        simulator.truth(&mailbox, None, start, end),
        replica.truth(&mailbox, None, start, end)
    );
}
