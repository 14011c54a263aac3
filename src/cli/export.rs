//! `export`: writes the store into a new file, as the running daemon sends it.
//!
//! The file is checked as it arrives and again after it was written. Whatever goes wrong, a
//! half-written file is removed: an error, a full disk, a daemon that stops, a signal.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use futures_util::StreamExt as _;
use serde_json::json;

use super::client::ApiClient;
use super::exit::{CliError, DONE, FAILED, USAGE};
use crate::platform::signals::Signals;
use crate::store::{ExportReader, ExportSummary};

/// Bytes read at once to check the file.
const PIECE: usize = 1 << 20;

/// Writes the store into `file`, or to standard output if that is `-`.
pub(super) async fn export(
    client: &ApiClient,
    file: &Path,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let interrupted = interrupted()?;
    let exporting = async {
        if file == Path::new("-") {
            return to_output(client).await;
        }
        to_file(client, file, json, out).await
    };
    // The file is removed when `exporting` is dropped.
    tokio::select! {
        done = exporting => done.map(|()| DONE),
        () = interrupted => Err(CliError::new(FAILED, "interrupted, nothing was exported")),
    }
}

/// Resolves when a signal asks this process to end.
///
/// # Errors
/// If signals cannot be received.
pub(super) fn interrupted() -> Result<impl Future<Output = ()>, CliError> {
    let mut signals = Signals::listen()
        .map_err(|error| CliError::new(FAILED, format!("cannot listen for signals: {error}")))?;
    Ok(async move {
        if signals.next().await.is_none() {
            std::future::pending().await
        }
    })
}

/// The windows, events and bytes in words.
pub(super) fn describe(what: &ExportSummary) -> String {
    let ExportSummary { windows, events, bytes } = what;
    format!("windows: {windows}, events: {events}, size: {}", ByteSize(*bytes))
}

async fn to_output(client: &ApiClient) -> Result<(), CliError> {
    let mut output = io::stdout();
    if output.is_terminal() {
        return Err(CliError::new(USAGE, "an export is not for a terminal")
            .remedy("name a file, or redirect the output"));
    }
    let summary = receive(client, &mut output, Path::new("standard output")).await?;
    output.flush()?;
    // Standard error may be closed.
    writeln!(anstream::stderr(), "exported {}", describe(&summary)).ok();
    Ok(())
}

async fn to_file(
    client: &ApiClient,
    path: &Path,
    json: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let mut new = NewFile::create(path)?;
    let received = receive(client, &mut new.file, path).await?;
    let file = new.file.try_clone().map_err(|error| cannot_write(path, &error))?;
    let written = path.to_owned();
    let checking = tokio::task::spawn_blocking(move || {
        file.sync_all()
            .and_then(|()| sync_directory(&written))
            .map_err(|e| (written.clone(), e))?;
        Ok(check(&written))
    });
    let checked = match checking.await {
        Ok(Ok(checked)) => checked?,
        Ok(Err((path, error))) => return Err(cannot_write(&path, &error)),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    if checked != received {
        return Err(CliError::new(FAILED, format!("{} is not what was written", path.display())));
    }
    new.keep();
    if json {
        let ExportSummary { windows, events, bytes } = checked;
        let text = json!({"file": path.display().to_string(), "windows": windows, "events": events, "bytes": bytes});
        writeln!(out, "{text}")?;
    } else {
        writeln!(out, "exported to {}; {}", path.display(), describe(&checked))?;
    }
    Ok(())
}

/// Writes the export as it arrives, and checks it.
async fn receive(
    client: &ApiClient,
    output: &mut impl Write,
    to: &Path,
) -> Result<ExportSummary, CliError> {
    let mut reader = ExportReader::default();
    let mut download = client.download(http::Method::GET, "/v1/export").await?;
    while let Some(bytes) = download.chunk().await? {
        reader.push(&bytes).map_err(|fault| {
            CliError::new(FAILED, format!("the daemon did not send an export: {fault}"))
        })?;
        output.write_all(&bytes).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::new(FAILED, ""),
            _ => cannot_write(to, &error),
        })?;
    }
    let whole = reader.finish();
    whole.map_err(|fault| CliError::new(FAILED, format!("the export is not complete: {fault}")))
}

/// Reads a written file from its beginning.
fn check(path: &Path) -> Result<ExportSummary, CliError> {
    use std::io::Read as _;
    let damaged = |cause: String| {
        CliError::new(FAILED, format!("{} is not what was written: {cause}", path.display()))
    };
    let mut reader = ExportReader::default();
    let mut piece = vec![0; PIECE];
    let mut file = File::open(path).map_err(|error| damaged(error.to_string()))?;
    loop {
        match file.read(&mut piece) {
            Ok(0) => return reader.finish().map_err(|fault| damaged(fault.to_string())),
            Ok(length) => {
                reader.push(&piece[..length]).map_err(|fault| damaged(fault.to_string()))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(damaged(error.to_string())),
        }
    }
}

fn sync_directory(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn cannot_write(path: &Path, error: &io::Error) -> CliError {
    CliError::new(FAILED, format!("cannot write {}: {error}", path.display()))
}

/// A file that did not exist before, and is removed unless it is kept.
struct NewFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, CliError> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                CliError::new(FAILED, format!("{} exists already", path.display()))
                    .remedy("name another file, or remove it first")
            }
            _ => cannot_write(path, &error),
        })?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // The error that is reported already says that the file is not complete.
            fs::remove_file(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use futures_util::stream;

    use super::super::endpoint::Endpoint;
    use super::super::exit::UNAVAILABLE;
    use super::*;
    use crate::tests::{NOON, env, open, registration, window};

    /// The bytes of an export.
    async fn whole() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), &env());
        store.register(vec![registration(&window("alice"))], NOON).await.unwrap();
        let bytes = store.export().unwrap().next().await.unwrap();
        store.close().await.unwrap();
        bytes
    }

    /// Exports into `file` from a substitute for the daemon that sends these parts; `None` cuts the
    /// response off.
    async fn export_from(parts: Vec<Option<Vec<u8>>>, file: &Path) -> Result<String, CliError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let answer = move || async move {
            let parts = stream::iter(parts).then(|part| async {
                // Lets the previous part be sent.
                tokio::task::yield_now().await;
                part.ok_or(io::Error::other("cut off"))
            });
            Body::from_stream(parts)
        };
        let app = Router::new().route("/v1/export", get(answer));
        let serving = tokio::spawn(async { axum::serve(listener, app).await });
        let client = ApiClient::new(Endpoint::Socket(socket), None);
        let mut out = Vec::new();
        let done = to_file(&client, file, false, &mut out).await;
        serving.abort();
        done.map(|()| String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_complete_export_is_kept_with_mode_0600() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let bytes = whole().await;
        let (one, two) = bytes.split_at(100);
        let parts = vec![Some(one.to_vec()), Some(two.to_vec())];
        let printed = export_from(parts, &file).await.unwrap();
        assert!(printed.contains("windows: 1, events: 0, size: "), "{printed}");
        assert_eq!(fs::read(&file).unwrap(), bytes);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        fs::write(&file, "somebody's notes").unwrap();
        let refused = export_from(vec![Some(bytes)], &file).await.unwrap_err();
        assert!(refused.message.ends_with("exists already"), "{refused}");
        assert_eq!(fs::read(&file).unwrap(), b"somebody's notes");
    }

    #[tokio::test]
    async fn what_is_no_complete_export_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let bytes = whole().await;
        let mut altered = bytes.clone();
        altered[60] ^= 1;
        for (parts, exit, message) in [
            (vec![Some(bytes[..100].to_vec()), None], UNAVAILABLE, "after 100 bytes"),
            (vec![Some(bytes[..100].to_vec())], FAILED, "not complete: at byte 100"),
            (vec![], FAILED, "not complete: at byte 0"),
            (vec![Some(altered)], FAILED, "damaged"),
            (vec![Some(b"<html>".to_vec())], FAILED, "not an export of calmirror"),
        ] {
            let failure = export_from(parts, &file).await.unwrap_err();
            assert_eq!(failure.exit, exit, "{failure}");
            assert!(failure.message.contains(message), "{failure}");
            assert!(!file.exists(), "{failure}");
        }
        let nowhere = directory.path().join("no/such");
        let failure = export_from(vec![Some(bytes)], &nowhere).await.unwrap_err();
        assert!(failure.message.starts_with("cannot write "), "{failure}");
    }

    #[test]
    fn a_file_that_differs_from_what_was_sent_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "calmirror export 1\nh").unwrap();
        let failure = check(file.path()).unwrap_err();
        assert!(failure.message.contains("is not what was written: at byte 20"), "{failure}");
    }
}
