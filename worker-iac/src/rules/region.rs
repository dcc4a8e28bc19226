//! In which region a resource is: by its own attributes, else by what its provider is configured with. Where that cannot be told it may be any.

use super::Change;
use serde_json::Value;
use shared_proto::glob::Glob;
use std::collections::BTreeMap;

/// Attributes that name one, by providers' own documentation; a zone is of the region that it begins with.
const OWN: [&str; 4] = ["region", "location", "availability_zone", "zone"];
/// Providers whose resources are in a region even where nothing says so, by the end of their address.
const HAVE_REGIONS: [&str; 4] = ["/aws", "/google", "/google-beta", "/azurerm"];

/// The regions that providers are configured with, by the provider's address; `None` among them: one that cannot be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Regions(BTreeMap<String, Vec<Option<String>>>);

impl Regions {
    /// From `configuration` and `variables` of a plan (<https://opentofu.org/docs/internals/json-format/#configuration-representation>).
    pub(crate) fn of(configuration: &Value, variables: &Value) -> Self {
        let mut found: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
        for provider in configuration["provider_config"].as_object().into_iter().flat_map(|all| all.values()) {
            let Some(address) = provider["full_name"].as_str() else { continue };
            let expression = &provider["expressions"]["region"];
            let region = expression["constant_value"].as_str().or_else(|| {
                let [Value::String(reference)] = expression["references"].as_array()?.as_slice() else { return None };
                // of a module below the root it is a variable of that one
                let inside = provider["module_address"].as_str().is_some_and(|module| !module.is_empty());
                let name = reference.strip_prefix("var.").filter(|_| !inside)?;
                variables[name]["value"].as_str()
            });
            found.entry(address.to_owned()).or_default().push(region.map(str::to_owned));
        }
        Self(found)
    }

    /// What there is to say of a resource that is, or may be, in a region that none of the patterns has; `None`: it is in one of them, or in no
    /// region at all.
    pub(super) fn other_than(&self, patterns: &[Glob], change: &Change) -> Option<String> {
        let own = |side: &Value| {
            let there = OWN.iter().filter_map(|key| side.get(key).map(|value| (*key, value)));
            there.filter_map(|(key, value)| value.as_str().map(|text| (key, text.to_owned()))).collect::<Vec<_>>()
        };
        let mut regions = own(&change.after);
        regions.extend(own(&change.before));
        if !regions.is_empty() {
            let strange = regions.iter().find(|(_, region)| !matches(patterns, region));
            return strange.map(|(key, region)| format!(", {key} {region}"));
        }
        let of_provider = self.0.get(&change.provider);
        match of_provider.map(Vec::as_slice) {
            Some(all) if all.iter().any(Option::is_some) || has_regions(change) => {
                // which of its configurations it is of is not looked up: any of them may be
                let strange = all.iter().find(|region| region.as_ref().is_none_or(|region| !matches(patterns, region)));
                strange.map(|region| match region {
                    Some(region) => format!(", its provider's region {region}"),
                    None => ", in a region that is not known".to_owned(),
                })
            }
            _ if has_regions(change) => Some(", in a region that is not known".to_owned()),
            _ => None,
        }
    }
}

fn has_regions(change: &Change) -> bool {
    HAVE_REGIONS.iter().any(|end| change.provider.ends_with(end))
}

/// Whether a region, a zone of one, or a location in a cloud's words for people (`West Europe`) is among them.
fn matches(patterns: &[Glob], region: &str) -> bool {
    let plain = region.to_ascii_lowercase().replace(' ', "");
    // eu-west-1a, europe-west1-b
    let of_aws = plain.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let of_google = plain.rsplit_once('-').map_or("", |(region, zone)| if zone.len() == 1 { region } else { "" });
    [plain.as_str(), of_aws, of_google].iter().any(|text| !text.is_empty() && patterns.iter().any(|p| p.matches(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const AWS: &str = "registry.opentofu.org/hashicorp/aws";

    fn regions(configuration: &Value) -> Regions {
        Regions::of(configuration, &json!({ "region": { "value": "eu-west-1" } }))
    }
    fn provider(expression: &Value) -> Value {
        json!({ "provider_config": { "aws": { "full_name": AWS, "expressions": { "region": expression } } } })
    }

    #[test]
    fn a_region_is_known_by_the_resource_its_provider_or_not_at_all() {
        let constant = regions(&provider(&json!({ "constant_value": "eu-west-1" })));
        let elsewhere = regions(&provider(&json!({ "constant_value": "us-east-1" })));
        let variable = regions(&provider(&json!({ "references": ["var.region"] })));
        let local = regions(&provider(&json!({ "references": ["local.region"] })));
        let none = Regions::default();
        let patterns = [Glob::parse("eu-*").expect("a pattern"), Glob::parse("westeurope").expect("a pattern")];
        let change = |provider: &str, after: Value| Change { provider: provider.into(), after, ..Change::default() };
        for (regions, provider, after, expected) in [
            (&constant, AWS, json!({}), None),
            (&variable, AWS, json!({}), None),
            (&elsewhere, AWS, json!({}), Some(", its provider's region us-east-1")),
            (&elsewhere, AWS, json!({ "region": "eu-north-1" }), None),
            (&constant, AWS, json!({ "region": "us-east-1" }), Some(", region us-east-1")),
            (&constant, AWS, json!({ "availability_zone": "eu-west-1a" }), None),
            (&constant, AWS, json!({ "region": null }), None),
            (&local, AWS, json!({}), Some(", in a region that is not known")),
            (&none, AWS, json!({}), Some(", in a region that is not known")),
            (&none, "x/y/azurerm", json!({ "location": "West Europe" }), None),
            (&none, "x/y/azurerm", json!({ "location": "eastus" }), Some(", location eastus")),
            (&none, "x/y/google", json!({ "zone": "us-central1-b" }), Some(", zone us-central1-b")),
            (&none, "x/y/random", json!({ "length": 4 }), None),
            (&none, "x/y/random", json!({ "location": "eastus" }), Some(", location eastus")),
        ] {
            let found = regions.other_than(&patterns, &change(provider, after.clone()));
            assert_eq!(found.as_deref(), expected, "{provider} {after}");
        }
        let one = [Glob::parse("europe-west1").expect("a pattern"), Glob::parse("eu-west-1").expect("a pattern")];
        assert!(matches(&one, "europe-west1-b") && matches(&one, "eu-west-1c"));
        assert!(!matches(&one, "europe-west10") && !matches(&one, "eu-west-11"));
    }
}
