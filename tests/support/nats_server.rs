//! A real NATS server with JetStream, as a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server that ends when it is dropped. Its files are in a directory, which outlives it.
#[derive(Debug)]
pub(crate) struct NatsServer {
    process: Child,
    port: u16,
}

#[allow(dead_code, reason = "each of the tests uses a part")]
impl NatsServer {
    /// Starts a server whose files are in `directory`, with more lines for its configuration; `None`
    /// if there is no server that is new enough.
    ///
    /// # Panics
    /// If the environment requires one, or it does not start.
    pub(crate) async fn start(directory: &Path, more: &str) -> Option<Self> {
        Self::start_at(directory, more, 0).await
    }

    /// The same at a port; 0 for any.
    pub(crate) async fn start_at(directory: &Path, more: &str, port: u16) -> Option<Self> {
        let Some(program) = program() else {
            let required = std::env::var("CALMIRROR_REQUIRE").unwrap_or_default();
            assert!(!required.contains("nats"), "no nats-server 2.12 or later");
            #[expect(clippy::print_stderr, reason = "a test that did not run is seen")]
            {
                eprintln!("skipped: no nats-server 2.12 or later at CALMIRROR_TEST_NATS");
            }
            return None;
        };
        let ports = directory.join("ports");
        std::fs::create_dir_all(&ports).unwrap();
        let port = if port == 0 { -1 } else { i32::from(port) };
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: {ports:?}\njetstream {{\n  \
             store_dir: {:?}\n  sync_interval: always\n}}\n{more}\n",
            directory.join("store")
        );
        let path = directory.join("nats.conf");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(directory.join("nats.log")).unwrap();
        let process = Command::new(program)
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let written = format!("_{}.ports", process.id());
        let mut server = Self { process, port: 0 };
        for _ in 0..600 {
            if let Some(port) = read_port(&ports, &written) {
                server.port = port;
                return Some(server);
            }
            if server.process.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(directory.join("nats.log")).unwrap_or_default();
        panic!("nats-server did not start: {log}");
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The address for clients.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-s", name, &pid]).status().unwrap();
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port in a file that the server writes when it is ready, whose name ends so.
fn read_port(directory: &Path, name: &str) -> Option<u16> {
    let files = std::fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let mut written = files.filter(|file| file.file_name().to_string_lossy().ends_with(name));
    let text = std::fs::read_to_string(written.next()?.path()).ok()?;
    let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

/// A server of version 2.12 or later: the one that the environment names, or that of the path.
fn program() -> Option<PathBuf> {
    let named = std::env::var_os("CALMIRROR_TEST_NATS").map(PathBuf::from);
    let program = named.unwrap_or_else(|| "nats-server".into());
    let shown = Command::new(&program).arg("--version").output().ok()?;
    let shown = String::from_utf8(shown.stdout).ok()?;
    let mut numbers = shown.rsplit('v').next()?.trim().split('.').map(str::parse::<u32>);
    let found = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (found >= (2, 12)).then_some(program)
}
