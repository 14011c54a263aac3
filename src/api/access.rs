//! What a reader may see and do, and what each route needs. This is the only place that decides it.

use std::sync::Arc;

use super::problem::Problem;
use crate::config::AccessLevel;
use crate::mirror::name_pattern::NamePattern;

/// What a reader may do beside reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rights {
    /// Nothing.
    Read,
    /// Start rounds and resyncs; with all windows and all of their content, also reload.
    Write,
    /// Everything.
    Full,
}

/// The rights of the reader that sent a request.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// The name of the consumer, if it is one.
    pub(super) consumer: Option<Arc<str>>,
    pub(super) level: AccessLevel,
    /// The windows that it may see; `None` for all.
    pub(super) windows: Option<Arc<[NamePattern]>>,
    pub(super) rights: Rights,
}

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RouteNeed {
    /// Nothing: it shows no calendar and no window.
    Nothing,
    /// A level, of the windows that the reader may see.
    Level(AccessLevel),
    /// A level, and the right to see all windows.
    AllWindows(AccessLevel),
    /// To start rounds.
    Write,
    /// To start rounds of all windows and to see all of them.
    Reload,
    /// All rights.
    Full,
}

/// What each route needs. A route that is missing needs all rights.
const ROUTES: [(&str, RouteNeed); 30] = [
    ("/", RouteNeed::Nothing),
    ("/page/{file}", RouteNeed::Nothing),
    ("/page/zone/{name}", RouteNeed::Nothing),
    ("/healthz", RouteNeed::Nothing),
    ("/readyz", RouteNeed::Nothing),
    ("/openapi.json", RouteNeed::Nothing),
    ("/metrics", RouteNeed::AllWindows(AccessLevel::Times)),
    ("/v1/status", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/windows", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/windows/{name}", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/windows/{name}/events", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/windows/{name}/events/{id}", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/windows/{name}/busy", RouteNeed::Level(AccessLevel::Busy)),
    ("/v1/windows/{name}/calendar.ics", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/windows/{name}/rounds", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/windows/{name}/sync", RouteNeed::Write),
    ("/v1/windows/{name}/resync", RouteNeed::Write),
    ("/v1/events", RouteNeed::Level(AccessLevel::Times)),
    ("/v1/changes", RouteNeed::Level(AccessLevel::Busy)),
    ("/v1/busy", RouteNeed::Level(AccessLevel::Busy)),
    ("/v1/free", RouteNeed::Level(AccessLevel::Busy)),
    ("/v1/reload", RouteNeed::Reload),
    ("/v1/accounts/{name}/login", RouteNeed::Full),
    ("/v1/accounts/{name}/logout", RouteNeed::Full),
    ("/v1/export", RouteNeed::Full),
    ("/v1/sinks", RouteNeed::AllWindows(AccessLevel::Times)),
    ("/v1/sinks/{name}/test", RouteNeed::Full),
    ("/v1/sinks/{name}/pause", RouteNeed::Full),
    ("/v1/sinks/{name}/resume", RouteNeed::Full),
    ("/v1/sinks/{name}/replay", RouteNeed::Full),
];

impl Access {
    /// Everything.
    pub(super) fn full() -> Self {
        Self { consumer: None, level: AccessLevel::All, windows: None, rights: Rights::Full }
    }

    /// The read token: everything that readers see.
    pub(super) fn read_only() -> Self {
        Self { rights: Rights::Read, ..Self::full() }
    }

    /// Whether the reader may see the window of this name.
    pub(super) fn sees(&self, window: &str) -> bool {
        let matches = |all: &Arc<[NamePattern]>| all.iter().any(|one| one.matches(window));
        self.windows.as_ref().is_none_or(matches)
    }

    /// Checks whether the reader may read the feed, and returns whether it sees changes: readers of
    /// the level `busy` get only the lines about events that begin and end.
    ///
    /// # Errors
    /// 403, with what is missing.
    pub(super) fn check_feed(&self, states: bool, upcoming: bool) -> Result<bool, Problem> {
        let sees_changes = self.level >= AccessLevel::Times;
        match sees_changes || (upcoming && !states) {
            true => Ok(sees_changes),
            false => Err(Problem::NotAllowed("this consumer may only ask for upcoming")),
        }
    }

    /// Whether the reader may see every window, and all of it.
    pub(super) fn sees_everything(&self) -> bool {
        self.windows.is_none() && self.level == AccessLevel::All
    }

    /// Checks whether the reader may use a route, given as it is registered.
    ///
    /// # Errors
    /// 403, with what is missing.
    pub(super) fn check(&self, route: &str) -> Result<(), Problem> {
        let found = ROUTES.iter().find(|(path, _)| *path == route);
        let level = |least| match self.level >= least {
            true => Ok(()),
            false => Err(Problem::NotAllowed("the level of this consumer is too low")),
        };
        let all_windows = || match &self.windows {
            None => Ok(()),
            Some(_) => Err(Problem::NotAllowed("this consumer does not see all windows")),
        };
        let rights =
            |least| if self.rights >= least { Ok(()) } else { Err(Problem::ReadOnlyToken) };
        match found.map_or(RouteNeed::Full, |(_, need)| *need) {
            RouteNeed::Nothing => Ok(()),
            RouteNeed::Level(least) => level(least),
            RouteNeed::AllWindows(least) => level(least).and_then(|()| all_windows()),
            RouteNeed::Write => rights(Rights::Write),
            RouteNeed::Reload => rights(Rights::Write)
                .and_then(|()| level(AccessLevel::All))
                .and_then(|()| all_windows()),
            RouteNeed::Full => rights(Rights::Full),
        }
    }
}
