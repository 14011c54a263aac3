//! An engine in memory, for tests. It separates what is applied from what is durable, so that a test
//! can cut the power, and each of its operations can be made to fail.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Engine, EngineBytes, EngineError, EngineScan, EngineWrite, OpenEngine};

type Entries = BTreeMap<EngineBytes, EngineBytes>;

/// A disk in memory with trees, which outlives the stores that are opened on it. Clones are the same
/// disk.
///
/// Its operations are batches, single writes and flushes. One of them can be made to fail. What was
/// not flushed is lost when the tree is opened again, except what [`MemoryDisk::restart`] keeps.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<DiskState>>);

/// How an operation of a [`MemoryDisk`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The power is cut: until the restart nothing can be read or written.
    PowerCut,
    /// The disk is full. The tree then accepts no more writes until it is opened again.
    Full,
    /// The operating system reports an error. The tree then accepts no more writes until it is
    /// opened again, and panics when its last handle is dropped, as sled does.
    Broken,
}

#[derive(Debug, Default)]
struct DiskState {
    /// By the number in each tree's file `db`, which follows the directory when it is renamed.
    trees: BTreeMap<u64, MemoryTree>,
    /// Operations so far.
    operations: u64,
    /// The number of the operation that will fail.
    fault: Option<(u64, DiskFault)>,
    is_off: bool,
}

#[derive(Debug, Default)]
struct MemoryTree {
    durable: Entries,
    /// With everything that was applied.
    visible: Entries,
    /// What was applied since the last flush, in order.
    unflushed: Vec<Vec<EngineWrite>>,
    /// Why the tree accepts no more writes.
    error: Option<DiskFault>,
}

/// An open tree.
#[derive(Debug)]
struct MemoryEngine {
    disk: MemoryDisk,
    tree: u64,
    /// Locked while the tree is open.
    _db: File,
}

/// A scan. Reads the tree at each step, as sled does.
struct MemoryScan {
    disk: MemoryDisk,
    tree: u64,
    from: Bound<EngineBytes>,
    to: Bound<EngineBytes>,
}

impl MemoryDisk {
    /// Operations so far: the number of the next one.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Lets the operation with this number fail. A batch that fails is visible in part.
    pub fn fail_at(&self, operation: u64, fault: DiskFault) {
        self.lock().fault = Some((operation, fault));
    }

    /// The most batches and writes that any tree has not flushed.
    pub fn unflushed(&self) -> usize {
        self.lock().trees.values().map(|tree| tree.unflushed.len()).max().unwrap_or(0)
    }

    /// Ends a fault. Of what a tree has not flushed, its first `kept` batches and writes turn out to
    /// be durable, and the others are lost. No tree may be open.
    pub fn restart(&self, kept: usize) {
        let mut state = self.lock();
        (state.fault, state.is_off) = (None, false);
        for tree in state.trees.values_mut() {
            tree.reopen(kept);
        }
    }

    /// Opens trees on this disk.
    pub(in crate::store) fn opener(&self) -> Arc<OpenEngine> {
        let disk = self.clone();
        Arc::new(move |directory, _| disk.open(directory))
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        let db = open_locked(directory).map_err(EngineError::Io)?;
        let tree = self.number_in(&db).map_err(EngineError::Io)?;
        let mut state = self.lock();
        if state.is_off {
            return Err(DiskFault::PowerCut.error());
        }
        let Some(reopened) = state.trees.get_mut(&tree) else {
            return Err(EngineError::Damaged("a tree of another disk".to_owned()));
        };
        reopened.reopen(0);
        Ok(Arc::new(MemoryEngine { disk: self.clone(), tree, _db: db }))
    }

    /// The number of the tree in its file; that of a new tree if the file is empty.
    fn number_in(&self, mut db: &File) -> io::Result<u64> {
        let mut number = [0; 8];
        if db.metadata()?.len() > 0 {
            db.read_exact(&mut number)?;
            return Ok(u64::from_be_bytes(number));
        }
        let mut state = self.lock();
        let new = state.trees.last_key_value().map_or(0, |(last, _)| last + 1);
        db.write_all(&new.to_be_bytes())?;
        state.trees.insert(new, MemoryTree::default());
        Ok(new)
    }

    fn lock(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_locked(directory: &Path) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let path = directory.join("db");
    let db = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    db.try_lock()?;
    Ok(db)
}

impl DiskFault {
    fn error(self) -> EngineError {
        EngineError::Io(match self {
            Self::PowerCut => io::Error::other("the power is off"),
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Broken => rustix::io::Errno::IO.into(),
        })
    }
}

impl DiskState {
    /// The tree, for reading.
    fn read(&self, tree: u64) -> Result<Option<&MemoryTree>, EngineError> {
        if self.is_off { Err(DiskFault::PowerCut.error()) } else { Ok(self.trees.get(&tree)) }
    }

    fn fault_of(&self, tree: u64) -> Option<DiskFault> {
        let error = self.trees.get(&tree).and_then(|tree| tree.error);
        if self.is_off { Some(DiskFault::PowerCut) } else { error }
    }

    /// Counts an operation; returns whether it fails.
    fn begin(&mut self, tree: u64) -> Option<DiskFault> {
        let due = self.fault.take_if(|(number, _)| *number == self.operations);
        self.operations += 1;
        let (_, fault) = due?;
        match fault {
            DiskFault::PowerCut => self.is_off = true,
            fault => self.trees.entry(tree).or_default().error = Some(fault),
        }
        Some(fault)
    }

    fn apply(&mut self, number: u64, batch: Vec<EngineWrite>) -> Result<(), EngineError> {
        if let Some(fault) = self.fault_of(number) {
            return Err(fault.error());
        }
        let fault = self.begin(number);
        let tree = self.trees.entry(number).or_default();
        let shown = if fault.is_some() { batch.len() / 2 } else { batch.len() };
        put(&mut tree.visible, &batch[..shown]);
        tree.unflushed.push(batch);
        fault.map_or(Ok(()), |fault| Err(fault.error()))
    }

    fn flush(&mut self, number: u64) -> Result<(), EngineError> {
        if let Some(fault) = self.fault_of(number).or_else(|| self.begin(number)) {
            return Err(fault.error());
        }
        let tree = self.trees.entry(number).or_default();
        for batch in tree.unflushed.drain(..) {
            put(&mut tree.durable, &batch);
        }
        Ok(())
    }
}

impl MemoryTree {
    /// Makes the first `kept` batches durable and forgets the others.
    fn reopen(&mut self, kept: usize) {
        for batch in self.unflushed.drain(..).take(kept) {
            put(&mut self.durable, &batch);
        }
        self.visible = self.durable.clone();
        self.error = None;
    }
}

fn put(entries: &mut Entries, batch: &[EngineWrite]) {
    for (key, value) in batch {
        match value {
            Some(value) => entries.insert(key.clone(), value.clone()),
            None => entries.remove(key),
        };
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<EngineBytes>, EngineError> {
        let state = self.disk.lock();
        Ok(state.read(self.tree)?.and_then(|tree| tree.visible.get(key).cloned()))
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> EngineScan {
        let (from, to) = (from.map(EngineBytes::from), to.map(EngineBytes::from));
        Box::new(MemoryScan { disk: self.disk.clone(), tree: self.tree, from, to })
    }

    fn apply(&self, batch: &mut dyn Iterator<Item = EngineWrite>) -> Result<(), EngineError> {
        self.disk.lock().apply(self.tree, batch.collect())
    }

    fn write(&self, write: EngineWrite) -> Result<(), EngineError> {
        self.disk.lock().apply(self.tree, vec![write])
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.disk.lock().flush(self.tree)
    }

    fn background_error(&self) -> Option<EngineError> {
        self.disk.lock().fault_of(self.tree).map(DiskFault::error)
    }

    fn size_on_disk(&self) -> Result<u64, EngineError> {
        let state = self.disk.lock();
        let entries = state.read(self.tree)?.into_iter().flat_map(|tree| &tree.visible);
        Ok(entries.map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}

impl Drop for MemoryEngine {
    fn drop(&mut self) {
        let fault = self.disk.lock().fault_of(self.tree);
        if fault == Some(DiskFault::Broken) && !std::thread::panicking() {
            panic!("{}", DiskFault::Broken.error());
        }
    }
}

impl MemoryScan {
    fn step(&mut self, backwards: bool) -> Option<Result<(EngineBytes, EngineBytes), EngineError>> {
        let state = self.disk.lock();
        let tree = match state.read(self.tree) {
            Ok(tree) => tree?,
            Err(error) => return Some(Err(error)),
        };
        let range = (self.from.as_ref().map(|key| &**key), self.to.as_ref().map(|key| &**key));
        // `BTreeMap::range` panics on these.
        let is_empty = match range {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (
                Bound::Included(from) | Bound::Excluded(from),
                Bound::Included(to) | Bound::Excluded(to),
            ) => from >= to,
            _ => false,
        };
        if is_empty {
            return None;
        }
        let mut entries = tree.visible.range::<[u8], _>(range);
        let (key, value) = if backwards { entries.next_back()? } else { entries.next()? };
        let (key, value) = (key.clone(), value.clone());
        let end = if backwards { &mut self.to } else { &mut self.from };
        *end = Bound::Excluded(key.clone());
        Some(Ok((key, value)))
    }
}

impl Iterator for MemoryScan {
    type Item = Result<(EngineBytes, EngineBytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

impl DoubleEndedIterator for MemoryScan {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}
