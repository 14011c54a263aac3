//! Notifies the service manager (`sd_notify(3)`): ready, reloading, stopping, watchdog, and a
//! status line.
//!
//! Without `$NOTIFY_SOCKET` nothing is sent. A message that cannot be sent is lost: it is up to
//! the manager to react to the missing message, and the daemon keeps running.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

/// The manager's socket buffer is full only while the manager itself has a problem.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the status line is updated, unless the watchdog needs it more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Sends notifications to the service manager. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    socket: Option<Arc<str>>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// Reads the environment of the process with the id `process`: `NOTIFY_SOCKET`, a path or an
    /// abstract name after `@`; `WATCHDOG_USEC`, unless `WATCHDOG_PID` names another process.
    pub fn new(environment: &BTreeMap<String, String>, process: u32) -> Self {
        let socket = environment.get("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let ours = match environment.get("WATCHDOG_PID") {
            Some(pid) => pid.parse() == Ok(process),
            None => true,
        };
        let watchdog = environment
            .get("WATCHDOG_USEC")
            .filter(|_| ours)
            .and_then(|usec| usec.parse().ok())
            .filter(|usec| *usec > 0)
            .map(Duration::from_micros);
        Self { socket: socket.map(|name| name.as_str().into()), watchdog }
    }

    /// Whether there is a notification socket.
    pub fn is_enabled(&self) -> bool {
        self.socket.is_some()
    }

    /// How often to call [`Notify::alive`]: twice within the watchdog's time, and often enough to
    /// keep the status line up to date.
    pub fn interval(&self) -> Duration {
        self.watchdog.map_or(STATUS_INTERVAL, |watchdog| (watchdog / 2).min(STATUS_INTERVAL))
    }

    /// Reports that the start or a reload has finished.
    pub fn ready(&self, status: &str) {
        self.send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Extends the manager's timeout for starting or stopping: `by` from now.
    pub fn extend(&self, by: Duration, status: &str) {
        let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(usec), NotifyState::Status(status)]);
    }

    /// Reports that a reload begins. The same datagram contains the time, by which the manager
    /// recognizes the reload that it requested.
    pub fn reloading(&self) {
        let mut states = vec![NotifyState::Reloading];
        states.extend(NotifyState::monotonic_usec_now());
        self.send(&states);
    }

    /// Reports that the process is about to end.
    pub fn stopping(&self) {
        self.try_send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Resets the watchdog, if there is one, and updates the status line.
    pub fn alive(&self, status: &str) {
        let mut states = vec![NotifyState::Status(status)];
        states.extend(self.watchdog.map(|_| NotifyState::Watchdog));
        self.try_send(&states);
    }

    /// Updates the status line without resetting the watchdog.
    pub fn status(&self, status: &str) {
        self.send(&[NotifyState::Status(status)]);
    }

    /// Sends a message, and waits up to [`SEND_TIMEOUT`] for the manager.
    fn send(&self, states: &[NotifyState<'_>]) {
        self.deliver(states, Some(SEND_TIMEOUT));
    }

    /// Sends a message that is repeated anyway or only a hint, without waiting. A manager that does
    /// not read must not block the caller's loop or delay a stop.
    fn try_send(&self, states: &[NotifyState<'_>]) {
        self.deliver(states, None);
    }

    fn deliver(&self, states: &[NotifyState<'_>], patience: Option<Duration>) {
        let Some(socket) = &self.socket else { return };
        let mut message = String::new();
        for state in states {
            // One assignment per line: a line break in a status would start another assignment.
            // Writing to a String cannot fail.
            writeln!(message, "{}", state.to_string().replace(char::is_control, " ")).ok();
        }
        if let Err(error) = deliver(socket, &message, patience) {
            tracing::debug!(%error, "cannot notify the service manager");
        }
    }
}

fn deliver(socket: &str, message: &str, patience: Option<Duration>) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let datagram = UnixDatagram::unbound()?;
    match patience {
        Some(_) => datagram.set_write_timeout(patience)?,
        None => datagram.set_nonblocking(true)?,
    }
    datagram.connect_addr(&address)?;
    datagram.send(message.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// A service manager's socket, and a process that knows it, with more of its environment.
    fn managed(more: &[(&str, &str)]) -> (tempfile::TempDir, UnixDatagram, Notify) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let place = path.display().to_string();
        let mut environment = environment(more);
        environment.insert("NOTIFY_SOCKET".to_owned(), place);
        (directory, manager, Notify::new(&environment, 7))
    }

    fn received(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_service_manager_receives_each_message_whole() {
        let (_directory, manager, notify) = managed(&[("WATCHDOG_USEC", "30000000")]);
        notify.ready("2 windows: 2 settled");
        assert_eq!(received(&manager), "READY=1\nSTATUS=2 windows: 2 settled\n");
        notify.alive("a refusal\nREADY=1");
        assert_eq!(received(&manager), "STATUS=a refusal READY=1\nWATCHDOG=1\n");
        notify.extend(Duration::from_secs(30), "opening");
        assert_eq!(received(&manager), "EXTEND_TIMEOUT_USEC=30000000\nSTATUS=opening\n");
        notify.stopping();
        assert_eq!(received(&manager), "STOPPING=1\nSTATUS=stopping\n");
    }

    #[test]
    fn a_service_manager_that_does_not_read_blocks_nothing() {
        let (_directory, _manager, notify) = managed(&[]);
        let begun = tokio::time::Instant::now();
        // More than the socket buffer holds.
        for _ in 0..1000 {
            notify.alive("up");
        }
        notify.stopping();
        assert!(begun.elapsed() < SEND_TIMEOUT, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_reload_carries_its_time_in_the_same_datagram() {
        let (_directory, manager, notify) = managed(&[]);
        let before = monotonic();
        notify.reloading();
        let heard = received(&manager);
        let time: u64 = heard
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .and_then(|rest| rest.trim_end().parse().ok())
            .unwrap_or_else(|| panic!("{heard}"));
        assert!((before..=monotonic()).contains(&time));
        notify.alive("x");
        assert_eq!(received(&manager), "STATUS=x\n", "no watchdog, no keep-alive");
    }

    fn monotonic() -> u64 {
        let NotifyState::MonotonicUsec(usec) = NotifyState::monotonic_usec_now().unwrap() else {
            unreachable!("monotonic_usec_now returns MonotonicUsec")
        };
        u64::try_from(usec).unwrap()
    }

    #[test]
    fn abstract_sockets_work_and_no_address_disables_notifications() {
        let name = format!("calmirror-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notify = Notify::new(&environment(&[("NOTIFY_SOCKET", &format!("@{name}"))]), 7);
        notify.ready("up");
        assert_eq!(received(&manager), "READY=1\nSTATUS=up\n");

        for silent in [
            Notify::default(),
            Notify::new(&environment(&[("NOTIFY_SOCKET", "")]), 7),
            Notify::new(&environment(&[("NOTIFY_SOCKET", "/nowhere/notify")]), 7),
        ] {
            silent.ready("this message goes nowhere");
        }
    }

    #[test]
    fn the_watchdog_of_another_process_is_ignored() {
        for (pid, usec, rhythm) in [
            (None, "4000000", Duration::from_secs(2)),
            (Some("7"), "4000000", Duration::from_secs(2)),
            (Some("8"), "4000000", STATUS_INTERVAL),
            (None, "3600000000", STATUS_INTERVAL),
            (None, "0", STATUS_INTERVAL),
            (None, "soon", STATUS_INTERVAL),
        ] {
            let mut environment = environment(&[("WATCHDOG_USEC", usec)]);
            environment.extend(pid.map(|pid| ("WATCHDOG_PID".to_owned(), pid.to_owned())));
            assert_eq!(Notify::new(&environment, 7).interval(), rhythm, "{pid:?} {usec}");
        }
    }
}
