//! Changes of a window's edges and of the length of its segments, which start new enumerations.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::graph::{GraphError, RequestOptions};
use crate::mirror::clock::ClockCheck;
use crate::mirror::round::{RoundEnd, is_mass_removal};
use crate::mirror::schedule;
use crate::mirror::status::ResyncReason;
use crate::mirror::window::{self, Edges};

use super::retry::RetryBudget;
use super::{Attempt, AttemptError};
use crate::worker::monotonic::MonotonicTime;

impl Attempt<'_> {
    /// Moves relative edges, which follow the date, each window at its own hour. Returns whether
    /// they moved. `accept`: move them however many events leave the window.
    pub(super) async fn move_edges(&mut self, accept: bool) -> Result<bool, AttemptError> {
        let (edges, computed) = {
            let state = self.context.handle.lock();
            (state.edges, state.edges_at)
        };
        let due = |now| schedule::due_move(self.context.window, edges, computed, now);
        let mut now = self.context.services.env.now();
        let mut moved = due(now);
        if moved.is_some() && self.context.services.client.clock(now) == ClockCheck::Unknown {
            Box::pin(self.read_clock(edges)).await?;
            now = self.context.services.env.now();
            moved = due(now);
        }
        let Some(moved) = moved.filter(|_| self.context.services.client.clock(now).is_usable())
        else {
            self.clear_held_move();
            return Ok(false);
        };
        if !accept && Box::pin(self.hold_move(moved, now)).await? {
            return Ok(false);
        }
        self.context.services.store.move_edges(self.context.id, moved, now).await?;
        let mut state = self.context.handle.lock();
        state.set_edges(moved, now);
        state.edit_rare(|rare| rare.held_move = None);
        drop(state);
        self.record_resync(now, ResyncReason::WindowMoved);
        tracing::info!(start = %moved.start, end = %moved.end, "window moved");
        Ok(true)
    }

    fn clear_held_move(&self) {
        let mut state = self.context.handle.lock();
        if state.rare().held_move.is_some() {
            state.edit_rare(|rare| rare.held_move = None);
        }
    }

    /// Holds a move that would drop most of the window, for `confirm_after`; returns whether it
    /// still waits.
    async fn hold_move(&self, moved: Edges, now: Timestamp) -> Result<bool, AttemptError> {
        let count = self.context.services.store.outside(self.context.id, moved).await?;
        if !is_mass_removal(count.outside, count.all) {
            return Ok(false);
        }
        let mut state = self.context.handle.lock();
        let until = Instant::now() + self.context.window.settings.confirm_after;
        let until = MonotonicTime::at(until, now);
        let until = state.edit_rare(|rare| *rare.held_move.get_or_insert(until));
        Ok(!until.is_over())
    }

    /// Makes a small request only for the `Date` of its response. The round itself finds out about
    /// any error.
    async fn read_clock(&self, edges: Edges) -> Result<(), AttemptError> {
        let options = RequestOptions { page_size: 1, ..self.options.clone() };
        let (client, day) = (&self.context.services.client, first_day(edges));
        let target = self.context.target;
        let response = client.calendar_view(target, &options, day, Some("id"), None, false);
        if let Err(error) = self.unless_stopped(response).await? {
            tracing::debug!(kind = error.class().as_str(), "request for graph's clock failed");
        }
        Ok(())
    }

    /// Halves the segments, because Graph does not answer for segments of this length.
    pub(super) async fn halve_segments(&mut self, error: GraphError) -> Result<(), AttemptError> {
        let (edges, days) = {
            let state = self.context.handle.lock();
            (state.edges, state.segment_days())
        };
        let Some(days) = window::halved_segment_days(edges, days) else {
            return Err(AttemptError::Graph(error));
        };
        let now = self.context.services.env.now();
        self.context.services.store.shorten_segments(self.context.id, days, now).await?;
        self.context.handle.lock().set_segment_days(days);
        self.record_resync(now, ResyncReason::SegmentTooLong);
        tracing::warn!(days, "segments are too long for graph, halving them");
        (self.end, self.budget) = (RoundEnd::Settled, RetryBudget::default());
        Ok(())
    }
}

/// The first day between two edges.
pub(super) fn first_day(edges: Edges) -> Edges {
    let end = edges.start.checked_add(SignedDuration::from_hours(24)).unwrap_or(edges.end);
    Edges { start: edges.start, end }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::graph::script::reply;
    use crate::mirror::segment_set::SegmentSet;
    use crate::mirror::window::{Edge, Window};
    use crate::tests::window;
    use crate::worker::attempt::AttemptEnd;
    use crate::worker::tests::{WorkerFixture, delta, list, part};

    const DAY: Duration = Duration::from_secs(86_400);

    /// A window whose edges follow the date: it begins on 3 October.
    fn relative() -> Window {
        let mut window = window("alice");
        window.settings_mut().start = Edge::Relative { years: 0, months: 0, days: -30 };
        window.settings_mut().move_every = DAY;
        window
    }

    /// The wall clock is three days ahead of when the edges were computed; Graph says whether rightly.
    #[tokio::test(start_paused = true)]
    async fn edges_move_only_by_a_clock_that_graph_confirms() {
        for (date, moves) in
            [("Thu, 05 Nov 2026 12:00:00 GMT", true), ("Mon, 02 Nov 2026 12:00:00 GMT", false)]
        {
            let fixture = WorkerFixture::new(relative(), [list(&[]).with("date", date)]).await;
            let before = fixture.edges();
            fixture.services.env.advance_wall_clock(SignedDuration::from_hours(72));
            assert_eq!(fixture.attempt().move_edges(false).await.unwrap(), moves, "{date}");
            assert_eq!(fixture.edges() != before, moves, "{date}");
            assert_eq!(fixture.script.urls().len(), 1, "a request for the clock");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_move_that_drops_most_events_waits_for_its_confirmation() {
        for accepted in [false, true] {
            let items: Vec<_> = (0..25)
                .map(|n| part(&format!("e{n}"), r#""type":"singleInstance""#, 3))
                .map(|item| item.replace("2026-11-03", "2026-10-04"))
                .collect();
            let date = "Mon, 02 Nov 2026 12:00:00 GMT";
            let fixture = WorkerFixture::new(relative(), [delta(&items).with("date", date)]).await;
            fixture.run().await;
            let before = fixture.edges();
            tokio::time::advance(3 * DAY).await;
            assert_eq!(fixture.attempt().move_edges(accepted).await.unwrap(), accepted);
            assert_eq!(fixture.edges() != before, accepted);
            if !accepted {
                assert!(!fixture.attempt().move_edges(false).await.unwrap());
                tokio::time::advance(relative().settings.confirm_after).await;
                assert!(fixture.attempt().move_edges(false).await.unwrap(), "it has waited");
            }
            assert!(fixture.handle.lock().rare().held_move.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn segments_that_are_too_long_for_graph_are_halved() {
        let message = "The range is greater than the allowed range. Maximum number of days: 62";
        let body = format!(r#"{{"error":{{"code":"ErrorInvalidRequest","message":"{message}"}}}}"#);
        let fixture =
            WorkerFixture::new(window("alice"), [reply(400, body), delta(&[]), delta(&[])]).await;
        let (end, stats) = fixture.run().await;
        assert_eq!((end, stats.settled), (AttemptEnd::Settled, SegmentSet::from_iter([0, 1])));
        assert_eq!(fixture.handle.lock().segments().len(), 2);
        assert_eq!(fixture.handle.lock().resync, Some(ResyncReason::SegmentTooLong));
    }
}
