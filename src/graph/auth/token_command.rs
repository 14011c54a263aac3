//! Runs the command that prints an access token.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::token_text::TokenTextError;
use crate::mirror::account::MAX_SECRET_BYTES;

/// How long the command may take. The Azure CLI needs some seconds for a token.
const TIMEOUT: Duration = Duration::from_secs(30);

/// When a command that gave no token is run again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The variables that the command gets of the daemon's environment. All others may be secrets, or
/// are for the daemon alone, like the socket of the service manager.
const PASSED_ON: [&str; 25] = [
    "ALL_PROXY",
    "AZURE_CONFIG_DIR",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LOGNAME",
    "NO_PROXY",
    "PATH",
    "REQUESTS_CA_BUNDLE",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "https_proxy",
    "no_proxy",
];

/// The command printed no token. Never shows what it printed.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenCommandError {
    #[error(
        "access_token_command {program} cannot be run; check that the daemon's user may run it"
    )]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "access_token_command {program} did not end within {}; run it as the daemon's user to \
             see why",
        humantime::format_duration(TIMEOUT)
    )]
    Timeout { program: String },
    #[error(
        "access_token_command {program} ended with {status}; run it as the daemon's user to see why"
    )]
    Failed { program: String, status: ExitStatus },
    #[error(
        "access_token_command {program} printed more than {MAX_SECRET_BYTES} bytes; it should \
             print the token alone"
    )]
    TooLong { program: String },
    #[error("what access_token_command printed cannot be used")]
    Text(#[from] TokenTextError),
}

/// Runs the command and returns what it printed on standard output. It has no standard input, its
/// standard error is dropped, and it and all its children are killed at the time limit.
pub(super) async fn run(command: &[String]) -> Result<Vec<u8>, TokenCommandError> {
    let (program, arguments) =
        command.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let own = || program.to_owned();
    let start = |source| TokenCommandError::Start { program: own(), source };
    let variables = PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(variables)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(start)?;
    let mut group = ProcessGroup { child, ended: false };
    let printed = async {
        let mut printed = Vec::new();
        if let Some(output) = group.child.stdout.take() {
            output.take(MAX_SECRET_BYTES + 1).read_to_end(&mut printed).await.map_err(start)?;
        }
        if printed.len() as u64 > MAX_SECRET_BYTES {
            return Err(TokenCommandError::TooLong { program: own() });
        }
        let status = group.child.wait().await.map_err(start)?;
        group.ended = true;
        if status.success() {
            Ok(printed)
        } else {
            Err(TokenCommandError::Failed { program: own(), status })
        }
    };
    timeout(TIMEOUT, printed)
        .await
        .unwrap_or_else(|_| Err(TokenCommandError::Timeout { program: own() }))
}

/// A command and its children. They are killed unless the command has ended, also if the caller
/// loses interest.
struct ProcessGroup {
    child: Child,
    ended: bool,
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // Until the child is waited for, no other process can have its number.
        let id = self.child.id().filter(|_| !self.ended).and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw)
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::warn!(%error, "access_token_command could not be killed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::auth::Tokens;
    use crate::graph::script::{self, Script};
    use crate::mirror::account::Credential;
    use crate::mirror::failure::ErrorClass;

    fn shell(script: &str) -> [String; 3] {
        ["/bin/sh", "-c", script].map(str::to_owned)
    }

    #[tokio::test]
    async fn a_command_prints_a_token_and_sees_no_secrets() {
        let printed = run(&shell("printf token; env >&2")).await.unwrap();
        assert_eq!(printed, b"token");
        // Cargo sets many variables of its own; they stand for those of a daemon.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let printed = run(&shell("env")).await.unwrap();
        let text = String::from_utf8(printed).unwrap();
        let names: Vec<_> = text.lines().filter_map(|line| line.split('=').next()).collect();
        assert!(names.contains(&"PATH"), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
        assert_eq!(run(&shell("cat")).await.unwrap(), b"", "it waits for its standard input");
    }

    #[tokio::test]
    async fn a_failed_command_is_run_again_after_a_minute() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let credential =
            Credential::AccessTokenCommand(shell(&format!("cat {}", file.display())).into());
        let tokens = Tokens::new(script::sign_in(credential), Script::new([], []), script::env());
        let refused = tokens.token().await.unwrap_err();
        assert_eq!(refused.class(), ErrorClass::SignIn);
        assert!(
            refused.message().contains("account contoso: access_token_command /bin/sh ended"),
            "{}",
            refused.message()
        );
        std::fs::write(&file, r#"{"accessToken":"t","expires_on":9999999999}"#).unwrap();
        let wait = tokens.token().await.unwrap_err().retry_after().unwrap();
        assert!(wait <= RETRY_AFTER && wait > RETRY_AFTER / 2, "{wait:?}");
        tokio::time::pause();
        tokio::time::advance(wait).await;
        tokio::time::resume();
        assert_eq!(tokens.token().await.unwrap().expose(), "t");
        // The next caller runs nothing.
        std::fs::remove_file(&file).unwrap();
        assert_eq!(tokens.token().await.unwrap().expose(), "t");
    }

    #[tokio::test]
    async fn commands_without_a_token_are_told_apart() {
        let failed = run(&shell("echo canary; echo canary >&2; exit 3")).await.unwrap_err();
        let said = "access_token_command /bin/sh ended with exit status: 3; run it as the daemon's user to see why";
        assert_eq!(failed.to_string(), said);
        let absent = run(&["/no/such/program".to_owned()]).await.unwrap_err();
        assert!(matches!(absent, TokenCommandError::Start { .. }), "{absent}");
        let endless = run(&shell("yes canary")).await.unwrap_err();
        assert!(matches!(endless, TokenCommandError::TooLong { .. }), "{endless}");
    }

    // The paused clock jumps to the time limit as soon as everything waits for the command.
    #[tokio::test(start_paused = true)]
    async fn a_command_that_hangs_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let script = format!("sleep 1000 & echo $$ $! > {}; wait", pids.display());
        let command = shell(&script);
        let running = run(&command);
        // The clock stands still while a blocking task runs: the shell has time to start.
        let (hung, ()) = tokio::join!(running, async {
            let pids = pids.clone();
            let written = move || {
                while !std::fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n')) {
                    std::thread::yield_now();
                }
            };
            tokio::task::spawn_blocking(written).await.unwrap();
        });
        let hung = hung.unwrap_err().to_string();
        assert!(hung.contains("did not end within 30s"), "{hung}");
        for pid in std::fs::read_to_string(&pids).unwrap().split_whitespace() {
            let status = format!("/proc/{pid}/stat");
            // Dead: gone, or a zombie that its parent has not yet waited for.
            let alive = || {
                let stat = std::fs::read_to_string(&status).unwrap_or_default();
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
            };
            // A killed process may take a moment to end.
            for _ in 0..1_000_000 {
                if !alive() {
                    break;
                }
                std::thread::yield_now();
            }
            assert!(!alive(), "{pid} was not killed");
        }
    }
}
