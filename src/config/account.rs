//! Reads accounts: the tenant, the application and its credential.

use jiff::Timestamp;

use super::certificate;
use super::diagnostic::Issue;
use super::origin::DiagnosticSink;
use super::platform_identity;
use super::proxy::proxy;
use super::reader::{RawValue, TableReader};
use super::secret;
use super::sections::Sections;
use super::signed_in;
use super::sources::Sources;
use super::table::LayeredTable;
use super::token_command;
use crate::mirror::account::{Account, Credential};

/// An account sets exactly one of these keys.
const CREDENTIALS: [&str; 8] = [
    "client_secret_file",
    "client_secret_env",
    "certificate_file",
    FEDERATED,
    MANAGED,
    DEVICE_CODE,
    "access_token_file",
    COMMAND,
];
const FEDERATED: &str = "federated_token_file";
const MANAGED: &str = "managed_identity";
const DEVICE_CODE: &str = "device_code";
const COMMAND: &str = "access_token_command";
/// Instead of the path of a federated token: it, the tenant and the application are in variables of
/// the environment that Azure's workload identity sets (fact 140).
const IN_ENVIRONMENT: &str = "env";

/// Reads one account; returns `None` after an error. `sections` are missing after an error in them.
/// Certificates have to be valid at `now`.
pub(super) fn account(
    name: &str,
    table: &LayeredTable,
    sections: Option<&Sections>,
    sources: &Sources,
    now: Timestamp,
    report: &mut DiagnosticSink,
) -> Option<Account> {
    let mut reader = TableReader::new(table, report);
    let credential = credential(&mut reader, name, sections, sources, now);
    let optional = [MANAGED, "access_token_file", COMMAND].iter().any(|key| reader.has(key));
    let proxy = proxy(&mut reader, sources);
    let is_ambient = |written: RawValue<'_>| Ok(written.text().ok() == Some(IN_ENVIRONMENT));
    let ambient = reader.read(FEDERATED, is_ambient) == Some(true);
    let mut identifier = |key: &'static str, name: &str, remedy: &str| {
        if reader.has(key) {
            return reader.read(key, |written| identifier(written.text()?));
        }
        if optional {
            return Some(String::new());
        }
        if ambient {
            let named =
                |wrong: Issue| Issue { problem: format!("{name} is {}", wrong.problem), ..wrong };
            let found = azure_variable(name, key, sources);
            let found = found.and_then(|text| identifier(text).map_err(named));
            return found.map_err(|wrong| reader.fault(FEDERATED, wrong)).ok();
        }
        reader.missing(key, "missing", remedy);
        None
    };
    let tenant = identifier("tenant", "AZURE_TENANT_ID", "write the tenant's id or domain");
    let client_id =
        identifier("client_id", "AZURE_CLIENT_ID", "write the application's (client) id");
    if let Some("common" | "organizations" | "consumers") = tenant.as_deref() {
        reader.fault(
            "tenant",
            Issue::new("a daemon needs a specific tenant", "write the tenant's id or domain"),
        );
        return None;
    }
    let shaped = |key: &'static str, fits: bool, wrong: Issue, reader: &mut TableReader<'_>| {
        if reader.has(key) && !fits {
            reader.warn(key, wrong);
        }
    };
    if let Some(tenant) = &tenant {
        let wrong = Issue::new(
            "neither a GUID nor a domain",
            "write the Directory (tenant) ID, or a domain of the tenant such as contoso.com",
        );
        shaped("tenant", is_guid(tenant) || tenant.contains('.'), wrong, &mut reader);
    }
    if let Some(client_id) = &client_id {
        let wrong = Issue::new(
            "not a GUID",
            "write the Application (client) ID of the app registration: not its name, and not the ID of a secret",
        );
        shaped("client_id", is_guid(client_id), wrong, &mut reader);
    }
    let (tenant, client_id, credential, proxy) = (tenant?, client_id?, credential?, proxy?);
    let user = match &credential {
        Credential::DeviceCode(file) => {
            let known = signed_in::user(file, &tenant, &client_id);
            let (user, wrong) = known.map_err(|wrong| reader.fault(DEVICE_CODE, wrong)).ok()?;
            if let Some(wrong) = wrong {
                reader.warn(DEVICE_CODE, wrong);
            }
            user
        }
        _ => None,
    };
    let (name, tenant) = (name.into(), tenant.into());
    Some(Account { name, tenant, client_id, credential, user, proxy, reads_groups: false })
}

/// A key that is either `true` or absent.
pub(super) fn is_true(written: RawValue<'_>) -> Result<(), Issue> {
    match written.flag()? {
        true => Ok(()),
        false => Err(Issue::new("false", "write true, or remove the line")),
    }
}

/// Whether the text has the form of an Entra id: `00000000-0000-0000-0000-000000000000`.
pub(super) fn is_guid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

/// Reads an id or a domain. It becomes a part of URLs, so its characters are restricted.
fn identifier(text: &str) -> Result<String, Issue> {
    if text.len() > 255 || !text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
        return Err(Issue::new(
            "neither an id nor a domain",
            "write letters, digits, `-`, `.` and `_` only",
        ));
    }
    Ok(text.to_owned())
}

fn credential(
    reader: &mut TableReader<'_>,
    account: &str,
    sections: Option<&Sections>,
    sources: &Sources,
    now: Timestamp,
) -> Option<Credential> {
    let written: Vec<&'static str> =
        CREDENTIALS.into_iter().filter(|key| reader.has(key)).collect();
    let all = CREDENTIALS.join(", ");
    let key = match written.as_slice() {
        [key] => *key,
        [] => {
            reader.missing("", "no way to sign in", format!("write one of {all}"));
            return None;
        }
        [first, .., last] => {
            let problem = format!("a second way to sign in beside {first}");
            reader.fault(last, Issue::new(problem, format!("keep exactly one of {all}")));
            return None;
        }
    };
    if key != "certificate_file" && reader.has(certificate::PASSWORD) {
        let wrong = Issue::new("there is no certificate_file beside it", "remove the line");
        reader.fault(certificate::PASSWORD, wrong);
        return None;
    }
    let private = |written: RawValue<'_>| secret::path(written, sources);
    match key {
        "client_secret_file" => reader.read(key, private).map(Credential::SecretFile),
        "certificate_file" => certificate::credential(reader, sources, now),
        FEDERATED => {
            let mut ambient = false;
            let path = |written: RawValue<'_>| match written.text()? {
                IN_ENVIRONMENT => {
                    ambient = true;
                    let path = azure_variable("AZURE_FEDERATED_TOKEN_FILE", "a path", sources)?;
                    secret::checked(path.into(), sources)
                }
                _ => private(written),
            };
            let file = reader.read(key, path);
            let authority = sources.environment.get("AZURE_AUTHORITY_HOST").filter(|_| ambient);
            let authority = authority.filter(|named| !named.trim().is_empty());
            if let Some(wrong) = sections
                .zip(authority)
                .and_then(|(sections, named)| sections.graph.other_authority(named))
            {
                reader.warn(key, wrong);
            }
            file.map(Credential::FederatedTokenFile)
        }
        MANAGED => {
            let endpoint = |written: RawValue<'_>| {
                is_true(written)?;
                platform_identity::endpoint(sources)
            };
            reader.read(key, endpoint).map(Credential::ManagedIdentity)
        }
        DEVICE_CODE => {
            let store = sections.map(|sections| &*sections.store.path);
            let file = || signed_in::file(store, account);
            reader.read(key, is_true).map(|()| Credential::DeviceCode(file()))
        }
        "access_token_file" => reader.read(key, private).map(Credential::AccessTokenFile),
        COMMAND => {
            let origin = reader.origin(key);
            let command = |written: RawValue<'_>| token_command::read(written, &origin, sources);
            reader.read(key, command).map(Credential::AccessTokenCommand)
        }
        _ => reader.read(key, |written| variable(written, sources)).map(Credential::SecretEnv),
    }
}

/// A variable that Azure's workload identity sets; `instead` is what can be written instead.
fn azure_variable<'a>(name: &str, instead: &str, sources: &'a Sources) -> Result<&'a str, Issue> {
    let value = sources.environment.get(name).map(|value| value.trim());
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        let remedy = format!("write {instead}, or run where Azure's workload identity sets it");
        Issue::new(format!("the environment has no {name}"), remedy)
    })
}

/// Reads the name of a variable. Errors never quote the text, because people paste secrets here.
fn variable(written: RawValue<'_>, sources: &Sources) -> Result<String, Issue> {
    let name = written.text()?;
    match sources.environment.get(name).map(|secret| secret.trim().is_empty()) {
        Some(false) => Ok(name.to_owned()),
        Some(true) => Err(Issue::new("the variable it names is empty", "put the secret into it")),
        None => Err(Issue::new(
            "there is no environment variable of that name",
            "write the variable's name here, and set it in the daemon's environment",
        )),
    }
}
