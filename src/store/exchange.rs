//! Which of two directories is sled's: a compaction fills the other one, and an exchange makes that
//! the current one.
//!
//! sled finds some of its files by name while it runs, so the directory of an open tree is never
//! renamed. Instead a marker file says whether the second directory is the current one. Creating or
//! deleting it is the exchange. What an opening finds:
//!
//! | marker | `store` | `store.second` | an opening |
//! |---|---|---|---|
//! | no | current | absent, incomplete or outdated | deletes `store.second` |
//! | yes | absent, incomplete or outdated | current | deletes `store`, renames `store.second` to `store`, deletes the marker |
//! | yes | current, renamed by an opening | absent | deletes the marker |
//!
//! So after an opening only `store` is left.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{self, DIRECTORY, MARKER, SECOND};
use super::error::OpenFault;

/// The directory of the current tree.
pub(super) fn current_directory(path: &Path) -> PathBuf {
    let is_second = path.join(MARKER).symlink_metadata().is_ok();
    path.join(if is_second { SECOND } else { DIRECTORY })
}

/// The directory that a compaction fills.
pub(super) fn other_directory(path: &Path) -> PathBuf {
    let is_second = path.join(MARKER).symlink_metadata().is_ok();
    path.join(if is_second { DIRECTORY } else { SECOND })
}

/// Why the directories were not exchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// Nothing was changed.
    #[error("the directory of the store cannot be replaced")]
    Unchanged(#[source] io::Error),
    /// After a crash either directory may be the current one, so neither may be written to.
    #[error("it is unknown which directory is the store's")]
    Unknown(#[source] io::Error),
}

/// Makes the other directory, which must be complete and durable, the current one, durably.
///
/// # Errors
/// See [`ExchangeError`].
pub(super) fn exchange(path: &Path) -> Result<(), ExchangeError> {
    // Opened before the marker is touched: a process that may open no more files has changed nothing.
    let directory = File::open(path).map_err(ExchangeError::Unchanged)?;
    let marker = path.join(MARKER);
    let options = &mut directory::file_options();
    match fs::remove_file(&marker) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            options.write(true).create_new(true).open(&marker).map(drop)
        }
        removed => removed,
    }
    .map_err(ExchangeError::Unchanged)?;
    directory.sync_all().map_err(ExchangeError::Unknown)
}

/// Deletes what a compaction left, and gives the current directory its first name. The caller holds
/// the lock of the store, and no process has it open.
///
/// # Errors
/// If the operating system refuses. The next call then does the rest.
pub(super) fn recover(path: &Path) -> Result<(), OpenFault> {
    let (first, second) = (path.join(DIRECTORY), path.join(SECOND));
    let marker = path.join(MARKER);
    if marker.try_exists()? {
        if second.try_exists()? {
            remove_directory(&first)?;
            fs::rename(&second, &first)?;
            sync(path)?;
        }
        fs::remove_file(&marker)?;
        sync(path)?;
    }
    Ok(remove_directory(&second)?)
}

/// Deletes the other directory.
///
/// # Errors
/// If the operating system refuses.
pub(super) fn remove_other(path: &Path) -> io::Result<()> {
    remove_directory(&other_directory(path))
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    directory::existing(fs::remove_dir_all(directory)).map(drop)
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use rustix::fs::Uid;
    use rustix::process::geteuid;
    use rustix::thread::set_thread_res_uid;

    use super::*;

    /// A directory with these subdirectories, each with a file that names its content.
    fn having(marker: bool, directories: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        if marker {
            File::create(dir.path().join(MARKER)).unwrap();
        }
        for (name, content) in directories {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("db"), content).unwrap();
        }
        dir
    }

    /// The entries, and the contents of subdirectories.
    fn found(dir: &tempfile::TempDir) -> Vec<(String, String)> {
        let content = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let content = fs::read_to_string(entry.path().join("db")).unwrap_or_default();
            (entry.file_name().into_string().unwrap(), content)
        };
        let mut found: Vec<_> = fs::read_dir(dir.path()).unwrap().map(content).collect();
        found.sort();
        found
    }

    #[test]
    fn an_opening_finds_the_one_store_after_every_interruption() {
        for (marker, left) in [
            (false, &[("store", "current")][..]),
            (false, &[("store", "current"), ("store.second", "incomplete or outdated")]),
            (true, &[("store", "incomplete or outdated"), ("store.second", "current")]),
            (true, &[("store.second", "current")]),
            (true, &[("store", "current")]),
        ] {
            let dir = having(marker, left);
            assert_ne!(current_directory(dir.path()), other_directory(dir.path()));
            recover(dir.path()).unwrap();
            let expected = ("store".to_owned(), "current".to_owned());
            assert_eq!(found(&dir), [expected], "marker: {marker}, {left:?}");
            assert_eq!(current_directory(dir.path()), dir.path().join("store"));
        }
        let dir = having(false, &[]);
        recover(dir.path()).unwrap();
        assert!(found(&dir).is_empty());
    }

    #[test]
    fn exchanges_alternate_between_the_directories() {
        let dir = having(false, &[("store", "first"), ("store.second", "second")]);
        for (name, content) in [("store.second", "second"), ("store", "first")] {
            exchange(dir.path()).unwrap();
            let current = current_directory(dir.path());
            assert_eq!(current, dir.path().join(name));
            assert_eq!(fs::read_to_string(current.join("db")).unwrap(), content);
        }
        remove_other(dir.path()).unwrap();
        assert_eq!(found(&dir), [("store".to_owned(), "first".to_owned())]);
    }

    #[test]
    fn an_exchange_that_the_system_refuses_changes_nothing() {
        let dir = having(false, &[("store", "current"), ("store.second", "copy")]);
        let gone = dir.path().join("gone");
        assert!(matches!(exchange(&gone), Err(ExchangeError::Unchanged(_))));
    }

    /// As if the process had no file descriptor left: the directory cannot be opened, but its
    /// entries can be changed.
    #[test]
    fn a_directory_that_cannot_be_opened_is_not_changed() {
        const OTHER: u32 = 65534;
        for marker in [false, true] {
            let dir = having(marker, &[("store", "first"), ("store.second", "second")]);
            let current = current_directory(dir.path());
            let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode));
            mode(0o300).unwrap();
            let exchanged = std::thread::scope(|scope| {
                let exchanging = scope.spawn(|| {
                    // Root may open everything. Only this thread becomes another user.
                    if geteuid().is_root() {
                        let other = Uid::from_raw(OTHER);
                        chown(dir.path(), Some(OTHER), None).unwrap();
                        set_thread_res_uid(other, other, other).unwrap();
                    }
                    exchange(dir.path())
                });
                exchanging.join().unwrap()
            });
            mode(0o700).unwrap();
            assert!(matches!(exchanged, Err(ExchangeError::Unchanged(_))), "{exchanged:?}");
            assert_eq!(current_directory(dir.path()), current);
        }
    }
}
