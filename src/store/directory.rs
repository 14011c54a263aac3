//! Prepares the directory of a store: private, free of symbolic links, and completely readable.
//!
//! sled takes a segment that it cannot read for the torn end of its log and overwrites it, so one
//! transient read error during opening would cost the store. Every file is therefore read
//! completely before sled sees the directory. An error there changes nothing. The content of a
//! small store is kept in memory meanwhile, so that it can be restored if a read inside sled fails
//! later.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileExt, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::error::OpenFault;

/// Bytes read at once.
const BLOCK: usize = 1 << 20;
/// sled's own directory.
pub(super) const DIRECTORY: &str = "store";
/// The directory that sled has in turn with it (`exchange`).
pub(super) const SECOND: &str = "store.second";
/// The file that exists while the second directory is the current one.
pub(super) const MARKER: &str = "second";
/// The files beside the directories.
const FILES: [&str; 5] = ["watermark", "watermark.new", "suspect", "reserve", MARKER];

/// Options to open a file of the store: private if created, never through a symbolic link, and
/// never blocking on a pipe.
pub(super) fn file_options() -> OpenOptions {
    let mut options = File::options();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    options.mode(0o600).custom_flags(flags);
    options
}

/// `None` if there is no such file.
pub(super) fn existing<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Creates the directory if it is missing and checks its permissions and entries.
///
/// # Errors
/// [`OpenFault::Exposed`], [`OpenFault::SymbolicLink`] and [`OpenFault::NotAFile`], and errors of
/// the operating system.
pub(super) fn prepare(path: &Path) -> Result<(), OpenFault> {
    create(path)?;
    let about = fs::metadata(path)?;
    if !about.is_dir() {
        return Err(OpenFault::Io(io::ErrorKind::NotADirectory.into()));
    }
    let mode = remove_other_access(path, &about)?;
    if mode & 0o070 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = %format_args!("{mode:04o}"),
            "store.path is open to its group, `chmod g=` closes it"
        );
    }
    for name in [DIRECTORY, SECOND].into_iter().chain(FILES) {
        let file = path.join(name);
        match existing(fs::symlink_metadata(&file))? {
            Some(about) if about.is_symlink() => return Err(OpenFault::SymbolicLink(file)),
            Some(about) if FILES.contains(&name) && !about.is_file() => {
                return Err(OpenFault::NotAFile(file));
            }
            _ => {}
        }
    }
    // sled opens files by name: it would follow a link or block on a pipe.
    let dir = path.join(DIRECTORY);
    if dir.try_exists()? { walk(&dir, &mut |_, _| Ok(())) } else { Ok(()) }
}

/// Removes the permissions of other users; returns the remaining mode.
fn remove_other_access(path: &Path, about: &Metadata) -> Result<u32, OpenFault> {
    let mode = about.mode() & 0o7777;
    if mode & 0o007 == 0 {
        return Ok(mode);
    }
    let exposed = || OpenFault::Exposed { path: path.to_owned(), mode };
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(exposed());
    }
    let closed = mode & !0o007;
    fs::set_permissions(path, Permissions::from_mode(closed)).map_err(|_| exposed())?;
    tracing::warn!(
        path = %path.display(),
        from = %format_args!("{mode:04o}"),
        to = %format_args!("{closed:04o}"),
        "store.path was open to other users, their permissions were removed"
    );
    Ok(closed)
}

/// Creates the directory and its parents with mode 0700, durably.
fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for parent in missing.iter().filter_map(|dir| dir.parent()) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Creates sled's directory if it is missing, and makes everything in it private (0700, 0600).
///
/// # Errors
/// As [`prepare`].
pub(super) fn make_private(dir: &Path) -> Result<(), OpenFault> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e.into()),
        _ => {}
    }
    let mut closed = false;
    walk(dir, &mut |path, about| {
        let wanted = if about.is_dir() { 0o700 } else { 0o600 };
        if about.mode() & 0o777 != wanted {
            fs::set_permissions(path, Permissions::from_mode(wanted))?;
            closed = true;
        }
        Ok(())
    })?;
    if closed {
        tracing::debug!(path = %dir.display(), "files of the store were made private");
    }
    Ok(())
}

/// Visits a directory and everything below it: directories and regular files.
fn walk(
    path: &Path,
    visit: &mut impl FnMut(&Path, &Metadata) -> io::Result<()>,
) -> Result<(), OpenFault> {
    let about = fs::symlink_metadata(path)?;
    if about.is_symlink() {
        return Err(OpenFault::SymbolicLink(path.to_owned()));
    }
    if !about.is_dir() && !about.is_file() {
        return Err(OpenFault::NotAFile(path.to_owned()));
    }
    visit(path, &about)?;
    if about.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), visit)?;
        }
    }
    Ok(())
}

/// Keeps other processes from opening the store of a directory until the returned file is dropped.
///
/// # Errors
/// [`OpenFault::Locked`] if another process is opening it.
pub(super) fn lock(path: &Path) -> Result<File, OpenFault> {
    let directory = File::open(path)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenFault::Locked),
        // Not every file system locks directories; the tree's own lock is taken later.
        Err(error) => tracing::debug!(%error, "directory of the store cannot be locked"),
    }
    Ok(directory)
}

/// Whether another process has the store open.
///
/// # Errors
/// If the operating system does not report it.
pub(super) fn is_locked(dir: &Path) -> io::Result<bool> {
    let db = existing(file_options().read(true).open(dir.join("db")))?;
    // sled takes the same lock a moment later; this one is released with the file.
    let lock = db.map(|db| flock(&db, FlockOperation::NonBlockingLockExclusive));
    Ok(lock == Some(Err(rustix::io::Errno::WOULDBLOCK)))
}

/// The contents of a store's files before sled opened them, if they were kept.
pub(super) struct FileImage {
    /// `None` if the store is too large to keep.
    files: Option<Vec<(PathBuf, Vec<u8>)>>,
}

/// Reads every file of sled's directory completely. Keeps the contents if they have at most `keep`
/// bytes together.
///
/// # Errors
/// As [`prepare`], and any read error.
pub(super) fn read(dir: &Path, keep: u64) -> Result<FileImage, OpenFault> {
    let mut size = 0;
    walk(dir, &mut |_, about| {
        size += if about.is_file() { about.len() } else { 0 };
        Ok(())
    })?;
    let mut files = (size <= keep).then(Vec::new);
    let mut block = vec![0; BLOCK];
    walk(dir, &mut |path, about| {
        if !about.is_file() {
            return Ok(());
        }
        let file = file_options().read(true).open(path)?;
        let mut bytes = Vec::new();
        read_file(&file, &mut block, |part| {
            if files.is_some() {
                bytes.extend_from_slice(part);
            }
        })?;
        if let Some(files) = &mut files {
            files.push((path.to_owned(), bytes));
        }
        Ok(())
    })?;
    Ok(FileImage { files })
}

/// Reads a file from beginning to end.
fn read_file(file: &impl FileExt, block: &mut [u8], mut part: impl FnMut(&[u8])) -> io::Result<()> {
    let mut at = 0;
    loop {
        match file.read_at(block, at) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                part(&block[..n]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads every file of a directory once, a slice at a time.
pub(super) struct SlicedRead {
    /// Those that are not read yet.
    files: Vec<PathBuf>,
    /// The one that is being read, and how far.
    file: Option<(File, u64)>,
    slice: Vec<u8>,
}

impl SlicedRead {
    /// Begins to read the files of a directory in slices of so many bytes.
    ///
    /// # Errors
    /// As [`prepare`].
    pub(super) fn begin(dir: &Path, bytes: usize) -> Result<Self, OpenFault> {
        let mut files = Vec::new();
        walk(dir, &mut |path, about| {
            files.extend(about.is_file().then(|| path.to_owned()));
            Ok(())
        })?;
        Ok(Self { files, file: None, slice: vec![0; bytes] })
    }

    /// Reads the next slice. Returns whether everything is read.
    ///
    /// # Errors
    /// Any read error.
    pub(super) fn read_slice(&mut self) -> io::Result<bool> {
        let (file, at) = match self.file.take() {
            Some(reading) => reading,
            None => match self.files.pop() {
                Some(path) => (file_options().read(true).open(path)?, 0),
                None => return Ok(true),
            },
        };
        match file.read_at(&mut self.slice, at) {
            Ok(0) => {}
            Ok(n) => self.file = Some((file, at + n as u64)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => self.file = Some((file, at)),
            Err(e) => return Err(e),
        }
        Ok(self.file.is_none() && self.files.is_empty())
    }
}

impl FileImage {
    /// Whether the files were kept.
    pub(super) fn is_kept(&self) -> bool {
        self.files.is_some()
    }

    /// Restores the files if they were kept.
    ///
    /// # Errors
    /// If another process has the store open, or the operating system refuses.
    pub(super) fn restore(&self, dir: &Path) -> io::Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        // Locked until it is dropped.
        let db = existing(file_options().read(true).open(dir.join("db")))?;
        db.iter().try_for_each(|db| flock(db, FlockOperation::NonBlockingLockExclusive))?;
        for (path, bytes) in files {
            // Overwrites existing blocks, which needs no space on a full disk.
            let file = file_options().write(true).create(true).truncate(false).open(path)?;
            file.write_all_at(bytes, 0)?;
            file.set_len(bytes.len() as u64)?;
            file.sync_all()?;
        }
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let snapshot = path.file_name().is_some_and(is_snapshot);
            if snapshot && !files.iter().any(|(kept, _)| *kept == path) {
                fs::remove_file(path)?;
            }
        }
        File::open(dir)?.sync_all()
    }
}

/// Whether a file is one of sled's snapshots.
pub(super) fn is_snapshot(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("snap.")
}

/// Asks the operating system whether the store may be written, without writing.
///
/// # Errors
/// If it may not.
pub(super) fn probe(path: &Path, dir: &Path) -> Result<(), OpenFault> {
    use rustix::fs::{Access, access};
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let file = Access::READ_OK | Access::WRITE_OK;
    for (path, mode) in [
        (path.to_owned(), all),
        (dir.to_owned(), all),
        (dir.join("db"), file),
        (dir.join("conf"), file),
    ] {
        match access(&path, mode) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Ten bytes, one of which cannot be read.
    struct Failing {
        at: u64,
        interrupted: Cell<bool>,
    }

    impl FileExt for Failing {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            if !self.interrupted.replace(true) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match offset {
                at if at == self.at => Err(rustix::io::Errno::IO.into()),
                0..10 => {
                    buf[0] = 7;
                    Ok(1)
                }
                _ => Ok(0),
            }
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn an_unreadable_byte_is_an_error() {
        let read = |at| {
            let file = Failing { at, interrupted: Cell::new(false) };
            let mut bytes = 0;
            read_file(&file, &mut [0; 4], |part| bytes += part.len()).map(|()| bytes)
        };
        for at in 0..10 {
            assert_eq!(read(at).unwrap_err().raw_os_error(), Some(5), "{at}");
        }
        assert_eq!(read(99).unwrap(), 10);
    }

    #[test]
    fn a_directory_is_read_in_slices() {
        let dir = tempfile::tempdir().unwrap();
        let slices = |bytes| {
            let mut reading = SlicedRead::begin(dir.path(), bytes).unwrap();
            (1..).find(|_| reading.read_slice().unwrap()).unwrap()
        };
        assert_eq!(slices(4), 1);
        fs::create_dir(dir.path().join("blobs")).unwrap();
        fs::write(dir.path().join("blobs/1"), [1; 10]).unwrap();
        // One more to find the end of the file.
        assert_eq!(slices(4), 4);
        fs::write(dir.path().join("db"), [2; 8]).unwrap();
        assert_eq!(slices(4), 4 + 3);
        let mut reading = SlicedRead::begin(dir.path(), 4).unwrap();
        fs::remove_file(dir.path().join("db")).unwrap();
        assert!((0..7).any(|_| reading.read_slice().is_err()), "a file was left out");
    }

    #[test]
    fn an_image_restores_the_whole_directory() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("db"), b"log log log").unwrap();
        fs::write(at("snap.1"), b"old").unwrap();
        fs::create_dir(at("blobs")).unwrap();
        let image = read(dir.path(), 100).unwrap();
        assert!(image.is_kept());
        fs::write(at("db"), b"log\0\0\0\0\0\0\0\0\0\0\0").unwrap();
        fs::remove_file(at("snap.1")).unwrap();
        fs::write(at("snap.2"), b"new").unwrap();
        image.restore(dir.path()).unwrap();
        assert_eq!(fs::read(at("db")).unwrap(), b"log log log");
        assert_eq!(fs::read(at("snap.1")).unwrap(), b"old");
        assert!(!at("snap.2").exists());
        assert!(!read(dir.path(), 5).unwrap().is_kept(), "too large to keep");
    }
}
