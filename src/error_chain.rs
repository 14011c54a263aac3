//! An error and its sources as one line.

use std::error::Error;

/// The text of an error and of all its sources, separated by `: `.
pub(crate) fn error_chain(error: &dyn Error) -> String {
    let sources = std::iter::successors(error.source(), |source| (*source).source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write")]
    struct Outer(#[source] io::Error);

    #[test]
    fn every_source_is_named() {
        let error = Outer(io::Error::other("the disk is gone"));
        assert_eq!(error_chain(&error), "cannot write: the disk is gone");
        assert_eq!(error_chain(&error.0), "the disk is gone");
    }
}
