//! Reads the file of an export, in the pieces in which it arrives, and checks every byte of it.
//!
//! The first byte that is not what was written is refused: nothing after it is looked at.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::export_file::{
    AFTER, BEFORE, BLOCK, DELETED, END, ExportHead, ExportTotals, FILE_FORMAT, HEAD, MAGIC,
    MAX_PAYLOAD,
};
use super::keys;
use super::record::{self, Counters, NEWEST};
use super::watermark::FORMAT;
use crate::mirror::position::WindowId;

/// Most digits of the number of a format.
const MAX_DIGITS: usize = 9;

/// Why a file is no complete export that this version can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {why}")]
pub struct ExportFault {
    /// Where in the file, in bytes from its beginning.
    pub offset: u64,
    /// The reason.
    pub why: ExportFaultKind,
}

/// The reason of an [`ExportFault`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportFaultKind {
    /// It does not begin like an export.
    #[error("this is not an export of calmirror")]
    Foreign,
    /// A newer version wrote it, or the store in it.
    #[error("{what} of format {found}, which a newer version wrote (this one knows {known})")]
    Newer {
        /// What has the format.
        what: &'static str,
        /// Its format.
        found: u32,
        /// The newest format that this program reads.
        known: u32,
    },
    /// The file ends here, before the end of the export.
    #[error("the file ends before the export is complete")]
    Truncated,
    /// The bytes are not those that were written. Names what is wrong, never a content.
    #[error("the file is damaged ({0})")]
    Damaged(&'static str),
}

/// What a complete export contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSummary {
    /// Windows, without those that are being dropped.
    pub windows: u64,
    /// Events that readers see, over all windows.
    pub events: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// What comes next in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExportPart {
    FormatLine,
    Head,
    Blocks,
    Nothing,
}

/// Checks an export as its bytes arrive. A million windows take it about 50 MB.
pub struct ExportReader {
    next: ExportPart,
    /// Bytes that are not complete yet.
    rest: Vec<u8>,
    /// Where `rest` begins in the file.
    offset: u64,
    hash: Sha256,
    totals: ExportTotals,
    /// For each window whether it is live, and its events.
    windows: BTreeMap<WindowId, (bool, u64)>,
}

impl Default for ExportReader {
    fn default() -> Self {
        Self {
            next: ExportPart::FormatLine,
            rest: Vec::new(),
            offset: 0,
            hash: Sha256::new(),
            totals: ExportTotals::default(),
            windows: BTreeMap::new(),
        }
    }
}

impl ExportReader {
    /// Checks the next bytes of the file.
    ///
    /// # Errors
    /// The first fault. The reader must not be used after it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ExportFault> {
        self.push_to(bytes, &mut |_, _, _| ())
    }

    /// The same, and passes on each record that is complete and whole, with the offset of its frame.
    pub(super) fn push_to(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(u64, &[u8], Option<&[u8]>),
    ) -> Result<(), ExportFault> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let mut read = 0;
        loop {
            let taken = self.part(&rest[read..], sink);
            let taken = taken.map_err(|why| ExportFault { offset: self.offset, why })?;
            if taken == 0 {
                break;
            }
            read += taken;
            self.offset += taken as u64;
        }
        rest.drain(..read);
        self.rest = rest;
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`ExportFaultKind::Truncated`] if the export is not complete.
    pub fn finish(self) -> Result<ExportSummary, ExportFault> {
        if self.next != ExportPart::Nothing {
            let offset = self.offset + self.rest.len() as u64;
            return Err(ExportFault { offset, why: ExportFaultKind::Truncated });
        }
        let live = || self.windows.values().filter(|(live, _)| *live);
        let events = live().map(|(_, events)| events).sum();
        Ok(ExportSummary { windows: live().count() as u64, events, bytes: self.offset })
    }

    /// Reads the next part of the file from its first bytes; returns its length, or 0 if it is not
    /// complete.
    fn part(
        &mut self,
        bytes: &[u8],
        sink: &mut impl FnMut(u64, &[u8], Option<&[u8]>),
    ) -> Result<usize, ExportFaultKind> {
        if self.next == ExportPart::FormatLine {
            let length = format_line(bytes)?;
            if length > 0 {
                self.next = ExportPart::Head;
                self.hash.update(&bytes[..length]);
            }
            return Ok(length);
        }
        let Some(&kind) = bytes.first() else { return Ok(0) };
        match (self.next, kind) {
            (ExportPart::Nothing, _) => {
                return Err(ExportFaultKind::Damaged("bytes after the end"));
            }
            (ExportPart::Head, HEAD) | (ExportPart::Blocks, BLOCK | END) => {}
            _ => return Err(ExportFaultKind::Damaged("no frame begins here")),
        }
        let Some(payload) = payload(bytes)? else { return Ok(0) };
        let length = BEFORE + payload.len() + AFTER;
        match kind {
            HEAD => {
                head(payload)?;
                self.next = ExportPart::Blocks;
            }
            BLOCK => self.block(payload, sink)?,
            _ => {
                if payload != self.totals.encode(&self.hash.clone().finalize()) {
                    return Err(ExportFaultKind::Damaged("the end does not match the file"));
                }
                self.next = ExportPart::Nothing;
            }
        }
        self.hash.update(&bytes[..length]);
        Ok(length)
    }

    fn block(
        &mut self,
        mut payload: &[u8],
        sink: &mut impl FnMut(u64, &[u8], Option<&[u8]>),
    ) -> Result<(), ExportFaultKind> {
        self.totals.blocks += 1;
        while !payload.is_empty() {
            let ((key, value), rest) =
                take_record(payload).ok_or(ExportFaultKind::Damaged("a record"))?;
            self.totals.add(key, value);
            self.note(key, value)?;
            sink(self.offset, key, value);
            payload = rest;
        }
        Ok(())
    }

    /// Notes what the summary needs, and refuses the store of a newer version.
    fn note(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ExportFaultKind> {
        let kind = key.first().ok_or(ExportFaultKind::Damaged("an empty key"))?;
        match (*kind, keys::window_of(key)) {
            (keys::WINDOW, Some(window)) => {
                self.windows.entry(window).or_default().0 = value.is_some();
            }
            (keys::COUNTERS, Some(window)) => {
                let counters = value.map_or(Ok(Counters::default()), Counters::decode);
                let counters = counters.map_err(|_| ExportFaultKind::Damaged("counters"))?;
                self.windows.entry(window).or_default().1 = counters.events;
            }
            _ => {}
        }
        if let Some(schema) = value.filter(|_| key == keys::SCHEMA) {
            let found = record::from_number(schema);
            let found = found.map_err(|_| ExportFaultKind::Damaged("the schema record"))?;
            newer("a store", u32::try_from(found).unwrap_or(u32::MAX), FORMAT)?;
        }
        Ok(())
    }
}

/// The length of the first line; 0 if it is not complete.
fn format_line(bytes: &[u8]) -> Result<usize, ExportFaultKind> {
    let begun = &bytes[..bytes.len().min(MAGIC.len())];
    if !MAGIC.starts_with(begun) {
        return Err(ExportFaultKind::Foreign);
    }
    let number = &bytes[begun.len()..];
    let Some(length) = number.iter().position(|byte| *byte == b'\n') else {
        return if number.len() > MAX_DIGITS { Err(ExportFaultKind::Foreign) } else { Ok(0) };
    };
    let digits = Some(&number[..length]).filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let found = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u32>().ok());
    match found {
        None | Some(0) => Err(ExportFaultKind::Foreign),
        Some(found) => {
            newer("an export", found, FILE_FORMAT)?;
            Ok(MAGIC.len() + length + 1)
        }
    }
}

fn newer(what: &'static str, found: u32, known: u32) -> Result<(), ExportFaultKind> {
    if found > known { Err(ExportFaultKind::Newer { what, found, known }) } else { Ok(()) }
}

/// The payload of the frame that `bytes` begins with; `None` if the frame is not complete.
fn payload(bytes: &[u8]) -> Result<Option<&[u8]>, ExportFaultKind> {
    let Some(([_, length @ ..], rest)) = bytes.split_first_chunk::<BEFORE>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD {
        return Err(ExportFaultKind::Damaged("a frame is too long"));
    }
    let Some((payload, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let Some(check) = rest.first_chunk::<AFTER>() else { return Ok(None) };
    if *check == crc32fast::hash(&bytes[..BEFORE + length]).to_be_bytes() {
        Ok(Some(payload))
    } else {
        Err(ExportFaultKind::Damaged("a frame has a wrong checksum"))
    }
}

fn head(payload: &[u8]) -> Result<(), ExportFaultKind> {
    let head = serde_json::from_slice(payload);
    let ExportHead { store_format, layout, version: _ } =
        head.map_err(|_| ExportFaultKind::Damaged("the head"))?;
    newer("a store", store_format, FORMAT)?;
    newer("records", layout.into(), NEWEST.into())
}

/// A key with its value, or its deletion.
type RawRecord<'a> = (&'a [u8], Option<&'a [u8]>);

/// The first record, and the bytes of the others.
fn take_record(payload: &[u8]) -> Option<(RawRecord<'_>, &[u8])> {
    let (key, rest) = payload.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_first_chunk::<4>()?;
    let length = |bytes: &[u8; 4]| usize::try_from(u32::from_be_bytes(*bytes)).ok();
    let (key, rest) = rest.split_at_checked(length(key)?)?;
    if *value == DELETED.to_be_bytes() {
        return Some(((key, None), rest));
    }
    let (value, rest) = rest.split_at_checked(length(value)?)?;
    Some(((key, Some(value)), rest))
}

#[cfg(test)]
mod tests;
