//! Tests rooms, room lists, lists of calendars, and the control plane of the directory.

use serde_json::json;

use super::*;

async fn read(simulator: &Simulator, path: &str) -> (u16, Value) {
    get(simulator, &format!("https://graph.example/v1.0/{path}"), "").await
}

#[tokio::test(start_paused = true)]
async fn rooms_are_listed_with_their_place() {
    let simulator = simulator(1, Behaviour::calm());
    let id = simulator.add_room(
        "oslo@contoso.example",
        RoomPlace { building: "North".to_owned(), floor: 3, capacity: 12 },
    );
    for number in 0..120 {
        let place = RoomPlace { building: "South".to_owned(), floor: 0, capacity: 4 };
        simulator.add_room(&format!("room{number}@contoso.example"), place);
    }
    assert!(simulator.add_to_room_list("north@contoso.example", "oslo@contoso.example"));
    assert!(!simulator.add_to_room_list("north@contoso.example", "nowhere@contoso.example"));
    let (status, list) =
        read(&simulator, "places/North@contoso.example/microsoft.graph.roomlist/rooms").await;
    assert_eq!(status, 200);
    let room = &list["value"][0];
    assert_eq!(list["value"].as_array().unwrap().len(), 1);
    assert_eq!(room["emailAddress"], "oslo@contoso.example");
    assert_eq!((&room["building"], &room["floorNumber"]), (&json!("North"), &json!(3)));
    assert_eq!(room["capacity"], 12);
    assert_ne!(room["id"], id.as_str(), "the id of a place is not that of a user");
    let place_id = room["id"].as_str().unwrap();
    assert_eq!(read(&simulator, &format!("users/{place_id}/calendar")).await.0, 404);
    assert_eq!(read(&simulator, &format!("places/{place_id}")).await.1["capacity"], 12);
    let (_, first) = read(&simulator, "places/microsoft.graph.room").await;
    assert_eq!(first["value"].as_array().unwrap().len(), 100);
    let next = first["@odata.nextLink"].as_str().unwrap();
    let (_, second) = get(&simulator, next, "").await;
    assert_eq!(second["value"].as_array().unwrap().len(), 21);
    assert!(second.get("@odata.nextLink").is_none());
    // Microsoft's SDKs write the alias of the namespace.
    let (_, lists) = read(&simulator, "places/graph.roomList").await;
    assert_eq!(lists["value"][0]["emailAddress"], "north@contoso.example");
    simulator.add_mailbox("graph.user@contoso.example");
    assert_eq!(read(&simulator, "users/graph.user@contoso.example/calendar").await.0, 200);
    assert!(simulator.remove_room("oslo@contoso.example"));
    let path = "places/north@contoso.example/microsoft.graph.roomlist/rooms";
    assert_eq!(read(&simulator, path).await.1["value"], json!([]));
    assert_eq!(read(&simulator, &format!("users/{id}/calendar")).await.0, 200, "its mailbox stays");
    let (status, body) = read(&simulator, &path.replace("north", "west")).await;
    assert_eq!((status, code(&body)), (404, "ErrorItemNotFound"));
}

#[tokio::test(start_paused = true)]
async fn the_rooms_of_an_organisation_are_in_lists_of_buildings() {
    let simulator = simulator(1, Behaviour::calm());
    simulator.organisation(2, 12, at(START));
    let (_, rooms) = read(&simulator, "places/microsoft.graph.room").await;
    assert_eq!(rooms["value"].as_array().unwrap().len(), 12);
    let (_, lists) = read(&simulator, "places/microsoft.graph.roomlist").await;
    let mut listed = 0;
    for list in lists["value"].as_array().unwrap() {
        let address = list["emailAddress"].as_str().unwrap();
        let path = format!("places/{address}/microsoft.graph.roomlist/rooms");
        listed += read(&simulator, &path).await.1["value"].as_array().unwrap().len();
    }
    assert_eq!(listed, 12);
    // A room that is not shared refuses people in its own way (fact 16).
    let (_, users) = read(&simulator, "users?$filter=accountEnabled%20eq%20false").await;
    assert_eq!(users["value"].as_array().unwrap().len(), 12);
    let answer = super::device_code::signed_in(
        &simulator,
        "amara@contoso.example",
        "Calendars.Read Calendars.Read.Shared",
    );
    let token = answer.await["access_token"].as_str().unwrap().to_owned();
    let room = users["value"][0]["id"].as_str().unwrap();
    let url = format!("https://graph.example/v1.0/users/{room}/calendar");
    let (status, body) = get_with(&simulator, &token, &url, "").await;
    assert_eq!((status, code(&body)), (403, "DelegatedCalendarAccessDenied"));
}

#[tokio::test(start_paused = true)]
async fn calendars_are_listed_ten_a_page_with_what_can_be_done() {
    let simulator = small(1, Behaviour::calm());
    assert_eq!(simulator.add_usual_calendars(ALICE).len(), 2);
    for number in 0..10 {
        simulator.add_calendar(ALICE, &format!("Project {number}"));
    }
    let (_, first) = read(&simulator, &format!("users/{ALICE}/calendars")).await;
    let calendars = first["value"].as_array().unwrap();
    assert_eq!(calendars.len(), 10);
    for (at, name, default, editable) in [
        (0, "Calendar", true, true),
        (1, "Birthdays", false, false),
        (2, "United States holidays", false, false),
        (3, "Project 0", false, true),
    ] {
        let calendar = &calendars[at];
        assert_eq!(calendar["name"], name);
        assert_eq!(calendar["isDefaultCalendar"], default);
        assert_eq!(calendar["canEdit"], editable, "{name}");
        assert_eq!(calendar["owner"]["address"], ALICE);
    }
    let (_, second) = get(&simulator, first["@odata.nextLink"].as_str().unwrap(), "").await;
    assert_eq!(second["value"].as_array().unwrap().len(), 3);
    let (_, all) = read(&simulator, &format!("users/{ALICE}/calendars?$top=50&$select=name")).await;
    assert_eq!(all["value"].as_array().unwrap().len(), 13);
    assert!(all["value"][0].get("owner").is_none() && all["value"][0]["id"].is_string());
}

#[tokio::test(start_paused = true)]
async fn the_control_plane_changes_the_directory() {
    let simulator = small(1, Behaviour::calm());
    let control = async |method: &str, path: &str, body: Value| {
        let uri = format!("http://localhost/control/{path}");
        let request = http::Request::builder().method(method).uri(uri);
        let request = request.body(Bytes::from(body.to_string())).unwrap();
        let answer = simulator.answer(request).await;
        let SimulatedResponse::Response(response) = answer else { panic!("no response") };
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), body)
    };
    let group = json!({"kind": "group", "name": "Team", "mail": "team@contoso.example"});
    let (status, group) = control("POST", "objects", group).await;
    assert_eq!(status, 200, "{group}");
    let member = json!({"group": group["id"], "member": ALICE});
    assert_eq!(control("POST", "members", member.clone()).await.0, 200);
    let path = format!("groups/{}/members", group["id"].as_str().unwrap());
    assert_eq!(read(&simulator, &path).await.1["value"].as_array().unwrap().len(), 1);
    assert_eq!(control("DELETE", "members", member.clone()).await.0, 200);
    assert_eq!(control("DELETE", "members", member).await.0, 404);
    for (method, what, body) in [
        ("POST", "objects", json!({"kind": "person", "principal_name": "kiosk@contoso.example"})),
        ("POST", "objects", json!({"kind": "contact", "name": "P", "mail": "p@x.example"})),
        ("POST", "objects", json!({"kind": "device", "name": "laptop"})),
        ("POST", "objects", json!({"kind": "group", "name": "Board", "calendar": true})),
        ("DELETE", "objects", json!({"object": "p@x.example"})),
        ("PUT", "addresses", json!({"mailbox": ALICE, "address": "ann@contoso.example"})),
        ("PUT", "people", json!({"person": "ann@contoso.example", "department": "Sales"})),
        ("PUT", "accounts", json!({"person": "ann@contoso.example", "enabled": false})),
        (
            "POST",
            "rooms",
            json!({"address": "r@x.example", "building": "A", "floor": 1, "capacity": 2, "list": "l@x.example"}),
        ),
        ("DELETE", "rooms", json!({"object": "r@x.example"})),
        ("PUT", "listing-limit", json!({"limit": 5})),
        ("PUT", "permissions", json!(["Calendars.Read"])),
        ("PUT", "identities", json!({"system_assigned": false})),
        ("PUT", "delegation", json!({"shared_links": false})),
    ] {
        let (status, answer) = control(method, what, body.clone()).await;
        assert_eq!(status, 200, "{what} {body}: {answer}");
    }
    assert_eq!(read(&simulator, &path).await.0, 403);
    assert_eq!(control("PUT", "permissions", Value::Null).await.0, 200);
    assert_eq!(read(&simulator, &path).await.0, 200);
    assert_eq!(control("PUT", "identities", json!({"arc_directory": "/tmp"})).await.0, 400);
}
