//! Which windows a request is about, and the scope that its cursors belong to.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::AppState;
use super::access::Access;
use super::problem::Problem;
use super::query::Parameters;
use super::view::EventView;
use crate::mirror::name_pattern::NamePattern;
use crate::mirror::shard::Shard;
use crate::mirror::shard::WindowOwners;
use crate::store::{NameFilter, Store};
use crate::worker::WindowSummary;

/// The most patterns of a selection: each is compared with the name of each window.
const MAX_PATTERNS: usize = 1000;
/// The longest pattern, bytes: 200 characters of a name, and stars.
const MAX_PATTERN: usize = 1000;

/// The parameters that select windows; each may be repeated.
pub(super) const SELECTION: [&str; 2] = ["window", "group"];

/// Whether some of the selected windows have never been enumerated, or are not even known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnreadPart {
    /// All have.
    Nothing,
    /// The others are in trouble, for an unknown time.
    InTrouble,
    /// The others will be soon.
    Soon,
}

/// The windows of a request: those that one of its patterns or groups names, or all; of these, those
/// that the reader may see.
#[derive(Clone)]
pub(super) struct SelectedWindows {
    app: Arc<AppState>,
    access: Access,
    patterns: BTreeSet<NamePattern>,
    groups: BTreeSet<Arc<str>>,
}

impl SelectedWindows {
    /// The selection of a request. With `list`, that parameter holds patterns separated by commas.
    ///
    /// # Errors
    /// 404 for an unknown group.
    pub(super) fn parse(
        parameters: &Parameters,
        list: Option<&'static str>,
        app: &Arc<AppState>,
        access: &Access,
    ) -> Result<Self, Problem> {
        let listed = list.and_then(|name| Some((name, parameters.text(name)?)));
        let listed = listed
            .into_iter()
            .flat_map(|(name, text)| text.split(',').map(move |one| (name, one.trim())));
        let mut patterns = BTreeSet::new();
        let named = parameters.all("window").map(|name| ("window", name));
        for (parameter, name) in named.chain(listed) {
            if name.is_empty() {
                return Err(Problem::bad_parameter(parameter, "a name is empty"));
            }
            if name.len() > MAX_PATTERN || patterns.len() == MAX_PATTERNS {
                let detail =
                    format!("at most {MAX_PATTERNS} names or patterns of {MAX_PATTERN} bytes each");
                return Err(Problem::bad_parameter(parameter, detail));
            }
            patterns.insert(NamePattern::new(name));
        }
        let groups: BTreeSet<Arc<str>> = parameters.all("group").map(Arc::from).collect();
        let selection = Self { app: app.clone(), access: access.clone(), patterns, groups };
        match selection.groups.iter().find(|group| !selection.knows(group)) {
            Some(unknown) => Err(Problem::UnknownGroup(unknown.to_string())),
            None => Ok(selection),
        }
    }

    /// Whether the group exists and the reader sees a window of it, or all windows.
    fn knows(&self, group: &str) -> bool {
        let sees_some = || {
            let windows = self.app.fleet.summaries();
            let names = windows.iter().map(|summary| &*summary.window.name);
            let elsewhere = self.app.elsewhere.all();
            let mut names = names.chain(elsewhere.keys().map(|name| &**name));
            names.any(|name| self.access.sees(name) && self.is_in_group(name, group))
        };
        self.app.settings.groups.contains_key(group)
            && (self.access.windows.is_none() || sees_some())
    }

    /// The selection of a reader inside of the daemon.
    pub(super) fn new(
        app: &Arc<AppState>,
        access: Access,
        windows: &[NamePattern],
        groups: &[Arc<str>],
    ) -> Self {
        let patterns = windows.iter().cloned().collect();
        Self { app: app.clone(), access, patterns, groups: groups.iter().cloned().collect() }
    }

    pub(super) fn store(&self) -> &Store {
        &self.app.store
    }

    /// The selection of one window.
    pub(super) fn of(window: &str, app: &Arc<AppState>, access: &Access) -> Self {
        Self {
            app: app.clone(),
            access: access.clone(),
            patterns: [NamePattern::literal(window)].into(),
            groups: BTreeSet::new(),
        }
    }

    /// The only window of a selection that names one and nothing else.
    pub(super) fn single(&self) -> Option<&str> {
        let is_single = self.patterns.len() == 1 && self.groups.is_empty();
        let only = self.patterns.first().filter(|one| is_single && one.is_plain());
        only.map(NamePattern::as_str)
    }

    /// The names of a selection that has nothing but names.
    pub(super) fn only_names(&self) -> Option<Vec<String>> {
        let only = self.groups.is_empty()
            && !self.patterns.is_empty()
            && self.patterns.iter().all(NamePattern::is_plain);
        only.then(|| self.patterns.iter().map(|name| name.as_str().to_owned()).collect())
    }

    /// Whether every window of the store is selected.
    fn is_everything(&self) -> bool {
        self.patterns.is_empty() && self.groups.is_empty() && self.access.windows.is_none()
    }

    /// Whether a window is selected.
    pub(super) fn contains(&self, window: &str) -> bool {
        self.access.sees(window)
            && ((self.patterns.is_empty() && self.groups.is_empty())
                || self.patterns.iter().any(|pattern| pattern.matches(window))
                || self.groups.iter().any(|group| self.is_in_group(window, group)))
    }

    fn is_in_group(&self, window: &str, group: &str) -> bool {
        self.app.settings.groups.get(group).is_some_and(|group| {
            let fleet = || self.app.fleets.fleet_of(window);
            group.windows.contains(window) || fleet().is_some_and(|one| group.fleets.contains(&one))
        })
    }

    /// Whether a window that no longer runs may have been a member of a fleet in a selected group:
    /// the removals of its events must reach readers of the group.
    fn may_have_contained(&self, window: &str) -> bool {
        let groups = self.groups.iter().filter_map(|group| self.app.settings.groups.get(group));
        self.access.sees(window)
            && groups.into_iter().any(|group| !group.fleets.is_empty())
            && self.app.fleet.id(window).is_none()
    }

    /// The names of the selected windows that run, in order.
    ///
    /// # Errors
    /// 404 if a name or a pattern has none, and none of another shard either.
    pub(super) fn running(&self) -> Result<Vec<Arc<str>>, Problem> {
        let (names, elsewhere) = (self.members(), self.app.elsewhere.all());
        let is_missing = |pattern: &&NamePattern| {
            !names.iter().any(|name| pattern.matches(name)) && !self.knows_any(pattern, &elsewhere)
        };
        match self.patterns.iter().find(is_missing) {
            Some(pattern) => Err(Problem::unknown_window(pattern.as_str())),
            None => Ok(names),
        }
    }

    /// Whether the reader sees a window of another shard that matches.
    fn knows_any(&self, pattern: &NamePattern, elsewhere: &WindowOwners) -> bool {
        let is_known = |name: &str| self.access.sees(name) && pattern.matches(name);
        match pattern.is_plain() {
            true => elsewhere.contains_key(pattern.as_str()) && is_known(pattern.as_str()),
            false => elsewhere.keys().any(|name| is_known(name)),
        }
    }

    /// The names of the selected windows of other shards.
    pub(super) fn elsewhere(&self) -> Vec<Arc<str>> {
        let elsewhere = self.app.elsewhere.all();
        elsewhere.keys().filter(|name| self.contains(name)).cloned().collect()
    }

    /// The shards that have to be asked: all, unless windows are selected by nothing but their
    /// names. This shard judges the request and is always one.
    pub(super) fn shards(&self) -> BTreeSet<u32> {
        let (here, elsewhere) = (self.app.settings.shard.of, self.app.elsewhere.all());
        let owner = |name: String| elsewhere.get(&*name).copied();
        let mut shards: BTreeSet<u32> = match self.only_names() {
            Some(names) => names.into_iter().filter_map(owner).collect(),
            None => (0..here.count()).collect(),
        };
        shards.insert(here.ordinal());
        shards
    }

    /// The names of the selected windows that run, if there are any.
    pub(super) fn members(&self) -> Vec<Arc<str>> {
        self.windows().into_iter().map(|summary| summary.window.name.clone()).collect()
    }

    /// The selected windows that run.
    pub(super) fn windows(&self) -> Vec<WindowSummary> {
        let mut windows = self.app.fleet.summaries();
        windows.retain(|summary| self.contains(&summary.window.name));
        windows
    }

    /// Which of the selected windows have never been enumerated. A fleet that was never listed may
    /// have some; and with several shards one that was not listed since the start, because others may
    /// know new members of it.
    pub(super) fn unread(&self) -> UnreadPart {
        let app = &self.app;
        let since = match app.settings.shard.of {
            Shard::ALONE => Timestamp::MIN,
            _ => app.build.started,
        };
        let fleets = app.fleets.fleets();
        let fleets = fleets.iter().filter(|fleet| fleet.listed_at.is_none_or(|at| at < since));
        let fleets = fleets.map(|fleet| fleet.failures > 0);
        let windows = self.windows().into_iter().filter(|window| !window.settled_once);
        let windows = windows.map(|window| window.state.is_trouble());
        let part = |trouble| if trouble { UnreadPart::InTrouble } else { UnreadPart::Soon };
        fleets.chain(windows).map(part).max().unwrap_or(UnreadPart::Nothing)
    }

    /// The filter for the feed.
    pub(super) fn feed_filter(&self) -> Option<NameFilter> {
        if self.is_everything() {
            return None;
        }
        let selection = self.clone();
        Some(NameFilter::new(move |name, is_gone| {
            selection.contains(name) || (is_gone && selection.may_have_contained(name))
        }))
    }

    /// What the selection means by the configuration in force, and what its reader sees.
    pub(super) fn meaning(&self) -> Vec<String> {
        let settings = &self.app.settings;
        let mut parts = vec![
            format!("level={}", self.access.level.as_str()),
            format!("mask={}", settings.mask_private),
        ];
        for pattern in self.access.windows.iter().flat_map(|patterns| patterns.iter()) {
            parts.push(format!("sees={}", pattern.as_str()));
        }
        for group in self.groups.iter().filter_map(|name| settings.groups.get(name)) {
            parts.push("group".to_owned());
            parts.extend(group.windows.iter().map(|window| format!("window={window}")));
            parts.extend(group.fleets.iter().map(|fleet| format!("fleet={fleet}")));
        }
        parts
    }

    /// The same parts for every way to write the same selection.
    pub(super) fn canonical(&self) -> Vec<String> {
        let windows = self.patterns.iter().map(|pattern| format!("window={}", pattern.as_str()));
        let groups = self.groups.iter().map(|group| format!("group={group}"));
        windows.chain(groups).collect()
    }
}

impl fmt::Debug for SelectedWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SelectedWindows").field(&self.canonical()).finish()
    }
}

/// What the cursors of a feed belong to: a filter, and what it and the reader's rights mean by the
/// configuration in force. Cursors of a reader that sees everything and filters nothing, or names
/// one window, carry no scope, as in 0.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeedScope {
    /// The hash of the filter.
    filter: ScopeHash,
    /// The hash of what the filter means.
    meaning: ScopeHash,
}

type ScopeHash = [u8; 6];

/// Separates a cursor of the store from its scope.
const SEPARATOR: char = '.';

impl FeedScope {
    /// The scope without a filter, of readers that see everything.
    const NONE: Self = Self { filter: [0; 6], meaning: [0; 6] };

    /// The scope of a view of these windows.
    pub(super) fn new(selection: &SelectedWindows, view: &EventView) -> Self {
        let is_filtered = !view.filter.is_empty()
            || !(selection.single().is_some() || selection.canonical().is_empty());
        let mut scope = Self::NONE;
        if is_filtered {
            scope.filter = hash(&[selection.canonical(), view.filter.canonical()].concat());
        }
        if is_filtered || !selection.access.sees_everything() {
            scope.meaning = hash(&selection.meaning());
        }
        scope
    }

    /// A cursor of this scope, made of one of the store.
    pub(super) fn add_to(&self, mut cursor: String) -> String {
        if *self != Self::NONE {
            cursor.push(SEPARATOR);
            let scope = [self.filter, self.meaning].concat();
            URL_SAFE_NO_PAD.encode_string(scope, &mut cursor);
        }
        cursor
    }

    /// The cursor of the store in a cursor of this scope; `parameter` is where it was given.
    ///
    /// # Errors
    /// 400 if it belongs to another filter, 410 if the filter means something else by now.
    pub(super) fn remove_from<'a>(
        &self,
        cursor: &'a str,
        parameter: &str,
    ) -> Result<&'a str, Problem> {
        let (cursor, scope) = match cursor.split_once(SEPARATOR) {
            None => (cursor, Self::NONE),
            Some((cursor, scope)) => {
                let bytes = URL_SAFE_NO_PAD.decode(scope).unwrap_or_default();
                let ([filter, meaning], []) = bytes.as_chunks::<6>() else {
                    let detail = "neither a cursor of this API nor \"now\"";
                    return Err(Problem::bad_parameter(parameter, detail));
                };
                (cursor, Self { filter: *filter, meaning: *meaning })
            }
        };
        if scope.filter != self.filter {
            let detail = "the cursor belongs to another filter: repeat the parameters of the \
                          request that returned it, or read the events again with these";
            return Err(Problem::bad_parameter(parameter, detail));
        }
        if scope.meaning != self.meaning {
            return Err(Problem::ViewChanged);
        }
        Ok(cursor)
    }
}

fn hash(parts: &[String]) -> ScopeHash {
    let mut sum = Sha256::new();
    for part in parts {
        sum.update((part.len() as u64).to_be_bytes());
        sum.update(part);
    }
    let mut hash = [0; 6];
    hash.iter_mut().zip(sum.finalize()).for_each(|(to, from)| *to = from);
    hash
}
