//! Opens a store: leaves alone what must not be touched, and replaces what is damaged.
//!
//! A store that is locked, full, read-only, unreadable or of a newer format is left unchanged. A
//! damaged store is opened again without sled's snapshot, which is only a shortcut. If that fails,
//! it is moved aside, never deleted, and a new one is created: everything can be fetched again.

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use jiff::Timestamp;

use super::batch::WriteBatch;
use super::cursor::{Incarnation, Incarnations};
use super::engine::{EngineError, OpenEngine};
use super::error::{OpenError, OpenFault, TreeError};
use super::keys;
use super::record;
use super::reserve::SpaceReserve;
use super::tree::Tree;
use super::watermark::{FORMAT, Watermark};
use super::write_watcher::WriteWatcher;
use super::{OpenReport, StoreOptions, audit, directory, exchange};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::mirror::change::Seq;

/// An opened store whose writer has not started yet.
pub(super) struct OpenedTree {
    /// Watches the writes to `tree`.
    pub(super) watcher: WriteWatcher,
    pub(super) tree: Tree,
    pub(super) incarnations: Incarnations,
    pub(super) last_seq: Seq,
    /// The lowest valid seq.
    pub(super) min_seq: Seq,
    pub(super) opening: OpenReport,
}

/// The file that marks damage found while running. The next opening then audits the whole store.
pub(super) fn suspect_path(path: &Path) -> PathBuf {
    path.join("suspect")
}

/// Marks the store because damage was found while running.
///
/// # Errors
/// If the operating system refuses.
pub(super) fn suspect(path: &Path) -> io::Result<()> {
    let options = &mut directory::file_options();
    options.write(true).create(true).truncate(false).open(suspect_path(path)).map(drop)
}

/// Opens or creates the store of a directory. Blocking.
pub(super) fn open(
    options: &StoreOptions,
    env: &Env,
    engine: &OpenEngine,
) -> Result<OpenedTree, OpenError> {
    let path = &options.path;
    let error = |why| OpenError { path: path.clone(), why };
    attempt(options, env, engine).map_err(error)
}

fn attempt(
    options: &StoreOptions,
    env: &Env,
    engine: &OpenEngine,
) -> Result<OpenedTree, OpenFault> {
    let path = &options.path;
    let dir = path.join("store");
    directory::prepare(path)?;
    // Held until this opening has ended: no other process may open the store before a failed
    // opening has restored its files.
    let _opening = directory::lock(path)?;
    let mark = Watermark::read(path)?;
    directory::probe(path, &dir)?;
    for dir in [&dir, &path.join(directory::SECOND)] {
        if directory::is_locked(dir)? {
            return Err(OpenFault::Locked);
        }
    }
    exchange::recover(path)?;
    directory::make_private(&dir)?;
    let image = directory::read(&dir, audit::SMALL)?;
    let suspect = suspect_path(path).try_exists()?;
    let existed = dir.join("db").try_exists()?;
    if mark.is_some() && !existed {
        tracing::warn!(path = %path.display(), "store is missing, creating a new one");
    }
    if let Some(reserve) = SpaceReserve::of(path, options.min_free_bytes) {
        reserve.release()?;
    }
    let mark = mark.filter(|_| existed);
    let mut moved_aside = None;
    let mut opened = open_checked(engine, options, &dir, mark, suspect, env);
    if let Err(OpenAttemptError::Damaged(what)) = &opened
        && image.is_kept()
    {
        // A failed read inside sled looks the same, and sled has overwritten what it could not
        // read.
        tracing::warn!(reason = %what, "store looks damaged, restoring its files to open it again");
        put_back(path, &dir, &image)?;
        opened = open_checked(engine, options, &dir, mark, true, env);
    }
    if let Err(OpenAttemptError::Damaged(what)) = &opened {
        tracing::warn!(reason = %what, "store is damaged, opening it again without its snapshot");
        put_back(path, &dir, &image)?;
        drop_snapshots(&dir)?;
        opened = open_checked(engine, options, &dir, mark, true, env);
    }
    if let Err(OpenAttemptError::Damaged(what)) = &opened {
        put_back(path, &dir, &image)?;
        let aside = move_aside(path, &dir, env.now())?;
        tracing::error!(reason = %what, "store is damaged, moved aside, creating a new one");
        moved_aside = Some(aside);
        directory::make_private(&dir)?;
        opened = open_checked(engine, options, &dir, None, false, env);
    }
    let locked = matches!(opened, Err(OpenAttemptError::Leave(OpenFault::Locked)));
    if matches!(opened, Err(OpenAttemptError::Leave(_))) && !locked && moved_aside.is_none() {
        // sled may have started recovery before the error occurred. It has not if another process
        // holds the tree; the image is then outdated.
        await_release(path);
        if let Err(error) = image.restore(&dir) {
            tracing::warn!(%error, "files of the store could not be restored");
        }
    }
    let (tree, last_seq) = opened.map_err(into_fault)?;
    let opening = OpenReport { moved_aside };
    on_a_quiet_thread(|| begin(path, &dir, tree, last_seq, env, opening)).map_err(into_fault)
}

/// Undoes what sled did to a small store, and checks that all files can still be read.
fn put_back(path: &Path, dir: &Path, image: &directory::FileImage) -> Result<(), OpenFault> {
    await_release(path);
    image.restore(dir)?;
    directory::read(dir, 0).map(drop)
}

/// The error to return when no further attempt is made.
fn into_fault(refused: OpenAttemptError) -> OpenFault {
    match refused {
        OpenAttemptError::Leave(why) => why,
        OpenAttemptError::Damaged(what) => OpenFault::Io(io::Error::other(what)),
    }
}

/// Why a tree was not opened.
pub(super) enum OpenAttemptError {
    /// The store must not be touched.
    Leave(OpenFault),
    /// The content is not what was written.
    Damaged(String),
}

impl<F: Into<OpenFault>> From<F> for OpenAttemptError {
    fn from(fault: F) -> Self {
        Self::Leave(fault.into())
    }
}

impl From<TreeError> for OpenAttemptError {
    fn from(fault: TreeError) -> Self {
        match fault {
            TreeError::Newer(_, found) => {
                OpenFault::NewerFormat { found: found.into(), known: FORMAT }.into()
            }
            TreeError::Unknown(what) => OpenFault::UnknownRecord(what).into(),
            fault if fault.is_damage() => Self::Damaged(error_chain(&fault)),
            TreeError::Engine(EngineError::Io(e)) | TreeError::Sync(e) => e.into(),
            fault => Self::Damaged(error_chain(&fault)),
        }
    }
}

/// Waits until this process's own lock on a closed tree is gone: sled's threads release the file a
/// moment after the tree is dropped. Gives up after two seconds.
pub(super) fn await_release(path: &Path) {
    for dir in [directory::DIRECTORY, directory::SECOND] {
        await_unlocked(&path.join(dir));
    }
}

/// The same for a tree in this directory.
pub(super) fn await_unlocked(dir: &Path) {
    use rustix::fs::{FlockOperation, flock};
    const WAIT: Duration = Duration::from_millis(5);
    let Ok(file) = File::open(dir.join("db")) else { return };
    for _ in 0..400 {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::park_timeout(WAIT),
            _ => return,
        }
    }
}

fn open_checked(
    engine: &OpenEngine,
    options: &StoreOptions,
    dir: &Path,
    mark: Option<Watermark>,
    suspect: bool,
    env: &Env,
) -> Result<(Tree, Seq), OpenAttemptError> {
    on_a_quiet_thread(|| {
        let tree = Tree::open(engine, dir, options.cache_bytes)?;
        let last_seq = check(&tree, mark, suspect, env)?;
        Ok((tree, last_seq))
    })
}

/// Opens a copy of the tree, of which all files were read before (`directory`).
pub(super) fn open_copy(engine: &OpenEngine, dir: &Path, cache: u64) -> Result<Tree, OpenFault> {
    on_a_quiet_thread(|| Ok(Tree::open(engine, dir, cache)?)).map_err(into_fault)
}

/// Checks a copy like a store that is opened. Draws nothing from the store's own environment, so
/// that a simulation does not depend on the size of files.
pub(super) fn check_copy(tree: &Tree) -> Result<(), OpenFault> {
    on_a_quiet_thread(|| check(tree, None, false, &Env::real())).map(drop).map_err(into_fault)
}

/// Runs `work`, which may panic, without printing the panic. sled panics on damage and also on
/// errors of the operating system. The text of such a panic contains the error, and it is no reason
/// to touch the store.
pub(super) fn on_a_quiet_thread<T: Send>(
    work: impl FnOnce() -> Result<T, OpenAttemptError> + Send,
) -> Result<T, OpenAttemptError> {
    const NAME: &str = "store-open";
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name() != Some(NAME) {
                loud(panic);
            }
        }));
    });
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn_scoped(scope, || catch_unwind(AssertUnwindSafe(work)))
            .map_err(OpenFault::Io)?;
        match thread.join() {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) | Err(panic) => {
                let text = panic.downcast_ref::<String>().map_or("", String::as_str);
                Err(if text.contains("Os { code") {
                    io::Error::other(text.to_owned()).into()
                } else {
                    OpenAttemptError::Damaged("panic while opening".to_owned())
                })
            }
        }
    })
}

/// Checks the invariants of the store; returns the last seq.
pub(super) fn check(
    tree: &Tree,
    mark: Option<Watermark>,
    suspect: bool,
    env: &Env,
) -> Result<Seq, OpenAttemptError> {
    let last_seq = match tree.get(keys::SCHEMA)? {
        // Nothing was ever written, or the very first opening was interrupted.
        None if tree.keys(&[]).next().is_none() && mark.is_none() => return Ok(0),
        None => return Err(OpenAttemptError::Damaged("the schema record is missing".to_owned())),
        Some(schema) => {
            let found = u32::try_from(record::from_number(&schema)?).unwrap_or(u32::MAX);
            if found > FORMAT {
                return Err(OpenFault::NewerFormat { found, known: FORMAT }.into());
            }
            tree.number(keys::LAST_SEQ)?
        }
    };
    if mark.is_some_and(|mark| mark.seq > last_seq) {
        return Err(OpenAttemptError::Damaged("the store is behind its watermark".to_owned()));
    }
    check_end(tree, last_seq)?;
    tree.load_dictionaries()?;
    audit::audit(tree, suspect, env)?;
    Ok(last_seq)
}

/// Checks that the feed ends at the last seq.
pub(super) fn check_end(tree: &Tree, last_seq: Seq) -> Result<(), TreeError> {
    // The change with the last assigned seq exists until its tombstone is trimmed.
    let newest = tree.newest_change()?.unwrap_or(0);
    if newest != last_seq && (newest > last_seq || tree.number(keys::MIN_SEQ)? != last_seq) {
        return Err(TreeError::Damaged("feed (does not end at the last seq)"));
    }
    Ok(())
}

/// Creates this opening's incarnation and makes everything so far durable.
fn begin(
    path: &Path,
    dir: &Path,
    tree: Tree,
    last_seq: Seq,
    env: &Env,
    opening: OpenReport,
) -> Result<OpenedTree, OpenAttemptError> {
    let mut incarnations = incarnations(&tree)?;
    // An incarnation without seqs is dropped, except the first: it owns "the beginning".
    if incarnations.len() > 1 && incarnations.last().is_some_and(|i| i.first > last_seq) {
        incarnations.pop();
    }
    let new = Incarnation { id: env.random_u64(), first: last_seq + 1 };
    let number = u32::try_from(incarnations.len()).unwrap_or(u32::MAX);
    incarnations.push(new);
    let mut batch = WriteBatch::default();
    batch.put(keys::incarnation(number), record::incarnation(new));
    batch.put(keys::SCHEMA.to_vec(), record::number(FORMAT.into()));
    let watcher = WriteWatcher::start(&tree)?;
    let watched = watcher.watch_write();
    tree.apply(batch).and_then(|()| tree.flush())?;
    drop(watched);
    // The engine does not create its files private.
    directory::make_private(dir)?;
    Watermark { format: FORMAT, seq: last_seq, incarnation: new.id }.write(path)?;
    directory::existing(fs::remove_file(suspect_path(path)))?;
    let min_seq = tree.number(keys::MIN_SEQ)?;
    let incarnations = Incarnations(incarnations);
    Ok(OpenedTree { watcher, tree, incarnations, last_seq, min_seq, opening })
}

/// The earlier openings of the store, in order.
pub(super) fn incarnations(tree: &Tree) -> Result<Vec<Incarnation>, TreeError> {
    let all = tree.scan_prefix([keys::INCARNATION]);
    all.map(|entry| record::from_incarnation(&entry?.1)).collect()
}

fn drop_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if directory::is_snapshot(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    File::open(dir)?.sync_all()
}

fn move_aside(path: &Path, dir: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ");
    let mut aside = path.join(format!("store.damaged.{stamp}"));
    let mut n = 1;
    while aside.exists() {
        n += 1;
        aside = path.join(format!("store.damaged.{stamp}.{n}"));
    }
    fs::rename(dir, &aside)?;
    File::open(path)?.sync_all()?;
    Ok(aside)
}
