//! Caches the bytes of pages. The expensive part, rendering and compressing the items, is done
//! once; the link, new in every response, is appended without compressing the items again.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::request::ResponsePayload;
use super::round::{DeltaRound, RoundExtent};

/// The parameters that a cached page was rendered for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PageCacheKey {
    pub(super) mailbox: usize,
    pub(super) calendar: usize,
    pub(super) extent: RoundExtent,
    pub(super) offset: usize,
    pub(super) size: usize,
    pub(super) zone: Arc<str>,
    pub(super) text_body: bool,
    pub(super) immutable: bool,
    pub(super) base: Arc<str>,
}

/// A page up to its link.
#[derive(Clone, Debug)]
pub(super) struct PageHead {
    pub(super) raw: Bytes,
    /// A gzip header and deflate blocks up to a byte boundary.
    deflated: Option<Bytes>,
    check: crc32fast::Hasher,
    /// The offset of the next page.
    pub(super) next: usize,
    /// Whether the round ends with this page.
    pub(super) last: bool,
}

impl PageHead {
    pub(super) fn new(mut raw: Vec<u8>, next: usize, last: bool) -> Self {
        // A page may be cached for a long time, so it gives up its spare capacity.
        raw.shrink_to_fit();
        Self { raw: raw.into(), deflated: None, check: crc32fast::Hasher::new(), next, last }
    }

    /// Compresses the page if that was not done before.
    fn deflate(&mut self) {
        if self.deflated.is_some() {
            return;
        }
        let space = Vec::with_capacity(64 + self.raw.len() / 4);
        let mut encoder = GzEncoder::new(space, Compression::fast());
        // Writing to a Vec cannot fail. The flush ends at a byte boundary (RFC 1951, 3.2.4).
        encoder.write_all(&self.raw).and_then(|()| encoder.flush()).ok();
        let mut out = std::mem::take(encoder.get_mut());
        self.check = crc32fast::Hasher::new();
        self.check.update(&self.raw);
        out.shrink_to_fit();
        self.deflated = Some(out.into());
    }

    /// The page followed by `tail`.
    pub(super) fn finish(&mut self, tail: &str, gzip: bool) -> ResponsePayload {
        let raw = (self.raw.len() + tail.len()) as u64;
        if !gzip {
            let mut body = Vec::with_capacity(self.raw.len() + tail.len());
            body.extend_from_slice(&self.raw);
            body.extend_from_slice(tail.as_bytes());
            return ResponsePayload::Ready { encoded: body.into(), gzip: false, raw };
        }
        self.deflate();
        let head = self.deflated.clone().unwrap_or_default();
        let mut body = Vec::with_capacity(head.len() + tail.len() + 16);
        body.extend_from_slice(&head);
        // One stored block, the last of the stream (RFC 1951, 3.2.4). A link is far below 64 KiB.
        let length = u16::try_from(tail.len()).unwrap_or(u16::MAX);
        let tail = &tail.as_bytes()[..usize::from(length)];
        body.push(1);
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&(!length).to_le_bytes());
        body.extend_from_slice(tail);
        let mut check = self.check.clone();
        check.update(tail);
        body.extend_from_slice(&check.finalize().to_le_bytes());
        body.extend_from_slice(&(raw as u32).to_le_bytes());
        ResponsePayload::Ready { encoded: body.into(), gzip: true, raw }
    }

    fn weight(&self) -> usize {
        self.raw.len() + self.deflated.as_ref().map_or(self.raw.len() / 4, Bytes::len)
    }
}

/// Cached rounds and pages; the oldest are evicted first.
#[derive(Debug)]
pub(super) struct PageCache {
    pages: BTreeMap<PageCacheKey, PageHead>,
    page_order: VecDeque<PageCacheKey>,
    weight: usize,
    /// Bytes of pages to cache.
    pub(super) limit: usize,
    /// The newest rounds, by mailbox, calendar and extent.
    rounds: VecDeque<((usize, usize, RoundExtent), Arc<DeltaRound>)>,
}

impl PageCache {
    pub(super) fn new() -> Self {
        Self {
            pages: BTreeMap::new(),
            page_order: VecDeque::new(),
            weight: 0,
            limit: 256 << 20,
            rounds: VecDeque::new(),
        }
    }

    /// The page for `key`, made by `make` if it is not cached; `keep` caches a new page.
    pub(super) fn page(
        &mut self,
        key: PageCacheKey,
        keep: bool,
        tail: impl FnOnce(&PageHead) -> String,
        gzip: bool,
        make: impl FnOnce() -> PageHead,
    ) -> ResponsePayload {
        if let Some(head) = self.pages.get_mut(&key) {
            let tail = tail(head);
            return head.finish(&tail, gzip);
        }
        let mut head = make();
        let tail = tail(&head);
        let payload = head.finish(&tail, gzip);
        if keep {
            self.weight += head.weight();
            self.page_order.push_back(key.clone());
            self.pages.insert(key, head);
            while self.weight > self.limit
                && let Some(oldest) = self.page_order.pop_front()
            {
                let weight = self.pages.remove(&oldest).map_or(0, |head| head.weight());
                self.weight = self.weight.saturating_sub(weight);
            }
        }
        payload
    }

    /// The round for `key`, made by `make` if it is not cached.
    pub(super) fn round(
        &mut self,
        key: (usize, usize, RoundExtent),
        make: impl FnOnce() -> DeltaRound,
    ) -> Arc<DeltaRound> {
        if let Some((_, round)) = self.rounds.iter().find(|(known, _)| *known == key) {
            return round.clone();
        }
        let round = Arc::new(make());
        self.rounds.push_back((key, round.clone()));
        if self.rounds.len() > 64 {
            self.rounds.pop_front();
        }
        round
    }

    /// Drops everything; for a change of behaviour.
    pub(super) fn clear(&mut self) {
        let limit = self.limit;
        *self = Self { limit, ..Self::new() };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_cached_page_with_any_link_is_one_valid_gzip_stream() {
        for length in [0, 1, 100, 5000, 300_000] {
            let raw: Vec<u8> = (0..length).map(|i: u32| (i % 251 * (i % 7)) as u8).collect();
            let mut head = PageHead::new(raw.clone(), 0, true);
            for tail in ["", "\"@odata.deltaLink\"}", &"x".repeat(700)] {
                let ResponsePayload::Ready { encoded, gzip: true, raw: size } =
                    head.finish(tail, true)
                else {
                    panic!("not compressed")
                };
                let mut read = Vec::new();
                flate2::read::GzDecoder::new(&encoded[..]).read_to_end(&mut read).unwrap();
                assert_eq!(read.len() as u64, size);
                assert_eq!(read, [&raw[..], tail.as_bytes()].concat(), "{length}");
            }
        }
    }
}
