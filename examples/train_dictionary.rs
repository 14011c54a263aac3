//! Trains the dictionary that calmirror ships for the contents of its store.
//!
//! ```text
//! cargo run --release --example train_dictionary -- events.zstd
//! ```
//!
//! The samples are events of the simulated Graph and those of Microsoft's documentation, so no
//! private data. Stores name the shipped dictionary by number: a better one gets another number and
//! is added to `src/store/dictionary.rs`, the old one stays.
#![allow(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::time::Duration;

use calmirror::env::Env;
use calmirror::simulator::{Behaviour, SimulateArgs, Simulation};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The most bytes of the dictionary. A larger one takes longer to prepare and gains little.
const SIZE: usize = 64 << 10;
/// Events whose content is as in Microsoft's documentation.
const DOCUMENTED: [&str; 3] = [
    include_str!("../tests/fixtures/graph/delta_page.json"),
    include_str!("../tests/fixtures/article/page1_nextlink.json"),
    include_str!("../tests/fixtures/question/page.json"),
];

#[derive(Deserialize)]
struct EventPage {
    value: Vec<Box<RawValue>>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: train_dictionary FILE")?;
    let graph = SimulateArgs {
        listen: ([127, 0, 0, 1], 0).into(),
        seed: 1,
        people: 40,
        rooms: 10,
        mutate_every: Duration::ZERO,
        faults: 0.0,
        behaviour: Behaviour::calm(),
        latency: Duration::ZERO,
    };
    let graph = Simulation::start(graph, Env::real()).await?;
    let (address, simulator) = (graph.address(), graph.simulator().clone());
    tokio::spawn(graph.run(std::future::pending()));

    let now = jiff::Timestamp::now();
    let day = |days: i64| now + jiff::SignedDuration::from_hours(24 * days);
    let client = reqwest::Client::new();
    let mut samples = Vec::new();
    for mailbox in simulator.mailboxes() {
        for format in ["html", "text"] {
            let mut next = Some(format!(
                "http://{address}/v1.0/users/{mailbox}/calendarView?\
                 startDateTime={}&endDateTime={}",
                day(-60),
                day(120)
            ));
            while let Some(url) = next {
                let page = client
                    .get(url)
                    .bearer_auth(simulator.access_token())
                    .header("prefer", format!("outlook.body-content-type=\"{format}\""))
                    .send()
                    .await?
                    .error_for_status()?
                    .bytes()
                    .await?;
                let page: EventPage = serde_json::from_slice(&page)?;
                samples.extend(page.value.iter().map(|event| event.get().to_owned()));
                next = page.next;
            }
        }
    }
    println!("{} simulated events", samples.len());
    for page in DOCUMENTED {
        let page: EventPage = serde_json::from_str(page)?;
        // Counted more often: there are few, and they are what Graph really sends.
        for event in &page.value {
            samples.extend(std::iter::repeat_n(event.get().to_owned(), 20));
        }
    }
    let dictionary = zstd::dict::from_samples(&samples, SIZE)?;
    println!("{} samples, dictionary of {} bytes", samples.len(), dictionary.len());
    std::fs::write(file, dictionary)?;
    Ok(())
}
