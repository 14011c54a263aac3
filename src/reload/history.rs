//! How reloads ended: the last one for the status, and all of them counted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ReloadError, ReloadSummary};
use crate::config::Diagnostic;

/// The most faults that the status keeps; the reply to the request has all of them.
const MAX_KEPT: usize = 20;

/// Characters of a refused reload's reason in the status line; the log has all of it.
const MAX_STATUS_NOTE: usize = 400;

/// The last reload, and the number of reloads by outcome.
#[derive(Debug, Default)]
pub(super) struct ReloadHistory {
    pub(super) last: Option<LastReload>,
    pub(super) counts: ReloadCounts,
}

/// Reloads since the start, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadCounts {
    /// The new configuration is in force.
    pub applied: u64,
    /// The new configuration was refused, the old one stays.
    pub refused: u64,
    /// The new configuration could not be applied, the old one stays.
    pub failed: u64,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The new configuration is in force.
    Applied,
    /// It was refused, the old one stays.
    Refused,
    /// It could not be applied, the old one stays.
    Failed,
}

/// The last reload, for `/v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastReload {
    /// When it ended.
    pub at: Timestamp,
    /// Its outcome.
    pub outcome: ReloadOutcome,
    /// One sentence for a person.
    pub message: String,
    /// The first of the faults for which it was refused.
    pub faults: Vec<Diagnostic>,
}

impl ReloadHistory {
    /// Records how a reload ended.
    pub(super) fn record(&mut self, result: &Result<ReloadSummary, ReloadError>, at: Timestamp) {
        let ReloadCounts { applied, refused, failed } = &mut self.counts;
        let (outcome, count, faults): (_, _, &[Diagnostic]) = match result {
            Ok(_) => (ReloadOutcome::Applied, applied, &[]),
            Err(ReloadError::Faults(faults)) => (ReloadOutcome::Refused, refused, faults),
            Err(ReloadError::Drops { .. }) => (ReloadOutcome::Refused, refused, &[]),
            Err(_) => (ReloadOutcome::Failed, failed, &[]),
        };
        *count += 1;
        let message = match result {
            Ok(summary) => summary.summary(),
            Err(error) => error.to_string(),
        };
        let faults = faults.iter().take(MAX_KEPT).cloned().collect();
        self.last = Some(LastReload { at, outcome, message, faults });
    }
}

impl LastReload {
    /// Why the reload changed nothing, for the status line; `None` if it was applied.
    pub fn status_note(&self) -> Option<String> {
        let Self { at, outcome, message, faults } = self;
        let outcome = match outcome {
            ReloadOutcome::Applied => return None,
            ReloadOutcome::Refused => "refused",
            ReloadOutcome::Failed => "failed",
        };
        let at = at.strftime("%Y-%m-%d %H:%M:%SZ");
        // A single fault is already the message.
        let fault = faults.first().filter(|_| faults.len() > 1);
        let fault = fault.map(|fault| format!(", the first: {fault}")).unwrap_or_default();
        let mut line = format!("reload {outcome} at {at}: {message}{fault}");
        if let Some((end, _)) = line.char_indices().nth(MAX_STATUS_NOTE) {
            line.truncate(end);
            line.push('…');
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(key: &str) -> Diagnostic {
        Diagnostic {
            file: None,
            line: None,
            key: key.to_owned(),
            problem: "is wrong".to_owned(),
            remedy: "remove it".to_owned(),
        }
    }

    #[test]
    fn every_result_is_counted_and_only_failures_are_noted() {
        let at = "2026-11-02T12:00:00Z".parse().unwrap();
        let faults = |count: usize| ReloadError::Faults(vec![fault("api.listen"); count]);
        let one = fault("api.listen").to_string();
        for (result, note, counts) in [
            (Ok(ReloadSummary::default()), None, [1, 0, 0]),
            (Err(faults(1)), Some(format!("reload refused at 2026-11-02 12:00:00Z: {one}")), [0, 1, 0]),
            (
                Err(faults(30)),
                Some(format!(
                    "reload refused at 2026-11-02 12:00:00Z: 30 faults in the configuration, the first: {one}"
                )),
                [0, 1, 0],
            ),
            (
                Err(ReloadError::Drops { dropped: 30, known: 40 }),
                Some(
                    "reload refused at 2026-11-02 12:00:00Z: the configuration would drop 30 of 40 windows; if that is meant, reload with --accept-drops (?accept_drops=true)"
                        .to_owned(),
                ),
                [0, 1, 0],
            ),
            (
                Err(ReloadError::Failed("disk is full".to_owned())),
                Some(
                    "reload failed at 2026-11-02 12:00:00Z: the configuration could not be applied: disk is full"
                        .to_owned(),
                ),
                [0, 0, 1],
            ),
        ] {
            let mut history = ReloadHistory::default();
            history.record(&result, at);
            let ReloadCounts { applied, refused, failed } = history.counts;
            assert_eq!([applied, refused, failed], counts, "{result:?}");
            let last = history.last.unwrap();
            assert_eq!(last.status_note(), note);
            assert!(last.faults.len() <= MAX_KEPT);
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let error = Err(ReloadError::Failed("ü".repeat(2 * MAX_STATUS_NOTE)));
        let mut history = ReloadHistory::default();
        history.record(&error, Timestamp::UNIX_EPOCH);
        let note = history.last.unwrap().status_note().unwrap();
        assert_eq!(note.chars().count(), MAX_STATUS_NOTE + 1);
        assert!(note.ends_with("ü…"));
    }
}
