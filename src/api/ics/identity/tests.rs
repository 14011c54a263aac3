//! Tests of event identities, with windows read in both directions.
use serde_json::{Value, json};

use super::*;

fn event(id: &str, start: &str, more: Value) -> Value {
    let moment = json!({"dateTime": start, "timeZone": "UTC"});
    let mut event =
        json!({"id": id, "type": "singleInstance", "subject": "s", "start": moment, "end": moment});
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

/// The own UIDs of a window's events, in order.
fn uids(window: &[Value]) -> Vec<String> {
    let texts: Vec<String> = window.iter().map(Value::to_string).collect();
    let members = || texts.iter().map(|text| JsonMembers::parse(text.as_bytes()).unwrap());
    let mut times = TimeReader::default();
    let mut forwards = IdentitySurvey::default();
    members().for_each(|event| forwards.add(&event, &mut times));
    let mut backwards = IdentitySurvey::default();
    members().rev().for_each(|event| backwards.add(&event, &mut times));
    let mut name = |identities: &Identities| -> Vec<String> {
        let uid = |event| identities.of(&event, &mut times).unwrap().own_uid();
        members().map(uid).collect()
    };
    let (first, second) = (name(&forwards.finish()), name(&backwards.finish()));
    assert_eq!(first, second, "the read order must not matter");
    first
}

#[test]
fn of_events_with_the_same_uid_the_oldest_keeps_it() {
    let single = |id, created: &str| {
        let more = json!({"iCalUId": "u", "createdDateTime": created});
        event(id, "2026-11-02T09:00:00", more)
    };
    let window = [
        single("b", "2026-01-02T00:00:00Z"),
        single("c", "2026-01-02T00:00:00Z"),
        single("a", "2026-01-03T00:00:00Z"),
        event("d", "2026-11-02T09:00:00", json!({"iCalUId": "u"})),
        event("e", "2026-11-02T09:00:00", json!({"iCalUId": null})),
        event("f", "2026-11-02T09:00:00", json!({"iCalUId": "v", "uid": "w"})),
    ];
    // The first eight digits of the ids' `sha256sum`.
    assert_eq!(uids(&window), ["u", "u/2e7d2c03", "u/ca978112", "u/18ac3e73", "e", "w"]);
}

#[test]
fn uids_of_graph_and_generated_uids_never_collide() {
    let single = |id: &str, uid: &str| event(id, "2026-11-02T09:00:00", json!({"iCalUId": uid}));
    let instance = |id, kind: &str, more: Value| {
        let mut all = json!({"type": kind, "seriesMasterId": "m", "iCalUId": "s"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event(id, "2026-11-02T09:00:00", all)
    };
    let masked = |id| {
        let mut event = event(id, "2026-11-02T09:00:00", json!({"sensitivity": "private"}));
        event.as_object_mut().unwrap().remove("subject");
        event
    };
    let eight = |id| short_hash(&EventId::new(id));
    let mut window = vec![
        instance("o", "occurrence", json!({})),
        instance("p", "occurrence", json!({})),
        instance(
            "x",
            "exception",
            json!({"isAllDay": true, "originalStart": "2026-11-03T09:00:00Z"}),
        ),
        single("a", "u"),
        single("b", "u"),
        masked("secret"),
    ];
    let made = uids(&window);
    assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), window.len(), "{made:?}");
    window.extend(made.iter().enumerate().map(|(index, uid)| single(&format!("z{index}"), uid)));
    // A UID that ends in a day, and one that extends a shared UID.
    window.extend([single("d", "s/20261103"), single("e", &format!("u/{}", eight("b")))]);
    let all = uids(&window);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), window.len(), "{all:#?}");
    assert_eq!(all[..made.len()], made, "existing events keep their UIDs");
    // A UID that is only similar is kept.
    for uid in
        ["https://a.example/12345", "a/0123456g", "a/20261103T09000Z", "20261103", "1b16b1df"]
    {
        assert_eq!(uids(&[single("a", uid)]), [uid]);
    }
}

#[test]
fn a_series_owns_its_uid_once() {
    let global = |day: &str| format!("{GLOBAL_ID}{day}80CD3F1A");
    let occurrence = |id, master, day: u8, uid: Value, created: &str| {
        let more = json!({"type": "occurrence", "seriesMasterId": master, "iCalUId": uid, "createdDateTime": created});
        event(id, &format!("2026-11-{day:02}T09:00:00"), more)
    };
    let window = [
        occurrence("1", "m", 2, json!(global("07EA0B02")), "2026-01-01T00:00:00Z"),
        occurrence("2", "m", 3, json!(global("07EA0B03")), "2026-01-01T00:00:00Z"),
        occurrence("3", "n", 3, json!(global("00000000")), "2025-01-01T00:00:00Z"),
        occurrence("4", "o", 3, Value::Null, "2026-01-01T00:00:00Z"),
    ];
    let series = global("00000000");
    let m = EventId::new("m");
    let expected = [
        format!("{series}/{}/20261102T090000Z", short_hash(&m)),
        format!("{series}/{}/20261103T090000Z", short_hash(&m)),
        format!("{series}/20261103T090000Z"),
        "o/20261103T090000Z".to_owned(),
    ];
    assert_eq!(uids(&window), expected);
}

#[test]
fn the_original_day_of_an_exception_is_found_in_every_zone() {
    for (place, original) in [
        ("Berlin", "2026-12-09T23:00:00Z"),
        ("Los Angeles", "2026-12-10T08:00:00Z"),
        ("Honolulu", "2026-12-10T10:00:00Z"),
        ("Suva", "2026-12-09T12:00:00Z"),
        ("Auckland", "2026-12-09T11:00:00Z"),
        ("Chatham", "2026-12-09T10:15:00Z"),
        ("Kiritimati", "2026-12-09T10:00:00Z"),
    ] {
        for (moved, all_day) in
            [("2026-12-10T00", true), ("2026-12-09T00", true), ("2026-12-20T15", false)]
        {
            let day = |id, day: u8| {
                let more = json!({"type": "occurrence", "seriesMasterId": "m", "isAllDay": true});
                event(id, &format!("2026-12-{day:02}T00:00:00"), more)
            };
            let more = json!({
                "type": "exception", "seriesMasterId": "m", "isAllDay": all_day,
                "originalStart": original, "originalStartTimeZone": "UTC",
            });
            let exception = event("x", &format!("{moved}:00:00"), more);
            let window = [day("8", 8), day("9", 9), day("11", 11), exception];
            let expected = ["m/20261208", "m/20261209", "m/20261211", "m/20261210"];
            assert_eq!(uids(&window), expected, "{place} {moved}");
        }
    }
}

#[test]
fn an_instance_changed_to_all_day_keeps_its_original_time() {
    let timed = json!({"type": "occurrence", "seriesMasterId": "m"});
    let exception = |series, original: &str| json!({"type": "exception", "seriesMasterId": series, "isAllDay": true, "originalStart": original});
    let window = [
        event("1", "2026-11-02T08:00:00", timed),
        event("x", "2026-11-03T00:00:00", exception("m", "2026-11-03T08:00:00Z")),
        // The only instance in the window: a start that cannot be a midnight is a time.
        event("y", "2026-11-03T00:00:00", exception("n", "2026-11-03T08:05:00Z")),
        event("z", "2026-11-03T00:00:00", exception("o", "2026-11-03T08:00:00Z")),
    ];
    let expected = ["m/20261102T080000Z", "m/20261103T080000Z", "n/20261103T080500Z", "o/20261103"];
    assert_eq!(uids(&window), expected);
}

#[test]
fn two_instances_with_the_same_original_start_have_different_uids() {
    let instance = |id, kind: &str| {
        let more =
            json!({"type": kind, "seriesMasterId": "m", "originalStart": "2026-11-02T08:00:00Z"});
        event(id, "2026-11-02T08:00:00", more)
    };
    let two = uids(&[instance("1", "occurrence"), instance("x", "exception")]);
    assert_eq!(two[0], "m/20261102T080000Z");
    assert_eq!(two[1], format!("m/20261102T080000Z/{}", short_hash(&EventId::new("x"))));
    // Three instances without an original start share a slot, as while ids change.
    let nowhere = |id, kind: &str| {
        let mut event = instance(id, kind);
        event["originalStart"] = Value::Null;
        event
    };
    for kind in ["occurrence", "exception"] {
        let three = uids(&["1", "2", "3"].map(|id| nowhere(id, kind)));
        let plain = three.iter().filter(|uid| *uid == "m/20261102T080000Z").count();
        assert_eq!(plain, 1, "{three:?}");
        assert_eq!(three.iter().collect::<BTreeSet<_>>().len(), 3, "{three:?}");
    }
}
