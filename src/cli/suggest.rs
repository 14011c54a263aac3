//! What to say of a window that is not known: the name that was probably meant.

use super::client::{ApiClient, ApiResponse, encode};
use super::exit::CliError;
use super::terminal::printable;
use crate::config::nearest;

/// Windows that are looked at for a similar name, in one answer.
const MAX_SIMILAR: usize = 1000;

/// The answer if it is a success, else its problem: that of an unknown window with a remedy.
///
/// # Errors
/// The answer's problem as a failure.
pub(super) async fn known(
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

/// Says which name was probably meant, or where the names are.
async fn remedy(client: &ApiClient, window: &str) -> String {
    let names = similar(client, window).await;
    match nearest(window, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean `{}`?", printable(name)),
        None => "calmirror status lists the windows".to_owned(),
    }
}

/// The names of all windows of a small fleet. Of a large one those with the first or the second
/// half of the name in them, of which a single mistake leaves one as it was.
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

/// The names of windows that have `part` in their name, mailbox or account, and whether these are
/// all. A daemon that does not answer has none: this only helps.
pub(super) async fn names(client: &ApiClient, part: &str) -> (Vec<String>, bool) {
    #[derive(serde::Deserialize)]
    struct SimilarName {
        name: String,
    }
    #[derive(serde::Deserialize)]
    struct SimilarNames {
        value: Vec<SimilarName>,
        next: Option<String>,
    }
    let query = if part.is_empty() { String::new() } else { format!("&q={}", encode(part)) };
    let answer = client.get(&format!("/v1/windows?limit={MAX_SIMILAR}{query}")).await;
    match answer.and_then(ApiResponse::json::<SimilarNames>) {
        Ok(page) => {
            (page.value.into_iter().map(|window| window.name).collect(), page.next.is_none())
        }
        Err(_) => (Vec::new(), false),
    }
}
