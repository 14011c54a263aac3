//! Passes the commit, if known, and the target triple to the program.

use std::process::Command;

fn main() {
    let commit = std::env::var("CALMIRROR_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=CALMIRROR_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    let target = std::env::var("TARGET").unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo::rustc-env=CALMIRROR_TARGET={target}");
    println!("cargo::rerun-if-env-changed=CALMIRROR_COMMIT");
    // The paths of HEAD and its log differ between a clone and a worktree, so ask git.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
}

/// The output of git; `None` without git, outside a repository, or if the command fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
