//! Signs requests as Standard Webhooks has it: HMAC-SHA256 over id, time and body.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};

use crate::sinks::batch::SinkBatch;

/// The official libraries read keys without the `=` at their end, too.
const UNPADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The shortest key of Standard Webhooks; a shorter one can be guessed.
const MIN_KEY_BYTES: usize = 24;

/// What is wrong with the file of a secret; continues its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SigningSecretProblem {
    #[error("is empty; write a secret into it: echo \"whsec_$(openssl rand -base64 32)\"")]
    Empty,
    #[error(
        "has more than two lines; write the secret and, during a rotation, the older one below"
    )]
    TooMany,
    #[error("has base64 that cannot be decoded after whsec_; copy the secret again")]
    NotBase64,
    #[error("has a key of another kind (whsk_, whpk_); only whsec_ is supported")]
    Asymmetric,
    #[error("has a secret of {0} bytes, which can be guessed; at least {MIN_KEY_BYTES} are needed")]
    TooShort(usize),
}

/// The secret of a sink, and during a rotation the older one.
pub(super) struct SigningSecrets(Vec<Hmac<Sha256>>);

impl SigningSecrets {
    /// Reads a secret in each line: `whsec_` and base64, base64 alone, or else the key as text.
    pub(super) fn parse(text: &str) -> Result<Self, SigningSecretProblem> {
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match lines.len() {
            0 => Err(SigningSecretProblem::Empty),
            1 | 2 => lines.into_iter().map(key).collect::<Result<_, _>>().map(Self),
            _ => Err(SigningSecretProblem::TooMany),
        }
    }

    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signed = self.0.iter().map(|key| {
            let mut mac = key.clone();
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        });
        signed.collect::<Vec<_>>().join(" ")
    }
}

fn key(line: &str) -> Result<Hmac<Sha256>, SigningSecretProblem> {
    let bytes = match line.strip_prefix("whsec_") {
        Some(encoded) => UNPADDED.decode(encoded).map_err(|_| SigningSecretProblem::NotBase64)?,
        None if line.starts_with("whsk_") || line.starts_with("whpk_") => {
            return Err(SigningSecretProblem::Asymmetric);
        }
        None => STANDARD.decode(line).unwrap_or_else(|_| line.as_bytes().to_vec()),
    };
    let bytes = Zeroizing::new(bytes);
    let too_short = SigningSecretProblem::TooShort(bytes.len());
    if bytes.len() < MIN_KEY_BYTES {
        return Err(too_short);
    }
    Hmac::new_from_slice(&bytes).map_err(|_| too_short)
}

impl fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecrets(…)")
    }
}

/// The `webhook-id` of a batch. The same changes of a sink have the same one, also after a restart,
/// and a new snapshot has others even where its cursors are the same.
pub(super) fn batch_id(batch: &SinkBatch) -> String {
    let snapshot = batch.snapshot.map(|id| id.to_string()).unwrap_or_default();
    let marks = [u8::from(batch.begins), u8::from(batch.ends)];
    let parts = [
        batch.sink.as_bytes(),
        batch.before.as_bytes(),
        batch.after.cursor.as_bytes(),
        snapshot.as_bytes(),
        &marks,
    ];
    id_of(&parts)
}

/// The `webhook-id` of these parts.
pub(super) fn id_of(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // With the length, so that no two lists of parts are the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let (start, _) = digest.split_at(16);
    start.iter().fold("msg_".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::webhook::tests::batch;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OLDER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn signed(secrets: &str) -> String {
        let secrets = SigningSecrets::parse(secrets).unwrap();
        secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#)
    }

    #[test]
    fn the_published_vectors_of_standard_webhooks_are_met() {
        assert_eq!(signed(SECRET), SIGNED);
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let id = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
        let other = SigningSecrets::parse(OLDER).unwrap().sign(id, 1_649_367_553, body);
        assert_eq!(other, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
        // The prefix can be absent, and during a rotation both secrets sign.
        assert_eq!(signed(SECRET.strip_prefix("whsec_").unwrap()), SIGNED);
        let both = signed(&format!("{SECRET}\n{OLDER}\n"));
        assert_eq!(both, format!("{SIGNED} {}", signed(OLDER)));
    }

    #[test]
    fn a_secret_of_the_wrong_form_is_refused_without_being_shown() {
        let long = "canary of a text that is no base64";
        assert!(SigningSecrets::parse(long).is_ok());
        assert!(SigningSecrets::parse(&format!("whsec_{}", STANDARD.encode(long))).is_ok());
        let unpadded = STANDARD.encode(long);
        assert!(
            SigningSecrets::parse(&format!("whsec_{}", unpadded.trim_end_matches('='))).is_ok()
        );
        for (text, problem) in [
            ("\n \n", SigningSecretProblem::Empty),
            ("whsec_", SigningSecretProblem::TooShort(0)),
            ("whsec_canary!", SigningSecretProblem::NotBase64),
            ("whsk_canary", SigningSecretProblem::Asymmetric),
            ("canary text", SigningSecretProblem::TooShort(11)),
            ("whsec_Y2FuYXJ5", SigningSecretProblem::TooShort(6)),
            ("Y2FuYXJ5", SigningSecretProblem::TooShort(6)),
            (&[SECRET, OLDER, SECRET].join("\n"), SigningSecretProblem::TooMany),
            (&[SECRET, "canary"].join("\n"), SigningSecretProblem::TooShort(6)),
        ] {
            let refused = SigningSecrets::parse(text).unwrap_err();
            assert_eq!(refused, problem, "{text}");
            assert!(!format!("{refused} {refused:?}").contains("canary"));
        }
        let secrets = SigningSecrets::parse(long).unwrap();
        assert_eq!(format!("{secrets:?}"), "SigningSecrets(…)");
    }

    #[test]
    fn an_id_belongs_to_the_sink_and_the_cursors_and_never_changes() {
        let first = batch();
        // Receivers keep ids: another version must not make others of the same changes.
        let known = "msg_6c394c59225aed58d0358cd31347c940";
        assert_eq!(batch_id(&first), known);
        let later = jiff::Timestamp::MAX;
        let read_later = SinkBatch { at: later, changes: Vec::new(), ..first.clone() };
        assert_eq!(batch_id(&read_later), known);
        let mut others = vec![first.clone(); 6];
        others[0].sink = "other".into();
        others[1].before.push('0');
        others[2].after.cursor.push('0');
        others[3].begins = true;
        others[4].ends = true;
        others[5].snapshot = Some(crate::sinks::batch::SnapshotId(7));
        let ids: std::collections::BTreeSet<_> = others.iter().map(batch_id).collect();
        assert!(ids.len() == 6 && !ids.contains(&batch_id(&first)));
        assert_ne!(id_of(&[b"a", b"bc"]), id_of(&[b"ab", b"c"]));
    }
}
