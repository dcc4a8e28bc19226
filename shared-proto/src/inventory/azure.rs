//! Types of Azure, as Resource Manager names them. A rule names what lists one as Azure's own roles do: `TYPE/read`.

use super::Type;

const fn of(name: &'static str, service: &'static str, operations: &'static [&'static str]) -> Type {
    Type { name, service, operations }
}

/// Those that are listed where none is named.
pub(super) const TYPES: &[Type] = &[
    of(
        "Microsoft.Resources/subscriptions/resourceGroups",
        "Microsoft.Resources",
        &["subscriptions/resourceGroups/read"],
    ),
    of("Microsoft.Compute/virtualMachines", "Microsoft.Compute", &["virtualMachines/read"]),
    of("Microsoft.Compute/virtualMachineScaleSets", "Microsoft.Compute", &["virtualMachineScaleSets/read"]),
    of("Microsoft.Compute/disks", "Microsoft.Compute", &["disks/read"]),
    of("Microsoft.Network/virtualNetworks", "Microsoft.Network", &["virtualNetworks/read"]),
    of("Microsoft.Network/networkSecurityGroups", "Microsoft.Network", &["networkSecurityGroups/read"]),
    of("Microsoft.Network/loadBalancers", "Microsoft.Network", &["loadBalancers/read"]),
    of("Microsoft.Network/publicIPAddresses", "Microsoft.Network", &["publicIPAddresses/read"]),
    of("Microsoft.Network/dnsZones", "Microsoft.Network", &["dnsZones/read"]),
    of("Microsoft.ContainerService/managedClusters", "Microsoft.ContainerService", &["managedClusters/read"]),
    of("Microsoft.App/containerApps", "Microsoft.App", &["containerApps/read"]),
    of("Microsoft.Web/sites", "Microsoft.Web", &["sites/read"]),
    of("Microsoft.Sql/servers", "Microsoft.Sql", &["servers/read"]),
    of("Microsoft.Sql/servers/databases", "Microsoft.Sql", &["servers/databases/read"]),
    of("Microsoft.DocumentDB/databaseAccounts", "Microsoft.DocumentDB", &["databaseAccounts/read"]),
    of("Microsoft.Storage/storageAccounts", "Microsoft.Storage", &["storageAccounts/read"]),
    of("Microsoft.KeyVault/vaults", "Microsoft.KeyVault", &["vaults/read"]),
    of("Microsoft.ContainerRegistry/registries", "Microsoft.ContainerRegistry", &["registries/read"]),
    of("Microsoft.ServiceBus/namespaces", "Microsoft.ServiceBus", &["namespaces/read"]),
    of("Microsoft.EventHub/namespaces", "Microsoft.EventHub", &["namespaces/read"]),
    of(
        "Microsoft.ManagedIdentity/userAssignedIdentities",
        "Microsoft.ManagedIdentity",
        &["userAssignedIdentities/read"],
    ),
    of("Microsoft.OperationalInsights/workspaces", "Microsoft.OperationalInsights", &["workspaces/read"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_by_what_its_name_says() {
        for t in TYPES {
            assert_eq!(format!("{}/{}", t.service, t.operations[0]), format!("{}/read", t.name));
            assert_eq!(t.operations.len(), 1, "{}", t.name);
        }
    }
}
