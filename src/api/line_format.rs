//! The formats of the feed's lines.

/// The format of a line.
#[derive(Clone, Copy)]
pub(super) enum LineFormat {
    /// An NDJSON line.
    Line,
    /// A server-sent event.
    Frame,
}

impl LineFormat {
    /// Writes a line: the name and the id of its event, and its JSON.
    pub(super) fn write(
        self,
        text: &mut Vec<u8>,
        (name, cursor): (&str, &str),
        json: impl FnOnce(&mut Vec<u8>),
    ) {
        match self {
            Self::Line => {
                json(text);
                text.push(b'\n');
            }
            Self::Frame => {
                let head = format!("id: {cursor}\nevent: {name}\ndata: ");
                text.extend_from_slice(head.as_bytes());
                json(text);
                text.extend_from_slice(b"\n\n");
            }
        }
    }
}
