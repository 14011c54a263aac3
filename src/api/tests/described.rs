//! The OpenAPI document and the served routes match.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

pub(super) fn document() -> Value {
    serde_json::from_str(super::super::openapi::DOCUMENT).unwrap()
}

/// Every route with its method, from the router's source, because axum cannot list them.
fn routes() -> BTreeSet<(String, String)> {
    let source = include_str!("../mod.rs");
    let mut routes = BTreeSet::new();
    for line in source.split(".route(").skip(1) {
        let mut parts = line.split('"');
        let path = parts.nth(1).unwrap();
        let method = parts.next().unwrap().trim_start_matches([',', ' ', '\n']);
        let method = method.split('(').next().unwrap();
        routes.insert((path.to_owned(), method.to_owned()));
    }
    assert!(routes.len() > 10, "{routes:?}");
    routes
}

#[test]
fn every_route_is_documented_and_every_documented_route_exists() {
    let document = document();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            described.insert((path.clone(), method.clone()));
        }
    }
    assert_eq!(described, routes());
}

/// The parameters in the document are the accepted ones, as listed in the response to an unknown
/// parameter.
#[tokio::test(start_paused = true)]
async fn the_documented_parameters_are_those_accepted() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    for (path, methods) in document()["paths"].as_object().unwrap() {
        let uri = path.replace("{name}", "alice").replace("{id}", "a");
        for (method, operation) in methods.as_object().unwrap() {
            let uri = format!("{uri}?no-such=1");
            let (status, _, body) = fixture.ask(&method.to_uppercase(), &uri).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{uri}: {body}");
            let detail: Value = serde_json::from_str(&body).unwrap();
            let detail = detail["detail"].as_str().unwrap();
            let taken: BTreeSet<&str> = match detail.split_once("known are ") {
                Some((_, names)) => names.split(", ").collect(),
                None => BTreeSet::new(),
            };
            let parameters = operation["parameters"].as_array().unwrap();
            let described = parameters.iter().filter(|parameter| parameter["in"] == "query");
            let described: BTreeSet<&str> =
                described.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(described, taken, "{method} {path}");
        }
    }
}

/// Objects have exactly the members in the document.
#[tokio::test(start_paused = true)]
async fn responses_have_the_documented_members() {
    let fixture = Fixture::new().await;
    fixture.write(fixture.id("alice"), &[("a", 9, "")], &[]).await;
    let document = document();
    let members = |schema: &str| -> BTreeMap<String, bool> {
        let schema = &document["components"]["schemas"][schema];
        let required: Vec<&str> = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let properties = schema["properties"].as_object().unwrap().keys();
        properties.map(|name| (name.clone(), required.contains(&&**name))).collect()
    };
    for (method, uri, schema) in [
        ("GET", "/v1/status", "Status"),
        ("GET", "/v1/windows", "Windows"),
        ("GET", "/v1/windows/alice", "Window"),
        ("GET", "/v1/windows/alice/rounds", "Rounds"),
        ("GET", "/v1/windows/alice/busy?from=2020-01-01&to=2020-01-02", "Busy"),
        ("GET", "/v1/busy", "BusyOfMany"),
        ("GET", "/v1/free", "Free"),
        ("GET", "/v1/windows/alice/events", "Events"),
        ("POST", "/v1/windows/alice/sync", "Started"),
        ("POST", "/v1/windows/alice/sync?wait=1s", "Finished"),
        ("GET", "/v1/changes", "Change"),
        ("GET", "/nowhere", "Problem"),
    ] {
        let (_, _, body) = fixture.ask(method, uri).await;
        let answer: Value = serde_json::from_str(body.lines().next().unwrap()).unwrap();
        let members = members(schema);
        for name in answer.as_object().unwrap().keys() {
            assert!(members.contains_key(name), "{uri} has {name}");
        }
        for (name, required) in members {
            assert!(!required || answer.get(&name).is_some(), "{uri} lacks {name}");
        }
    }
}

/// Formats of parameters and the members of events are typed, for generated clients.
#[test]
fn parameters_and_events_have_documented_schemas() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let resolved = |schema: &Value| match schema["$ref"].as_str() {
        Some(name) => schemas[name.rsplit('/').next().unwrap()].clone(),
        None => schema.clone(),
    };
    let mut formed = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for operation in methods.as_object().unwrap().values() {
            for parameter in operation["parameters"].as_array().unwrap() {
                let name = parameter["name"].as_str().unwrap();
                if parameter["in"] == "query"
                    && matches!(name, "from" | "to" | "wait" | "page" | "after")
                {
                    let schema = resolved(&parameter["schema"]);
                    assert_eq!(schema["type"], "string", "{path} {name}");
                    assert!(schema["format"].is_string(), "{path} {name}");
                    assert!(schema["pattern"].is_string(), "{path} {name}");
                    formed += 1;
                }
            }
        }
    }
    assert!(formed > 10, "{formed}");
    let event = schemas["Event"]["properties"].as_object().unwrap();
    for name in ["subject", "start", "end", "isAllDay", "showAs", "organizer", "attendees", "body"]
    {
        let schema = &event[name];
        assert!(schema.get("type").or(schema.get("$ref")).or(schema.get("anyOf")).is_some());
    }
}
