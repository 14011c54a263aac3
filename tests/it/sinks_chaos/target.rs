//! What the chaos run does to a target.

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::copies::EventsByWindow;

/// A target of a sink that can be broken.
pub(super) trait ChaosTarget {
    /// The name of its sink.
    fn name(&self) -> &'static str;

    /// The keys of its sink, but for what the sink sends.
    fn keys(&self) -> String;

    /// Breaks something until it heals; says what.
    fn harm<'a>(&'a mut self, chance: &'a mut Rng) -> BoxFuture<'a, String>;

    /// Makes everything whole again.
    fn heal(&mut self) -> BoxFuture<'_, ()>;

    /// What it holds now, `None` if that cannot be read.
    fn held(&self) -> BoxFuture<'_, Option<EventsByWindow>>;

    /// What it has to hold of an event.
    fn expected(&self, event: &Value) -> Value {
        event.clone()
    }

    /// Removes what it made outside of the fixture, once the daemon has ended.
    fn end(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Lets a reader look, who always has to find most of the events once the copy was whole.
    fn look(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The sink sends other events from now on.
    fn change_view(&mut self) {}
}

/// A reader of a copy.
#[derive(Default)]
pub(super) struct CopyReader {
    /// The events of the whole copy at the last look.
    whole: i64,
    has_other_view: bool,
}

impl CopyReader {
    /// Sees how many events of a window there are, and whether the sink says that these are all.
    pub(super) fn see(&mut self, found: Option<(i64, bool)>) {
        let (events, is_whole) = found.unwrap_or_default();
        // Edits between two looks remove some.
        let least = if self.has_other_view { self.whole.min(1) } else { self.whole / 2 };
        assert!(events >= least, "a reader finds {events} events where {} were", self.whole);
        if is_whole {
            self.whole = events;
        }
    }

    /// The copy is lost, and begins again.
    pub(super) fn forget(&mut self) {
        self.whole = 0;
    }

    /// The copy may have far fewer events from now on, but not none.
    pub(super) fn change_view(&mut self) {
        self.has_other_view = true;
    }
}

/// How many events of a window are there, and whether the sink says that these are all.
pub(super) const LOOK: &str = "SELECT (SELECT count(*) FROM event WHERE \"window\" = 'alice'),
    (SELECT count(*) > 0 FROM position WHERE cursor IS NOT NULL AND snapshot IS NULL)";
