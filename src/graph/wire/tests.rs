//! Parsing of pages in every form.
use crate::mirror::page::Span;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::mirror::availability::{Availability, ShowAs};
use crate::mirror::page::EventKind;

const DELTA_PAGE: &str = include_str!("../../../tests/fixtures/graph/delta_page.json");

fn read(text: &str) -> Result<Page, WireError> {
    page(&Bytes::copy_from_slice(text.as_bytes()), BodyFormat::Html)
}

/// A page with these items and a delta link.
fn items(items: &str) -> Page {
    read(&format!(r#"{{"value":[{items}],"@odata.deltaLink":"https://x/d"}}"#)).unwrap()
}

const DATES: &str = r#""start":{"dateTime":"2026-03-02T08:00:00","timeZone":"UTC"},"end":{"dateTime":"2026-03-02T09:00:00","timeZone":"UTC"}"#;

/// One item with usable dates and these members.
fn item(members: &str) -> Item {
    let page = items(&format!("{{{members},{DATES}}}"));
    assert_eq!(page.unreadable, []);
    page.present.into_iter().next().unwrap()
}

fn why(item: &str) -> &'static str {
    let page = items(item);
    assert!(page.present.is_empty() && page.removed.is_empty(), "{item} was read");
    page.unreadable.first().unwrap().reason
}

fn value(item: &Item) -> Value {
    serde_json::from_slice(&item.content).unwrap()
}

#[test]
fn a_page_is_parsed_completely() {
    let page = read(DELTA_PAGE).unwrap();
    assert_eq!(page.unreadable, []);
    assert_eq!(page.removed, [EventId::new("gone")]);
    assert!(
        matches!(&page.end, PageEnd::Next(link) if link.as_str().ends_with("$skiptoken=next-7f3a"))
    );
    let seen: Vec<_> = page
        .present
        .iter()
        .map(|i| (i.id.as_str(), i.kind, i.master.as_ref().map(EventId::as_str), i.full, i.all_day))
        .collect();
    assert_eq!(
        seen,
        [
            ("lone/1+A=", EventKind::Single, None, true, false),
            ("series", EventKind::Master, None, true, false),
            ("series.2026-03-02", EventKind::Occurrence, Some("series"), false, false),
            ("series.2026-03-03", EventKind::Exception, Some("series"), true, true),
        ]
    );
    assert_eq!(page.present[0].etag.as_deref(), Some(r#"W/"lone-1""#));
    assert_eq!(page.present[3].span.start.to_string(), "2026-03-02T23:00:00Z");
    assert_eq!(page.present[3].span.end.to_string(), "2026-03-03T23:00:00Z");
}

#[test]
fn content_keeps_every_member_but_annotations_byte_for_byte_and_in_order() {
    let page = read(DELTA_PAGE).unwrap();
    let mut expected = serde_json::from_str::<Value>(DELTA_PAGE).unwrap()["value"][0].take();
    let kept = expected.as_object_mut().unwrap();
    kept.remove("@odata.type");
    kept.remove("calendar@odata.associationLink");
    assert_eq!(value(&page.present[0]), expected);
    let content = std::str::from_utf8(&page.present[0].content).unwrap();
    assert!(content.starts_with(r#"{"@odata.etag":"W/\"lone-1\"","id":"lone/1+A=","changeKey""#));
    assert!(content.contains(r#""subject":"Fire drill \u2013 \ud83d\udd25 \"now\"","#));
}

#[test]
fn bodies_are_dropped_if_not_configured() {
    let bytes = Bytes::from_static(DELTA_PAGE.as_bytes());
    for (body, kept) in
        [(BodyFormat::Html, true), (BodyFormat::Text, true), (BodyFormat::None, false)]
    {
        let page = page(&bytes, body).unwrap();
        let value = value(&page.present[0]);
        assert_eq!(value.get("body").is_some(), kept);
        assert_eq!(value.get("bodyPreview").is_some(), kept);
    }
}

#[test]
fn a_page_ends_with_exactly_one_link() {
    let delta = r#"{"value":[],"@odata.deltaLink":"https://x/d"}"#;
    assert_eq!(read(delta).unwrap().end, PageEnd::Delta(Link::new("https://x/d")));
    assert!(read(&format!("\u{feff}{delta}")).is_ok());
    // Null and empty links count as absent; an escaped link is the same link.
    let next = r#"{"@odata.nextLink":"https:\/\/x\/n","@odata.deltaLink":null,"value":[]}"#;
    assert_eq!(read(next).unwrap().end, PageEnd::Next(Link::new("https://x/n")));
    for bad in [
        r#"{"value":[]}"#,
        r#"{"value":[],"@odata.nextLink":""}"#,
        r#"{"value":[],"@odata.nextLink":"https://x/n","@odata.deltaLink":"https://x/d"}"#,
        r#"{"value":[],"@odata.nextLink":7}"#,
        r#"{"value":{},"@odata.nextLink":"https://x/n"}"#,
        r#"{"value":null,"@odata.nextLink":"https://x/n"}"#,
        r#"{"@odata.nextLink":"https://x/n"}"#,
        r#"{"value":[],"@odata.nextLink":"https://x/n"} x"#,
        r#"{"value":[],"@odata.nextLink":"https://x/n""#,
        r#"{"value":[{"id":"a"#,
        r#"[{"value":[],"@odata.nextLink":"https://x/n"}]"#,
        "<html>Bad Gateway</html>",
        "null",
        "",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_last_item_with_an_id_wins() {
    let page = items(&format!(
        r#"{{"id":"a","n":1,{DATES}}},{{"id":"b","@removed":{{}}}},{{"id":"c","n":1,{DATES}}},
           {{"id":"a","n":2,{DATES}}},{{"id":"b","n":2,{DATES}}},{{"id":"c","@removed":{{"reason":"changed"}}}},
           {{"id":"c","@removed":{{}}}},{{"id":"A","n":3,{DATES}}}"#
    ));
    let present: Vec<_> =
        page.present.iter().map(|i| (i.id.as_str(), value(i)["n"].clone())).collect();
    assert_eq!(present, [("a", json!(2)), ("b", json!(2)), ("A", json!(3))]);
    assert_eq!(page.removed, [EventId::new("c")]);
}

#[test]
fn the_last_of_duplicate_members_is_kept_once() {
    let item = item(r#""id":"x","a":1,"id":"y","b":2,"a":3,"\u0061":4"#);
    assert_eq!(item.id.as_str(), "y");
    assert!(item.content.starts_with(br#"{"id":"y","a":4,"b":2,"start""#));
}

#[test]
fn an_item_is_a_part_of_its_page_if_nothing_in_it_changes() {
    let part = |members: &str| {
        let text = format!(r#"{{"value":[ {{{members}}} ],"@odata.deltaLink":"https://x/d"}}"#);
        let bytes = Bytes::from(text);
        let page = page(&bytes, BodyFormat::Html).unwrap();
        let content = &page.present.first().unwrap().content;
        // As if it had been built from its members.
        let spaced = items(&format!("{{ {members} }}"));
        assert_eq!(*content, spaced.present[0].content, "{members}");
        bytes.as_ptr_range().contains(&content.as_ptr())
    };
    assert!(part(&format!(r#""id":"x","a":"\n",{DATES}"#)));
    assert!(!part(&format!(r#""":1,"id":"x",{DATES}"#)));
    for changed in [
        r#""id":"x", "a":1"#,
        r#""id":"x","\u0061":1"#,
        r#""id":"x","a":1,"b@odata.type":"c""#,
        r#""id":"x","a":"\ud83d""#,
        r#""a":1,"id":"x","a":2"#,
        r#""a":1,"a":2,"id":"x""#,
    ] {
        assert!(!part(&format!("{changed},{DATES}")), "{changed}");
        assert!(!part(&format!("{DATES},{changed}")), "{changed}");
    }
}

#[test]
fn the_kind_follows_the_type_or_else_the_other_members() {
    for (members, kind) in [
        (r#""type":"singleInstance""#, EventKind::Single),
        (r#""type":"seriesMaster""#, EventKind::Master),
        (r#""type":"occurrence","seriesMasterId":"m""#, EventKind::Occurrence),
        (r#""type":"exception","seriesMasterId":"m""#, EventKind::Exception),
        (r#""type":"exception""#, EventKind::Single),
        (r#""seriesMasterId":"m","recurrence":null"#, EventKind::Occurrence),
        (r#""seriesMasterId":null,"recurrence":{}"#, EventKind::Master),
        (r#""seriesMasterId":"","recurrence":null"#, EventKind::Single),
        (r#""type":null"#, EventKind::Single),
        (r#""type":"somethingNew","seriesMasterId":"m""#, EventKind::Occurrence),
        (r#""@removed":null"#, EventKind::Single),
    ] {
        assert_eq!(item(&format!(r#""id":"x",{members}"#)).kind, kind, "{members}");
    }
}

#[test]
fn the_availability_of_an_item_is_read() {
    let of = |members: &str| item(&format!(r#""id":"x"{members}"#)).availability;
    let oof = Availability { show_as: ShowAs::Oof, cancelled: true };
    assert_eq!(of(r#","isCancelled":true,"showAs":"oof""#), Some(oof));
    assert_eq!(of(""), None);
}

#[test]
fn an_exception_is_full_if_it_has_a_subject_even_null() {
    let exception = r#""id":"x","type":"exception","seriesMasterId":"m""#;
    assert!(!item(exception).full);
    assert!(item(&format!(r#"{exception},"subject":null"#)).full);
}

#[test]
fn an_event_across_a_clock_change_does_not_end_before_it_starts() {
    let local =
        |time: &str| format!(r#"{{"dateTime":"2026-10-25T{time}","timeZone":"Europe/Berlin"}}"#);
    let (start, end) = (local("02:45:00"), local("02:15:00"));
    let Span { start, end } =
        items(&format!(r#"{{"id":"x","start":{start},"end":{end}}}"#)).present[0].span;
    assert_eq!(end.duration_since(start).as_mins(), 30);
}

#[test]
fn unreadable_items_are_named_and_skipped() {
    let some_id = r#""id":"x""#;
    for (item, expected) in [
        ("7".to_owned(), "the item is not an object"),
        ("[{}]".into(), "the item is not an object"),
        ("null".into(), "the item is not an object"),
        ("-1.5e3".into(), "the item is not an object"),
        (r#""x\n""#.into(), "the item is not an object"),
        ("{}".into(), "id is missing or not a string"),
        (r#"{"id":7}"#.into(), "id is missing or not a string"),
        (r#"{"id":"","@removed":{}}"#.into(), "id is missing or not a string"),
        (r#"{"id":"\ud800"}"#.into(), "id is missing or not a string"),
        (format!("{{{some_id}}}"), "start is missing or not a valid date"),
        (
            format!(r#"{{{some_id},{DATES},"end":{{"dateTime":"soon","timeZone":"UTC"}}}}"#),
            "end is missing or not a valid date",
        ),
        (
            format!(
                r#"{{{some_id},{DATES},"start":{{"dateTime":"2027-01-01","timeZone":"UTC"}}}}"#
            ),
            "end is before start",
        ),
        (format!(r#"{{{some_id},{DATES},"type":7}}"#), "type is not a string"),
        (format!(r#"{{{some_id},{DATES},"isAllDay":"yes"}}"#), "isAllDay is not a boolean"),
        (format!(r#"{{{some_id},{DATES},"seriesMasterId":[]}}"#), "seriesMasterId is not a string"),
        (format!(r#"{{{some_id},{DATES},"@odata.etag":1}}"#), "@odata.etag is not a string"),
        (
            format!(r#"{{{some_id},{DATES},"type":"occurrence"}}"#),
            "an occurrence without seriesMasterId",
        ),
        (
            format!(r#"{{{some_id},{DATES},"x":{}1{}}}"#, "[".repeat(101), "]".repeat(101)),
            "the item is nested too deeply",
        ),
        (
            format!(
                "{{{some_id}{}}}",
                (0..1000).map(|n| format!(r#","{n}":0"#)).collect::<String>()
            ),
            "the item has too many members",
        ),
    ] {
        assert_eq!(why(&item), expected, "{item}");
        // Its neighbours are not affected.
        let page = items(&format!(r#"{{"id":"1","@removed":{{}}}},{item},{{"id":"2",{DATES}}}"#));
        assert_eq!((page.present.len(), page.removed.len(), page.unreadable.len()), (1, 1, 1));
    }
    let page = items(r#"{"id":"x"}"#);
    assert_eq!(page.unreadable[0].id, Some(EventId::new("x")));
}

#[test]
fn a_master_needs_no_valid_dates() {
    let page = items(
        r#"{"id":"m","type":"seriesMaster","start":{"dateTime":"2026-03-02T08:00:00","timeZone":"tzone://Microsoft/Custom"}}"#,
    );
    assert_eq!(page.present.len(), 1);
}

#[test]
fn an_event_may_have_zero_length() {
    assert!(items(r#"{"id":"x","start":{"dateTime":"2026-03-02","timeZone":"UTC"},"end":{"dateTime":"2026-03-02","timeZone":"UTC"}}"#).unreadable.is_empty());
}

#[test]
fn brackets_inside_strings_do_not_count_as_nesting() {
    let brackets = r#"\"[{"#.repeat(500);
    let item = item(&format!(r#""id":"x","body":{{"content":"{brackets}"}}"#));
    assert_eq!(value(&item)["body"]["content"], r#""[{"#.repeat(500));
}

#[test]
fn an_unpaired_surrogate_is_replaced_and_the_event_is_read() {
    for (sent, kept) in [
        (r"cut \ud83d", "cut \u{fffd}"),
        (r"\ud83d\ud83d\udd25", "\u{fffd}\u{1f525}"),
        (r"\udd25\ud83d", "\u{fffd}\u{fffd}"),
        (r"\ud83d\\udd25", "\u{fffd}\\udd25"),
        (r"\\ud83d \\\ud83d", "\\ud83d \\\u{fffd}"),
        (r"\uD83D\uDD25 \u2013 \n\/", "\u{1f525} \u{2013} \n/"),
    ] {
        let item = item(&format!(r#""id":"x","subject":"{sent}""#));
        assert_eq!(value(&item)["subject"], kept, "{sent}");
    }
}

#[test]
fn an_invalid_character_is_replaced_alone() {
    let mut bytes = format!(
        r#"{{"value":[{{"id":"x","subject":"a?b",{DATES}}}],"@odata.deltaLink":"https://x/d"}}"#
    )
    .into_bytes();
    let at = bytes.iter().position(|b| *b == b'?').unwrap();
    bytes[at] = 0xff;
    let page = page(&bytes.into(), BodyFormat::Html).unwrap();
    assert_eq!(value(&page.present[0])["subject"], "a\u{fffd}b");
}

#[test]
fn a_listing_needs_no_link_and_contains_full_occurrences() {
    let text = format!(
        r#"{{"value":[{{"id":"o","type":"occurrence",{DATES}}},7,{{"id":"e","type":"exception","seriesMasterId":"m","subject":"s",{DATES}}}]}}"#
    );
    let listing = listing(&text.clone().into(), BodyFormat::Html).unwrap();
    assert_eq!(listing.next, None);
    assert_eq!(listing.unreadable.len(), 1);
    let seen: Vec<_> = listing.items.iter().map(|i| (i.id.as_str(), i.kind, i.full)).collect();
    assert_eq!(seen, [("o", EventKind::Occurrence, true), ("e", EventKind::Exception, true)]);
    let more = text.replacen('{', r#"{"@odata.nextLink":"https://x/n","#, 1);
    assert_eq!(
        super::listing(&more.into(), BodyFormat::Html).unwrap().next,
        Some(Link::new("https://x/n"))
    );
}

#[test]
fn a_single_event_response_is_read_like_a_listed_event() {
    let text = format!(
        r#"{{"@odata.context":"x","id":"m","type":"seriesMaster","recurrence":{{}},{DATES}}}"#
    );
    let event_of = |text: &str| event(&Bytes::copy_from_slice(text.as_bytes()), BodyFormat::Html);
    let master = event_of(&text).unwrap();
    assert_eq!(master.kind, EventKind::Master);
    assert!(master.content.starts_with(br#"{"id""#));
    for bad in ["", "[]", "{}", r#"{"id":"x","@removed":{}}"#, r#"{"id":"x"}"#, "{} {}"] {
        assert!(event_of(bad).is_err(), "{bad}");
    }
}

#[test]
fn debug_output_hides_links_and_contents() {
    let page = items(&format!(r#"{{"id":"x","subject":"canary",{DATES}}}"#));
    assert!(!format!("{page:?}").contains("canary"));
    let page = read(DELTA_PAGE).unwrap();
    assert!(!format!("{page:?}").contains("next-7f3a"));
}

/// JSON values of every shape, including strings with awkward characters.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        Just(json!({"dateTime": "2026-03-02T08:00:00.0000000", "timeZone": "UTC"})),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "id",
            "type",
            "seriesMasterId",
            "recurrence",
            "start",
            "end",
            "isAllDay",
            "subject",
            "@odata.etag",
            "@odata.type",
            "@removed",
            "body",
            "value",
            "dateTime",
            "timeZone",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let bytes = Bytes::from(bytes);
        // Any result is fine.
        let _ = (page(&bytes, BodyFormat::Html).is_ok(), listing(&bytes, BodyFormat::None).is_ok(), event(&bytes, BodyFormat::Text).is_ok());
    }

    #[test]
    fn damaged_pages_do_not_panic(at in 0..DELTA_PAGE.len(), with in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = DELTA_PAGE.as_bytes().to_vec();
        if cut { bytes.truncate(at) } else { bytes[at] = with }
        let bytes = Bytes::from(bytes);
        if let Ok(page) = page(&bytes, BodyFormat::Html) {
            for item in &page.present {
                prop_assert!(serde_json::from_slice::<Value>(&item.content).is_ok());
            }
        }
    }

    #[test]
    fn every_item_is_accounted_for_and_unchanged(
        values in prop::collection::vec(any_json(), 0..12),
    ) {
        let text = json!({"value": values, "@odata.nextLink": "https://x/n"}).to_string();
        let page = read(&text).unwrap();
        let mut ids: Vec<_> = page.present.iter().map(|i| &i.id).chain(&page.removed).collect();
        ids.sort();
        prop_assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "an id occurs twice");
        prop_assert!(ids.len() + page.unreadable.len() <= values.len());
        for item in &page.present {
            let sent = values.iter().rev().find(|v| v["id"] == item.id.as_str()).unwrap();
            let mut kept = sent.as_object().unwrap().clone();
            kept.retain(|name, _| name == "@odata.etag" || (!name.contains("@odata.") && name != "@removed"));
            prop_assert_eq!(value(item), Value::Object(kept));
        }
    }

    #[test]
    fn member_names_with_escapes_are_deduplicated(text in ".*") {
        let name = serde_json::to_string(&text).unwrap();
        prop_assume!(!["id", "start", "end", "type", "isAllDay", "seriesMasterId", "@odata.etag"].contains(&text.as_str()));
        prop_assume!(!text.contains("@odata.") && text != "@removed");
        let item = item(&format!(r#""id":"x",{name}:null,{name}:[1, 2]"#));
        let value = value(&item);
        prop_assert_eq!(&value[&text], &json!([1, 2]));
        prop_assert_eq!(value.as_object().unwrap().len(), 4);
    }
}

/// `cargo test --release -- --ignored a_page_is_read_fast`: at most twice the time of plain
/// parsing.
#[test]
#[ignore = "measures; only means something in an optimised build on a quiet machine"]
fn a_page_is_read_fast() {
    let template = serde_json::from_str::<Value>(DELTA_PAGE).unwrap();
    let mut values = Vec::new();
    for n in 0..400 {
        let mut item = template["value"][n % 4].clone();
        item["id"] = json!(format!("event-{n:0120}"));
        if n % 4 == 0 {
            item["body"]["content"] = json!("<p class=\"x\">words and words</p>\r\n".repeat(150));
            for extra in 0..25 {
                item[format!("member{extra}")] = json!({"a": extra, "b": "some text", "c": null});
            }
        }
        values.push(item);
    }
    let text = json!({"value": values, "@odata.nextLink": "https://x/n"}).to_string();
    let bytes = Bytes::from(text);
    let best = |work: &dyn Fn()| {
        (0..20)
            .map(|_| {
                let began = tokio::time::Instant::now();
                work();
                began.elapsed()
            })
            .min()
            .unwrap()
    };
    let plain = best(&|| drop(serde_json::from_slice::<Value>(&bytes).unwrap()));
    let ours = best(&|| drop(page(&bytes, BodyFormat::Html).unwrap()));
    assert!(ours < plain * 2, "{ours:?} for {} bytes, plainly {plain:?}", bytes.len());
}
