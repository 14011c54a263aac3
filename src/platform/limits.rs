//! Limits of the process: no core dumps, because memory contains tokens and calendar contents, and
//! as many open files as possible, which also limit the number of connections.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Disables core files, also where cores are piped to a program that ignores the size limit
/// (`core(5)`). Also keeps other processes of the same user from reading this process's memory.
pub fn disable_core_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "cannot disable core files");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "cannot protect the process's memory");
    }
}

/// Raises the soft limit of open files to the hard limit. The soft limit is low for programs that
/// use `select`, which this one does not. If it cannot be raised, fewer connections are possible.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn core_dumps_are_disabled() {
        disable_core_dumps();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        // The metrics can still read the process's figures.
        assert!(crate::platform::resources::resources().descriptors.is_some());
    }
}
