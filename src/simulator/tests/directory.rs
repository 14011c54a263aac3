//! Tests the directory: users, groups and their members, filters, pages and permissions.

use serde_json::json;

use super::*;

const BOB: &str = "bob@contoso.example";

async fn ask(simulator: &Simulator, path: &str, eventual: bool) -> (u16, Value) {
    let url = match path.starts_with("https://") {
        true => path.to_owned(),
        false => format!("https://graph.example/v1.0/{}", path.replace(' ', "%20")),
    };
    let mut request = request(&simulator.access_token(), &url, "");
    if eventual {
        let value = http::HeaderValue::from_static("eventual");
        request.headers_mut().insert("consistencylevel", value);
    }
    let SimulatedResponse::Response(response) = simulator.answer(request).await else {
        panic!("no response")
    };
    let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
    (response.status().as_u16(), body)
}

/// A member of all objects of a listing, over all its pages, and the number of pages.
async fn list(simulator: &Simulator, path: &str, member: &str) -> (BTreeSet<String>, usize) {
    let (mut found, mut pages, mut path) = (BTreeSet::new(), 0, path.to_owned());
    loop {
        let (status, body) = ask(simulator, &path, false).await;
        assert_eq!(status, 200, "{path}: {body}");
        pages += 1;
        for object in body["value"].as_array().unwrap() {
            assert!(found.insert(object[member].as_str().unwrap_or("null").to_owned()));
        }
        match body["@odata.nextLink"].as_str() {
            Some(next) => path = next.to_owned(),
            None => return (found, pages),
        }
    }
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|&one| one.to_owned()).collect()
}

/// Two groups that contain each other, with members of all kinds. Returns their ids.
fn groups(simulator: &Simulator) -> (String, String) {
    let outer = simulator.add_group("Everybody", Some("everybody@contoso.example"));
    let inner = simulator.add_group("Team", None);
    simulator.add_contact("Partner", "partner@fabrikam.example");
    simulator.add_person_without_mailbox("kiosk@contoso.example");
    let device = simulator.add_device("laptop");
    assert!(simulator.add_member("everybody@contoso.example", &inner));
    for member in [ALICE, "partner@fabrikam.example", &device] {
        assert!(simulator.add_member(&outer, member));
    }
    for member in [ALICE, BOB, "kiosk@contoso.example", &outer] {
        assert!(simulator.add_member(&inner, member));
    }
    assert!(!simulator.add_member(&outer, "nobody@contoso.example"));
    (outer, inner)
}

#[tokio::test(start_paused = true)]
async fn members_are_direct_and_transitive_and_of_all_kinds() {
    let simulator = small(1, Behaviour::calm());
    let (outer, inner) = groups(&simulator);
    let (_, page) = ask(&simulator, &format!("groups/{outer}/members"), false).await;
    let kinds: Vec<_> =
        page["value"].as_array().unwrap().iter().map(|m| &m["@odata.type"]).collect();
    assert_eq!(kinds.len(), 4);
    for kind in ["user", "group", "orgContact", "device"] {
        assert!(kinds.contains(&&json!(format!("#microsoft.graph.{kind}"))), "{kind} {kinds:?}");
    }
    let all = format!("groups/{outer}/transitiveMembers");
    // A group in a circle is no member of itself, and Alice is there once.
    let names = set(&["alice", "bob", "kiosk", "Team", "Partner", "laptop"]);
    assert_eq!(list(&simulator, &all, "displayName").await.0, names);
    let users = format!("{all}/microsoft.graph.user?$select=id,mail");
    assert_eq!(list(&simulator, &users, "mail").await.0, set(&[ALICE, BOB, "null"]));
    let (_, page) = ask(&simulator, &users, false).await;
    let members: Vec<_> = page["value"][0].as_object().unwrap().keys().collect();
    assert_eq!(members, ["id", "mail"]);

    let casts = format!("{all}/microsoft.graph.group");
    let (status, body) = ask(&simulator, &casts, false).await;
    assert_eq!((status, code(&body)), (400, "Request_UnsupportedQuery"));
    let (status, body) = ask(&simulator, &format!("{casts}?$count=true"), true).await;
    assert_eq!((status, &body["@odata.count"]), (200, &json!(1)));
    assert_eq!(ask(&simulator, &format!("{all}/microsoft.graph.shoe"), false).await.0, 400);

    assert!(simulator.remove_member(&inner, BOB));
    assert!(!simulator.remove_member(&inner, BOB));
    assert_eq!(list(&simulator, &users, "mail").await.0, set(&[ALICE, "null"]));
    for path in [format!("groups/{ALICE}/members"), format!("groups/{}", "0".repeat(8))] {
        let (status, body) = ask(&simulator, &path, false).await;
        assert_eq!((status, code(&body)), (404, "Request_ResourceNotFound"), "{path}");
    }
    let (_, found) =
        ask(&simulator, "groups?$filter=mail eq 'Everybody@contoso.example'", false).await;
    assert_eq!(found["value"][0]["id"], outer.as_str());
    assert_eq!(found["value"].as_array().unwrap().len(), 1);
    let (status, found) = ask(&simulator, &format!("groups/{inner}?$select=id,mail"), false).await;
    assert_eq!((status, &found["mail"]), (200, &Value::Null));
}

#[tokio::test(start_paused = true)]
async fn listings_have_pages_and_survive_a_change_between_them() {
    let simulator = simulator(1, Behaviour::calm());
    let group = simulator.add_group("All", None);
    let mut ids = BTreeSet::new();
    for number in 0..250 {
        ids.insert(simulator.add_mailbox(&format!("person{number}@contoso.example")));
    }
    for id in &ids {
        simulator.add_member(&group, id);
    }
    let path = format!("groups/{group}/transitiveMembers?$select=id");
    assert_eq!(list(&simulator, &path, "id").await, (ids.clone(), 3));
    assert_eq!(list(&simulator, &format!("{path}&$top=999"), "id").await, (ids.clone(), 1));
    assert_eq!(list(&simulator, &format!("{path}&$top=125"), "id").await, (ids.clone(), 2));
    assert_eq!(list(&simulator, "users?$top=50", "id").await, (ids.clone(), 5));
    for top in ["0", "1000", "x"] {
        let (status, body) = ask(&simulator, &format!("{path}&$top={top}"), false).await;
        assert_eq!((status, code(&body)), (400, "Request_BadRequest"));
    }
    // Those who leave between two pages do not hide others.
    let (_, first) = ask(&simulator, &path, false).await;
    let gone = first["value"][0]["id"].as_str().unwrap();
    assert!(simulator.remove_member(&group, gone));
    let next = first["@odata.nextLink"].as_str().unwrap();
    let (_, second) = ask(&simulator, next, false).await;
    let id = |page: &Value, at: usize| page["value"][at]["id"].as_str().unwrap().to_owned();
    assert_eq!(ids.iter().position(|one| *one == id(&second, 0)), Some(100));
    let other = next.replace("transitiveMembers", "members");
    let (status, body) = ask(&simulator, &other, false).await;
    assert_eq!((status, code(&body)), (400, "Directory_ExpiredPageToken"));
    // A listing that ends too early looks complete.
    simulator.set_listing_limit(Some(10));
    assert_eq!(list(&simulator, &path, "id").await.0.len(), 10);
    simulator.set_listing_limit(None);
    assert_eq!(list(&simulator, &path, "id").await.0.len(), 249);
}

#[tokio::test(start_paused = true)]
async fn users_are_filtered_and_advanced_filters_need_the_header() {
    let simulator = small(1, Behaviour::calm());
    groups(&simulator);
    simulator.set_department(ALICE, "Research");
    simulator.set_account_enabled(BOB, false);
    let place = RoomPlace { building: "A".to_owned(), floor: 1, capacity: 4 };
    simulator.add_room("oslo@contoso.example", place);
    let filter = async |filter: &str| {
        list(&simulator, &format!("users?$filter={filter}"), "userPrincipalName").await.0
    };
    assert_eq!(filter("accountEnabled eq true").await, set(&[ALICE, "kiosk@contoso.example"]));
    assert_eq!(filter("accountEnabled eq false").await, set(&[BOB, "oslo@contoso.example"]));
    assert_eq!(filter("department eq 'research' and startswith(mail,'ali')").await, set(&[ALICE]));
    let advanced = "users?$filter=endsWith(mail,'@contoso.example')";
    for (path, eventual) in [
        (advanced.to_owned(), false),
        (advanced.to_owned(), true),
        (format!("{advanced}&$count=true"), false),
        ("users?$filter=department ne 'x'".to_owned(), true),
        ("users?$filter=not (department eq 'x')".to_owned(), false),
        ("users?$count=true".to_owned(), false),
        ("users?$orderby=mail".to_owned(), true),
        ("users?$filter=officeLocation eq 'x'".to_owned(), true),
    ] {
        let (status, body) = ask(&simulator, &path, eventual).await;
        assert_eq!((status, code(&body)), (400, "Request_UnsupportedQuery"), "{path} {eventual}");
    }
    let (status, body) = ask(&simulator, &format!("{advanced}&$count=true&$top=1"), true).await;
    assert_eq!((status, &body["@odata.count"]), (200, &json!(3)));
    let next = body["@odata.nextLink"].as_str().unwrap();
    assert_eq!(ask(&simulator, next, false).await.0, 400, "links need the header as well");
    assert_eq!(ask(&simulator, next, true).await.0, 200);
    for path in ["users?$filter=shoeSize eq 1", "users?$filter=mail eq", "users?$select=shoeSize"] {
        let (status, body) = ask(&simulator, path, true).await;
        assert_eq!((status, code(&body)), (400, "BadRequest"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renamed_address_keeps_its_object_id() {
    let simulator = small(1, Behaviour::calm());
    let (_, before) = ask(&simulator, &format!("users/{ALICE}?$select=id,mail"), false).await;
    let new = "alice.miller@contoso.example";
    assert!(!simulator.rename_address(ALICE, BOB));
    assert!(simulator.rename_address(ALICE, new));
    let (status, body) = ask(&simulator, &format!("users/{ALICE}"), false).await;
    assert_eq!((status, code(&body)), (404, "Request_ResourceNotFound"));
    assert_eq!(get(&simulator, &window_url(ALICE), "").await.0, 404);
    let id = before["id"].as_str().unwrap();
    let (_, after) = ask(&simulator, &format!("users/{id}?$select=id,mail"), false).await;
    assert_eq!((&after["id"], &after["mail"]), (&before["id"], &json!(new)));
    for name in [id, new] {
        assert_eq!(get(&simulator, &window_url(name), "").await.0, 200);
    }
    // The principal name need not be the address: only the directory tells them apart.
    assert!(simulator.set_principal_name(new, "amiller@contoso.example"));
    assert_eq!(ask(&simulator, &format!("users/{new}"), false).await.0, 404);
    let (_, user) = ask(&simulator, "users/amiller@contoso.example", false).await;
    assert_eq!((&user["id"], &user["mail"]), (&before["id"], &json!(new)));
}

#[tokio::test(start_paused = true)]
async fn a_person_without_exchange_has_no_calendar() {
    let simulator = small(1, Behaviour::calm());
    let id = simulator.add_person_without_mailbox("kiosk@contoso.example");
    let (status, user) = ask(&simulator, "users/kiosk@contoso.example", false).await;
    assert_eq!((status, &user["id"], &user["mail"]), (200, &json!(id), &Value::Null));
    for path in [format!("users/{id}/calendar"), format!("users/{id}/calendars")] {
        let (status, body) = ask(&simulator, &path, false).await;
        assert_eq!((status, code(&body)), (404, "MailboxNotEnabledForRESTAPI"));
    }
    assert!(simulator.remove_object(&id));
    assert_eq!(ask(&simulator, &format!("users/{id}"), false).await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn each_listing_needs_its_permission() {
    let simulator = small(1, Behaviour::calm());
    let (outer, _) = groups(&simulator);
    let (members, calendar) =
        (format!("groups/{outer}/members"), format!("users/{ALICE}/calendar"));
    let user = format!("users/{ALICE}");
    let all =
        [members.as_str(), "groups", "users", &user, "places/microsoft.graph.room", &calendar];
    for (permission, allowed) in [
        ("Calendars.Read", vec![5]),
        ("User.ReadBasic.All", vec![2, 3]),
        ("GroupMember.Read.All", vec![0, 1]),
        ("Directory.Read.All", vec![0, 1, 2, 3]),
        ("Place.Read.All", vec![4]),
    ] {
        simulator.set_permissions(Some(&[permission]));
        for (at, path) in all.iter().enumerate() {
            let (status, body) = ask(&simulator, path, false).await;
            let denied = if at == 5 { "ErrorAccessDenied" } else { "Authorization_RequestDenied" };
            let expected = if allowed.contains(&at) { (200, "") } else { (403, denied) };
            assert_eq!((status, code(&body)), expected, "{permission} {path}");
        }
    }
    // Without a permission to read users, members have only their id.
    simulator.set_permissions(Some(&["GroupMember.Read.All"]));
    let users = format!("{members}/microsoft.graph.user?$select=id,mail");
    let (_, page) = ask(&simulator, &users, false).await;
    assert!(page["value"][0]["id"].is_string() && page["value"][0]["mail"].is_null());
}
