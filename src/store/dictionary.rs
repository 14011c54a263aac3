//! Dictionaries of zstd, and the compression of single contents with them.
//!
//! Events of one organisation resemble each other: with a dictionary of typical content each becomes
//! several times smaller, although every event is compressed alone. A compressed content names its
//! dictionary by number. A dictionary never changes and is never deleted.
//!
//! A dictionary that a store trained contains text of events: it is never logged.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CDict, DCtx, DDict, compress_bound, get_frame_content_size};

use super::error::TreeError;

/// The number of a dictionary.
pub(super) type DictionaryNumber = u32;

/// The dictionary that is part of the program. Numbers below [`FIRST_TRAINED`] are
/// reserved for later ones.
pub(super) const SHIPPED: DictionaryNumber = 1;
/// The number of the first dictionary that a store trains.
pub(super) const FIRST_TRAINED: DictionaryNumber = 1000;
/// Made by `examples/train_dictionary.rs`. Stores name it, so it must never change.
const SHIPPED_CONTENT: &[u8] = include_bytes!("dictionary/events.zstd");
/// The longest content that is compressed, and so the most memory that a row can ask for. A response
/// of Graph has at most 64 MiB. A completed occurrence contains two events, and a body their ids and
/// the etag once more.
const MAX_LENGTH: usize = 256 << 20;
/// The level of zstd. Level 1 costs a quarter less, but its rows are a fifth larger and take a sixth
/// more time to read.
const LEVEL: i32 = 3;

thread_local! {
    // A context has half a megabyte of tables, too much to allocate for each event.
    static COMPRESSION: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESSION: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// A dictionary, prepared for use.
pub(super) struct Dictionary {
    /// Its number.
    pub(super) number: DictionaryNumber,
    encoder: CDict<'static>,
    decoder: DDict<'static>,
}

impl Dictionary {
    /// Prepares a dictionary; `None` if it is not one.
    pub(super) fn new(number: DictionaryNumber, content: &[u8]) -> Option<Self> {
        let encoder = CDict::try_create(content, LEVEL)?;
        let decoder = DDict::try_create(content)?;
        Some(Self { number, encoder, decoder })
    }

    /// Compresses a content; `None` if that does not make it smaller, or the content is too long.
    pub(super) fn compress(&self, content: &[u8]) -> Option<Bytes> {
        if content.len() > MAX_LENGTH {
            return None;
        }
        COMPRESSION.with_borrow_mut(|context| {
            let mut out = Vec::with_capacity(compress_bound(content.len()));
            // Fails only if the output does not fit, which the bound excludes.
            context.compress_using_cdict(&mut out, content, &self.encoder).ok()?;
            // Copied, because most of the allocation is unused.
            (out.len() < content.len()).then(|| Bytes::copy_from_slice(&out))
        })
    }

    /// Restores a content of `length` bytes; `None` if `compressed` is not one.
    pub(super) fn decompress(&self, compressed: &[u8], length: usize) -> Option<Bytes> {
        if !can_have(compressed, length) {
            return None;
        }
        DECOMPRESSION.with_borrow_mut(|context| {
            let mut out = Vec::with_capacity(length);
            context.decompress_using_ddict(&mut out, compressed, &self.decoder).ok()?;
            (out.len() == length).then(|| out.into())
        })
    }
}

/// Whether a compressed content can have this length, by its own header. Asked before memory of
/// that size is allocated, because an imported file may say anything.
fn can_have(compressed: &[u8], length: usize) -> bool {
    let declared = get_frame_content_size(compressed).ok().flatten();
    length <= MAX_LENGTH && declared.is_some_and(|declared| declared == length as u64)
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dictionary").field(&self.number).finish()
    }
}

/// The body of an event row, compressed.
#[derive(Clone)]
pub(super) struct CompressedBody {
    pub(super) dictionary: Arc<Dictionary>,
    /// The length of the body.
    pub(super) length: u32,
    pub(super) bytes: Bytes,
}

impl CompressedBody {
    /// Compresses a body; `None` if that does not make it smaller.
    pub(super) fn of(body: &[u8], dictionary: &Arc<Dictionary>) -> Option<Self> {
        let length = u32::try_from(body.len()).ok()?;
        let bytes = dictionary.compress(body)?;
        Some(Self { dictionary: dictionary.clone(), length, bytes })
    }

    /// Appends it as a row stores it.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.dictionary.number.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.bytes);
    }

    /// Restores the body; `None` if this is not one.
    pub(super) fn decompress(&self) -> Option<Bytes> {
        self.dictionary.decompress(&self.bytes, usize::try_from(self.length).ok()?)
    }
}

impl PartialEq for CompressedBody {
    fn eq(&self, other: &Self) -> bool {
        self.dictionary.number == other.dictionary.number && self.bytes == other.bytes
    }
}

/// The dictionaries of a store.
#[derive(Debug)]
pub(super) struct Dictionaries {
    shipped: Arc<Dictionary>,
    /// Those that the store trained.
    trained: RwLock<BTreeMap<DictionaryNumber, Arc<Dictionary>>>,
}

impl Dictionaries {
    /// The shipped dictionary alone.
    pub(super) fn shipped() -> Result<Self, TreeError> {
        let shipped = Dictionary::new(SHIPPED, SHIPPED_CONTENT);
        let shipped = Arc::new(shipped.ok_or(TreeError::Unknown("shipped dictionary"))?);
        Ok(Self { shipped, trained: RwLock::default() })
    }

    /// A dictionary that a row names.
    pub(super) fn get(&self, number: DictionaryNumber) -> Option<Arc<Dictionary>> {
        if number == SHIPPED {
            return Some(self.shipped.clone());
        }
        self.trained.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Adds a dictionary of the store.
    pub(super) fn add(&self, dictionary: Dictionary) {
        let mut trained = self.trained.write().unwrap_or_else(PoisonError::into_inner);
        trained.insert(dictionary.number, Arc::new(dictionary));
    }

    /// The dictionary for new rows: the last one that was trained, if there is one.
    pub(super) fn newest(&self) -> Arc<Dictionary> {
        let trained = self.trained.read().unwrap_or_else(PoisonError::into_inner);
        trained.last_key_value().map_or(&self.shipped, |(_, newest)| newest).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of zstd that declares a length, and has it.
    fn zeros(length: usize) -> Vec<u8> {
        const BLOCK: usize = 128 << 10;
        // The magic number, and a header with nothing but a length of eight bytes.
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
        frame.extend_from_slice(&(length as u64).to_le_bytes());
        let mut left = length;
        while left > 0 {
            let size = left.min(BLOCK);
            left -= size;
            // One byte, to be repeated `size` times.
            let block = u32::from(left == 0) | 1 << 1 | u32::try_from(size).unwrap() << 3;
            frame.extend_from_slice(&block.to_le_bytes()[..3]);
            frame.push(0);
        }
        frame
    }

    #[test]
    fn a_length_that_no_row_can_have_takes_no_memory() {
        let shipped = Dictionaries::shipped().unwrap().newest();
        let frame = zeros(1 << 20);
        assert_eq!(shipped.decompress(&frame, 1 << 20).map(|out| out.len()), Some(1 << 20));
        assert!(shipped.decompress(&zeros(MAX_LENGTH + 1), MAX_LENGTH + 1).is_none());
        let all = usize::try_from(u32::MAX).unwrap();
        for length in [0, (1 << 20) - 1, (1 << 20) + 1, MAX_LENGTH, all] {
            assert!(!can_have(&frame, length), "{length}");
        }
        let most = zeros(MAX_LENGTH);
        assert!(can_have(&most, MAX_LENGTH));
        assert!(!can_have(&most[..8], MAX_LENGTH), "a cut header");
        assert!(!can_have(&zeros(all), all));
    }
}
