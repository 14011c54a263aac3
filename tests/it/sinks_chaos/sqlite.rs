//! A SQLite file that others lock, delete and restore.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use rusqlite::Connection;

use super::target::{ChaosTarget, CopyReader, LOOK};
use crate::copies::{EventsByWindow, copied, open_copy};
use crate::process::DaemonFixture;

pub(super) struct SqliteCopy {
    path: PathBuf,
    backup: PathBuf,
    /// Another program in a transaction.
    locking: Option<Connection>,
    reader: CopyReader,
}

impl SqliteCopy {
    pub(super) fn new(fixture: &DaemonFixture) -> Self {
        let [path, backup] = ["copy.sqlite", "backup.sqlite"].map(|name| fixture.path(name));
        Self { path, backup, locking: None, reader: CopyReader::default() }
    }

    /// Another program writes for long; false if there is no file, or it is in use.
    fn lock(&mut self) -> bool {
        let locking = open_copy(&self.path).filter(|copy| {
            copy.busy_timeout(Duration::from_millis(200)).unwrap();
            copy.execute_batch("BEGIN IMMEDIATE; UPDATE event SET subject = 'lost'").is_ok()
        });
        self.locking = locking;
        self.locking.is_some()
    }

    /// Deletes the file, with those that SQLite has beside it or without.
    fn delete(&mut self, ends: &[&str]) {
        self.reader.forget();
        for end in ends {
            let mut name = self.path.clone().into_os_string();
            name.push(end);
            // Not all are there.
            fs::remove_file(name).ok();
        }
    }

    /// Makes a backup if there is none, and else restores it.
    fn restore(&mut self) -> &'static str {
        if !self.backup.exists() {
            let copy = open_copy(&self.path);
            let text = format!("VACUUM INTO '{}'", self.backup.display());
            if copy.is_none_or(|copy| copy.execute_batch(&text).is_err()) {
                fs::remove_file(&self.backup).ok();
            }
            return "backed up";
        }
        self.delete(&["", "-wal", "-shm"]);
        fs::rename(&self.backup, &self.path).unwrap();
        "restored"
    }

    fn see(&self) -> Option<(i64, bool)> {
        let copy = open_copy(&self.path)?;
        copy.busy_timeout(Duration::from_secs(5)).unwrap();
        copy.query_row(LOOK, [], |row| Ok((row.get(0)?, row.get(1)?))).ok()
    }
}

impl ChaosTarget for SqliteCopy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn keys(&self) -> String {
        format!("type = \"sqlite\"\npath = {:?}\n", self.path)
    }

    fn harm<'a>(&'a mut self, chance: &'a mut Rng) -> BoxFuture<'a, String> {
        let done = match chance.u8(..8) {
            0 => {
                self.delete(&[""]);
                "deleted alone"
            }
            1 => {
                self.delete(&["", "-wal", "-shm"]);
                "deleted"
            }
            2..4 => self.restore(),
            _ if self.lock() => "locked",
            _ => "not locked",
        };
        Box::pin(std::future::ready(done.to_owned()))
    }

    fn heal(&mut self) -> BoxFuture<'_, ()> {
        self.locking = None;
        Box::pin(std::future::ready(()))
    }

    fn held(&self) -> BoxFuture<'_, Option<EventsByWindow>> {
        Box::pin(std::future::ready(copied(&self.path)))
    }

    fn look(&mut self) -> BoxFuture<'_, ()> {
        let found = self.see();
        self.reader.see(found);
        Box::pin(std::future::ready(()))
    }

    fn change_view(&mut self) {
        self.reader.change_view();
    }
}
