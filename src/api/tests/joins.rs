//! Snapshot and feed join without gap or repetition, however reads and writes interleave.

use proptest::prelude::*;

use super::*;

/// A step between two reads.
#[derive(Clone, Debug)]
enum Action {
    /// An event gets this day and this subject.
    Put { id: u8, day: u8, subject: u8 },
    /// The event is removed.
    Remove { id: u8 },
    /// The next page of the snapshot is read, or of the feed after the snapshot's end.
    Page,
    /// After the snapshot's end a page of the feed is read.
    Restful,
}

fn steps() -> impl Strategy<Value = Vec<Action>> {
    let step = prop_oneof![
        5 => (0..12_u8, 0..20_u8, 0..4_u8).prop_map(|(id, day, subject)| Action::Put { id, day, subject }),
        2 => (0..12_u8).prop_map(|id| Action::Remove { id }),
        4 => Just(Action::Page),
        1 => Just(Action::Restful),
    ];
    proptest::collection::vec(step, 1..60)
}

fn event(id: u8, day: u8, subject: u8) -> Value {
    let moment = |hour: u8| json!({"dateTime": format!("2026-11-{:02}T{hour:02}:00:00", day + 1), "timeZone": "UTC"});
    json!({"id": format!("e{id}"), "subject": format!("s{subject}"), "start": moment(9), "end": moment(10)})
}

async fn run(steps: Vec<Action>, limit: usize) {
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let mut truth = Mirror::new();
    let (mut mirror, mut page, mut cursor) = (Mirror::new(), None::<String>, None::<String>);
    let mut over = false;
    let mut seen = Vec::new();
    for step in steps.into_iter().chain(std::iter::repeat_n(Action::Page, 200)) {
        match step {
            Action::Put { id, day, subject } => {
                let event = event(id, day, subject);
                truth.insert(format!("e{id}"), event.clone());
                fixture.put(alice, &[event]).await;
            }
            Action::Remove { id } => {
                if truth.remove(&format!("e{id}")).is_some() {
                    fixture.write(alice, &[], &[&format!("e{id}")]).await;
                }
            }
            Action::Page if !over => {
                let more = page.as_ref().map_or(String::new(), |page| format!("&page={page}"));
                let list =
                    fixture.get(&format!("/v1/windows/alice/events?limit={limit}{more}")).await;
                for event in list["value"].as_array().unwrap() {
                    let key = (event["start"]["dateTime"].to_string(), event["id"].to_string());
                    seen.push(key);
                    mirror.insert(event["id"].as_str().unwrap().to_owned(), event.clone());
                }
                let given = list["cursor"].as_str().unwrap().to_owned();
                assert_eq!(*cursor.get_or_insert_with(|| given.clone()), given);
                page = list["next"].as_str().map(str::to_owned);
                over = page.is_none();
            }
            Action::Page | Action::Restful if over => {
                let after = cursor.clone().unwrap();
                let uri = format!("/v1/changes?window=alice&limit={limit}&after={after}");
                let (lines, next) = fixture.changes(&uri).await;
                apply(&mut mirror, &lines);
                cursor = Some(next);
            }
            Action::Page | Action::Restful => {}
        }
    }
    assert!(seen.is_sorted(), "pages are out of order: {seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(mirror, truth);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn pages_and_later_changes_reproduce_the_mirror_at_any_interleaving(steps in steps(), limit in 1..5_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps, limit));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_receives_every_change_or_an_error() {
    // Trimming runs beside readers: a reader that gets a response has missed nothing.
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    let mut truth = Mirror::new();
    let mut readers: Vec<(Mirror, String)> = Vec::new();
    let (mut refused, mut answered) = (0, 0);
    for round in 0..60_u8 {
        let id = round % 7;
        let event = event(id, round % 20, round % 4);
        truth.insert(format!("e{id}"), event.clone());
        fixture.put(alice, &[event]).await;
        let gone = format!("e{}", (round * 3) % 7);
        if truth.remove(&gone).is_some() {
            fixture.write(alice, &[], &[&gone]).await;
        }
        let (lines, cursor) = fixture.changes("/v1/changes").await;
        let mut mirror = Mirror::new();
        apply(&mut mirror, &lines);
        readers.push((mirror, cursor));
        tokio::time::advance(Duration::from_secs(60)).await;
        // Only tombstones older than five rounds are trimmed.
        let before = fixture.env.now() - jiff::SignedDuration::from_secs(300);
        let trim = fixture.store.trim(before);
        let at = usize::from(round) * 7 % readers.len();
        let uri = format!("/v1/changes?after={}", readers[at].1);
        let (trimmed, (status, headers, body)) = tokio::join!(trim, fixture.ask("GET", &uri));
        trimmed.unwrap();
        if status == StatusCode::GONE {
            refused += 1;
            continue;
        }
        answered += 1;
        let lines: Vec<Value> =
            body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (mirror, cursor) = &mut readers[at];
        apply(mirror, &lines);
        *cursor = headers["x-calmirror-cursor"].to_str().unwrap().to_owned();
        assert_eq!(*mirror, truth, "reader {at} in round {round}");
    }
    assert!(refused > 0 && answered > 10, "{refused} refused, {answered} answered");
}
