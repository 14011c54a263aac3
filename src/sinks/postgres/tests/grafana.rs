//! The queries of the dashboard in the documentation.

use serde_json::Value;

use super::*;
use crate::mirror::fleet::Place;
use crate::store::Change;

const DASHBOARD: &str = include_str!("../../../../docs/grafana/calmirror.json");
const DATA_SOURCE: &str = include_str!("../../../../docs/grafana/datasource.yml");

/// A query with the macros replaced as Grafana does, for a time range.
fn with_range(query: &str, (from, to): (&str, &str)) -> String {
    let query = query.replace("$__timeFrom()", from).replace("$__timeTo()", to);
    let mut parts = query.split("$__timeFilter(");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (column, rest) = part.split_once(')').unwrap();
        text += &format!("{column} BETWEEN {from} AND {to}{rest}");
    }
    assert!(!text.contains("$__"), "{text}");
    text
}

/// An event at times of SQL, such as `now()`.
async fn event(
    fixture: &SchemaFixture,
    (window, subject): (&str, &str),
    (from, to): (&str, &str),
    show_as: &str,
) -> Change {
    let time = |sql: &str| format!("to_char({sql}, 'YYYY-MM-DD\"T\"HH24:MI:SS')");
    let times = fixture.query(&format!("SELECT {}, {}", time(from), time(to))).await;
    let (from, to) = times[0].split_once('|').unwrap();
    let zone = "UTC";
    let json = serde_json::json!({
        "subject": subject,
        "showAs": show_as,
        "start": { "dateTime": from, "timeZone": zone },
        "end": { "dateTime": to, "timeZone": zone },
        "organizer": { "emailAddress": { "name": "Bob" } },
    });
    change(window, subject, Some(&json.to_string()))
}

/// A row without its times, and without the zeros at the end of numbers.
fn without_times(row: &str) -> String {
    let columns = row.split('|').filter(|column| !column.ends_with("+00"));
    let short = |column: &str| match column.contains('.') {
        true => column.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => column.to_owned(),
    };
    columns.map(short).collect::<Vec<_>>().join("|")
}

#[tokio::test]
async fn the_queries_of_the_dashboard_find_what_they_say() {
    with_schema(async |fixture| {
        // Days that are over, so that the hour of the test does not matter.
        let at = |day: u8, hour: u8| {
            format!("date_trunc('day', now()) - interval '{day} days' + interval '{hour} hours'")
        };
        let days = [(at(2, 9), at(2, 10)), (at(3, 9), at(3, 11))];
        let [two_days_ago, three_days_ago] =
            days.each_ref().map(|(from, to)| (from.as_str(), to.as_str()));
        let soon = ("now() + interval '2 hours'", "now() + interval '3 hours'");
        let running = ("now() - interval '1 hour'", "now() + interval '1 hour'");
        let mut batch = live(
            vec![
                event(fixture, ("room-1", "Review"), running, "busy").await,
                event(fixture, ("room-2", "Standup"), two_days_ago, "busy").await,
                event(fixture, ("room-2", "Lunch"), running, "free").await,
                event(fixture, ("alice", "Review"), running, "busy").await,
                event(fixture, ("alice", "Planning"), soon, "tentative").await,
                event(fixture, ("alice", "Standup"), two_days_ago, "busy").await,
                event(fixture, ("alice", "Trip"), three_days_ago, "oof").await,
            ],
            &["room-1", "room-2", "alice"],
        );
        for window in &mut batch.windows[..2] {
            let building = Some("Main".into());
            window.place = Some(Place { building, floor: None, capacity: Some(8) });
        }
        let mut target = fixture.target();
        target.open(None).await.unwrap();
        target.deliver(&batch).await.unwrap();

        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut found = Vec::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let [target] = panel["targets"].as_array().unwrap().as_slice() else { panic!() };
            let uid = target["datasource"]["uid"].as_str().unwrap();
            assert!(DATA_SOURCE.contains(&format!("uid: {uid}\n")));
            assert_eq!(panel["datasource"], target["datasource"]);
            let query = target["rawSql"].as_str().unwrap();
            let to = match target["format"].as_str().unwrap() {
                "time_series" => at(1, 0),
                _ => "now() + interval '7 days'".to_owned(),
            };
            let rows = fixture.query(&with_range(query, ("now() - interval '7 days'", &to))).await;
            let rows: Vec<String> = rows.iter().map(|row| without_times(row)).collect();
            found.push(format!("{}: {}", panel["title"].as_str().unwrap(), rows.join(", ")));
        }
        assert_eq!(
            found,
            [
                "Rooms: 1|1",
                "Rooms in use now: room-1|Main|-|8|busy",
                "Meetings per day: 1, 2",
                "Hours taken: alice|6, room-1|2, room-2|1",
                "Next meetings: alice|Planning|Bob|-|-",
            ]
        );
    })
    .await;
}
