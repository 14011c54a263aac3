//! The file of an account that a person signed in to: the person, and the refresh token.
//!
//! It lies beside the store, not in it, so that no export contains it. A refresh token is replaced
//! at each use (fact 146), so the file is rewritten often; each rewriting is durable before the
//! token is needed again.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use crate::env::Env;
use crate::mirror::account::MAX_SECRET_BYTES;

/// The only version of the file.
const VERSION: u32 = 1;

/// How long another process may hold the lock. It writes one small file meanwhile, unless it is
/// stopped.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often a lock that is held is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// The person who signed in, and the token that continues the sign-in.
#[derive(Clone, Debug)]
pub(crate) struct SignInRecord {
    /// The tenant of the account at that time.
    pub(crate) tenant: String,
    /// The application of the account at that time.
    pub(crate) client_id: String,
    /// The person's object id.
    pub(crate) user_id: String,
    /// The person's name for signing in, such as `alice@contoso.com`.
    pub(crate) user_name: String,
    /// When the person signed in.
    pub(crate) at: Timestamp,
    /// Whether the person also granted the reading of group calendars.
    pub(crate) reads_groups: bool,
    /// `None` after a logout. The person stays known, because the store has that person's events.
    pub(crate) refresh_token: Option<SecretString>,
}

/// A file that could not be read or written. Never shows what it contains.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInRecordError {
    /// The operating system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no record of a sign-in.
    #[error("it is not a record of a sign-in")]
    Malformed,
    /// A newer calmirror wrote it.
    #[error("a newer version of calmirror wrote it")]
    Newer,
    /// It would be too long to be read again.
    #[error("the record would be longer than {MAX_SECRET_BYTES} bytes")]
    TooLong,
    /// Another process holds the lock of the directory.
    #[error(
        "another process has locked {directory} for {seconds} s; end it if it hangs",
        directory = .0.display(), seconds = LOCK_WAIT.as_secs()
    )]
    Locked(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct RecordJson<'a> {
    version: u32,
    tenant: String,
    client_id: String,
    user_id: String,
    user_name: String,
    at: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reads_groups: bool,
    #[serde(borrow)]
    refresh_token: Option<Cow<'a, str>>,
}

impl SignInRecord {
    /// Reads the record; `None` if there is no file.
    ///
    /// # Errors
    /// See [`SignInRecordError`].
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, SignInRecordError> {
        #[derive(Deserialize)]
        struct VersionJson {
            version: u32,
        }
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = secret_buffer();
        file.take(MAX_SECRET_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_SECRET_BYTES {
            return Err(SignInRecordError::Malformed);
        }
        let malformed = |_| SignInRecordError::Malformed;
        let VersionJson { version } = serde_json::from_slice(&bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(SignInRecordError::Newer);
        }
        let record: RecordJson<'_> = serde_json::from_slice(&bytes).map_err(malformed)?;
        let RecordJson { tenant, client_id, user_id, user_name, at, reads_groups, .. } = record;
        let refresh_token =
            record.refresh_token.map(|token| SecretString::from(token.into_owned()));
        Ok(Some(Self { tenant, client_id, user_id, user_name, at, reads_groups, refresh_token }))
    }

    /// The content of the file.
    ///
    /// # Errors
    /// It would be too long.
    fn json(&self) -> Result<Zeroizing<Vec<u8>>, SignInRecordError> {
        let record = RecordJson {
            version: VERSION,
            tenant: self.tenant.clone(),
            client_id: self.client_id.clone(),
            user_id: self.user_id.clone(),
            user_name: self.user_name.clone(),
            at: self.at,
            reads_groups: self.reads_groups,
            refresh_token: self.refresh_token.as_ref().map(|token| token.expose_secret().into()),
        };
        let mut json = secret_buffer();
        json.resize(MAX_SECRET_BYTES as usize, 0);
        let mut free = json.as_mut_slice();
        // Writing to a slice fails only at its end.
        serde_json::to_writer(&mut free, &record).map_err(|_| SignInRecordError::TooLong)?;
        let free = free.len();
        json.truncate(MAX_SECRET_BYTES as usize - free);
        Ok(json)
    }
}

/// A record whose directory is locked against other processes and threads until this is dropped.
/// The file itself cannot be locked, because it is replaced.
#[derive(Debug)]
pub(crate) struct LockedRecord {
    path: PathBuf,
    directory: File,
}

impl LockedRecord {
    /// Locks the record in this file. Waits while another process holds the lock, but not for long,
    /// and without a thread. Creates the directory if it is missing.
    ///
    /// # Errors
    /// [`SignInRecordError::Io`] and [`SignInRecordError::Locked`].
    pub(crate) async fn open(path: &Path, env: &Env) -> Result<Self, SignInRecordError> {
        let until = Instant::now() + LOCK_WAIT;
        loop {
            let file = path.to_owned();
            match env.compute(move || Self::try_open(&file)).await {
                Err(SignInRecordError::Locked(_)) if Instant::now() < until => {
                    sleep(LOCK_RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// Locks the record in this file unless its lock is held.
    ///
    /// # Errors
    /// As for [`LockedRecord::open`].
    pub(crate) fn try_open(path: &Path) -> Result<Self, SignInRecordError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        if !parent.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            File::open(parent.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        let directory = File::open(parent)?;
        match directory.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), directory }),
            Err(TryLockError::WouldBlock) => Err(SignInRecordError::Locked(parent.to_owned())),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Replaces the file with this record, durably.
    ///
    /// # Errors
    /// The old file, if any, is unchanged then.
    pub(crate) fn write(&self, record: &SignInRecord) -> Result<(), SignInRecordError> {
        let json = record.json()?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(directory)?;
        new.write_all(&json)?;
        // `check --online` may run as root, and the daemon has to read the file afterwards.
        let owner = fs::metadata(&self.path).or_else(|_| fs::metadata(directory))?;
        if owner.uid() != new.as_file().metadata()?.uid() {
            fchown(new.as_file(), Some(owner.uid()), Some(owner.gid()))?;
        }
        new.as_file().sync_all()?;
        new.persist(&self.path).map_err(io::Error::from)?;
        Ok(self.directory.sync_all()?)
    }

    /// Puts `new` into the file in place of the refresh token `used`. Does nothing if the file has
    /// another token by now: a person signed in or out, or another process used the same token.
    /// The token in the file is valid in each of these cases. Returns whether it was replaced.
    ///
    /// # Errors
    /// The old file is unchanged then.
    pub(crate) fn rotate(
        &self,
        used: &SecretString,
        new: SecretString,
    ) -> Result<bool, SignInRecordError> {
        let Some(mut record) = SignInRecord::read(&self.path)? else { return Ok(false) };
        let stored = record.refresh_token.as_ref().map(|token| token.expose_secret());
        if stored != Some(used.expose_secret()) {
            return Ok(false);
        }
        record.refresh_token = Some(new);
        self.write(&record)?;
        Ok(true)
    }
}

/// A buffer for a file with a refresh token, which is erased when it is dropped. It never grows,
/// because that would leave a copy behind.
fn secret_buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES as usize + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> SignInRecord {
        SignInRecord {
            tenant: "contoso.com".to_owned(),
            client_id: "app".to_owned(),
            user_id: "1".to_owned(),
            user_name: "alice@contoso.com".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            reads_groups: true,
            refresh_token: Some("canary\"é".into()),
        }
    }

    fn write(record: &SignInRecord, path: &Path) -> Result<(), SignInRecordError> {
        LockedRecord::try_open(path)?.write(record)
    }

    #[test]
    fn a_record_is_private_complete_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts/contoso");
        assert!(SignInRecord::read(&path).unwrap().is_none());
        write(&record(), &path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let read = SignInRecord::read(&path).unwrap().unwrap();
        assert_eq!(read.refresh_token.as_ref().unwrap().expose_secret(), "canary\"é");
        assert_eq!((&*read.user_id, &*read.user_name), ("1", "alice@contoso.com"));
        assert!(read.reads_groups && !format!("{read:?}").contains("canary"));
        write(&SignInRecord { refresh_token: None, ..read }, &path).unwrap();
        assert!(SignInRecord::read(&path).unwrap().unwrap().refresh_token.is_none());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn only_the_token_that_was_used_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("contoso");
        let rotate = |used: &str, new: &str| {
            let locked = LockedRecord::try_open(&path).unwrap();
            locked.rotate(&used.into(), new.into()).unwrap();
            SignInRecord::read(&path).unwrap().map(|record| (record.user_id, record.refresh_token))
        };
        let token = |stored: &Option<(String, Option<SecretString>)>| {
            let (_, token) = stored.as_ref().unwrap();
            token.as_ref().map(|token| token.expose_secret().to_owned())
        };
        assert!(rotate("r1", "r2").is_none());
        let login = |user_id: &str, token: Option<&str>| {
            let refresh_token = token.map(Into::into);
            SignInRecord { user_id: user_id.to_owned(), refresh_token, ..record() }
        };
        write(&login("alice", Some("r1")), &path).unwrap();
        assert_eq!(token(&rotate("r1", "r2")).as_deref(), Some("r2"));
        // Another process was faster.
        assert_eq!(token(&rotate("r1", "r3")).as_deref(), Some("r2"));
        // Another person signed in, and signed out.
        write(&login("bob", Some("b1")), &path).unwrap();
        let stored = rotate("r2", "r3");
        assert_eq!((token(&stored).as_deref(), &*stored.unwrap().0), (Some("b1"), "bob"));
        write(&login("bob", None), &path).unwrap();
        assert_eq!(token(&rotate("b1", "b2")), None);
        // No other writer comes between the comparison and the replacement.
        write(&login("alice", Some("0")), &path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut done = 0;
                    while done < 25 {
                        let stored = SignInRecord::read(&path).unwrap().unwrap();
                        let used = stored.refresh_token.unwrap();
                        let count: u32 = used.expose_secret().parse().unwrap();
                        let next = SecretString::from((count + 1).to_string());
                        match LockedRecord::try_open(&path) {
                            Ok(locked) => done += u32::from(locked.rotate(&used, next).unwrap()),
                            Err(error) => {
                                assert!(matches!(error, SignInRecordError::Locked(_)), "{error}");
                                std::thread::yield_now();
                            }
                        }
                    }
                });
            }
        });
        let stored = SignInRecord::read(&path).unwrap().unwrap().refresh_token.unwrap();
        assert_eq!(stored.expose_secret(), "100");
    }

    #[test]
    fn a_file_that_is_no_record_is_told_from_a_newer_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("contoso");
        for text in ["", "canary", "{}", r#"{"version":1}"#] {
            fs::write(&path, text).unwrap();
            let error = SignInRecord::read(&path).unwrap_err();
            assert!(matches!(error, SignInRecordError::Malformed), "{text}");
        }
        fs::write(&path, r#"{"version":2,"x":[]}"#).unwrap();
        assert!(matches!(SignInRecord::read(&path), Err(SignInRecordError::Newer)));
        fs::write(&path, " ".repeat(300_000)).unwrap();
        assert!(matches!(SignInRecord::read(&path), Err(SignInRecordError::Malformed)));
        // What cannot be written leaves the old file.
        let path = directory.path().join("none/x");
        fs::write(directory.path().join("none"), "").unwrap();
        assert!(write(&record(), &path).is_err());
    }

    #[test]
    fn a_record_that_could_not_be_read_again_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("contoso");
        write(&record(), &path).unwrap();
        let with = |length: u64| {
            let token = "t".repeat(usize::try_from(length).unwrap());
            SignInRecord { refresh_token: Some(token.into()), ..record() }
        };
        let rest = fs::metadata(&path).unwrap().len() - "canary\\\"é".len() as u64;
        let refused = write(&with(MAX_SECRET_BYTES - rest + 1), &path).unwrap_err();
        assert_eq!(refused.to_string(), "the record would be longer than 262144 bytes");
        let kept = SignInRecord::read(&path).unwrap().unwrap().refresh_token.unwrap();
        assert_eq!(kept.expose_secret(), "canary\"é");
        write(&with(MAX_SECRET_BYTES - rest), &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), MAX_SECRET_BYTES);
        SignInRecord::read(&path).unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_waited_for_but_not_without_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts/contoso");
        let env = Env::simulated(1, Timestamp::UNIX_EPOCH);
        let held = LockedRecord::open(&path, &env).await.unwrap();
        let began = Instant::now();
        let error = LockedRecord::open(&path, &env).await.unwrap_err();
        let said = format!("another process has locked {}", path.parent().unwrap().display());
        assert!(error.to_string().starts_with(&said), "{error}");
        assert_eq!(began.elapsed().as_secs(), LOCK_WAIT.as_secs());
        let release = async {
            sleep(LOCK_WAIT / 2).await;
            drop(held);
        };
        let (locked, ()) = tokio::join!(LockedRecord::open(&path, &env), release);
        locked.unwrap().write(&record()).unwrap();
    }
}
