//! `GET /metrics`: the counters of all modules and a survey of the fleet, as Prometheus text.
//!
//! The set of series is the same from the first scrape on, whatever happens and however many
//! windows there are: no label value comes from outside but the names of fleets and sinks.
//! Gauges over windows are computed at each scrape, so that nothing is kept per window.
//! `docs/monitoring/README.md` describes the metrics and what to watch.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::BuildInfo;
use super::extract::ApiRequest;
use super::fleets::FleetStatusJson;
use super::problem::Problem;
use super::sink_status::SinkStatusJson;
use crate::metrics::Metrics;
use crate::mirror::change::Seq;
use crate::mirror::status::WindowState;
use crate::platform::resources::{Resources, resources};
use crate::reload::{LastReload, ReloadCounts, ReloadOutcome};
use crate::store::Footprint;
use crate::worker::WindowSummary;

/// The text format that every scraper reads.
const KIND: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Upper bounds of the staleness histogram, seconds: from the shortest interval to a week.
const STALENESS_BOUNDS: [f64; 11] =
    [10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0, 604_800.0];

/// The value of a gauge of a `[[fleet]]`.
type FleetGauge = fn(&FleetStatusJson) -> f64;

/// The gauges of each fleet: name, help and value.
const FLEET_GAUGES: [(&str, &str, FleetGauge); 7] = [
    ("calmirror_fleet_members", "Members at the last listing", |fleet| fleet.members as f64),
    ("calmirror_fleet_windows", "Windows of the members in force", |fleet| fleet.windows as f64),
    ("calmirror_fleet_without_mailbox", "Members whose mailbox is not in Exchange", |fleet| {
        fleet.without_mailbox as f64
    }),
    ("calmirror_fleet_faults", "Members without a window that should have one", |fleet| {
        fleet.faults as f64
    }),
    ("calmirror_fleet_failures", "Failed listings in a row", |fleet| fleet.failures.into()),
    ("calmirror_fleet_held", "Whether a listing waits for its confirmation", |fleet| {
        f64::from(fleet.held.is_some() || fleet.calendars_held.is_some())
    }),
    (
        "calmirror_fleet_last_listing_timestamp_seconds",
        "When it was listed last, in seconds since 1970; 0 before the first time",
        |fleet| fleet.listed_at.map_or(0.0, |at| at.as_duration().as_secs_f64()),
    ),
];

/// The value of a metric of a `[sink.NAME]`.
type SinkValue = fn(&SinkStatusJson) -> f64;

/// The gauges of each sink: name, help and value.
const SINK_GAUGES: [(&str, &str, SinkValue); 3] = [
    ("calmirror_sink_pending", "About how many entries of the feed are left to send", |sink| {
        sink.pending as f64
    }),
    (
        "calmirror_sink_behind_seconds",
        "Seconds since everything was sent; 0 if everything is",
        |sink| sink.behind_s,
    ),
    ("calmirror_sink_failing", "Whether the last attempt failed, or the sink stopped", |sink| {
        f64::from(matches!(&*sink.state, "waiting" | "stopped"))
    }),
];

/// `GET /metrics`.
pub(super) async fn read(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    let app = request.app;
    let seq = app.store.durable_seq();
    // The scrape must not fail if the operating system does not report it.
    let footprint = app.store.footprint().await.ok();
    let skew = app.metrics.graph.clock.check(app.env.now()).skew();
    let scrape = Scrape {
        fleet: FleetSurvey::of(&app.fleet.summaries()),
        fleets: app.fleets.fleets(),
        sinks: app.sinks.list(),
        metrics: app.metrics.clone(),
        about: app.build.clone(),
        reloads: app.reloads.counts(),
        reloaded: app.reloads.last(),
        queue: app.store.queue(),
        skew_s: skew.map_or(0.0, |skew| skew.as_secs_f64().round()),
        seq,
        footprint,
        resources: resources(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    // Writing to a String cannot fail.
    encode_registry(&mut text, &registry).ok();
    Ok(([(header::CONTENT_TYPE, KIND)], text).into_response())
}

/// Totals over the fleet.
#[derive(Debug)]
struct FleetSurvey {
    states: [u64; WindowState::ALL.len()],
    unhealthy: u64,
    unsettled: u64,
    events: u64,
    stale_max: f64,
    stale: Histogram,
}

impl FleetSurvey {
    fn of(windows: &[WindowSummary]) -> Self {
        let count = |counts: &dyn Fn(&WindowSummary) -> bool| {
            windows.iter().filter(|window| counts(window)).count() as u64
        };
        let stale = windows.iter().filter_map(|window| window.stale_s);
        let survey = Self {
            states: WindowState::ALL.map(|state| count(&|window| window.state == state)),
            unhealthy: count(&|window| !window.healthy),
            unsettled: count(&|window| !window.settled_once),
            events: windows.iter().map(|window| window.events).sum(),
            stale_max: stale.clone().fold(0.0, f64::max),
            stale: Histogram::new(STALENESS_BOUNDS),
        };
        stale.for_each(|seconds| survey.stale.observe(seconds));
        survey
    }
}

/// All values of one scrape.
#[derive(Debug)]
struct Scrape {
    fleet: FleetSurvey,
    fleets: Arc<[FleetStatusJson]>,
    sinks: Vec<SinkStatusJson>,
    metrics: Metrics,
    about: Arc<BuildInfo>,
    reloads: ReloadCounts,
    reloaded: Option<LastReload>,
    queue: usize,
    skew_s: f64,
    seq: Seq,
    footprint: Option<Footprint>,
    resources: Resources,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = MetricsWriter(encoder);
        self.windows(&mut page)?;
        self.fleets(&mut page)?;
        self.sinks(&mut page)?;
        self.rounds(&mut page)?;
        self.graph(&mut page)?;
        self.store(&mut page)?;
        self.reloads(&mut page)?;
        self.process(&mut page)
    }
}

impl Scrape {
    fn windows(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        let fleet = &self.fleet;
        let states = WindowState::ALL.map(WindowState::as_str).into_iter().zip(fleet.states);
        page.family("calmirror_windows", "Windows by state", "state", states)?;
        page.value(
            "calmirror_windows_unhealthy",
            "Windows in trouble, or without success for more than three intervals",
            fleet.unhealthy,
        )?;
        page.value(
            "calmirror_windows_unsettled",
            "Windows whose first enumeration has not finished",
            fleet.unsettled,
        )?;
        page.value("calmirror_events", "Events visible to readers", fleet.events)?;
        page.value(
            "calmirror_window_staleness_max_seconds",
            "Longest time since a window's last success; windows that never succeeded are not counted",
            fleet.stale_max,
        )?;
        page.histogram(
            "calmirror_window_staleness_seconds",
            "Windows by time since their last success, now (not cumulative: do not use rate)",
            &fleet.stale,
        )
    }

    fn sinks(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        for (name, help, value) in SINK_GAUGES {
            let sinks = self.sinks.iter().map(|sink| (&*sink.name, value(sink)));
            page.family(name, help, "sink", sinks)?;
        }
        Ok(())
    }

    fn fleets(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        for (name, help, value) in FLEET_GAUGES {
            let fleets = self.fleets.iter().map(|fleet| (&*fleet.name, value(fleet)));
            page.family(name, help, "fleet", fleets)?;
        }
        Ok(())
    }

    fn rounds(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        let metrics = &self.metrics.rounds;
        page.family(
            "calmirror_rounds_total",
            "Rounds by outcome",
            "outcome",
            metrics.rounds.counts(),
        )?;
        page.histogram("calmirror_round_seconds", "Duration of rounds", &metrics.took.0)?;
        page.histogram(
            "calmirror_round_lateness_seconds",
            "Delay between a round's due time and its start",
            &metrics.late.0,
        )?;
        page.value("calmirror_rounds_in_progress", "Rounds in progress", metrics.running.value())?;
        page.value(
            "calmirror_worker_restarts_total",
            "Workers restarted after a panic or a hang",
            metrics.restarts.load(Ordering::Relaxed),
        )
    }

    fn graph(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        let metrics = &self.metrics.graph;
        page.family(
            "calmirror_graph_requests_total",
            "Requests to Graph by HTTP status of the response; none: no response",
            "status",
            metrics.requests.counts(),
        )?;
        page.histogram(
            "calmirror_graph_request_seconds",
            "Time from sending a request to Graph to the end of its response",
            &metrics.took.0,
        )?;
        page.histogram(
            "calmirror_graph_wait_seconds",
            "Time a request waited for its mailbox's pause and the budgets before it was sent",
            &metrics.waited.0,
        )?;
        page.value(
            "calmirror_clock_skew_seconds",
            "Seconds the wall clock is ahead of Graph's; 0 before Graph's time is known",
            self.skew_s,
        )?;
        page.value(
            "calmirror_graph_requests_in_flight",
            "Requests to Graph awaiting a response",
            metrics.in_flight.value(),
        )?;
        page.value(
            "calmirror_graph_page_bytes",
            "Decoded bytes of the responses of Graph that are being read and processed",
            metrics.page_bytes.value(),
        )?;
        page.value(
            "calmirror_throttle_pauses_total",
            "Graph responses that paused a mailbox",
            metrics.pauses.load(Ordering::Relaxed),
        )?;
        page.value(
            "calmirror_throttle_pause_seconds_total",
            "Total time for which mailboxes were paused",
            metrics.paused_ms.load(Ordering::Relaxed) as f64 / 1000.0,
        )
    }

    fn store(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        let (metrics, readers) = (&self.metrics.store, &self.metrics.readers);
        page.family(
            "calmirror_changes_total",
            "Changes in the feed",
            "change",
            metrics.changes.counts(),
        )?;
        page.value(
            "calmirror_store_rows_written_total",
            "Rows of events and series masters written or deleted",
            metrics.rows.load(Ordering::Relaxed),
        )?;
        page.value(
            "calmirror_store_compactions_total",
            "Compactions of the store",
            metrics.compactions.load(Ordering::Relaxed),
        )?;
        page.value(
            "calmirror_store_live_bytes",
            "Bytes of keys and values when last measured; 0 before",
            metrics.live_bytes.load(Ordering::Relaxed),
        )?;
        page.value("calmirror_feed_last_seq", "Seq of the newest durable change", self.seq)?;
        page.family(
            "calmirror_resyncs_total",
            "Resyncs started, by reason",
            "reason",
            metrics.resyncs.counts(),
        )?;
        page.histogram(
            "calmirror_store_commit_seconds",
            "Time from handing a commit to the writer until it is durable",
            &metrics.commits.0,
        )?;
        page.value("calmirror_store_queue_jobs", "Jobs waiting for the writer", self.queue as u64)?;
        page.value(
            "calmirror_store_cache_bytes",
            "Limit of the store's page cache, which drops pages late and may exceed it",
            metrics.cache_bytes.load(Ordering::Relaxed),
        )?;
        if let Some(Footprint { bytes, free, damaged }) = self.footprint {
            let used = "Disk space used by the store's directory";
            page.value("calmirror_store_size_bytes", used, bytes)?;
            let left = "Free space on the store's file system";
            page.value("calmirror_store_free_bytes", left, free)?;
            let aside = "Damaged stores moved aside and still in the store's directory";
            page.value("calmirror_store_damaged", aside, damaged)?;
        }
        let counts = readers.counts();
        page.family("calmirror_feed_readers", "Readers waiting for changes", "kind", counts)?;
        page.family(
            "calmirror_api_refused_total",
            "Requests over TCP with a wrong token, by reason",
            "reason",
            self.metrics.access.refused.counts(),
        )
    }

    fn reloads(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        let ReloadCounts { applied, refused, failed } = self.reloads;
        page.family(
            "calmirror_reloads_total",
            "Reloads of the configuration by outcome",
            "outcome",
            [("applied", applied), ("refused", refused), ("failed", failed)],
        )?;
        // Before the first reload, the configuration is the one read at the start.
        let last = self.reloaded.as_ref();
        page.value(
            "calmirror_reload_last_success",
            "Whether the last reload was applied; 1 before the first",
            u64::from(last.is_none_or(|last| last.outcome == ReloadOutcome::Applied)),
        )?;
        page.value(
            "calmirror_reload_last_timestamp_seconds",
            "When the last reload ended, or the daemon started, in seconds since 1970",
            last.map_or(self.about.started, |last| last.at).as_duration().as_secs_f64(),
        )
    }

    fn process(&self, page: &mut MetricsWriter<'_>) -> fmt::Result {
        let BuildInfo { version, commit, target, started, since: _ } = &*self.about;
        let labels = [("version", &**version), ("commit", &**commit), ("target", &**target)];
        page.begin("calmirror_build_info", "Build of the running daemon; always 1")?
            .encode_family(&labels)?
            .encode_gauge(&1_u64)?;
        page.value(
            "process_start_time_seconds",
            "When the daemon started, in seconds since 1970",
            started.as_duration().as_secs_f64(),
        )?;
        let Resources { resident, cpu_s, descriptors, most_descriptors } = self.resources;
        page.value("process_cpu_seconds_total", "User and system processor time", cpu_s)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", resident),
            ("process_open_fds", "Open file descriptors", descriptors),
            ("process_max_fds", "Maximum number of open file descriptors", most_descriptors),
        ] {
            if let Some(value) = value {
                page.value(name, help, value)?;
            }
        }
        Ok(())
    }
}

/// Writes metrics in the older text format. Counters are the metrics named `_total`.
///
/// The library writes OpenMetrics, which omits `_total` from the name of a counter family; the
/// older text format, which every scraper reads, requires it. So counters are written like gauges,
/// whose name the library does not extend, under their full name.
struct MetricsWriter<'a>(DescriptorEncoder<'a>);

impl MetricsWriter<'_> {
    fn begin<'s>(&'s mut self, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, fmt::Error> {
        let counts = name.ends_with("_total");
        let kind = if counts { MetricType::Counter } else { MetricType::Gauge };
        self.0.encode_descriptor(name, help, None, kind)
    }

    /// A gauge or a counter.
    fn value(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        self.begin(name, help)?.encode_gauge(&value)
    }

    /// Gauges or counters, one for each value of a label.
    fn family<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'v str, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut metric = self.begin(name, help)?;
        for (word, value) in values {
            metric.encode_family(&[(label, word)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        histogram.encode(self.0.encode_descriptor(name, help, None, MetricType::Histogram)?)
    }
}
