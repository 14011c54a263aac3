//! Query parameters. Each route declares the ones it knows; unknown and malformed ones, and repeated
//! ones except those in [`REPEATABLE`], are rejected by name, so that a misspelt `form=` is not read as "everything".

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::problem::Problem;
use crate::config::edge;
use crate::percent;

/// Items per response if the request sets no `limit`.
pub(super) const DEFAULT_LIMIT: usize = 1000;

/// A response of events or changes ends after this many bytes and says where to continue.
pub(super) const ANSWER_BYTES: usize = 8 << 20;
/// The largest `limit`.
pub(super) const MAX_LIMIT: usize = 10_000;

/// The longest time a request is held; longer waits are clamped to it.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(300);

/// Parameters that may be given several times.
const REPEATABLE: [&str; 2] = ["window", "group"];

/// The decoded parameters of one request.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<&'static str, Vec<String>>);

/// `from` and `to`, if given; `to` is later than `from`.
pub(super) type Range = (Option<Timestamp>, Option<Timestamp>);

impl Parameters {
    /// Decodes a query string that may contain only `known` names.
    pub(super) fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Self, Problem> {
        let mut parameters: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode_form(name).unwrap_or_else(|| name.to_owned());
            let Some(known) = known.iter().find(|k| **k == name) else {
                let detail = match known {
                    [] => format!("unknown parameter {name:?}: this route has none"),
                    _ => format!("unknown parameter {name:?}: known are {}", known.join(", ")),
                };
                return Err(Problem::bad_parameter(&name, detail));
            };
            // A bare `+` is the sign of `+7d` and of `+02:00` in a time, a space anywhere else.
            let decoded = match *known {
                "from" | "to" => percent::decode(value),
                _ => decode_form(value),
            };
            let value = decoded
                .ok_or_else(|| Problem::bad_parameter(known, "not percent-encoded UTF-8"))?;
            let values = parameters.entry(*known).or_default();
            values.push(value);
            if values.len() > 1 && !REPEATABLE.contains(known) {
                return Err(Problem::bad_parameter(known, "given twice"));
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter's decoded text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The decoded texts of a parameter that may be repeated.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// `limit`, 1 to [`MAX_LIMIT`].
    pub(super) fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.text("limit") else { return Ok(DEFAULT_LIMIT) };
        match text.parse() {
            Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(limit),
            _ => Err(Problem::bad_parameter("limit", "must be a number from 1 to 10000")),
        }
    }

    /// `wait`, clamped to [`MAX_WAIT`].
    pub(super) fn wait(&self) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text("wait") else { return Ok(None) };
        match humantime::parse_duration(text) {
            Ok(wait) => Ok(Some(wait.min(MAX_WAIT))),
            Err(_) => Err(Problem::bad_parameter("wait", "must be a duration such as 30s or 1m")),
        }
    }

    /// A boolean; false if absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => Err(Problem::bad_parameter(name, "must be true or false")),
        }
    }

    /// A time: RFC 3339, a date, or relative as in the configuration.
    pub(super) fn time(&self, name: &str, now: Timestamp) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        edge(text).map(|edge| Some(edge.resolve(now))).map_err(|_| {
            let detail = "must be a time such as 2026-11-21T10:00:00Z, a date such as 2026-11-21, \
                          or relative to today 00:00 UTC such as now, -7d, +2w, +6mo or +1y";
            Problem::bad_parameter(name, detail)
        })
    }

    /// `from` and `to`; `to` must be later.
    pub(super) fn range(&self, now: Timestamp) -> Result<Range, Problem> {
        let (from, to) = (self.time("from", now)?, self.time("to", now)?);
        if let (Some(from), Some(to)) = (from, to)
            && to <= from
        {
            return Err(Problem::bad_parameter("to", "must be later than from"));
        }
        Ok((from, to))
    }
}

/// The query with only the parameters that `keep` accepts by name, and with these added.
pub(super) fn rewritten(
    query: &str,
    keep: impl Fn(&str) -> bool,
    added: &[(&str, String)],
) -> String {
    let name = |pair: &str| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        decode_form(name).unwrap_or_default()
    };
    let kept = query.split('&').filter(|pair| !pair.is_empty() && keep(&name(pair)));
    let added = added.iter().map(|(name, value)| format!("{name}={}", percent::encode(value)));
    kept.map(str::to_owned).chain(added).collect::<Vec<_>>().join("&")
}

/// Decodes a text in which a bare `+` is a space.
fn decode_form(text: &str) -> Option<String> {
    percent::decode(&text.replace('+', " "))
}
