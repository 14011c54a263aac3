//! Reads the command that prints an access token. The daemon runs it, so it is taken only from a
//! file that only its owner and root can change.

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
    only_owner_changes(path)?;
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
    if program.contains('/') {
        if !program.starts_with('/') {
            let problem =
                "its program is a relative path, and the daemon's directory is not this one";
            return Err(Issue::new(problem, "write the program's absolute path"));
        }
        only_owner_changes(Path::new(program))?;
    }
    Ok(command.into_iter().map(str::to_owned).collect())
}

fn is_program(path: &Path) -> bool {
    let meta = std::fs::metadata(path);
    meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Checks that only root and the daemon's user can change the file or put another in its place: the
/// file, the links that lead to it, and every directory above them.
fn only_owner_changes(file: &Path) -> Result<(), Issue> {
    let shown = file.display();
    let unreadable = |error: std::io::Error| {
        Issue::new(format!("the owner of {shown} cannot be read: {error}"), "check the file")
    };
    let written = std::path::absolute(file).map_err(unreadable)?;
    let real = std::fs::canonicalize(file).map_err(unreadable)?;
    let ours = rustix::process::geteuid().as_raw();
    for path in real.ancestors().chain(written.ancestors()) {
        let meta = std::fs::symlink_metadata(path).map_err(unreadable)?;
        let mode = meta.permissions().mode();
        // The mode of a link means nothing. In a directory such as /tmp only the owner of an entry
        // can replace it.
        let guarded = meta.is_symlink() || meta.is_dir() && mode & 0o1000 != 0;
        if mode & 0o022 != 0 && !guarded {
            return Err(changeable(path, &format!("mode {:04o}", mode & 0o7777), "chmod go-w"));
        }
        if ![0, ours].contains(&meta.uid()) {
            return Err(changeable(path, &format!("owner {}", meta.uid()), "chown root"));
        }
    }
    Ok(())
}

fn changeable(path: &Path, how: &str, command: &str) -> Issue {
    let shown = path.display();
    let problem = format!("a command, but others can change {shown} ({how})");
    Issue::new(problem, format!("{command} {shown}"))
}
