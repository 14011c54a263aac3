//! `beside`: another build of calmirror and this one mirror the same calendars and answer the same
//! requests, in turn. Only if named, with the path of the other program.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use crate::daemon::{Daemon, Setup, directory, own};
use crate::feed;
use crate::graph::Graph;
use crate::query;
use crate::table::{Row, Table, ms, note, quantile};

/// The name to select this figure by.
pub(crate) const NAME: &str = "beside";
/// The variable with the path of the other program.
const PROGRAM_VARIABLE: &str = "CALMIRROR_FIGURES_BESIDE";
/// Windows of as many events as the store of `query` has in each.
const WINDOWS: usize = 10;
/// How often each is measured.
const TURNS: usize = 9;
/// Days from the start of the windows to a time when they have events.
const FIRST_DAY: i64 = 175;

/// One of the two, with what was measured of it.
struct Build {
    directory: TempDir,
    daemon: Daemon,
    catch_up: Vec<f64>,
    month: Vec<Duration>,
    day: Vec<Duration>,
    /// The daemon's processor time for all of each.
    cpu: [Duration; 3],
}

pub(crate) async fn run(table: &mut Table) {
    let Some(other) = std::env::var_os(PROGRAM_VARIABLE) else {
        note(format_args!("{NAME}: {PROGRAM_VARIABLE} is not set"));
        return;
    };
    let graph = Graph::start(WINDOWS).await;
    graph.populate(query::EVENTS);
    let origin = graph.origin();
    let mut builds = Vec::new();
    for program in [own(), Path::new(&other)] {
        builds.push(mirror(program, &origin).await);
    }
    let (mut lines, mut rows) = (0, [0; 2]);
    for turn in 0..=TURNS {
        for build in &mut builds {
            let daemon = &build.daemon;
            let began = daemon.cpu();
            let (entries, _, took) = feed::whole(daemon, |_| {});
            let caught_up = daemon.cpu();
            let (in_month, month) = query::ask(daemon, WINDOWS, (|_| FIRST_DAY, 30), 5);
            let months = daemon.cpu();
            let (in_day, day) = query::ask(daemon, WINDOWS, (|_| FIRST_DAY, 1), 20);
            let took_cpu = [caught_up - began, months - caught_up, daemon.cpu() - months];
            if turn > 0 {
                // The first turn filled the caches.
                assert_eq!((entries, [in_month, in_day]), (lines, rows), "both have the same");
                build.catch_up.push(entries as f64 / took.as_secs_f64());
                build.month.extend(month);
                build.day.extend(day);
                build.cpu.iter_mut().zip(took_cpu).for_each(|(all, took)| *all += took);
            }
            (lines, rows) = (entries, [in_month, in_day]);
        }
    }
    let [own, other] = [0, 1].map(|build: usize| &builds[build]);
    let cpu = |what: usize, times: usize| {
        [own, other].map(|build| format!("CPU {:.2} ms", ms(build.cpu[what]) / times as f64))
    };
    let [(fast, text), (beside, other_text)] = [own, other].map(|build| rates(&build.catch_up));
    let [own_cpu, other_cpu] = cpu(0, TURNS);
    table.row(Row {
        figure: format!("{NAME}: catch-up, {lines} entries"),
        measured: format!("{text}, {own_cpu}"),
        baseline: format!("other build {other_text}, {other_cpu}"),
        ratio: Some(fast / beside),
        limit: "≥ 1".to_owned(),
        kept: Some(fast >= beside),
    });
    for (at, what, rows, own, other) in [
        (1, "a month", rows[0], &own.month, &other.month),
        (2, "a day", rows[1], &own.day, &other.day),
    ] {
        let [own_cpu, other_cpu] = cpu(at, own.len());
        let [(half, text), (beside, other_text)] = [own, other].map(|took| times(took));
        table.row(Row {
            figure: format!("{NAME}: {what}, {rows} rows, warm, p50/p99"),
            measured: format!("{text}, {own_cpu}"),
            baseline: format!("other build {other_text}, {other_cpu}"),
            ratio: Some(half / beside),
            limit: "≤ 1".to_owned(),
            kept: Some(half <= beside),
        });
    }
    for build in builds {
        build.daemon.stop().await;
        drop(build.directory);
    }
}

/// A daemon of a program that has mirrored every calendar and has nothing more to do.
async fn mirror(program: &Path, origin: &str) -> Build {
    let directory = directory();
    let setup =
        Setup { origin: origin.to_owned(), mailboxes: WINDOWS, interval: "7d", page_size: 200 };
    let mut daemon = Daemon::start_program(program, directory.path(), &setup).await;
    daemon.settle(Duration::from_millis(100)).await;
    // What a daemon does for its rows as a whole, it does at a start or ten minutes later.
    daemon.stop().await;
    let daemon = Daemon::start_program(program, directory.path(), &setup).await;
    // A build that is never idle is measured as it is.
    let rests = timeout(Duration::from_secs(180), daemon.rest()).await;
    let how = if rests.is_ok() { "rests" } else { "is still busy" };
    note(format_args!("{NAME}: {} {how}", program.display()));
    Build {
        directory,
        daemon,
        catch_up: Vec::new(),
        month: Vec::new(),
        day: Vec::new(),
        cpu: [Duration::ZERO; 3],
    }
}

/// The median of rates, and a text with the lowest and the highest.
fn rates(rates: &[f64]) -> (f64, String) {
    let mut sorted = rates.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let [low, half, high] = [0.0, 0.5, 1.0].map(|share| quantile(&sorted, share).unwrap());
    (half, format!("{half:.0}/s ({low:.0} to {high:.0})"))
}

/// The median of times in milliseconds, and a text with the 99th percentile.
fn times(took: &[Duration]) -> (f64, String) {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    let [half, slow] = [0.5, 0.99].map(|share| ms(quantile(&sorted, share).unwrap()));
    (half, format!("{half:.2}/{slow:.2} ms"))
}
