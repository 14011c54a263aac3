//! Imports an export into the directory of a store that is absent or empty.
//!
//! The whole file is checked before anything is touched. Then a new tree is filled in the directory
//! [`WORK`] beside the store, made durable, checked completely, and put in its place by a rename.
//! Whatever fails before, the directory is as it was. After a crash [`WORK`] is left over; no
//! opening looks at it, and the next import removes it.
//!
//! The tree keeps the incarnations of the source, so its cursors stay valid; the next opening begins
//! one of its own.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::disk_space::{self, DiskSpace};
use super::engine::{self, EngineBytes, EngineWrite, OpenEngine};
use super::error::{OpenError, OpenFault, TreeError};
use super::export_reader::{ExportFault, ExportReader, ExportSummary};
use super::keys;
use super::open::{self, OpenAttemptError};
use super::tree::Tree;
use super::watermark::{FORMAT, Watermark};
use super::write_watcher::WriteWatcher;
use super::{StoreOptions, audit, directory, exchange};

/// Where the new tree is made, below the directory of the store.
const WORK: &str = "import.new";
/// Bytes of the file that are read, and written to the tree, at once.
const PIECE: usize = 1 << 20;

/// Why an export was not imported. The store was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read.
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
    /// The file is no complete export that this version can read.
    #[error(transparent)]
    File(#[from] ExportFault),
    /// The file is whole, but its records contradict each other, or are of another version.
    #[error("{}what the file contains cannot be used: {what}", at_byte(*offset))]
    Content {
        /// Where in the file the frame begins with the record whose check failed: that record, or
        /// one that it leads to, is wrong. `None` if it is none of the file.
        offset: Option<u64>,
        /// What is wrong. Names the kind of record, never its content.
        what: String,
    },
    /// There is a store, and it has windows or had events.
    #[error("store {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The store's directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The caller stopped the import.
    #[error("the import was stopped")]
    Stopped,
}

fn at_byte(offset: Option<u64>) -> String {
    offset.map(|offset| format!("at byte {offset}: ")).unwrap_or_default()
}

/// Imports the file of an export as the store that `options` name. Blocking: about as long as
/// reading the file twice and opening a damaged store of that size. `stop` ends it early.
///
/// # Errors
/// Nothing was changed then, except that a missing directory may have been created.
pub fn import(
    file: &mut File,
    options: &StoreOptions,
    stop: &CancellationToken,
) -> Result<ExportSummary, ImportError> {
    import_with(&engine::open, file, options, stop)
}

fn import_with(
    engine: &OpenEngine,
    file: &mut File,
    options: &StoreOptions,
    stop: &CancellationToken,
) -> Result<ExportSummary, ImportError> {
    let checked = read(file, stop, |_| Ok(()))?;
    let path = &options.path;
    let existed = path.exists();
    let fault = at(path);
    directory::prepare(path).map_err(&fault)?;
    // Held until the end, so that no daemon opens the store meanwhile.
    let _opening = directory::lock(path).map_err(&fault)?;
    let placed = place(engine, file, checked, options, stop);
    if placed.is_err() {
        // The error says what is wrong; what cannot be removed is removed by the next import.
        fs::remove_dir_all(path.join(WORK)).ok();
        if !existed {
            fs::remove_dir(path).ok();
        }
    }
    placed.map(|()| checked)
}

/// An error of the store's directory.
fn at(path: &Path) -> impl Fn(OpenFault) -> ImportError {
    |why| OpenError { path: path.to_owned(), why }.into()
}

/// Makes the tree and puts it in its place, while the directory is locked.
fn place(
    engine: &OpenEngine,
    file: &mut File,
    checked: ExportSummary,
    options: &StoreOptions,
    stop: &CancellationToken,
) -> Result<(), ImportError> {
    let path = &options.path;
    let fault = at(path);
    Watermark::read(path).map_err(&fault)?;
    let (dir, work) = (path.join(directory::DIRECTORY), path.join(WORK));
    for dir in [&dir, &path.join(directory::SECOND)] {
        if directory::is_locked(dir).map_err(|e| fault(e.into()))? {
            return Err(fault(OpenFault::Locked));
        }
    }
    // A compaction that was interrupted may have left the store in its second directory.
    exchange::recover(path).map_err(&fault)?;
    clear(&work).map_err(|e| fault(e.into()))?;
    if !is_empty(&dir, &work, options).map_err(|e| fault(e.into()))? {
        return Err(ImportError::NotEmpty(path.clone()));
    }
    clear(&work).map_err(|e| fault(e.into()))?;
    let mark = fill(engine, file, checked, &work, options, stop)?;
    switch(path, &work, mark).map_err(|e| fault(e.into()))
}

/// Removes what is left of an earlier import, and creates the directory again.
fn clear(work: &Path) -> io::Result<()> {
    directory::existing(fs::remove_dir_all(work))?;
    DirBuilder::new().mode(0o700).create(work)
}

/// Whether nothing would be lost with the tree of a directory: it is absent, or has neither windows
/// nor ever had an event, as after the start of a daemon without windows. A copy of it is opened,
/// because sled writes to what it opens.
fn is_empty(dir: &Path, work: &Path, options: &StoreOptions) -> io::Result<bool> {
    if !dir.join("db").try_exists()? {
        return Ok(true);
    }
    if disk_space::footprint(dir)?.bytes > audit::SMALL {
        return Ok(false);
    }
    let copy = work.join("store");
    DirBuilder::new().mode(0o700).create(&copy)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name()))?;
        } else if fs::read_dir(entry.path())?.next().is_some() {
            return Ok(false);
        }
    }
    let looked = open::on_a_quiet_thread(|| {
        let tree = Tree::open(&engine::open, &copy, options.cache_bytes)?;
        let beyond = tree.keys(&[]).find(|key| {
            !key.as_ref().is_ok_and(|key| matches!(key.first(), Some(b'm' | &keys::INCARNATION)))
        });
        Ok(beyond.is_none() && tree.number(keys::LAST_SEQ)? == 0)
    });
    open::await_release(work);
    // What cannot be read is something.
    Ok(looked.unwrap_or(false))
}

/// Reads the file from its beginning, and calls `applied` with the records of each piece and the
/// offsets of their frames.
fn read(
    file: &mut File,
    stop: &CancellationToken,
    mut applied: impl FnMut(Vec<(u64, EngineWrite)>) -> Result<(), ImportError>,
) -> Result<ExportSummary, ImportError> {
    file.seek(SeekFrom::Start(0)).map_err(ImportError::Read)?;
    let mut reader = ExportReader::default();
    let mut piece = vec![0; PIECE];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => return Ok(reader.finish()?),
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ImportError::Read(e)),
        };
        if stop.is_cancelled() {
            return Err(ImportError::Stopped);
        }
        let mut batch = Vec::new();
        reader.push_to(&piece[..length], &mut |offset, key, value| {
            batch.push((offset, (key.into(), value.map(EngineBytes::from))));
        })?;
        applied(batch)?;
    }
}

/// Fills a new tree in `work` from the file, makes it durable and checks it; returns its watermark.
fn fill(
    engine: &OpenEngine,
    file: &mut File,
    checked: ExportSummary,
    work: &Path,
    options: &StoreOptions,
    stop: &CancellationToken,
) -> Result<Watermark, ImportError> {
    let fault = at(&options.path);
    let dir = work.join("store");
    directory::make_private(&dir).map_err(&fault)?;
    let mut space = DiskSpace::new(options.min_free_bytes, || disk_space::free(work));
    let filled = open::on_a_quiet_thread(|| {
        let tree = Tree::open(engine, &dir, options.cache_bytes)?;
        let watcher = WriteWatcher::start(&tree)?;
        let watched = watcher.watch_write();
        let mut refused = Ok(());
        let again = read(file, stop, |batch| {
            if !space.allows(PIECE) {
                return Err(fault(OpenFault::Full));
            }
            let writes = &mut batch.into_iter().map(|(_, write)| write);
            refused = tree.engine().apply(writes).map_err(TreeError::from);
            // The reason is `refused`.
            if refused.is_ok() { Ok(()) } else { Err(ImportError::Stopped) }
        });
        refused?;
        match again {
            Ok(again) if again == checked => {}
            Ok(_) => return Ok(Err(content(None, "the file is being changed"))),
            Err(error) => return Ok(Err(error)),
        }
        tree.flush()?;
        drop(watched);
        let mut at = Vec::new();
        match check(&tree, stop, &mut at) {
            Ok(mark) => Ok(mark.ok_or(ImportError::Stopped)),
            Err(wrong @ (TreeError::Damaged(_) | TreeError::Newer(..) | TreeError::Unknown(_))) => {
                Ok(Err(content(offset_of(file, stop, &at), &wrong.to_string())))
            }
            Err(error) => Err(error.into()),
        }
    });
    open::await_release(work);
    let mark = match filled {
        Ok(mark) => mark?,
        // The tree was made here: a fault of its own is none of the file.
        Err(OpenAttemptError::Damaged(what)) => return Err(fault(io::Error::other(what).into())),
        Err(OpenAttemptError::Leave(why)) => return Err(fault(why)),
    };
    directory::make_private(&dir).map_err(&fault)?;
    Ok(mark)
}

/// Checks the new tree completely; returns its watermark, or nothing if the caller stopped the
/// import. Leaves the key of the record that it checked last in `at`.
fn check(
    tree: &Tree,
    stop: &CancellationToken,
    at: &mut Vec<u8>,
) -> Result<Option<Watermark>, TreeError> {
    let mut goes_on = |key: &[u8]| {
        at.clear();
        at.extend_from_slice(key);
        !stop.is_cancelled()
    };
    goes_on(keys::SCHEMA);
    tree.get(keys::SCHEMA)?.ok_or(TreeError::Damaged("schema record (missing)"))?;
    goes_on(keys::LAST_SEQ);
    let seq = tree.number(keys::LAST_SEQ)?;
    open::check_end(tree, seq)?;
    goes_on(keys::DICTIONARIES);
    tree.load_dictionaries()?;
    if !audit::audit_all(tree, &mut goes_on)? {
        return Ok(None);
    }
    let incarnation = open::incarnations(tree)?.last().map_or(0, |last| last.id);
    Ok(Some(Watermark { format: FORMAT, seq, incarnation }))
}

/// Where in the file the frame begins that has the value of a key: the last one that sets it.
fn offset_of(file: &mut File, stop: &CancellationToken, key: &[u8]) -> Option<u64> {
    let mut found = None;
    let searched = read(file, stop, |batch| {
        for (offset, (name, value)) in batch {
            if *name == *key {
                found = value.map(|_| offset);
            }
        }
        Ok(())
    });
    // Without the place, the error still says what is wrong.
    searched.ok().and(found)
}

fn content(offset: Option<u64>, what: &str) -> ImportError {
    ImportError::Content { offset, what: what.to_owned() }
}

/// Puts the new tree in its place. A crash on the way leaves an empty store, or the new one.
fn switch(path: &Path, work: &Path, mark: Watermark) -> io::Result<()> {
    let (dir, old) = (path.join("store"), work.join("old"));
    directory::existing(fs::rename(&dir, &old))?;
    // Before the tree is in its place: an older watermark, of a store that is gone, could make it
    // look damaged.
    let placed = mark.write(path).and_then(|()| fs::rename(work.join("store"), &dir));
    if let Err(error) = placed {
        directory::existing(fs::rename(&old, &dir))?;
        // The store that was there is empty, so that no watermark is the right one.
        Watermark::remove(path)?;
        return Err(error);
    }
    File::open(path)?.sync_all()?;
    // The import is complete; what cannot be removed only takes space.
    fs::remove_dir_all(work).ok();
    Ok(())
}

#[cfg(test)]
mod tests;
