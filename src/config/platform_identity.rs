//! Finds what grants tokens to a managed identity on this machine (facts 141-143).

use std::path::{Path, PathBuf};

use http::Uri;

use super::diagnostic::Issue;
use super::sources::Sources;
use crate::loopback::{is_link_local, is_loopback};
use crate::mirror::account::IdentityEndpoint;

/// The metadata service of Azure's virtual machines.
const MACHINE_METADATA: &str = "http://169.254.169.254";
/// Azure's SDKs take another address of the metadata service from this variable.
const MACHINE_METADATA_HOST: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";

/// A part of Azure Arc's agent, which shows that a machine has it. The variables of the agent are
/// only in the environment of login shells.
const ARC_AGENT: &str = "/opt/azcmagent/bin/himds";
const ARC_ENDPOINT: &str = "http://127.0.0.1:40342/metadata/identity/oauth2/token";
/// Where the agent puts the keys for its callers.
const ARC_KEYS: &str = "/var/opt/azcmagent/tokens";

/// The variable with the key of App Service's endpoint.
const APP_SERVICE_KEY: &str = "IDENTITY_HEADER";

/// What grants tokens here: the platform whose variables or agent exist, otherwise the metadata
/// service of a virtual machine.
pub(super) fn endpoint(sources: &Sources) -> Result<IdentityEndpoint, Issue> {
    find(sources, Path::new(ARC_AGENT))
}

fn find(sources: &Sources, arc_agent: &Path) -> Result<IdentityEndpoint, Issue> {
    let variable = |name: &str| {
        let value = sources.environment.get(name).map(|value| value.trim());
        value.filter(|value| !value.is_empty())
    };
    let named = variable("IDENTITY_ENDPOINT");
    let keys = PathBuf::from(ARC_KEYS);
    match named {
        Some(_) if variable("IDENTITY_SERVER_THUMBPRINT").is_some() => Err(Issue::new(
            "the environment is that of Service Fabric, whose identities are not supported",
            "sign in with a certificate_file instead",
        )),
        Some(url) if variable(APP_SERVICE_KEY).is_some() => {
            let url = local_address("IDENTITY_ENDPOINT", url)?;
            Ok(IdentityEndpoint::AppService { url, key: APP_SERVICE_KEY })
        }
        Some(url) if variable("IMDS_ENDPOINT").is_some() => {
            Ok(IdentityEndpoint::Arc { url: local_address("IDENTITY_ENDPOINT", url)?, keys })
        }
        _ if arc_agent.exists() => Ok(IdentityEndpoint::Arc { url: ARC_ENDPOINT.to_owned(), keys }),
        _ => {
            let base = variable(MACHINE_METADATA_HOST);
            let base = base.map(|base| local_address(MACHINE_METADATA_HOST, base)).transpose()?;
            Ok(IdentityEndpoint::MachineMetadata(base.unwrap_or_else(|| MACHINE_METADATA.into())))
        }
    }
}

/// An address without a trailing slash that only this machine reaches, or with `https`. It gets a
/// key, and what it grants is shown to Graph.
fn local_address(name: &str, text: &str) -> Result<String, Issue> {
    let wrong = |problem: &str| {
        let remedy = format!("run where Azure sets {name}, or unset it");
        Issue::new(format!("{name} of the environment is {problem}"), remedy)
    };
    let uri: Uri = text.parse().map_err(|_| wrong("not an address"))?;
    let host = uri.host().unwrap_or_default();
    let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    if !plain || uri.query().is_some() {
        return Err(wrong("not a plain address"));
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback(host) || is_link_local(host) => {}
        _ => return Err(wrong("an address on another machine")),
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)], arc_agent: &Path) -> Result<IdentityEndpoint, String> {
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let sources = Sources { file: PathBuf::new(), environment: environment.collect() };
        find(&sources, arc_agent).map_err(|issue| issue.to_string())
    }

    #[test]
    fn the_platform_is_recognised_by_its_variables_or_its_agent() {
        let none = Path::new("/no/such/agent");
        let metadata = |base: &str| Ok(IdentityEndpoint::MachineMetadata(base.to_owned()));
        assert_eq!(with(&[], none), metadata("http://169.254.169.254"));
        let other = [(MACHINE_METADATA_HOST, "http://127.0.0.1:9/")];
        assert_eq!(with(&other, none), metadata("http://127.0.0.1:9"));
        let endpoint = ("IDENTITY_ENDPOINT", "http://169.254.130.2:8081/msi/token");
        assert_eq!(with(&[endpoint], none), metadata("http://169.254.169.254"));
        assert_eq!(
            with(&[endpoint, ("IDENTITY_HEADER", "key")], none),
            Ok(IdentityEndpoint::AppService {
                url: "http://169.254.130.2:8081/msi/token".to_owned(),
                key: "IDENTITY_HEADER",
            })
        );
        let arc = |url: &str| {
            Ok(IdentityEndpoint::Arc { url: url.to_owned(), keys: PathBuf::from(ARC_KEYS) })
        };
        let agent = ("IDENTITY_ENDPOINT", "http://localhost:40342/x");
        let found = with(&[agent, ("IMDS_ENDPOINT", "http://localhost:40342")], none);
        assert_eq!(found, arc("http://localhost:40342/x"));
        assert_eq!(with(&[], Path::new("/")), arc(ARC_ENDPOINT));
    }

    #[test]
    fn an_endpoint_elsewhere_and_service_fabric_are_refused() {
        let none = Path::new("/no/such/agent");
        let fabric = [
            ("IDENTITY_ENDPOINT", "https://localhost:1/"),
            ("IDENTITY_HEADER", "key"),
            ("IDENTITY_SERVER_THUMBPRINT", "ab"),
        ];
        assert!(with(&fabric, none).unwrap_err().contains("Service Fabric"));
        for address in [
            "http://example.com/msi",
            "http://a@127.0.0.1/",
            "ftp://127.0.0.1/",
            "x",
            "http://127.0.0.1/?a",
        ] {
            let found = with(&[("IDENTITY_ENDPOINT", address), ("IDENTITY_HEADER", "key")], none);
            let wrong = found.unwrap_err();
            assert!(wrong.starts_with("IDENTITY_ENDPOINT of the environment is "), "{wrong}");
            assert!(with(&[(MACHINE_METADATA_HOST, address)], none).is_err(), "{address}");
        }
    }
}
