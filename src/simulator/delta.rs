//! Answers `calendarView/delta`, from the first request to the delta link, page by page.

use http::StatusCode;
use serde_json::{Value, json};

use super::behaviour::Behaviour;
use super::calendar::Calendar;
use super::event::{CalendarContext, EventForm};
use super::faults::{CorruptItem, Fault, ForeignLink};
use super::graph::{badly_formed, read_window};
use super::ids::{happens, mix};
use super::link::LinkToken;
use super::page_cache::{PageCacheKey, PageHead};
use super::request::{PreferHeader, RenderedResponse, ResponsePayload, SimulatedRequest};
use super::round::{DeltaRound, RoundExtent, render};
use super::state::SimulatorState;
use super::stuck;

const UNSUPPORTED: [&str; 5] = ["$orderby", "$filter", "$select", "$expand", "$search"];

impl SimulatorState {
    /// The page size of a request, from the hint in that request (facts 40, 41).
    pub(super) fn page_size(&self, call: &SimulatedRequest) -> usize {
        let hint = PreferHeader::read(&call.prefer).ok().and_then(|prefer| prefer.page_size);
        hint.unwrap_or(10).clamp(1, self.behaviour.max_page_size.max(1))
    }

    pub(super) fn delta(
        &mut self,
        call: &SimulatedRequest,
        (mailbox, calendar): (usize, usize),
        prefer: &PreferHeader,
        fault: Option<&Fault>,
    ) -> Result<RenderedResponse, RenderedResponse> {
        if call.query.iter().any(|(name, _)| UNSUPPORTED.contains(&name.as_str())) {
            return Err(RenderedResponse::bad_request(
                "ErrorInvalidUrlQuery",
                "The following parameters are not supported with change tracking over the \
                 'CalendarView' resource: '$orderby, $filter, $select, $expand, $search'.",
            ));
        }
        let size = self.page_size(call);
        if let Some((above, stuck)) = self.sticky_faults.get(&call.link_hash()).cloned()
            && size > above
            && let Some(refusal) = self.refuse(call, &stuck)
        {
            return Err(refusal);
        }
        let token = self.position(call, mailbox, calendar, &prefer.form)?;
        Ok(self.page(call, token, size, prefer, fault))
    }

    /// The position of the request in its stream. A request without a link opens a new stream.
    fn position(
        &mut self,
        call: &SimulatedRequest,
        mailbox: usize,
        calendar: usize,
        form: &EventForm,
    ) -> Result<LinkToken, RenderedResponse> {
        let here = (mailbox as u32, calendar as u16);
        let Some(text) = call.token() else {
            let window = read_window(call, Some(self.behaviour.max_days))?;
            self.count(Some(mailbox), |metrics| metrics.counts.enumerations += 1);
            let this = &mut self.mailboxes[mailbox].calendars[calendar];
            let (stream, generation) = this.open_stream(form);
            return Ok(LinkToken {
                mailbox: here.0,
                calendar: here.1,
                start: window.0.as_microsecond(),
                end: window.1.as_microsecond(),
                stream,
                generation,
                from: None,
                to: Some(this.version),
                offset: 0,
                stalled_pages: 0,
            });
        };
        let token = LinkToken::read(text, self.seed)
            .filter(|token| (token.mailbox, token.calendar) == here)
            .ok_or_else(badly_formed)?;
        let this = &mut self.mailboxes[mailbox].calendars[calendar];
        let to = Some(token.to.unwrap_or(this.version));
        let checked = this.check_link(&token, self.behaviour.kept_tokens);
        if !this.same_form(token.stream, form) {
            self.count(Some(mailbox), |metrics| metrics.counts.mixed_forms += 1);
        }
        checked.map(|()| LinkToken { to, ..token }).map_err(|highest| {
            let message = format!(
                "The sync state generation is not found; generation={};[highest={highest}][{highest}].",
                token.generation
            );
            RenderedResponse::error(StatusCode::GONE, "SyncStateNotFound", &message)
        })
    }

    fn page(
        &mut self,
        call: &SimulatedRequest,
        token: LinkToken,
        size: usize,
        prefer: &PreferHeader,
        fault: Option<&Fault>,
    ) -> RenderedResponse {
        let (mailbox, calendar) = (token.mailbox as usize, usize::from(token.calendar));
        let base = self.base(call);
        let address = self.own_address(call);
        let opening =
            format!("{{\"@odata.context\":\"{base}/$metadata#Collection(event)\",\"value\":[");
        let behaviour = &self.behaviour;
        let this = &mut self.mailboxes[mailbox].calendars[calendar];
        let place = this.place;
        let extent = RoundExtent {
            window: token.window(),
            from: token.from,
            to: token.to.unwrap_or(this.version),
        };
        let links = PageLinks { seed: self.seed, address, token };
        let fault = fault.filter(|fault| !fault.is_of_connection());

        // A round without changes costs almost nothing (fact 57).
        let quiet = extent.from == Some(extent.to);
        if quiet && fault.is_none() && behaviour.duplicates == 0.0 {
            let tail = delta_tail(&links.delta(this.next_generation(token.stream)));
            return page_reply(ResponsePayload::Plain((opening + &tail).into()));
        }

        let offset = token.offset as usize;
        let salt = mix(&[extent.salt(place), offset as u64]);
        let round = {
            let this = &*this;
            self.page_cache
                .round((mailbox, calendar, extent), || DeltaRound::build(this, behaviour, extent))
        };
        if fault.is_none()
            && token.stalled_pages < 5
            && !round.entries.is_empty()
            && happens(behaviour.empty_pages, &[salt, u64::from(token.stalled_pages), 3])
        {
            let tail = next_tail(&links.next(offset, token.stalled_pages + 1));
            return page_reply(ResponsePayload::Plain((opening + &tail).into()));
        }

        let form = &prefer.form;
        let page =
            PageRenderer { behaviour, round: &round, place, form, opening, offset, size, salt };
        if let Some(fault) = fault {
            let body = faulty_page(&page, &links, fault, this, &base);
            return page_reply(ResponsePayload::Plain(body.into()));
        }

        let key = PageCacheKey {
            mailbox,
            calendar,
            extent,
            offset,
            size,
            zone: form.zone.name.clone(),
            text_body: form.text_body,
            immutable: form.immutable,
            base,
        };
        let keep = extent.from.is_none();
        let tail = |head: &PageHead| links.tail(head, this);
        page_reply(self.page_cache.page(key, keep, tail, call.gzip, || page.render(usize::MAX)))
    }
}

/// Writes the links of a page.
struct PageLinks {
    seed: u64,
    /// The address of the request without its query.
    address: String,
    /// The position of the request.
    token: LinkToken,
}

impl PageLinks {
    fn next(&self, offset: usize, stalled_pages: u32) -> String {
        let token = LinkToken { offset: offset as u32, stalled_pages, ..self.token };
        format!("{}?$skiptoken={}", self.address, token.write(self.seed))
    }

    fn delta(&self, generation: u32) -> String {
        let token = LinkToken {
            from: self.token.to,
            to: None,
            offset: 0,
            stalled_pages: 0,
            generation,
            ..self.token
        };
        format!("{}?$deltatoken={}", self.address, token.write(self.seed))
    }

    /// The end of a page: its delta link, which starts a generation, or its next link.
    fn tail(&self, head: &PageHead, calendar: &mut Calendar) -> String {
        if head.last {
            delta_tail(&self.delta(calendar.next_generation(self.token.stream)))
        } else {
            next_tail(&self.next(head.next, 0))
        }
    }
}

fn next_tail(link: &str) -> String {
    format!("],\"@odata.nextLink\":\"{link}\"}}")
}

fn delta_tail(link: &str) -> String {
    format!("],\"@odata.deltaLink\":\"{link}\"}}")
}

/// Renders one page of a round, up to its link.
struct PageRenderer<'a> {
    behaviour: &'a Behaviour,
    round: &'a DeltaRound,
    place: CalendarContext,
    form: &'a EventForm,
    /// The page up to its first item.
    opening: String,
    offset: usize,
    size: usize,
    /// A hash of the page's identity, so that random choices repeat for the same page.
    salt: u64,
}

impl PageRenderer<'_> {
    /// Renders at most `most` items.
    fn render(&self, most: usize) -> PageHead {
        let Self { round, salt, .. } = *self;
        let (entries, next) = round.page(self.offset, self.size);
        let entries = entries.get(..most).unwrap_or(entries);
        let mut raw = self.opening.clone().into_bytes();
        // Only current states may be repeated: the last state of an item must be the true one.
        let current = round.entries.get(round.stale..next).unwrap_or_default();
        let duplicates = self.behaviour.duplicates;
        let again = (!current.is_empty() && most >= self.size && happens(duplicates, &[salt, 4]))
            .then(|| &current[(mix(&[salt, 5]) % current.len() as u64) as usize]);
        for (at, (entry, _)) in entries.iter().chain(again).enumerate() {
            if at > 0 {
                raw.push(b',');
            }
            let event = render(entry, self.place, self.form, self.behaviour);
            if serde_json::to_writer(&mut raw, &event).is_err() {
                break;
            }
        }
        PageHead::new(raw, next, next >= round.entries.len())
    }
}

/// Renders a page with a fault that changes it.
fn faulty_page(
    page: &PageRenderer<'_>,
    links: &PageLinks,
    fault: &Fault,
    calendar: &mut Calendar,
    base: &str,
) -> Vec<u8> {
    let LinkToken { stream, stalled_pages, .. } = links.token;
    let (most, endless) = stuck::shown(fault, stalled_pages, page.size);
    let head = page.render(most);
    let mut raw = head.raw.to_vec();
    if endless {
        raw.extend_from_slice(next_tail(&links.next(page.offset, stalled_pages + 1)).as_bytes());
        return raw;
    }
    let next = links.next(head.next, 0);
    // Only a delta link that is sent starts a generation.
    let delta = match head.last || *fault == Fault::BothLinks {
        true => links.delta(calendar.next_generation(stream)),
        false => String::new(),
    };
    let (own, tail): (&str, fn(&str) -> String) =
        if head.last { (&delta, delta_tail) } else { (&next, next_tail) };
    let tail = match fault {
        Fault::NeitherLink => "]}".to_owned(),
        Fault::BothLinks => {
            format!("],\"@odata.nextLink\":\"{next}\",\"@odata.deltaLink\":\"{delta}\"}}")
        }
        Fault::ForeignLink { how } => tail(&foreign_link(own, base, *how)),
        _ => tail(own),
    };
    match fault {
        Fault::UnreadableItem { how } => {
            stuck::append_items(&mut raw, &corrupt_item(*how).to_string())
        }
        Fault::Lie { how } => raw = how.apply(&raw),
        Fault::HugePage { .. } => raw.resize(raw.len() + stuck::HUGE, b' '),
        Fault::CrowdedPage { .. } => stuck::append_items(&mut raw, &stuck::crowd()),
        _ => {}
    }
    raw.extend_from_slice(tail.as_bytes());
    raw
}

/// The link `own`, which begins with `base`, at another origin.
fn foreign_link(own: &str, base: &str, how: ForeignLink) -> String {
    let (scheme, rest) = base.split_once("://").unwrap_or(("https", base));
    let authority = rest.split('/').next().unwrap_or_default();
    let path = own.get(scheme.len() + 3 + authority.len()..).unwrap_or_default();
    let host = authority.split(':').next().unwrap_or_default();
    match how {
        ForeignLink::Host => format!("{scheme}://elsewhere.example{path}"),
        ForeignLink::Scheme if scheme == "https" => format!("http://{authority}{path}"),
        ForeignLink::Scheme => format!("https://{authority}{path}"),
        ForeignLink::Port => format!("{scheme}://{host}:4431{path}"),
        ForeignLink::UserInfo => format!("{scheme}://{authority}@elsewhere.example{path}"),
    }
}

fn page_reply(body: ResponsePayload) -> RenderedResponse {
    let mut reply = RenderedResponse::text(
        StatusCode::OK,
        "application/json;odata.metadata=minimal;odata.streaming=true;charset=utf-8",
        "",
    );
    reply.body = body;
    reply
}

fn corrupt_item(how: CorruptItem) -> Value {
    let time = json!({"dateTime": "2026-01-05T09:00:00.0000000", "timeZone": "UTC"});
    let kind = "#microsoft.graph.event";
    match how {
        CorruptItem::NotAnObject => json!("event"),
        CorruptItem::NoId => {
            json!({"@odata.type": kind, "type": "singleInstance", "start": time, "end": time})
        }
        CorruptItem::NumberId => {
            json!({"@odata.type": kind, "id": 5, "type": "singleInstance", "start": time, "end": time})
        }
        CorruptItem::BadDate => json!({
            "@odata.type": kind,
            "id": "AAMkADUnreadableAAA=",
            "type": "singleInstance",
            "start": {"dateTime": "yesterday", "timeZone": "UTC"},
            "end": time,
        }),
    }
}
