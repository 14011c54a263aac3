//! Requests for the pages of a round: what a page holds until it is written, and what a page that
//! cannot be fetched means.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::graph::{GraphError, PageStart, RequestOptions, Reservation};
use crate::mirror::failure::{ErrorClass, FailureCause};
use crate::mirror::page::{EventId, Link, Page, PageEnd};
use crate::mirror::round::{PageFailure, Round, RoundInput, SegmentContext};
use crate::mirror::window::Edges;

use super::edges::first_day;
use super::retry::RetryBudget;
use super::series::ListedIds;
use super::{Attempt, AttemptError};

/// How a page is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageSource {
    /// By the delta function.
    Delta,
    /// By a plain listing, in snapshot mode.
    Plain,
}

/// What is kept of the page that was requested last.
#[derive(Default)]
pub(super) struct CurrentPage {
    /// The memory that it occupies until it is written.
    pub(super) memory: Reservation,
    /// Why it could not be fetched.
    pub(super) error: Option<AttemptError>,
    /// The events between these edges that a plain view listed after it.
    pub(super) listed_ids: Option<(Edges, ListedIds)>,
}

impl Attempt<'_> {
    /// Requests a page, and looks up in the store what the round needs to know of its ids.
    pub(super) async fn page(
        &mut self,
        round: &Round,
        source: PageSource,
        link: Option<&Link>,
    ) -> Result<RoundInput, AttemptError> {
        let &SegmentContext { segment, edges, .. } = round.context();
        let before = self.context.target.response_micros.load(Ordering::Relaxed);
        self.current_page = CurrentPage::default();
        let page = match self.fetch_page(source, link, edges).await {
            Ok((page, memory)) => {
                self.current_page.memory = memory;
                page
            }
            Err(AttemptError::Graph(error)) if error.class() == ErrorClass::LinkDead => {
                if !self.budget.link_died() {
                    let error = AttemptError::LinkDiedAgain;
                    return Ok(self.page_failed(error, PageFailure::Other));
                }
                tracing::info!(
                    status = error.status(),
                    code = error.code(),
                    "link is dead, enumerating again"
                );
                return Ok(RoundInput::LinkDead);
            }
            Err(error) => match self.page_failure(&error, source, link, edges).await {
                Some(failure) => return Ok(self.page_failed(error, failure)),
                None => return Err(error),
            },
        };
        let took =
            self.context.target.response_micros.load(Ordering::Relaxed).saturating_sub(before);
        self.stats.round.pages += 1;
        let (is_first, unreadable) = (link.is_none(), page.unreadable.len());
        self.context.handle.lock().count_unreadable(segment, is_first, unreadable);
        for unreadable in &page.unreadable {
            tracing::warn!(
                event_id = unreadable.id.as_ref().map(EventId::as_str),
                reason = unreadable.reason,
                "item could not be read"
            );
        }
        let ids = round.ids_to_look_up(&page);
        let known = if ids.is_empty() {
            BTreeMap::new()
        } else {
            let kinds = self.context.services.store.known(self.context.id, ids.clone()).await?;
            ids.into_iter().zip(kinds).collect()
        };
        Ok(RoundInput::Page { page, known, took: Duration::from_micros(took) })
    }

    /// Fetches one page.
    async fn fetch_page(
        &mut self,
        source: PageSource,
        link: Option<&Link>,
        edges: Edges,
    ) -> Result<(Page, Reservation), AttemptError> {
        let (client, target, options) = self.request_parts();
        if source == PageSource::Delta {
            let start = || link.map_or(PageStart::Window(edges), PageStart::Link);
            return self.fetch(|fresh| client.page(target, &options, start(), fresh)).await;
        }
        let listing = self
            .fetch(|fresh| client.calendar_view(target, &options, edges, None, link, fresh))
            .await?;
        let page = Page {
            present: listing.items,
            removed: Vec::new(),
            unreadable: listing.unreadable,
            end: listing.next.map_or(PageEnd::Last, PageEnd::Next),
        };
        Ok((page, listing.memory))
    }

    /// The page cannot be fetched in this attempt. The round decides whether a fallback may help.
    fn page_failed(&mut self, error: AttemptError, failure: PageFailure) -> RoundInput {
        self.current_page.error = Some(error);
        // A fallback is another round with its own retries.
        self.budget = RetryBudget::default();
        RoundInput::Failed(failure)
    }

    /// What an error says of the page. `None`: no other request would be answered either.
    async fn page_failure(
        &mut self,
        error: &AttemptError,
        source: PageSource,
        link: Option<&Link>,
        edges: Edges,
    ) -> Option<PageFailure> {
        let AttemptError::Graph(error) = error else { return None };
        if error.class() == ErrorClass::TooLarge {
            return Some(PageFailure::TooLarge);
        }
        let followed = source == PageSource::Delta && link.is_some();
        // Only calendars that others share with a person behave so. An application that is denied a
        // link is denied the mailbox.
        if followed
            && error.class() == ErrorClass::Forbidden
            && self.context.target.tokens.credential().may_be_a_user()
            && Box::pin(self.probe(edges)).await.is_ok()
        {
            return Some(PageFailure::LinkForbidden);
        }
        if self.is_page_specific(error, edges).await {
            return Some(PageFailure::PageSpecific);
        }
        matches!(error.cause(), FailureCause::Transient | FailureCause::Quarantined)
            .then_some(PageFailure::Other)
    }

    /// Whether the mailbox answers a small request while this one keeps failing. If it answers
    /// neither, the outage is general and no fallback would help (facts 123, 124). The kind of
    /// error does not matter: 500, 503 and 504 have all been seen to stick to a page (facts 121,
    /// 197).
    async fn is_page_specific(&mut self, error: &GraphError, edges: Edges) -> bool {
        let of_a_page = error.class().is_retryable() && !error.is_account_wide();
        of_a_page && self.budget.is_spent() && Box::pin(self.probe(edges)).await.is_ok()
    }

    /// Makes a small request that distinguishes a failing page or series from a calendar that does
    /// not answer at all. After a 404 for a series it must succeed before the 404 counts (fact 103).
    pub(super) async fn probe(&mut self, edges: Edges) -> Result<(), AttemptError> {
        let (client, target, options) = self.request_parts();
        let (day, options) = (first_day(edges), RequestOptions { page_size: 1, ..options });
        self.fetch(|fresh| client.calendar_view(target, &options, day, Some("id"), None, fresh))
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::script::{ScriptedResponse, reply};
    use crate::graph::transport::TransportErrorKind;
    use crate::tests::window;
    use crate::worker::tests::{WorkerFixture, list, not_found};

    /// The input for the round after each of some requests for the first page, and the attempt's error.
    async fn pages(answers: Vec<ScriptedResponse>, count: usize) -> Vec<(RoundInput, String)> {
        let fixture = WorkerFixture::new(window("alice"), answers).await;
        let (mut attempt, edges) = (fixture.attempt(), fixture.edges());
        let (round, _) = attempt.open(0, edges, false).await.unwrap();
        let mut inputs = Vec::new();
        for _ in 0..count {
            let input = attempt.page(&round, PageSource::Delta, None).await.unwrap();
            inputs.push((input, format!("{:?}", attempt.current_page.error)));
        }
        inputs
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_page_that_fails_alone_is_refused() {
        let failing = |count| (0..count).map(|_| reply(500, "")).collect::<Vec<_>>();
        let then = |mut answers: Vec<_>, last| {
            answers.push(last);
            answers
        };
        let large = vec![ScriptedResponse::Fault(TransportErrorKind::TooLarge)];
        for (case, answers, expected) in [
            ("the mailbox answers", then(failing(5), list(&[])), PageFailure::PageSpecific),
            ("the mailbox fails too", failing(6), PageFailure::Other),
            ("the calendar is gone", vec![not_found()], PageFailure::Other),
            ("the page is too large", large, PageFailure::TooLarge),
        ] {
            let (input, _) = pages(answers, 1).await.remove(0);
            assert!(
                matches!(input, RoundInput::Failed(seen) if seen == expected),
                "{case}: {input:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_forbidden_link_is_told_from_a_forbidden_calendar() {
        let forbidden = || reply(403, r#"{"error":{"code":"ErrorAccessDenied"}}"#);
        let denied = PageFailure::Other;
        for (person, source, link, answers, expected) in [
            (
                true,
                PageSource::Delta,
                true,
                vec![forbidden(), list(&[])],
                PageFailure::LinkForbidden,
            ),
            (true, PageSource::Delta, true, vec![forbidden(), forbidden()], denied),
            (true, PageSource::Delta, false, vec![forbidden()], denied),
            (true, PageSource::Plain, true, vec![forbidden()], denied),
            (false, PageSource::Delta, true, vec![forbidden()], denied),
        ] {
            let fixture = WorkerFixture::new(window("alice"), answers).await;
            let fixture = if person { fixture.of_a_person() } else { fixture };
            let (mut attempt, edges) = (fixture.attempt(), fixture.edges());
            let (round, _) = attempt.open(0, edges, false).await.unwrap();
            let next = Link::new(format!("{}/x?$skiptoken=1", crate::graph::script::BASE));
            let input = attempt.page(&round, source, link.then_some(&next)).await.unwrap();
            assert!(
                matches!(input, RoundInput::Failed(seen) if seen == expected),
                "{person} {source:?} {link}: {input:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_dead_link_ends_the_attempt() {
        let inputs = pages(vec![reply(410, ""), reply(410, "")], 2).await;
        let [(RoundInput::LinkDead, _), (RoundInput::Failed(PageFailure::Other), error)] =
            &inputs[..]
        else {
            panic!("{inputs:?}");
        };
        assert_eq!(error, "Some(LinkDiedAgain)");
    }
}
