//! The version of its API by which a resource of a type is asked for: each type has its own.

use serde_json::Value;
use shared_proto::failure::Code;

use super::connect::Account;
use crate::fault::Fault;

/// Of the types in the table: <https://learn.microsoft.com/azure/templates/> has them by type.
const KNOWN: &[(&str, &str)] = &[
    ("Microsoft.Resources/subscriptions/resourceGroups", "2021-04-01"),
    ("Microsoft.Compute/virtualMachines", "2024-07-01"),
    ("Microsoft.Compute/virtualMachineScaleSets", "2024-07-01"),
    ("Microsoft.Compute/disks", "2024-03-02"),
    ("Microsoft.Network/virtualNetworks", "2024-05-01"),
    ("Microsoft.Network/networkSecurityGroups", "2024-05-01"),
    ("Microsoft.Network/loadBalancers", "2024-05-01"),
    ("Microsoft.Network/publicIPAddresses", "2024-05-01"),
    ("Microsoft.Network/dnsZones", "2018-05-01"),
    ("Microsoft.ContainerService/managedClusters", "2024-09-01"),
    ("Microsoft.App/containerApps", "2024-03-01"),
    ("Microsoft.Web/sites", "2023-12-01"),
    ("Microsoft.Sql/servers", "2021-11-01"),
    ("Microsoft.Sql/servers/databases", "2021-11-01"),
    ("Microsoft.DocumentDB/databaseAccounts", "2024-05-15"),
    ("Microsoft.Storage/storageAccounts", "2023-05-01"),
    ("Microsoft.KeyVault/vaults", "2023-07-01"),
    ("Microsoft.ContainerRegistry/registries", "2023-07-01"),
    ("Microsoft.ServiceBus/namespaces", "2021-11-01"),
    ("Microsoft.EventHub/namespaces", "2024-01-01"),
    ("Microsoft.ManagedIdentity/userAssignedIdentities", "2023-01-31"),
    ("Microsoft.OperationalInsights/workspaces", WORKSPACES),
];
/// Of workspaces and their tables.
pub(super) const WORKSPACES: &str = "2023-09-01";
/// Of Resource Manager itself.
pub(super) const MANAGER: &str = "2021-04-01";
/// Of subscriptions.
pub(super) const SUBSCRIPTIONS: &str = "2022-12-01";
/// Of Resource Graph: <https://learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources>.
pub(super) const GRAPH: &str = "2022-10-01";

/// That of a type: from the table, else the newest one that its provider has and that is no preview, else the newest.
pub(super) async fn of(account: &mut Account, subscription: &str, type_name: &str) -> Result<String, Fault> {
    if let Some((_, version)) = KNOWN.iter().find(|(name, _)| name.eq_ignore_ascii_case(type_name)) {
        return Ok((*version).to_owned());
    }
    let (namespace, kind) = type_name.split_once('/').unwrap_or((type_name, ""));
    // https://learn.microsoft.com/rest/api/resources/providers/get
    let target = format!("/subscriptions/{subscription}/providers/{namespace}?api-version={MANAGER}");
    let provider = account.get(&target).await?;
    newest(&provider, kind).ok_or_else(|| {
        Fault::new(Code::TargetNotFound, format!("Azure knows no type {type_name}"))
            .next("Check the type's name; `runnerctl` lists types as Resource Manager names them.")
    })
}

fn newest(provider: &Value, kind: &str) -> Option<String> {
    let types = provider["resourceTypes"].as_array()?;
    let of = types.iter().find(|t| t["resourceType"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(kind)))?;
    let mut versions: Vec<&str> =
        of["apiVersions"].as_array()?.iter().filter_map(Value::as_str).filter(|v| is_version(v)).collect();
    versions.sort_unstable();
    let stable = versions.iter().rev().find(|v| v.len() == 10);
    stable.or(versions.last()).map(|v| (*v).to_owned())
}

/// `2021-04-01`, `2021-04-01-preview`.
fn is_version(text: &str) -> bool {
    let (date, rest) = text.split_at_checked(10).unwrap_or_default();
    let digit = |(at, b): (usize, u8)| if matches!(at, 4 | 7) { b == b'-' } else { b.is_ascii_digit() };
    date.len() == 10
        && date.bytes().enumerate().all(digit)
        && (rest.is_empty() || (rest.len() <= 20 && rest.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared_proto::inventory;

    #[test]
    fn every_type_of_the_table_has_one_and_no_other_has() {
        let named: Vec<_> = inventory::all("azure", false).iter().map(|t| t.name).collect();
        assert_eq!(named, KNOWN.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert!(KNOWN.iter().all(|(_, version)| is_version(version)));
    }

    #[test]
    fn the_newest_that_is_no_preview() {
        let provider = |versions: &[&str]| {
            json!({"resourceTypes": [
                {"resourceType": "other", "apiVersions": ["2030-01-01"]},
                {"resourceType": "Accounts", "apiVersions": versions},
            ]})
        };
        let of = |versions: &[&str]| newest(&provider(versions), "accounts");
        assert_eq!(of(&["2021-02-01", "2023-01-01", "2024-01-01-preview"]).as_deref(), Some("2023-01-01"));
        assert_eq!(of(&["2024-01-01-preview"]).as_deref(), Some("2024-01-01-preview"));
        assert_eq!(of(&["2024-01-01&x=y", "nonsense", "é", ""]), None);
        assert_eq!((of(&[]), newest(&json!({}), "x"), newest(&provider(&["2021-02-01"]), "none")), (None, None, None));
    }
}
