//! Lists the names of windows, and suggests the one that was probably meant when a window is unknown.

use serde::Deserialize;

use super::client::{ApiClient, ApiResponse};
use super::exit::CliError;
use super::shards::MissingShards;
use super::terminal::printable;
use crate::config::nearest;
use crate::percent;

/// The most windows that one response lists.
const PAGE: usize = 1000;

/// A page of windows, of which only the names are read.
#[derive(Deserialize)]
struct WindowNames {
    value: Vec<WindowName>,
    next: Option<String>,
    #[serde(flatten)]
    missing: MissingShards,
}

#[derive(Deserialize)]
struct WindowName {
    name: String,
}

/// The names of all windows, and the shards whose windows are missing.
pub(super) async fn all_names(
    client: &ApiClient,
) -> Result<(Vec<String>, MissingShards), CliError> {
    let (mut names, mut list) = (Vec::new(), page(client, "").await?);
    let mut missing = MissingShards::default();
    loop {
        names.extend(list.names());
        missing.add(std::mem::take(&mut list.missing));
        let Some(key) = &list.next else { return Ok((names, missing)) };
        list = page(client, &format!("&page={key}")).await?;
    }
}

impl WindowNames {
    fn names(&mut self) -> impl Iterator<Item = String> {
        std::mem::take(&mut self.value).into_iter().map(|window| window.name)
    }
}

async fn page(client: &ApiClient, query: &str) -> Result<WindowNames, CliError> {
    client.get(&format!("/v1/windows?limit={PAGE}{query}")).await?.json()
}

/// The response if it is a success.
///
/// # Errors
/// The response's problem; for an unknown window with a remedy.
pub(super) async fn or_suggestion(
    client: &ApiClient,
    window: &str,
    answer: ApiResponse,
) -> Result<ApiResponse, CliError> {
    let unknown = answer.is_unknown_window();
    match answer.success() {
        Err(failure) if unknown => Err(failure.remedy(remedy(client, window).await)),
        other => other,
    }
}

/// Names the window that was probably meant, or the command that lists the names.
async fn remedy(client: &ApiClient, window: &str) -> String {
    let names = similar(client, window).await;
    match nearest(window, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean `{}`?", printable(name)),
        None => "calmirror status lists the windows".to_owned(),
    }
}

/// The names of all windows of a small fleet. In a large fleet only the first ones, and names that
/// contain the first or the second half of `window`: a single typo leaves one half intact.
async fn similar(client: &ApiClient, window: &str) -> Vec<String> {
    let (all, complete) = names(client, "").await;
    if complete {
        return all;
    }
    let middle = window.chars().count() / 2;
    let cut = window.char_indices().nth(middle).map_or(0, |(at, _)| at);
    let (first, second) = window.split_at(cut);
    let mut found = all;
    for half in [first, second] {
        if half.chars().count() > 1 {
            found.extend(names(client, half).await.0);
        }
    }
    found
}

/// The names of windows whose name, mailbox or account contains `part`, and whether the list is
/// complete. Empty if the daemon does not answer, because suggestions are optional.
pub(super) async fn names(client: &ApiClient, part: &str) -> (Vec<String>, bool) {
    let query =
        if part.is_empty() { String::new() } else { format!("&q={}", percent::encode(part)) };
    let page = page(client, &query).await;
    page.map(|mut list| (list.names().collect(), list.next.is_none())).unwrap_or_default()
}
