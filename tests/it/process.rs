//! The real binary as a child process, over a simulated Graph served by this process.
//!
//! Real processes run in real time, so nothing is paused here. Tests poll for the expected state
//! until a deadline that is only reached on failure.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::status::{WindowState, WindowStatus};
use calmirror::simulator::{Population, Simulator, SimulatorSettings};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::rig::noon;
use crate::socket::Api;

/// Longer than any successful step takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until there is a result.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(found) => found,
        Err(_) => panic!("timed out waiting until {what}"),
    }
}

/// A directory with a configuration, and the Graph it refers to.
pub(crate) struct DaemonFixture {
    pub(crate) directory: TempDir,
    pub(crate) simulator: Simulator,
    pub(crate) api: Api,
    pub(crate) config: PathBuf,
    base: String,
    graph: JoinHandle<()>,
}

impl Drop for DaemonFixture {
    fn drop(&mut self) {
        self.graph.abort();
    }
}

/// About 150 instances in the window.
pub(crate) fn population() -> Population {
    Population {
        singles: 30,
        series: 6,
        all_day: 4,
        body_bytes: 200,
        around: noon(),
        spread_days: 90,
    }
}

impl DaemonFixture {
    /// Adds a populated mailbox and a window of the same name for each of `mailboxes`.
    pub(crate) async fn new(seed: u64, mailboxes: &[&str]) -> Self {
        let simulator = Simulator::new(SimulatorSettings::new(seed, Env::simulated(seed, noon())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        simulator.set_base_url(&format!("{base}/v1.0"));
        // The daemon uses this machine's clock.
        simulator.set_date_ahead(Timestamp::now().duration_since(noon()));
        let graph = tokio::spawn(simulator.clone().serve(listener, std::future::pending()));
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let (api, config) = (Api::at(&at("api.sock")), at("calmirror.toml"));
        fs::write(at("secret"), "s3cret").unwrap();
        fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let fixture = Self { directory, simulator, api, config, base, graph };
        let mut text = fixture.preamble();
        for mailbox in mailboxes {
            let address = fixture.populate(mailbox);
            text.push_str(&format!(
                "[[window]]\nname = \"{mailbox}\"\naccount = \"contoso\"\nmailbox = \"{address}\"\n"
            ));
        }
        fixture.configure(&text);
        fixture
    }

    /// Adds a mailbox with about 150 instances in the window.
    pub(crate) fn populate(&self, name: &str) -> String {
        let address = format!("{name}@contoso.com");
        self.simulator.add_mailbox(&address);
        self.simulator.populate(&address, None, population());
        address
    }

    /// The configuration without windows.
    pub(crate) fn preamble(&self) -> String {
        self.preamble_in(self.directory.path())
    }

    /// The same of a daemon whose files are in another directory, its secret too.
    pub(crate) fn preamble_in(&self, directory: &Path) -> String {
        let Self { base, .. } = self;
        let directory = directory.display();
        format!(
            r#"[store]
path = "{directory}/store"
cache = "16MiB"
[graph]
base_url = "{base}/v1.0"
login_url = "{base}"
[api]
socket = "{directory}/api.sock"
[log]
format = "json"
[defaults]
start = "2026-10-01"
end = "2027-02-01"
interval = "1s"
confirm_after = "1s"
page_size = 10
[account.contoso]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "secret"
"#
        )
    }

    pub(crate) fn configure(&self, text: &str) {
        fs::write(&self.config, text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A `calmirror` command with this configuration, without a subcommand yet.
    pub(crate) fn command(&self) -> Command {
        command(&self.config)
    }

    /// Starts the daemon without waiting until it serves.
    pub(crate) fn spawn(&self) -> DaemonProcess {
        self.spawn_in(&[])
    }

    /// Starts the daemon with additional environment variables.
    pub(crate) fn spawn_in(&self, environment: &[(&str, &str)]) -> DaemonProcess {
        let log = self.path("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command();
        command.arg("run").envs(environment.iter().copied());
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        DaemonProcess { child, log }
    }

    /// Starts the daemon and waits until it serves.
    pub(crate) async fn run(&self) -> DaemonProcess {
        self.run_in(&[]).await
    }

    /// The same with additional environment variables.
    pub(crate) async fn run_in(&self, environment: &[(&str, &str)]) -> DaemonProcess {
        let mut daemon = self.spawn_in(environment);
        eventually("the daemon serves", async || {
            assert!(daemon.exit_status().is_none(), "the daemon ended");
            let answer = self.api.try_get("/readyz").await?;
            answer.status.is_success().then_some(())
        })
        .await;
        daemon
    }

    /// Runs a command to its end.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> CommandOutput {
        finish(self.command().args(arguments)).await
    }

    /// Requests rounds until the window is settled twice in a row. The first time may be the end of
    /// a round that began before the last change.
    pub(crate) async fn settle(&self, window: &str) -> WindowStatus {
        let mut settled = 0;
        eventually("the window settles", async || {
            let answer = self.api.post(&format!("/v1/windows/{window}/sync?wait=30s")).await.json();
            settled = if answer["state"] == "settled" { settled + 1 } else { 0 };
            let status = self.api.window(window).await;
            let well = matches!(status.state, WindowState::Settled | WindowState::Following);
            (settled >= 2 && well).then_some(status)
        })
        .await
    }

    /// Changes the calendars until the window's state is `store_full`.
    pub(crate) async fn until_store_full(&self, window: &str) {
        eventually("the window says that the store is full", async || {
            self.simulator.mutate_randomly();
            let answer = self.api.post(&format!("/v1/windows/{window}/sync?wait=30s")).await.json();
            (answer["state"] == "store_full").then_some(())
        })
        .await;
    }
}

/// A `calmirror` command with a configuration, without a subcommand yet.
pub(crate) fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calmirror"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CALMIRROR") {
            command.env_remove(name);
        }
    }
    command.arg("--config").arg(config).stdin(Stdio::null()).env_remove("JOURNAL_STREAM");
    command
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end, within the deadline.
pub(crate) async fn finish(command: &mut Command) -> CommandOutput {
    let directory = tempfile::tempdir().unwrap();
    let (out, err) = (directory.path().join("out"), directory.path().join("err"));
    let child = command
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let mut daemon = DaemonProcess { child, log: err.clone() };
    let status = daemon.ended().await;
    let text = |path: &Path| String::from_utf8(fs::read(path).unwrap()).unwrap();
    CommandOutput { code: status.code(), out: text(&out), err: text(&err) }
}

/// A running calmirror, killed when dropped.
pub(crate) struct DaemonProcess {
    child: Child,
    log: PathBuf,
}

impl DaemonProcess {
    /// A daemon that was started by other means.
    pub(crate) fn of(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", async || self.exit_status()).await
    }

    /// Kills it with SIGKILL, as in a power cut, and waits until it has ended.
    pub(crate) async fn kill(mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.ended().await.signal(), Some(9), "the daemon ended before it was killed");
    }

    /// Sends `TERM`, `INT` or `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.child.id()))
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Stops it with SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(self.ended().await.code(), Some(0), "{}", self.log());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Everything logged at WARN or above, over all runs in this directory.
    pub(crate) fn warnings_logged(&self) -> Vec<String> {
        let loud = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
        self.log().lines().filter(loud).map(str::to_owned).collect()
    }
}

impl Drop for DaemonProcess {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(&self.log)
        {
            let lines: Vec<&str> = log.lines().collect();
            #[expect(clippy::print_stderr, reason = "a failed test shows the daemon's log")]
            for line in &lines[lines.len().saturating_sub(30)..] {
                eprintln!("daemon: {line}");
            }
        }
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
