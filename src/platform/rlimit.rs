//! How many files may be open: connections are files too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one. The soft one is low for the sake of
/// programs that use `select`, which this is not; where it cannot be raised there is room for
/// fewer connections.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(%error, "limit of open files not raised");
    }
}
