//! `GET /v1/status` of all shards.

use std::collections::BTreeSet;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::super::extract::ApiRequest;
use super::super::problem::Problem;
use super::super::windows;
use super::gathered::{GatheredParts, names};

/// The members of a shard's status that its entry in the list of shards has.
const OF_A_SHARD: [&str; 6] =
    ["version", "incarnation", "started", "uptime_s", "windows", "healthy"];

/// `GET /v1/status`.
pub(in crate::api) async fn status(request: ApiRequest) -> Result<Response, Problem> {
    if !request.is_merged() {
        return Ok(windows::status(request).await?.into_response());
    }
    let own = async {
        let here = request.of_this_shard(request.query().to_owned());
        Ok(windows::status(here).await?.into_response())
    };
    let target = |_| Some(request.path.clone());
    let gathered = GatheredParts::gather(&request, request.all_shards(), target, own).await?;
    let own = request.app.settings.shard.of.ordinal();
    let merging = async move {
        let (parts, mut missing) = gathered.split();
        let parts = GatheredParts::read::<Map<String, Value>>(&parts, &mut missing);
        let parts = parts.into_iter().map(|(shard, status, _)| (shard, status)).collect();
        merged(own, parts, &missing)
    };
    Ok(Json(request.app.limits.run(merging).await?).into_response())
}

/// The status of all shards, in the order of their numbers, as shard `own` shows it.
fn merged(own: u32, parts: Vec<(u32, Map<String, Value>)>, missing: &BTreeSet<u32>) -> Value {
    let mut shards = Vec::new();
    let mut windows = Map::new();
    let mut healthy = missing.is_empty();
    let mut sinks = Vec::new();
    let mut whole = Map::new();
    for (shard, status) in &parts {
        let mut entry = Map::from_iter([("ordinal".to_owned(), json!(shard.to_string()))]);
        for name in OF_A_SHARD {
            entry.insert(name.to_owned(), status.get(name).cloned().unwrap_or_default());
        }
        shards.push(Value::Object(entry));
        healthy &= status.get("healthy") == Some(&Value::Bool(true));
        for (state, count) in members(status, "windows") {
            let sum = windows.get(state).and_then(Value::as_u64).unwrap_or_default();
            windows.insert(state.clone(), json!(sum + count.as_u64().unwrap_or_default()));
        }
        for sink in list(status, "sinks") {
            let mut sink = sink.clone();
            sink["shard"] = json!(shard.to_string());
            sinks.push(sink);
        }
        if *shard == own {
            whole = status.clone();
        }
    }
    for (shard, status) in parts.iter().filter(|(shard, _)| *shard != own) {
        let name = shard.to_string();
        add_fleet_faults(&mut whole, status, &name);
        add_last_used(&mut whole, status);
        let is_wrong = |status: &Map<String, Value>| {
            members(status, "clock").any(|(name, value)| name == "wrong" && value == true)
        };
        if is_wrong(status) && !is_wrong(&whole) {
            whole.insert("clock".to_owned(), status.get("clock").cloned().unwrap_or_default());
        }
    }
    sinks.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    whole.insert("healthy".to_owned(), json!(healthy));
    whole.insert("windows".to_owned(), Value::Object(windows));
    if !sinks.is_empty() {
        whole.insert("sinks".to_owned(), Value::Array(sinks));
    }
    whole.insert("shards".to_owned(), Value::Array(shards));
    whole.insert("incomplete".to_owned(), json!(names(missing)));
    Value::Object(whole)
}

/// Every shard lists all fleets, so their numbers are the same everywhere. A listing that failed
/// elsewhere is shown unless it failed here too.
fn add_fleet_faults(whole: &mut Map<String, Value>, other: &Map<String, Value>, shard: &str) {
    let Some(fleets) = whole.get_mut("fleets").and_then(Value::as_array_mut) else { return };
    for fleet in fleets.iter_mut().filter(|fleet| fleet["last_error"].is_null()) {
        let same = list(other, "fleets").find(|one| one["name"] == fleet["name"]);
        let Some(error) = same.map(|same| &same["last_error"]).filter(|error| !error.is_null())
        else {
            continue;
        };
        let mut error = error.clone();
        let problem = error["problem"].as_str().unwrap_or_default();
        error["problem"] = json!(format!("shard {shard}: {problem}"));
        fleet["last_error"] = error;
        fleet["failures"] = same.map(|same| same["failures"].clone()).unwrap_or_default();
    }
}

/// A consumer was last used when any shard saw it last.
fn add_last_used(whole: &mut Map<String, Value>, other: &Map<String, Value>) {
    let Some(consumers) = whole.get_mut("consumers").and_then(Value::as_array_mut) else { return };
    let at = |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    for consumer in consumers {
        let same = list(other, "consumers").find(|one| one["name"] == consumer["name"]);
        let used = same.map(|same| &same["last_used"]).and_then(at);
        if used > at(&consumer["last_used"]) {
            consumer["last_used"] = json!(used);
        }
    }
}

/// The members of an object in a status.
fn members<'a>(
    status: &'a Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    status.get(name).and_then(Value::as_object).into_iter().flatten()
}

/// The values of a list in a status.
fn list<'a>(status: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = &'a Value> {
    status.get(name).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The merged status of two shards, asked of the first one.
    fn of_two(first: Value, second: Value) -> Value {
        let parts = [first, second].map(|mut part| std::mem::take(part.as_object_mut().unwrap()));
        merged(0, (0..).zip(parts).collect(), &BTreeSet::from([7]))
    }

    #[test]
    fn a_listing_that_failed_elsewhere_is_shown_with_its_shard() {
        let fleet = |name: &str, error: Value| json!({"name": name, "members": 4, "windows": 3, "failures": if error.is_null() { 0 } else { 2 }, "last_error": error});
        let error = |problem: &str| json!({"at": "2026-11-21T10:00:00Z", "problem": problem, "remedy": null});
        let status = of_two(
            json!({"fleets": [fleet("a", Value::Null), fleet("b", error("here")), fleet("c", Value::Null)]}),
            json!({"fleets": [fleet("a", error("there")), fleet("b", error("there")), fleet("d", error("there"))]}),
        );
        let shown: Vec<_> = list(status.as_object().unwrap(), "fleets")
            .map(|fleet| (fleet["last_error"]["problem"].as_str(), fleet["failures"].as_u64()))
            .collect();
        let zero = Some(0);
        assert_eq!(
            shown,
            [(Some("shard 1: there"), Some(2)), (Some("here"), Some(2)), (None, zero)]
        );
        assert_eq!(
            (&status["fleets"][0]["windows"], &status["incomplete"]),
            (&json!(3), &json!(["7"]))
        );
    }

    #[test]
    fn the_latest_use_and_the_wrong_clock_of_all_are_shown() {
        let consumer = |name: &str, used: Option<&str>| json!({"name": name, "last_used": used});
        let (early, late) = (Some("2026-11-21T10:00:00Z"), Some("2026-11-21T10:00:00.5Z"));
        let status = of_two(
            json!({"consumers": [consumer("a", None), consumer("b", late), consumer("c", early)],
                "clock": {"skew_s": 1, "wrong": false}}),
            json!({"consumers": [consumer("a", early), consumer("b", early), consumer("c", late)],
                "clock": {"skew_s": 900, "wrong": true}}),
        );
        let used =
            list(status.as_object().unwrap(), "consumers").map(|one| one["last_used"].as_str());
        assert_eq!(used.collect::<Vec<_>>(), [early, late, late]);
        assert_eq!(status["clock"]["skew_s"], 900);
    }

    #[test]
    fn counts_are_summed_and_sinks_have_their_shard() {
        let counts = |total: u32| json!({"total": total, "unhealthy": 1});
        let sink = |name: &str| json!({"name": name});
        let status = of_two(
            json!({"windows": counts(3), "healthy": true, "sinks": [sink("b")], "uptime_s": 5}),
            json!({"windows": counts(4), "healthy": true, "sinks": [sink("a"), sink("b")]}),
        );
        assert_eq!(status["windows"], json!({"total": 7, "unhealthy": 2}));
        let sinks = list(status.as_object().unwrap(), "sinks");
        let shown: Vec<_> =
            sinks.map(|one| (one["name"].as_str(), one["shard"].as_str())).collect();
        let of = |name, shard| (Some(name), Some(shard));
        assert_eq!(shown, [of("a", "1"), of("b", "0"), of("b", "1")]);
        // A shard is missing.
        assert_eq!((&status["healthy"], &status["uptime_s"]), (&json!(false), &json!(5)));
    }
}
