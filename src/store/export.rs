//! Exports the whole store as one file, in pieces, while the writer goes on.
//!
//! The tree is read in slices (`copy`), and each slice is a block of the file (`export_file`). What
//! is written meanwhile comes again in later blocks, so that the file as a whole is the store of one
//! moment: that of the last block. A block is handed out only when everything in it is durable.

use std::sync::Arc;

use super::Store;
use super::copy::{CopySlice, TreeCopy};
use super::error::StoreError;
use super::export_file::ExportWriter;
use super::shared::StoreShared;

/// Bytes read at once. The writer waits meanwhile.
const SLICE: usize = 256 << 10;

/// An export under way.
pub struct StoreExport {
    shared: Arc<StoreShared>,
    /// `None` after the end and after an error.
    state: Option<(TreeCopy, ExportWriter)>,
    /// The first bytes, until they are handed out.
    head: Vec<u8>,
}

impl Store {
    /// Begins an export. It contains the events as Graph sent them and the delta links of all
    /// segments, and no credentials.
    ///
    /// # Errors
    /// If the store can no longer be used.
    pub fn export(&self) -> Result<StoreExport, StoreError> {
        let copy = TreeCopy::begin(self.shared())?;
        let (writer, head) = ExportWriter::begin();
        Ok(StoreExport { shared: self.shared().clone(), state: Some((copy, writer)), head })
    }
}

impl StoreExport {
    /// The next bytes of the file, a few hundred kilobytes; empty after the end.
    ///
    /// # Errors
    /// [`StoreError::CopyOverrun`] if too much was written meanwhile; the export can be made again.
    /// After any other error the store cannot be used. What was handed out is then no export.
    pub async fn next(&mut self) -> Result<Vec<u8>, StoreError> {
        let Some((mut copy, mut writer)) = self.state.take() else { return Ok(Vec::new()) };
        let read = self.shared.read(move |_| {
            let slice = copy.next_slice(SLICE)?;
            let group = slice.group;
            Ok(((slice, copy), group))
        });
        let (CopySlice { entries, last, .. }, copy) = read.await?;
        let mut bytes = std::mem::take(&mut self.head);
        if !entries.is_empty() {
            let records = entries.iter().map(|(key, value)| (&**key, value.as_deref()));
            bytes.extend_from_slice(&writer.block(records));
        }
        if last {
            bytes.extend_from_slice(&writer.end());
        } else {
            self.state = Some((copy, writer));
        }
        Ok(bytes)
    }

    /// Whether the last bytes were handed out.
    pub fn is_over(&self) -> bool {
        self.state.is_none()
    }
}
