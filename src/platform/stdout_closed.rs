//! Whether anybody can still read what this process prints.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often it is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Resolves once standard output is a pipe that nobody reads any more, or a terminal that is gone;
/// never where it is a file. For programs that print once and then run on: they would not notice.
pub async fn stdout_closed() {
    let gone = PollFlags::ERR | PollFlags::HUP;
    let mut looks = tokio::time::interval(POLL_INTERVAL);
    loop {
        looks.tick().await;
        let stdout = io::stdout();
        // Asked for nothing, it tells what can always be told.
        let mut stdout = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Interrupted: it is looked at again anyway.
        if poll(&mut stdout, Some(&now)).is_ok() && stdout[0].revents().intersects(gone) {
            return;
        }
    }
}
