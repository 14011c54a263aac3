//! Which of the simulated services a request goes to, by its path.

use super::request::SimulatedRequest;

/// A simulated service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestedService {
    /// Graph itself, and every path that belongs to no other service.
    Graph,
    /// `POST /{tenant}/oauth2/v2.0/token`.
    TokenEndpoint,
    /// `POST /{tenant}/oauth2/v2.0/devicecode`.
    DeviceAuthorization,
    /// The metadata service of a virtual machine (fact 141).
    MachineMetadata,
    /// The identity endpoint of App Service and Container Apps (fact 143).
    AppService,
    /// The identity endpoint of a machine that is connected by Azure Arc.
    Arc,
}

impl RequestedService {
    /// Whether it grants tokens to managed identities.
    pub(super) fn is_managed_identity(self) -> bool {
        matches!(self, Self::MachineMetadata | Self::AppService | Self::Arc)
    }

    /// Whether Microsoft Entra answers.
    pub(super) fn is_entra(self) -> bool {
        matches!(self, Self::TokenEndpoint | Self::DeviceAuthorization)
    }
}

impl SimulatedRequest {
    /// The service that answers the request.
    pub(super) fn service(&self) -> RequestedService {
        let paths: [(&[&str], RequestedService); 5] = [
            (&["*", "oauth2", "v2.0", "token"], RequestedService::TokenEndpoint),
            (&["*", "oauth2", "v2.0", "devicecode"], RequestedService::DeviceAuthorization),
            (&["metadata", "identity", "oauth2", "token"], RequestedService::MachineMetadata),
            (&["msi", "token"], RequestedService::AppService),
            (&["arc", "metadata", "identity", "oauth2", "token"], RequestedService::Arc),
        ];
        let found = paths.iter().find(|(path, _)| !self.versioned && self.is(path, 0));
        found.map_or(RequestedService::Graph, |(_, service)| *service)
    }
}
