//! Reads the command that prints an access token. The daemon runs it, so it is taken only from a
//! file that only its owner and root can change, and so is a program with an absolute path.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Issue;
use super::origin::ValueOrigin;
use super::reader::RawValue;
use super::sources::Sources;

/// The most symbolic links on the way to a file, as for the system.
const MAX_LINKS: usize = 40;

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
    let is_bare = !program.contains('/');
    let found = match is_bare {
        true => {
            let path = sources.environment.get("PATH").map(String::as_str).unwrap_or_default();
            std::env::split_paths(path).any(|directory| is_program(&directory.join(program)))
        }
        false => is_program(Path::new(program)),
    };
    if !found {
        let problem = "its program is not found, or cannot be run";
        return Err(Issue::new(problem, "write its absolute path, and make the file executable"));
    }
    if !is_bare && !program.starts_with('/') {
        let problem = "its program is a relative path, and the daemon's directory is not this one";
        return Err(Issue::new(problem, "write the program's absolute path"));
    }
    // The owner of this file chooses what the daemon runs, so nothing is lost by trusting that user
    // with the program. The user of this process is not asked for: `check` and the daemon may run
    // as different users, and have to agree.
    let owner = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?.uid();
    only_owner_changes(path, owner)?;
    // Who sets PATH chooses the program, as everywhere.
    if !is_bare {
        only_owner_changes(Path::new(program), owner)?;
    }
    Ok(command.into_iter().map(str::to_owned).collect())
}

fn is_program(path: &Path) -> bool {
    let meta = std::fs::metadata(path);
    meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Checks that only root and `owner` can change the file or put another in its place. Walks to the
/// file as the system does, one link at a time, and checks every directory and link on the way.
fn only_owner_changes(file: &Path, owner: u32) -> Result<(), Issue> {
    let absolute = std::path::absolute(file).map_err(|error| unreadable(file, &error))?;
    let mut ahead = components(&absolute);
    let mut reached = PathBuf::new();
    let mut links = 0;
    while let Some(next) = ahead.pop() {
        if next == ".." {
            reached.pop();
            continue;
        }
        // The first component of an absolute path replaces what was reached.
        reached.push(next);
        let meta =
            std::fs::symlink_metadata(&reached).map_err(|error| unreadable(&reached, &error))?;
        check_step(&reached, &meta, owner)?;
        if meta.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(unreadable(file, &"too many symbolic links"));
            }
            let target =
                std::fs::read_link(&reached).map_err(|error| unreadable(&reached, &error))?;
            ahead.extend(components(&target));
            reached.pop();
        }
    }
    Ok(())
}

/// The components of a path, the last one first.
fn components(path: &Path) -> Vec<OsString> {
    let all = path.components().filter(|component| *component != Component::CurDir);
    all.rev().map(|component| component.as_os_str().to_owned()).collect()
}

/// Checks one file, link or directory.
fn check_step(path: &Path, meta: &Metadata, owner: u32) -> Result<(), Issue> {
    let mode = meta.permissions().mode();
    // The mode of a link means nothing. In a directory such as /tmp only the owner of an entry can
    // replace it.
    let guarded = meta.is_symlink() || meta.is_dir() && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !guarded {
        return Err(changeable(path, &format!("mode {:04o}", mode & 0o7777), "chmod go-w"));
    }
    if ![0, owner].contains(&meta.uid()) {
        return Err(changeable(path, &format!("owner {}", meta.uid()), "chown -h root"));
    }
    Ok(())
}

fn unreadable(path: &Path, error: &dyn Display) -> Issue {
    let shown = path.display();
    Issue::new(format!("the owner of {shown} cannot be read: {error}"), "check the file")
}

fn changeable(path: &Path, how: &str, command: &str) -> Issue {
    let shown = path.display();
    let problem = format!("a command, but others can change {shown} ({how})");
    Issue::new(problem, format!("{command} {shown}"))
}
