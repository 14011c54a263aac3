//! Reads the command that prints an access token. The daemon runs it, so it is taken only from a
//! file that nobody else can change.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use super::diagnostic::Issue;
use super::origin::ValueOrigin;
use super::reader::RawValue;
use super::sources::Sources;

/// Reads the program and its arguments.
pub(super) fn read(
    written: RawValue<'_>,
    origin: &ValueOrigin,
    sources: &Sources,
) -> Result<Arc<[String]>, Issue> {
    let ValueOrigin::File { path, .. } = origin else {
        let remedy = "write it into a configuration file that only its owner can change";
        return Err(Issue::new("a command outside a configuration file", remedy));
    };
    let command = written.texts()?;
    let program = command.first().copied().unwrap_or_default();
    if program.is_empty() {
        let remedy = "write the program and its arguments, like [\"az\", \"account\", …]";
        return Err(Issue::new("no program", remedy));
    }
    only_owner_writes(path)?;
    let found = match program.contains('/') {
        true => is_program(Path::new(program)),
        false => {
            let path = sources.environment.get("PATH").map(String::as_str).unwrap_or_default();
            std::env::split_paths(path).any(|directory| is_program(&directory.join(program)))
        }
    };
    if !found {
        let problem = "its program is not found, or cannot be run";
        return Err(Issue::new(problem, "write the program's absolute path"));
    }
    if program.contains('/') && !program.starts_with('/') {
        let problem = "its program is a relative path, and the daemon's directory is not this one";
        return Err(Issue::new(problem, "write the program's absolute path"));
    }
    Ok(command.into_iter().map(str::to_owned).collect())
}

fn is_program(path: &Path) -> bool {
    let meta = std::fs::metadata(path);
    meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Checks that only root and the daemon's user can change the file or put another in its place.
fn only_owner_writes(file: &Path) -> Result<(), Issue> {
    let unreadable = |error: std::io::Error| {
        Issue::new(format!("the owner of its file cannot be read: {error}"), "check the file")
    };
    let real = std::fs::canonicalize(file).map_err(unreadable)?;
    let directory = real.parent().map(Path::to_owned);
    for path in [Some(real), directory].into_iter().flatten() {
        let meta = std::fs::metadata(&path).map_err(unreadable)?;
        let mode = meta.permissions().mode();
        // In a directory such as /tmp only the owner of a file can replace it.
        let sticky = meta.is_dir() && mode & 0o1000 != 0;
        if mode & 0o022 != 0 && !sticky {
            return Err(changeable(&path, &format!("mode {:04o}", mode & 0o7777), "chmod go-w"));
        }
        let ours = rustix::process::geteuid().as_raw();
        if ![0, ours].contains(&meta.uid()) {
            return Err(changeable(&path, &format!("owner {}", meta.uid()), "chown root"));
        }
    }
    Ok(())
}

fn changeable(path: &Path, how: &str, command: &str) -> Issue {
    let shown = path.display();
    let problem = format!("a command, but others can change {shown} ({how})");
    Issue::new(problem, format!("{command} {shown}"))
}
