//! Detects that standard output has been closed at the other end.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often standard output is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Resolves once standard output is a pipe whose reader has closed it, or a terminal that is gone.
/// Never resolves for a file. Commands that print once and keep running would not notice otherwise.
pub async fn stdout_closed() {
    let gone = PollFlags::ERR | PollFlags::HUP;
    let mut looks = tokio::time::interval(POLL_INTERVAL);
    loop {
        looks.tick().await;
        let stdout = io::stdout();
        // ERR and HUP are reported even if no events are requested.
        let mut stdout = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An interrupted poll is repeated at the next tick.
        if poll(&mut stdout, Some(&now)).is_ok() && stdout[0].revents().intersects(gone) {
            return;
        }
    }
}
