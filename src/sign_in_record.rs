//! The file of an account that a person signed in to: who it was, and the refresh token.
//!
//! It lies beside the store, not in it, so that no export contains it. A refresh token is replaced
//! at each use (fact 146), so the file is rewritten often; each rewriting is durable before the
//! token is needed again.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::mirror::account::MAX_SECRET_BYTES;

/// The only version of the file.
const VERSION: u32 = 1;

/// Who signed in, and with which token the sign-in is continued.
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
    /// `None` after a logout. Who it was stays known, because the store has that person's events.
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

    /// Replaces the file with this record, durably. Creates its directory if it is missing.
    ///
    /// # Errors
    /// The old file, if any, is unchanged then.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        if !directory.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            File::open(directory.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        }
        self.replace(path, &locked(directory)?)
    }

    /// Puts `new` into the file in place of the refresh token `used`. Does nothing if the file has
    /// another token by now: a person signed in or out, or another process used the same token.
    /// The token in the file is valid in each of these cases. Returns whether it was replaced.
    ///
    /// # Errors
    /// The old file is unchanged then.
    pub(crate) fn rotate(
        path: &Path,
        used: &SecretString,
        new: SecretString,
    ) -> Result<bool, SignInRecordError> {
        let directory = locked(path.parent().unwrap_or(Path::new(".")))?;
        let Some(mut record) = Self::read(path)? else { return Ok(false) };
        let stored = record.refresh_token.as_ref().map(|token| token.expose_secret());
        if stored != Some(used.expose_secret()) {
            return Ok(false);
        }
        record.refresh_token = Some(new);
        record.replace(path, &directory)?;
        Ok(true)
    }

    /// Replaces the file in its directory, which is locked.
    fn replace(&self, path: &Path, locked: &File) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(directory)?;
        let mut json = secret_buffer();
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
        serde_json::to_writer(&mut *json, &record)?;
        new.write_all(&json)?;
        // `check --online` may run as root, and the daemon has to read the file afterwards.
        let owner = fs::metadata(path).or_else(|_| fs::metadata(directory))?;
        if owner.uid() != new.as_file().metadata()?.uid() {
            fchown(new.as_file(), Some(owner.uid()), Some(owner.gid()))?;
        }
        new.as_file().sync_all()?;
        new.persist(path)?;
        locked.sync_all()
    }
}

/// Opens the directory of records and locks it against other processes and threads until it is
/// closed. The file itself cannot be locked, because it is replaced.
fn locked(directory: &Path) -> io::Result<File> {
    let directory = File::open(directory)?;
    directory.lock()?;
    Ok(directory)
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

    #[test]
    fn a_record_is_private_complete_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts/contoso");
        assert!(SignInRecord::read(&path).unwrap().is_none());
        record().write(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let read = SignInRecord::read(&path).unwrap().unwrap();
        assert_eq!(read.refresh_token.as_ref().unwrap().expose_secret(), "canary\"é");
        assert_eq!((&*read.user_id, &*read.user_name), ("1", "alice@contoso.com"));
        assert!(read.reads_groups && !format!("{read:?}").contains("canary"));
        SignInRecord { refresh_token: None, ..read }.write(&path).unwrap();
        assert!(SignInRecord::read(&path).unwrap().unwrap().refresh_token.is_none());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn only_the_token_that_was_used_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("contoso");
        let rotate = |used: &str, new: &str| {
            SignInRecord::rotate(&path, &used.into(), new.into()).unwrap();
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
        login("alice", Some("r1")).write(&path).unwrap();
        assert_eq!(token(&rotate("r1", "r2")).as_deref(), Some("r2"));
        // Another process was faster.
        assert_eq!(token(&rotate("r1", "r3")).as_deref(), Some("r2"));
        // Another person signed in, and signed out.
        login("bob", Some("b1")).write(&path).unwrap();
        let stored = rotate("r2", "r3");
        assert_eq!((token(&stored).as_deref(), &*stored.unwrap().0), (Some("b1"), "bob"));
        login("bob", None).write(&path).unwrap();
        assert_eq!(token(&rotate("b1", "b2")), None);
        // No other writer comes between the comparison and the replacement.
        login("alice", Some("0")).write(&path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut done = 0;
                    while done < 25 {
                        let stored = SignInRecord::read(&path).unwrap().unwrap();
                        let used = stored.refresh_token.unwrap();
                        let count: u32 = used.expose_secret().parse().unwrap();
                        let next = SecretString::from((count + 1).to_string());
                        done += u32::from(SignInRecord::rotate(&path, &used, next).unwrap());
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
        assert!(record().write(&path).is_err());
    }
}
