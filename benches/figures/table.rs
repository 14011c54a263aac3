//! The table: one row per figure, printed as soon as it is measured.

use std::fmt::Display;
use std::time::Duration;

/// The selected figures, and the number of figures over their limit.
pub(crate) struct Table {
    wanted: Vec<String>,
    over: usize,
}

/// One figure with its baseline.
#[derive(Default)]
pub(crate) struct Row {
    /// The name of the measurement.
    pub(crate) figure: String,
    /// Its value.
    pub(crate) measured: String,
    /// The baseline from the same run.
    pub(crate) baseline: String,
    /// The value divided by the baseline.
    pub(crate) ratio: Option<f64>,
    /// The limit; empty if there is none.
    pub(crate) limit: String,
    /// Whether the limit is kept, if there is one.
    pub(crate) kept: Option<bool>,
}

impl Table {
    /// A table of the figures whose names contain one of `wanted`, or of all figures if that is
    /// empty.
    pub(crate) fn new(wanted: Vec<String>) -> Self {
        Self { wanted, over: 0 }
    }

    /// Whether a figure is selected.
    pub(crate) fn wants(&self, figure: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| figure.contains(wanted.as_str()))
    }

    /// Whether a figure is selected by name.
    pub(crate) fn names(&self, figure: &str) -> bool {
        !self.wanted.is_empty() && self.wants(figure)
    }

    /// Prints the head.
    pub(crate) fn head(&self) {
        line(["figure", "measured", "baseline", "ratio", "limit", ""].map(str::to_owned));
        line(["---", "---", "---", "---", "---", "---"].map(str::to_owned));
    }

    /// Prints a row.
    pub(crate) fn row(&mut self, row: Row) {
        let verdict = match row.kept {
            None => "",
            Some(true) => "ok",
            Some(false) => {
                self.over += 1;
                "over"
            }
        };
        let ratio = row.ratio.map_or_else(String::new, |ratio| match ratio {
            r if r >= 100.0 => format!("{r:.0}"),
            r if r >= 0.1 => format!("{r:.2}"),
            r => format!("{r:.4}"),
        });
        line([row.figure, row.measured, row.baseline, ratio, row.limit, verdict.to_owned()]);
    }

    /// The number of figures over their limit.
    pub(crate) fn over(&self) -> usize {
        self.over
    }
}

fn line([figure, measured, baseline, ratio, limit, verdict]: [String; 6]) {
    println!(
        "| {figure:<44} | {measured:>22} | {baseline:<30} | {ratio:>7} | {limit:<14} | {verdict:<4} |"
    );
}

/// A duration in milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The value below which `share` of `sorted` lies; `None` if it is empty.
pub(crate) fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, last + 1) - 1;
    sorted.get(at).copied()
}

/// Prints progress on standard error, apart from the table.
pub(crate) fn note(what: impl Display) {
    eprintln!("# {what}");
}
