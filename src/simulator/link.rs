//! The tokens of next links and delta links. Opaque to clients, they contain only a position.
//!
//! A token is bound to its mailbox, calendar and window, and a checksum detects any change to it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use super::ids::noise;

/// The prefix of every token.
const PREFIX: &str = "R0usmc";
/// Bytes of a token before encoding; about 250 characters after encoding (fact 37).
const LENGTH: usize = 183;

/// The position in a stream at which a link continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkToken {
    pub(super) mailbox: u32,
    pub(super) calendar: u16,
    /// Microseconds since 1970.
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) stream: u32,
    pub(super) generation: u32,
    /// The version the client has; `None` during an enumeration.
    pub(super) from: Option<u64>,
    /// The version the round leads to; `None` in a delta link.
    pub(super) to: Option<u64>,
    /// How many items of the round precede it.
    pub(super) offset: u32,
    /// How many pages in a row had the same offset.
    pub(super) stalled_pages: u32,
}

impl LinkToken {
    pub(super) fn window(&self) -> (Timestamp, Timestamp) {
        let instant = |us| Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
        (instant(self.start), instant(self.end))
    }

    /// Encodes the token for a link.
    pub(super) fn write(&self, seed: u64) -> String {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(&self.mailbox.to_le_bytes());
        bytes.extend_from_slice(&self.calendar.to_le_bytes());
        bytes.extend_from_slice(&self.start.to_le_bytes());
        bytes.extend_from_slice(&self.end.to_le_bytes());
        bytes.extend_from_slice(&self.stream.to_le_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.from.map_or(u64::MAX, |v| v).to_le_bytes());
        bytes.extend_from_slice(&self.to.map_or(u64::MAX, |v| v).to_le_bytes());
        bytes.extend_from_slice(&self.offset.to_le_bytes());
        bytes.extend_from_slice(&self.stalled_pages.to_le_bytes());
        bytes.resize(LENGTH - 4, 0);
        let check = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&check.to_le_bytes());
        // The mask depends on the checksum, so that tokens of neighbouring positions differ widely.
        mask(&mut bytes[..LENGTH - 4], seed, check);
        let text = URL_SAFE_NO_PAD.encode(&bytes);
        format!("{PREFIX}{}.{}.{}", &text[..36], &text[36..120], &text[120..])
    }

    /// Decodes a token; `None` if it is damaged or was not issued with `seed`.
    pub(super) fn read(text: &str, seed: u64) -> Option<Self> {
        let text = text.strip_prefix(PREFIX)?.replace('.', "");
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|b| b.len() == LENGTH)?;
        let check = u32::from_le_bytes(bytes[LENGTH - 4..].try_into().ok()?);
        mask(&mut bytes[..LENGTH - 4], seed, check);
        if crc32fast::hash(&bytes[..LENGTH - 4]) != check {
            return None;
        }
        let mut at = 0;
        let mut take = |length: usize| {
            at += length;
            let mut word = [0; 8];
            word[..length].copy_from_slice(&bytes[at - length..at]);
            u64::from_le_bytes(word)
        };
        Some(Self {
            mailbox: take(4) as u32,
            calendar: take(2) as u16,
            start: take(8) as i64,
            end: take(8) as i64,
            stream: take(4) as u32,
            generation: take(4) as u32,
            from: Some(take(8)).filter(|v| *v != u64::MAX),
            to: Some(take(8)).filter(|v| *v != u64::MAX),
            offset: take(4) as u32,
            stalled_pages: take(4) as u32,
        })
    }
}

fn mask(bytes: &mut [u8], seed: u64, check: u32) {
    let length = bytes.len();
    for (byte, mask) in bytes.iter_mut().zip(noise(&[seed, u64::from(check), 13], length)) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: LinkToken = LinkToken {
        mailbox: 7,
        calendar: 1,
        start: -5,
        end: 1 << 50,
        stream: 3,
        generation: 9,
        from: None,
        to: Some(12),
        offset: 200,
        stalled_pages: 0,
    };

    #[test]
    fn a_token_is_read_back_by_its_own_simulator() {
        let text = TOKEN.write(1);
        assert!((230..270).contains(&text.len()), "{}", text.len());
        assert_eq!(LinkToken::read(&text, 1), Some(TOKEN));
        assert_eq!(LinkToken::read(&text, 2), None);
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let text = TOKEN.write(1);
        for at in (0..text.len()).step_by(7) {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert_ne!(LinkToken::read(&damaged, 1), Some(TOKEN), "at {at}");
        }
        assert_eq!(LinkToken::read(&text[..text.len() - 1], 1), None);
        assert_eq!(LinkToken::read("", 1), None);
    }
}
