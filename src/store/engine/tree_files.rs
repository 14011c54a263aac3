//! Syncs the files of a tree that sled has open.
//!
//! sled writes a page of more than about 128 KiB into a file of its own, and never syncs it. So each
//! new one is synced before the log that names it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::super::directory::existing;

/// The files of an open tree.
#[derive(Debug)]
pub(super) struct TreeFiles {
    db: File,
    /// The directory of the large pages.
    pages: PathBuf,
    /// Those that are durable.
    synced: BTreeSet<OsString>,
}

impl TreeFiles {
    /// Syncs all files that sled never syncs, the tree's directory `dir`, and the directory that it
    /// lies in.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let db = File::options().read(true).write(true).open(dir.join("db"))?;
        db.sync_all()?;
        if let Some(conf) = existing(File::open(dir.join("conf")))? {
            conf.sync_all()?;
        }
        let mut files = Self { db, pages: dir.join("blobs"), synced: BTreeSet::new() };
        files.sync_pages()?;
        if let Some(pages) = existing(File::open(&files.pages))? {
            pages.sync_all()?;
        }
        File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(files)
    }

    /// Makes durable what was flushed.
    ///
    /// # Errors
    /// If the operating system refuses. A failed sync must not be repeated.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.sync_pages()?;
        self.db.sync_data()
    }

    /// Syncs the large pages that are new.
    fn sync_pages(&mut self) -> io::Result<()> {
        let Some(entries) = existing(fs::read_dir(&self.pages))? else { return Ok(()) };
        let mut found = BTreeSet::new();
        let mut is_new = false;
        for entry in entries {
            let entry = entry?;
            // sled's own threads delete pages meanwhile.
            if !self.synced.contains(&entry.file_name())
                && let Some(page) = existing(File::open(entry.path()))?
            {
                page.sync_all()?;
                is_new = true;
            }
            found.insert(entry.file_name());
        }
        if is_new {
            File::open(&self.pages)?.sync_all()?;
        }
        self.synced = found;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_pages_are_synced_once() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path().join("store")).open().unwrap();
        let mut files = TreeFiles::open(&dir.path().join("store")).unwrap();
        assert!(files.synced.is_empty());
        db.insert("large", vec![7; 200_000]).unwrap();
        db.flush().unwrap();
        files.sync().unwrap();
        let there = fs::read_dir(&files.pages).unwrap().count();
        assert!(there > 0, "sled keeps large pages elsewhere");
        assert_eq!(files.synced.len(), there);
        let before = files.synced.clone();
        fs::remove_file(files.pages.join(before.first().unwrap())).unwrap();
        files.sync().unwrap();
        assert_eq!(files.synced.len(), there - 1, "a page that is gone is forgotten");
    }
}
