//! Defines the command line: commands, options and their help.

mod availability;
mod sink;

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;

pub use availability::{BusyArgs, FreeArgs, WindowPatterns};
pub use sink::SinkRequestArgs;

use super::complete;
pub use super::time_range::TimeRange;
use crate::mirror::status::WindowState;

/// The output of `--version`: version, commit, target.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("CALMIRROR_COMMIT"),
    ", ",
    env!("CALMIRROR_TARGET"),
    ")"
);

/// The commit this was built from, or `unknown`.
pub const COMMIT: &str = env!("CALMIRROR_COMMIT");

/// The target triple this was built for.
pub const TARGET: &str = env!("CALMIRROR_TARGET");

/// Keeps an exact, always fresh local copy of Microsoft 365 calendars.
#[derive(Debug, Parser)]
#[command(name = "calmirror", version = VERSION, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    // Environment variables are read with the files, not by clap: an empty one counts as unset.
    /// Configuration file [default: $CALMIRROR_CONFIG, else /etc/calmirror/calmirror.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address of the daemon: its socket, HOST:PORT or http://HOST:PORT [default: $CALMIRROR_API,
    /// else as configured].
    ///
    /// Over HTTP the client sends $CALMIRROR_TOKEN, else the token from the configured token file.
    /// The latter is sent only to the configured address and to loopback.
    #[arg(long, global = true, value_name = "SOCKET-OR-URL", value_hint = ValueHint::FilePath)]
    pub api: Option<String>,

    /// Log level of the daemon, or tracing directives [default: as configured].
    #[arg(long, global = true, value_name = "L", value_parser = log_level)]
    pub log_level: Option<String>,

    /// Print JSON, for scripts.
    #[arg(long, global = true)]
    pub json: bool,

    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  calmirror demo                          try it with a simulated organisation, no setup needed
  calmirror check                         is the configuration valid?
  calmirror status                        is everything up to date?
  calmirror events alice                  the events of the next seven days
  calmirror changes --follow --state f    all changes, none lost across restarts

Exit codes: 0 done, 1 unhealthy or failed, 64 usage, 69 daemon unreachable, 74 store,
77 permission or sign-in, 78 configuration.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground.
    #[command(after_help = "Example:\n  calmirror --config ./calmirror.toml run")]
    Run {
        /// Start even if the configuration drops most of the windows in the store.
        #[arg(long)]
        accept_drops: bool,
    },

    /// Run the daemon with a simulated Graph and a small organisation whose calendars change.
    #[command(
        after_help = "Example:\n  calmirror demo\n  calmirror demo --fleet\n  calmirror demo --listen 127.0.0.1:9000"
    )]
    #[cfg(feature = "simulator")]
    Demo(DemoArgs),

    /// Run only the simulated Graph, for development against it.
    #[command(
        after_help = "Example:\n  calmirror simulate --people 100 --mutate-every 1s --faults 0.05"
    )]
    #[cfg(feature = "simulator")]
    Simulate(crate::simulator::SimulateArgs),

    /// Validate the whole configuration and print the effective windows.
    #[command(after_help = "Examples:\n  calmirror check --explain\n  calmirror check --online")]
    Check {
        /// Also sign in with every account, read one page of one of its calendars, and say what an
        /// administrator has to grant.
        #[arg(long)]
        online: bool,

        /// Print each value and where it comes from.
        #[arg(long)]
        explain: bool,
    },

    /// Show the fleet, or one window; exit 0 only if every window shown is healthy.
    #[command(
        after_help = "Examples:\n  calmirror status\n  calmirror status alice\n  calmirror status --trouble --limit 20\n  calmirror status --state held,quarantined\n  calmirror status --json | jq '.value[] | select(.failures > 0)'"
    )]
    Status(StatusArgs),

    /// Exit 0 if the daemon is running and serving, else 69.
    Health,

    /// Show the events of a window as an agenda by day.
    #[command(
        after_help = "Examples:\n  calmirror events alice\n  calmirror events alice --from 2026-11-01 --to 2026-12-01\n  calmirror events alice --from -7d --json | jq .subject\n  calmirror events alice --zone Asia/Tokyo\n  calmirror events alice --ics > alice.ics"
    )]
    Events(EventsArgs),

    /// Show when windows are busy.
    #[command(
        after_help = "Examples:\n  calmirror busy --windows alice,bob\n  calmirror busy --windows 'room-*' --from +1d --to +2d\n  calmirror busy --group berlin --json | jq '.value[] | {window, busy}'"
    )]
    Busy(BusyArgs),

    /// Show when windows are free together.
    ///
    /// A slot is as long as enough windows are free during all of it. Windows of which this is not
    /// known are listed below the table, and are never free.
    #[command(
        after_help = "Examples:\n  calmirror free --windows alice,bob --duration 1h --within 09:00-17:00\n  calmirror free --windows 'room-*' --need 1 --from +1d --to +2d\n  calmirror free --group berlin --days mon,wed --buffer 10m --tentative free --zone Europe/Berlin"
    )]
    Free(FreeArgs),

    /// Print the feed of changes as NDJSON.
    #[command(
        after_help = "Examples:\n  calmirror changes --after now --follow\n  calmirror changes --state /var/lib/me/cursor --follow | my-consumer\n  calmirror changes --window alice | jq .event.subject"
    )]
    Changes(ChangesArgs),

    /// Reload the configuration, as SIGHUP does, and report what changed or what is wrong.
    #[command(
        after_help = "Examples:\n  calmirror check && calmirror reload\n  calmirror reload --accept-drops"
    )]
    Reload {
        /// Reload even if the configuration drops most of the windows.
        #[arg(long)]
        accept_drops: bool,
    },

    /// Start a round now, wait for it and report the result.
    #[command(after_help = "Examples:\n  calmirror sync alice\n  calmirror sync --all")]
    Sync(WindowSelection),

    /// Enumerate everything again now, wait for it and report the result.
    #[command(
        after_help = "Examples:\n  calmirror resync alice\n  calmirror resync alice --accept-removals"
    )]
    Resync {
        /// The selected windows.
        #[command(flatten)]
        which: WindowSelection,

        /// Accept a removal that was held because it is too large.
        #[arg(long)]
        accept_removals: bool,
    },

    /// Sign in to an account with device_code; prints an address and a code, and waits.
    ///
    /// The person may sign in on any device, so this works over ssh. The daemon keeps the sign-in.
    #[command(
        after_help = "Examples:\n  calmirror login contoso\n  calmirror login contoso --replace"
    )]
    Login {
        /// The account's name in the configuration.
        account: String,

        /// Accept another person than before, and drop the events of the one before.
        #[arg(long)]
        replace: bool,
    },

    /// Forget who is signed in to an account. The events stay.
    Logout {
        /// The account's name in the configuration.
        account: String,
    },

    /// Show where changes are sent, test it, pause it, or send again.
    #[command(
        after_help = "Examples:\n  calmirror sink list\n  calmirror sink test crm\n  calmirror sink replay crm --from -1d"
    )]
    Sink {
        /// What is asked.
        #[command(subcommand)]
        request: SinkRequestArgs,
    },

    /// Write the whole store into a new file, made by the running daemon.
    ///
    /// The file contains the events of all windows, private ones too, and Graph's delta links, but
    /// no credentials. Keep it as safe as the store. After an import elsewhere, only one of the two
    /// copies may run.
    #[command(
        after_help = "Examples:\n  calmirror export calmirror.export\n  calmirror export - | zstd > calmirror.export.zst"
    )]
    Export {
        /// The file, which must not exist; `-` for standard output.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },

    /// Make the configured store from an exported file; no daemon may be running.
    ///
    /// The store must be empty or absent. Nothing is changed unless the whole file is intact.
    /// Cursors of the exported store stay valid. Only one of the two copies may run from then on.
    #[command(after_help = "Example:\n  sudo -u calmirror calmirror import calmirror.export")]
    Import {
        /// The file.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },

    /// Print a script that makes a shell complete this command line, including window names.
    #[command(
        after_help = "Examples:\n  source <(calmirror completions bash)\n  calmirror completions bash > /etc/bash_completion.d/calmirror\n  calmirror completions zsh > /usr/local/share/zsh/site-functions/_calmirror\n  calmirror completions fish > ~/.config/fish/completions/calmirror.fish"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },

    /// Print the manual page, or write it and one page per command into a directory.
    #[command(
        after_help = "Examples:\n  calmirror man | man -l -\n  calmirror man /usr/local/share/man/man1"
    )]
    Man {
        /// Directory for calmirror.1 and the pages of the commands [default: only calmirror.1, to
        /// standard output].
        directory: Option<PathBuf>,
    },
}

/// `demo`.
#[cfg(feature = "simulator")]
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Address where the API is served without a token; loopback only.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8380",
        value_parser = loopback
    )]
    pub listen: std::net::SocketAddr,

    /// Seed of the demo; the same seed gives the same people and calendars.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Mirror what the directory lists: people join and leave.
    #[arg(long)]
    pub fleet: bool,

    /// Directory for all files of the demo, which is kept [default: a temporary one].
    #[arg(long, value_name = "DIRECTORY")]
    pub dir: Option<std::path::PathBuf>,
}

/// Parses a number, at least 1.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number, at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    crate::config::level(text).map_err(|wrong| wrong.to_string())
}

/// Parses an address, which must be a loopback address.
#[cfg(feature = "simulator")]
fn loopback(text: &str) -> Result<std::net::SocketAddr, String> {
    let address = text.parse::<std::net::SocketAddr>().map_err(|error| error.to_string())?;
    if !address.ip().is_loopback() {
        return Err("the demo serves without a token: use 127.0.0.1 or [::1]".to_owned());
    }
    Ok(address)
}

/// `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Show this window instead of the fleet.
    #[arg(add = ArgValueCompleter::new(complete::windows))]
    pub window: Option<String>,

    /// Only windows in these states, separated by commas.
    #[arg(
        long,
        value_name = "S",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(WindowState::ALL.map(WindowState::as_str)),
        conflicts_with = "window"
    )]
    pub state: Vec<String>,

    /// Only windows that are not healthy.
    #[arg(long, conflicts_with = "window")]
    pub trouble: bool,

    /// At most this many windows, those in trouble first.
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "window")]
    pub limit: Option<usize>,

    /// Redraw every two seconds.
    #[arg(long, short, conflicts_with = "json")]
    pub watch: bool,
}

/// `events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// The window.
    #[arg(add = ArgValueCompleter::new(complete::windows))]
    pub window: String,

    /// The range.
    #[command(flatten)]
    pub range: TimeRange,

    /// Print an iCalendar file, of the whole window unless --from or --to is given.
    #[arg(long, conflicts_with_all = ["json", "zone"])]
    pub ics: bool,
}

/// `changes`.
#[derive(Args, Debug)]
pub struct ChangesArgs {
    /// Only changes after this cursor; `now` for those from now on [default: from the beginning].
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,

    /// Only changes of this window.
    #[arg(long, value_name = "W", add = ArgValueCompleter::new(complete::windows))]
    pub window: Option<String>,

    /// Keep running and wait for further changes.
    #[arg(long, short)]
    pub follow: bool,

    /// Store the cursor in this file, and resume from it.
    ///
    /// The cursor is written after the lines, so a crash may repeat lines but never loses one.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
}

/// The windows of a `sync` or `resync`.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct WindowSelection {
    /// The windows.
    #[arg(value_name = "WINDOW", add = ArgValueCompleter::new(complete::windows))]
    pub windows: Vec<String>,

    /// Every window.
    #[arg(long)]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_are_accepted_or_refused() {
        for (line, accepted) in [
            ("run", true),
            ("run --accept-drops", true),
            ("run --config c.toml --log-level debug", true),
            ("--api /run/x.sock status alice --watch", true),
            ("status --watch --json", false),
            ("status --state held,backing_off --state settled --trouble --limit 5 --watch", true),
            ("status --state heldd", false),
            ("status --limit 0", false),
            ("status alice --trouble", false),
            ("events", false),
            ("events alice --from -7d --to +7d", true),
            ("events alice --zone Asia/Tokyo", true),
            ("events alice --ics --from 2026-01-01", true),
            ("events alice --ics --json", false),
            ("busy --windows alice,bob --group berlin --from -1d --to +1d --zone UTC", true),
            ("busy", false),
            ("busy alice", false),
            ("free --windows room-* --need 1 --duration 45m --buffer 10m --tentative free", true),
            ("free --group g --within 09:00-17:00 --days mon-fri --zone Europe/Berlin", true),
            ("free --duration 1h", false),
            ("free --windows a --tentative maybe", false),
            ("free --windows a --need many", false),
            ("changes --after now --follow --window w --state f", true),
            ("sync", false),
            ("sync alice bob", true),
            ("sync --all", true),
            ("sync alice --all", false),
            ("sync alice --accept-removals", false),
            ("resync alice --accept-removals --json", true),
            ("check --explain", true),
            ("health", true),
            ("demo --seed 7", true),
            ("--log-level inof run", false),
            ("--log-level info,calmirror::graph=debug run", true),
            ("demo --listen 127.0.0.2:0", true),
            ("demo --listen [::1]:8380", true),
            ("demo --listen 0.0.0.0:8380", false),
            ("demo --listen 10.0.0.5:8380", false),
            ("demo --listen localhost", false),
            ("completions zsh", true),
            ("completions csh", false),
            ("export f", true),
            ("export - --json", true),
            ("export", false),
            ("import f", true),
            ("import", false),
            ("man", true),
            ("man out", true),
            ("reload", true),
            ("reload --accept-drops --json", true),
            ("reload alice", false),
            ("", false),
        ] {
            let words = std::iter::once("calmirror").chain(line.split_whitespace());
            assert_eq!(Arguments::try_parse_from(words).is_ok(), accepted, "{line}");
        }
    }
}
