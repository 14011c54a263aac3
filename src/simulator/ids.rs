//! Ids like Exchange's: long, opaque, and so similar that a client that normalises them breaks.
//!
//! Ids are not stored but computed and decoded: an id contains the calendar, the item and, for an
//! instance of a series, the day, masked with the mailbox's own number. Four consecutive items
//! differ only in one character, `q`, `Q`, `-` or `_` (fact 48). With `IdType="ImmutableId"` the
//! same items have other ids (fact 46).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The characters that distinguish four neighbouring items.
const VARIANTS: [u8; 4] = [b'q', b'Q', b'-', b'_'];

/// A pseudo-random number that is a function of `parts`.
pub(super) fn mix(parts: &[u64]) -> u64 {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for part in parts {
        hash = scramble(hash ^ part.wrapping_mul(0xff51_afd7_ed55_8ccd));
    }
    hash
}

/// A pseudo-random decision with `probability` that is a function of `parts`.
pub(super) fn happens(probability: f64, parts: &[u64]) -> bool {
    probability > 0.0 && (mix(parts) >> 11) as f64 / (1u64 << 53) as f64 <= probability
}

/// The finaliser of splitmix64.
fn scramble(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `bytes` pseudo-random bytes that are a function of `parts`.
pub(super) fn noise(parts: &[u64], bytes: usize) -> Vec<u8> {
    let start = mix(parts);
    (0..bytes.div_ceil(8) as u64)
        .flat_map(|i| scramble(start ^ scramble(i)).to_le_bytes())
        .take(bytes)
        .collect()
}

/// What an id names inside its mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IdTarget {
    /// The index of the calendar in the mailbox.
    pub(super) calendar: u16,
    /// The item in that calendar, below 2²².
    pub(super) key: u32,
    /// The day of the instance of a series, counted from 1970; 0 for the item itself.
    pub(super) day: u16,
}

/// Encodes and decodes the ids of one mailbox, of one of the two kinds.
#[derive(Clone, Copy, Debug)]
pub(super) struct MailboxIds {
    /// The number that all ids of the mailbox depend on.
    pub(super) mailbox: u64,
    /// Whether the ids are immutable.
    pub(super) immutable: bool,
}

impl MailboxIds {
    fn salt(self) -> u64 {
        mix(&[self.mailbox, u64::from(self.immutable), 7])
    }

    /// The id of `named`.
    pub(super) fn of(self, named: IdTarget) -> String {
        let salt = self.salt();
        let group = u64::from(named.key >> 2);
        let code = u64::from(named.calendar) << 36 | group << 16 | u64::from(named.day);
        let mut id = String::with_capacity(152);
        id.push_str(if self.immutable { "AAkALgAAAAAAHYQDE" } else { "AAMkADkw" });
        id.push_str(&URL_SAFE_NO_PAD.encode(noise(&[salt], 36)));
        id.push_str("BGAAAAAA");
        let masked = (code ^ salt) & 0xffff_ffff_ffff;
        id.push_str(&URL_SAFE_NO_PAD.encode(&masked.to_be_bytes()[2..]));
        id.push(char::from(VARIANTS[(named.key & 3) as usize]));
        id.push_str(&URL_SAFE_NO_PAD.encode(noise(&[salt, code], 57)));
        id.push_str("AAA=");
        id
    }

    /// The target of `id`; `None` if the id is not of this mailbox and kind.
    pub(super) fn read(self, id: &str) -> Option<IdTarget> {
        let at = if self.immutable { 17 } else { 8 } + 48 + 8;
        let masked = URL_SAFE_NO_PAD.decode(id.get(at..at + 8)?).ok()?;
        let mut bytes = [0; 8];
        bytes.get_mut(2..)?.copy_from_slice(&masked);
        let code = u64::from_be_bytes(bytes) ^ (self.salt() & 0xffff_ffff_ffff);
        let variant = VARIANTS.iter().position(|v| Some(v) == id.as_bytes().get(at + 8))?;
        let named = IdTarget {
            calendar: u16::try_from(code >> 36).ok()?,
            key: (u32::try_from(code >> 16 & 0xf_ffff).ok()? << 2) | u32::try_from(variant).ok()?,
            day: u16::try_from(code & 0xffff).ok()?,
        };
        (self.of(named) == id).then_some(named)
    }

    /// A calendar's id; calendars have no immutable ids (fact 47).
    pub(super) fn calendar(mailbox: u64, calendar: u16) -> String {
        format!(
            "AAMkAD{}AAA=",
            URL_SAFE_NO_PAD.encode(noise(&[mailbox, u64::from(calendar), 3], 84))
        )
    }
}

/// A GUID that is a function of `parts`.
pub(super) fn guid(parts: &[u64]) -> String {
    let bytes = u128::from(mix(parts)) << 64 | u128::from(mix(&[mix(parts)]));
    uuid::Builder::from_random_bytes(bytes.to_be_bytes()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_only_by_its_own_mailbox_and_kind() {
        let ids = MailboxIds { mailbox: 42, immutable: false };
        for key in [0, 1, 2, 3, 4, 1000, (1 << 22) - 1] {
            for day in [0, 20_000, u16::MAX] {
                let named = IdTarget { calendar: 3, key, day };
                let id = ids.of(named);
                assert_eq!(ids.read(&id), Some(named));
                assert!((140..170).contains(&id.len()), "{}", id.len());
                assert_eq!(MailboxIds { mailbox: 43, ..ids }.read(&id), None);
                assert_eq!(MailboxIds { immutable: true, ..ids }.read(&id), None);
            }
        }
    }

    #[test]
    fn neighbouring_ids_differ_only_by_case_or_by_dash_and_underscore() {
        let ids = MailboxIds { mailbox: 1, immutable: false };
        let id = |key| ids.of(IdTarget { calendar: 0, key, day: 0 });
        assert_ne!(id(0), id(1));
        assert_eq!(id(0).to_lowercase(), id(1).to_lowercase());
        assert_ne!(id(2), id(3));
        assert_eq!(id(2).replace('_', "-"), id(3).replace('_', "-"));
    }

    #[test]
    fn malformed_ids_are_refused() {
        let ids = MailboxIds { mailbox: 1, immutable: false };
        for id in ["", "x", "AAMk", "é".repeat(80).as_str()] {
            assert_eq!(ids.read(id), None);
        }
        let id = ids.of(IdTarget { calendar: 0, key: 1, day: 0 });
        assert_eq!(ids.read(&id.to_uppercase()), None);
    }
}
