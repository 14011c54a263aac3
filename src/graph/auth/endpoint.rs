//! Interprets the answers of the token endpoint (facts 136, 147-149).
//!
//! The status and `error` decide, as Microsoft asks; the AADSTS number is only shown and used to
//! choose a remedy. Nothing else of the description is kept, because it names users and apps.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

use super::secret::AccessToken;
use crate::graph::retry_after;
use crate::graph::wire::without_bom;

/// The lifetime of a token that states none; Microsoft's shortest is an hour.
pub(super) const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
/// The shortest accepted lifetime and renewal time. Shorter ones would cost a token request for
/// each request to Graph; if such a token has really expired, Graph refuses it and it is renewed
/// then.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// The key of a credential whose assertion others renew.
const FEDERATED: &str = "federated_token_file";
/// The key of an account that a person signs in to.
const DEVICE_CODE: &str = "device_code";

/// The key of a credential that signs assertions.
const CERTIFICATE: &str = "certificate_file";

/// A granted token.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) token: AccessToken,
    /// The lifetime, counted from the request.
    pub(super) life: Duration,
    /// When the endpoint wants it renewed, counted from the request.
    pub(super) refresh_in: Option<Duration>,
}

/// A granted token with what only the sign-in of a person brings.
#[derive(Debug)]
pub(super) struct TokenAnswer {
    pub(super) grant: Grant,
    /// Replaces the one that was used (fact 146).
    pub(super) refresh_token: Option<SecretString>,
    /// Names the person who signed in.
    pub(super) id_token: Option<SecretString>,
}

/// An answer without a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denial {
    pub(super) status: u16,
    /// `error`, such as `invalid_client`.
    pub(super) code: Option<String>,
    /// `AADSTS…`, for a person.
    pub(super) number: Option<String>,
    pub(super) needs_person: bool,
    pub(super) retry_after: Option<Duration>,
    /// How far this machine's clock is ahead of the endpoint's `Date`, in seconds; negative if
    /// behind.
    pub(super) ahead_s: Option<i64>,
}

#[derive(Deserialize)]
struct GrantJson {
    access_token: SecretString,
    token_type: Option<String>,
    expires_in: Option<Value>,
    /// Seconds since 1970. App Service states only this (fact 143).
    expires_on: Option<Value>,
    refresh_in: Option<Value>,
    refresh_token: Option<String>,
    id_token: Option<String>,
}

/// Interprets an answer of the token endpoint.
pub(super) fn read(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<TokenAnswer, Denial> {
    let body = without_bom(body);
    if status.is_success()
        && let Ok(granted) = serde_json::from_slice::<GrantJson>(body)
        && granted.token_type.as_deref().is_none_or(|t| t.eq_ignore_ascii_case("bearer"))
        && let Some(token) = AccessToken::new(granted.access_token)
    {
        // Of a token that a platform has cached, `expires_in` may count from its issue.
        let ends = granted.expires_on.as_ref().and_then(until).filter(|ends| *ends > now);
        let left = ends.and_then(|ends| Duration::try_from(ends.duration_since(now)).ok());
        let left = left.map(|left| left.max(MIN_LIFETIME));
        return Ok(TokenAnswer {
            grant: Grant {
                token,
                life: left.or_else(|| seconds(granted.expires_in)).unwrap_or(DEFAULT_LIFETIME),
                refresh_in: seconds(granted.refresh_in),
            },
            refresh_token: granted.refresh_token.map(SecretString::from),
            id_token: granted.id_token.map(SecretString::from),
        });
    }
    let denied: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| denied.get(name).and_then(Value::as_str);
    let code = text("error").filter(|code| {
        code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    let passing = status.is_success()
        || status.is_redirection()
        || status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || code == Some("temporarily_unavailable");
    let ahead_s =
        retry_after::date(headers).map(|theirs| now.as_second().saturating_sub(theirs.as_second()));
    Err(Denial {
        ahead_s,
        status: status.as_u16(),
        code: code.map(str::to_owned),
        number: text("error_description").and_then(aadsts_number),
        needs_person: !passing,
        retry_after: retry_after::of(headers, now),
    })
}

/// A number, in a string as some endpoints send it or not (fact 200).
pub(super) fn number(stated: &Value) -> Option<f64> {
    stated.as_f64().or_else(|| stated.as_str()?.trim().parse().ok())
}

/// A number of seconds, in a string as some endpoints send it or not. Zero, negative and
/// non-numeric values count as absent.
pub(super) fn seconds(stated: Option<Value>) -> Option<Duration> {
    let seconds = number(&stated?)?;
    // No token lives longer than a week; a false value would only be noticed by a refusal.
    let length = Duration::try_from_secs_f64(seconds.clamp(0.0, 7.0 * 86_400.0)).ok()?;
    (!length.is_zero()).then(|| length.max(MIN_LIFETIME))
}

/// A time in seconds since 1970, in a string as managed identities have it or not.
pub(super) fn until(stated: &Value) -> Option<Timestamp> {
    let stated = number(stated)?;
    // Whole seconds are enough, and the conversion saturates.
    Timestamp::from_second(stated as i64).ok()
}

/// The AADSTS number of a description.
fn aadsts_number(description: &str) -> Option<String> {
    let at = description.find("AADSTS")?;
    let digits = description[at + 6..].bytes().take_while(u8::is_ascii_digit).count();
    (1..=12).contains(&digits).then(|| description[at..at + 6 + digits].to_owned())
}

impl Denial {
    /// What the endpoint said, as codes.
    pub(super) fn said(&self) -> String {
        match (&self.code, &self.number) {
            (Some(code), Some(number)) => format!("{code}, {number}"),
            (Some(code), None) => code.clone(),
            (None, _) => format!("status {}", self.status),
        }
    }

    /// What happened and what to do about it, for people. `key` is the credential's key.
    pub(super) fn sentence(&self, account: &str, key: &str) -> String {
        let said = self.said();
        if !self.needs_person {
            return format!("the token endpoint grants no token now ({said})");
        }
        let remedy = match (self.number.as_deref(), self.code.as_deref()) {
            (Some("AADSTS7000222"), _) => {
                format!("the secret has expired; create a new one and put it where {key} says")
            }
            (Some("AADSTS7000215"), _) => {
                format!("{key} holds a wrong secret; put the secret's value there, not its id")
            }
            (Some("AADSTS700024"), _)
                if key == FEDERATED && self.ahead_s.is_some_and(|s| s.abs() < 60) =>
            {
                format!("the token in {key} has expired; look why nothing renews that file")
            }
            (Some("AADSTS700027"), _) if key == CERTIFICATE => {
                format!("upload the certificate of {key} to the application, or check client_id")
            }
            // The assertion is not valid at the endpoint's time: a wrong clock dated it.
            (Some("AADSTS700024"), _) => self.clock_remedy(),
            (Some("AADSTS70021" | "AADSTS700211" | "AADSTS700212" | "AADSTS700213"), _) => {
                "give the application a federated credential with the issuer, the subject and the \
                 audience of the token"
                    .into()
            }
            (Some("AADSTS7000218"), _) if key == DEVICE_CODE => {
                "allow public client flows in the application's registration (Authentication)"
                    .into()
            }
            (Some("AADSTS700016"), _) => "check client_id and tenant: no such application".into(),
            (Some("AADSTS90002"), _) => "check tenant: there is no such tenant".into(),
            (_, Some("invalid_client")) => format!("check client_id and {key}"),
            (_, Some("unauthorized_client")) => {
                "check client_id and tenant, and that an administrator has consented".into()
            }
            (_, Some("invalid_scope" | "invalid_resource")) => {
                "check cloud and base_url: the scope does not exist there".into()
            }
            (_, Some("invalid_grant" | "interaction_required")) if key == DEVICE_CODE => {
                format!("sign in again: calmirror login {account}")
            }
            (_, Some("invalid_grant" | "interaction_required" | "consent_required")) => {
                "an administrator has to consent or sign in again".into()
            }
            _ => format!("check tenant, client_id and {key}"),
        };
        format!("sign-in was refused ({said}); {remedy}")
    }

    /// The remedy for a clock that differs from the endpoint's. Less than a minute is not shown,
    /// because the answer took time to arrive.
    fn clock_remedy(&self) -> String {
        let by = self.ahead_s.filter(|s| s.abs() >= 60).map(|ahead| {
            let length = humantime::format_duration(Duration::from_secs(ahead.unsigned_abs()));
            format!(": it is {length} {}", if ahead > 0 { "fast" } else { "slow" })
        });
        format!("this machine's clock is wrong{}; set it (NTP)", by.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(status: u16, body: &str) -> Denial {
        let status = StatusCode::from_u16(status).unwrap();
        read(status, &HeaderMap::new(), body.as_bytes(), Timestamp::UNIX_EPOCH).unwrap_err()
    }

    #[test]
    fn token_responses_are_parsed_in_every_form() {
        for (body, life, refresh_in) in [
            (r#"{"token_type":"Bearer","expires_in":3599,"access_token":"t"}"#, 3599, None),
            (r#"{"token_type":"bearer","expires_in":"60","access_token":"t"}"#, 60, None),
            (r#"{"access_token":"t\/x"}"#, 3600, None),
            (r#"{"expires_in":-5,"access_token":"t"}"#, 3600, None),
            (r#"{"expires_in":0,"refresh_in":0,"access_token":"t"}"#, 3600, None),
            (r#"{"expires_in":"0","refresh_in":"-1","access_token":"t"}"#, 3600, None),
            (r#"{"expires_in":"soon","refresh_in":[],"access_token":"t"}"#, 3600, None),
            (r#"{"expires_in":1,"refresh_in":0.5,"access_token":"t"}"#, 60, Some(60)),
            ("\u{feff}{\"expires_in\":\"3599\",\"access_token\":\"t\"}", 3599, None),
            (r#"{"expires_in":1e300,"access_token":"t"}"#, 604_800, None),
            (
                r#"{"expires_in":86400,"refresh_in":43200,"access_token":"t","x":[]}"#,
                86_400,
                Some(43_200),
            ),
        ] {
            let grant =
                read(StatusCode::OK, &HeaderMap::new(), body.as_bytes(), Timestamp::UNIX_EPOCH)
                    .unwrap()
                    .grant;
            assert_eq!(grant.life.as_secs(), life, "{body}");
            assert_eq!(grant.refresh_in.map(|d| d.as_secs()), refresh_in, "{body}");
        }
    }

    #[test]
    fn only_transient_sign_in_errors_are_retried() {
        for (status, body, needs_person) in [
            (400, r#"{"error":"temporarily_unavailable"}"#, false),
            (400, "\u{feff}{\"error\":\"temporarily_unavailable\"}", false),
            (401, r#"{"error":"invalid_client","error_description":"AADSTS7000215: no"}"#, true),
            (400, r#"{"error":"unauthorized_client"}"#, true),
            (400, r#"{"error":"invalid_grant"}"#, true),
            (400, r#"{"error":"interaction_required"}"#, true),
            (400, r#"{"error":"invalid_scope"}"#, true),
            (400, r#"{"error":"invalid_request","error_description":"AADSTS90002: x"}"#, true),
            (404, "", true),
            (429, r#"{"error":"invalid_client"}"#, false),
            (408, "", false),
            (500, "", false),
            (502, "<html>", false),
            (503, r#"{"error":"server_error"}"#, false),
            (504, "", false),
            (302, "", false),
            (200, "<html>a captive portal</html>", false),
            (200, r#"{"token_type":"mac","access_token":"t"}"#, false),
            (200, r#"{"access_token":""}"#, false),
            (200, r#"{"access_token":"a b\nc"}"#, false),
        ] {
            assert_eq!(denied(status, body).needs_person, needs_person, "{status} {body}");
        }
    }

    #[test]
    fn an_expired_assertion_means_a_wrong_clock() {
        let body = r#"{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range. Current time: 2026-11-21T10:00:00Z"}"#;
        let sentence = |date: Option<&str>, now: &str| {
            let headers = date.map(|date| (http::header::DATE, date.parse().unwrap()));
            let headers = headers.into_iter().collect();
            let now = now.parse().unwrap();
            let denial = read(StatusCode::UNAUTHORIZED, &headers, body.as_bytes(), now);
            denial.unwrap_err().sentence("contoso", "certificate_file")
        };
        let date = Some("Sat, 21 Nov 2026 10:00:00 GMT");
        let refused =
            "sign-in was refused (invalid_client, AADSTS700024); this machine's clock is wrong";
        for (date, now, by) in [
            (date, "2026-11-21T12:05:00Z", ": it is 2h 5m fast"),
            (date, "2026-11-20T10:00:00Z", ": it is 1day slow"),
            (date, "2026-11-21T10:00:30Z", ""),
            (Some("yesterday"), "2026-11-20T10:00:00Z", ""),
            (None, "2026-11-20T10:00:00Z", ""),
        ] {
            assert_eq!(sentence(date, now), format!("{refused}{by}; set it (NTP)"), "{now}");
        }
    }

    #[test]
    fn a_federated_token_that_expired_is_told_from_a_wrong_clock() {
        let body = r#"{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range."}"#;
        let date = "Sat, 21 Nov 2026 10:00:00 GMT".parse().unwrap();
        let headers = [(http::header::DATE, date)].into_iter().collect();
        for (now, remedy) in [
            (
                "2026-11-21T10:00:30Z",
                "the token in federated_token_file has expired; look why nothing renews that file",
            ),
            (
                "2026-11-21T12:05:00Z",
                "this machine's clock is wrong: it is 2h 5m fast; set it (NTP)",
            ),
        ] {
            let now = now.parse().unwrap();
            let denial = read(StatusCode::UNAUTHORIZED, &headers, body.as_bytes(), now);
            let sentence = denial.unwrap_err().sentence("contoso", FEDERATED);
            assert_eq!(
                sentence,
                format!("sign-in was refused (invalid_client, AADSTS700024); {remedy}")
            );
        }
    }

    #[test]
    fn remedies_name_the_key_and_do_not_repeat_the_description() {
        let denial = denied(
            401,
            r#"{"error":"invalid_client","error_description":"AADSTS7000222: The canary keys for app 'canary' are expired. Trace ID: canary"}"#,
        );
        let sentence = denial.sentence("contoso", "client_secret_file");
        assert_eq!(
            sentence,
            "sign-in was refused (invalid_client, AADSTS7000222); the secret has expired; \
             create a new one and put it where client_secret_file says"
        );
        assert!(!format!("{denial:?}").contains("canary"));
        let denial = denied(
            401,
            r#"{"error":"invalid_client","error_description":"AADSTS700027: The certificate canary is not registered."}"#,
        );
        assert_eq!(
            denial.sentence("contoso", CERTIFICATE),
            "sign-in was refused (invalid_client, AADSTS700027); \
             upload the certificate of certificate_file to the application, or check client_id"
        );
    }
}
