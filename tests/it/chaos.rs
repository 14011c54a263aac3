//! Days in simulated time under every known behaviour of Graph, by seed.
//!
//! `cargo test --test chaos` plays 100 seeds. A longer run is `cargo test --release --test chaos --
//! --seeds 10000`. A failing seed is printed, and `cargo test --test chaos -- --seed 17` replays it
//! exactly: time and randomness are simulated, and the store completes each job before any other
//! task runs. The first seeds are played twice to verify this. `RUST_LOG=calmirror=debug` logs the
//! details.
//!
//! `--digests FILE` writes a line for each seed with a hash of its requests, its feed and its final
//! events: two builds that behave alike write the same file.
//!
//! The harness is custom because the seed is an argument and seeds run in parallel.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a harness prints to its terminal")]

mod chaos {
    pub(crate) mod day;
    mod follower;
    mod organisation;
}
#[expect(dead_code, reason = "shared with the other tests")]
mod compare;
mod memory;
#[expect(dead_code, reason = "shared with the other tests")]
mod rig;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use chaos::day;

/// The number of seeds in a plain `cargo test`.
const SEEDS: u64 = 100;
/// The number of seeds that are played twice.
const TWICE: u64 = 3;

/// The seeds to play.
#[derive(Debug, PartialEq)]
struct Plan {
    first: u64,
    seeds: u64,
    threads: usize,
    digests: Option<PathBuf>,
}

/// The reason for playing no seed.
#[derive(Debug, PartialEq)]
enum NoPlan {
    /// Only the name is requested, as test runners do.
    List,
    /// Other tests are requested.
    Nothing,
    /// The arguments are invalid.
    Usage(String),
}

fn plan(mut arguments: impl Iterator<Item = String>) -> Result<Plan, NoPlan> {
    // One thread more than processors, because threads wait for the disk.
    let threads = thread::available_parallelism().map_or(2, |n| n.get() + 1);
    let mut plan = Plan { first: 1, seeds: SEEDS, threads, digests: None };
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let text = arguments.next().unwrap_or_default();
            text.parse::<u64>().map_err(|_| NoPlan::Usage(format!("{argument} needs a number")))
        };
        match argument.as_str() {
            "--seeds" => plan.seeds = number()?,
            "--first" => plan.first = number()?,
            "--seed" => (plan.first, plan.seeds) = (number()?, 1),
            "--threads" => plan.threads = usize::try_from(number()?).unwrap_or(1).max(1),
            "--digests" => plan.digests = arguments.next().map(PathBuf::from),
            "--list" => return Err(NoPlan::List),
            "--ignored" => return Err(NoPlan::Nothing),
            // Options that test runners pass to every test.
            "--test-threads" | "--format" | "--color" | "--skip" => drop(arguments.next()),
            "--exact" | "--nocapture" | "--no-capture" | "--quiet" | "-q" | "--include-ignored"
            | "--show-output" => {}
            other if other.starts_with('-') && !other.contains('=') => {
                return Err(NoPlan::Usage(format!("unknown option {other}")));
            }
            filter if !filter.starts_with('-') && !"chaos".contains(filter) => {
                return Err(NoPlan::Nothing);
            }
            _ => {}
        }
    }
    Ok(plan)
}

/// Plays a seed on a thread of that name. Returns the result, or `None` if it failed.
fn play(seed: u64) -> Option<day::SeedOutcome> {
    let playing = thread::Builder::new().name(format!("seed {seed}")).spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(day::live(seed))
    });
    playing.unwrap().join().ok()
}

fn main() -> ExitCode {
    let plan = match plan(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(NoPlan::List) => {
            println!("chaos: test");
            return ExitCode::SUCCESS;
        }
        Err(NoPlan::Nothing) => return ExitCode::SUCCESS,
        Err(NoPlan::Usage(why)) => {
            eprintln!(
                "{why}; known options: --seeds N, --first N, --seed N, --threads N, --digests FILE"
            );
            return ExitCode::from(64);
        }
    };
    if let Ok(filter) = std::env::var("RUST_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    let end = plan.first + plan.seeds;
    println!("chaos: {} seeds from {} on {} threads", plan.seeds, plan.first, plan.threads);
    let next = AtomicU64::new(plan.first);
    let done = AtomicU64::new(0);
    let sum = Mutex::new(day::SeedOutcome::default());
    let failed: Mutex<Vec<u64>> = Mutex::default();
    let digests: Mutex<BTreeMap<u64, u64>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..plan.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = play(seed);
                    let twice = seed - plan.first < TWICE;
                    let again = if twice { play(seed) } else { outcome.clone() };
                    match (outcome, again) {
                        (Some(outcome), Some(again)) if outcome == again => {
                            sum.lock().unwrap().add(&outcome);
                            digests.lock().unwrap().insert(seed, outcome.digest);
                        }
                        (outcome, again) => {
                            if outcome.is_some() && again.is_some() {
                                eprintln!(
                                    "seed {seed} is not reproducible: {outcome:?}, {again:?}"
                                );
                            }
                            eprintln!(
                                "seed {seed} failed; replay it: \
                                 cargo test --test chaos -- --seed {seed}"
                            );
                            failed.lock().unwrap().push(seed);
                        }
                    }
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done.is_multiple_of((plan.seeds / 10).max(20)) {
                        println!("chaos: {done} of {} seeds", plan.seeds);
                    }
                }
            });
        }
    });
    println!("chaos: {}", sum.into_inner().unwrap());
    if let Some(file) = plan.digests {
        let digests = digests.into_inner().unwrap();
        let lines: String =
            digests.iter().map(|(seed, digest)| format!("{seed} {digest:016x}\n")).collect();
        std::fs::write(file, lines).unwrap();
    }
    let failed = failed.into_inner().unwrap();
    if failed.is_empty() {
        println!("chaos: {} of {} seeds passed", plan.seeds, plan.seeds);
        return ExitCode::SUCCESS;
    }
    println!("chaos: {} of {} seeds failed: {failed:?}", failed.len(), plan.seeds);
    ExitCode::FAILURE
}
