//! What the policy comes to, for the control plane: it shows users what they cannot have before they ask for it. Patterns and names as
//! the file has them; there is nothing secret in the file.

use super::decision::Effect;
use super::request::Section;
use super::{Policy, State};
use serde::Serialize;
use std::collections::BTreeMap;

/// The effective limits of a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// `absent`, `broken` or `read`.
    pub state: &'static str,
    /// Why everything is denied, where it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its rules are left out: there are too many.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Its rules for plans, by name, and its modules of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan_rules: Vec<String>,
    /// Each kind of work.
    pub sections: BTreeMap<Section, SectionSummary>,
}
/// One kind of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SectionSummary {
    /// What holds where no rule matches.
    pub default: Effect,
    /// Kubernetes: whether exec, attach, port-forward, proxies and debug containers may be at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<bool>,
    /// The rules, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleSummary>,
}
/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleSummary {
    /// Its name.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// Kubernetes, allow: what of Secrets is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
    /// Its other keys, in the file's words.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<&'static str, Vec<String>>,
}

// === impl Policy ===

impl Policy {
    /// What it comes to, as JSON of at most [`shared_proto::bounds::POLICY_SUMMARY_MAX`] bytes: without its rules where they do not fit.
    pub fn summary_text(&self) -> String {
        let mut summary = self.summary();
        // names and words: nothing that JSON cannot have
        let text = serde_json::to_string(&summary).unwrap_or_default();
        if text.len() <= shared_proto::bounds::POLICY_SUMMARY_MAX {
            return text;
        }
        for section in summary.sections.values_mut() {
            section.rules.clear();
        }
        summary.plan_rules.clear();
        summary.cut = true;
        serde_json::to_string(&summary).unwrap_or_default()
    }

    fn plan_rule_names(&self) -> Vec<String> {
        let set = shared_proto::rules::Set::parse(&self.plan_rules).unwrap_or_default();
        set.rule.into_iter().map(|rule| rule.name).chain(set.rego.into_iter().map(|module| module.name)).collect()
    }

    /// What it comes to.
    pub fn summary(&self) -> Summary {
        let all = |effect| {
            let section = SectionSummary { default: effect, exec: None, rules: Vec::new() };
            Section::ALL.into_iter().map(|name| (name, section.clone())).collect::<BTreeMap<_, _>>()
        };
        let plan_rules = self.plan_rule_names();
        let read = match &self.state {
            State::Absent => {
                return Summary { state: "absent", reason: None, cut: false, plan_rules, sections: all(Effect::Allow) };
            }
            State::Broken(reason) => {
                return Summary {
                    state: "broken",
                    reason: Some(reason.clone()),
                    cut: false,
                    plan_rules,
                    sections: all(Effect::Deny),
                };
            }
            State::Read(read) => read,
        };
        let mut sections = all(Effect::Allow);
        for (name, section) in read {
            let of_kubernetes = *name == Section::Kubernetes;
            let rules = section.rules.iter().map(|rule| RuleSummary {
                name: rule.name.to_string(),
                effect: rule.effect,
                secrets: (of_kubernetes && rule.effect == Effect::Allow)
                    .then(|| rule.secrets.as_ref().unwrap_or(&section.secrets).written()),
                keys: rule.keys.iter().filter(|(key, _)| *key != "secrets").cloned().collect(),
            });
            let exec = of_kubernetes.then_some(section.exec);
            sections.insert(*name, SectionSummary { default: Effect::Deny, exec, rules: rules.collect() });
        }
        Summary { state: "read", reason: None, cut: false, plan_rules, sections }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_holds() {
        let policy = Policy::parse(
            "version = 1\n[kubernetes]\nexec = false\n[[kubernetes.rule]]\nname = 'a'\neffect = 'allow'\nread_only = true\n\
             namespaces = ['dev-*']\nrate = '5/second'\nsecrets = { shown_types = ['helm.sh/release.v1'] }\n",
        );
        let summary = serde_json::to_value(policy.unwrap().summary()).unwrap();
        assert_eq!(summary["state"], "read");
        assert_eq!(summary["sections"]["jobs"], serde_json::json!({ "default": "allow" }));
        assert_eq!(
            summary["sections"]["kubernetes"],
            serde_json::json!({ "default": "deny", "exec": false, "rules": [{
                "name": "a", "effect": "allow", "secrets": "shown_types helm.sh/release.v1",
                "keys": { "namespaces": ["dev-*"], "read_only": ["true"], "rate": ["5/second"] },
            }] })
        );
    }

    #[test]
    fn absent_and_broken() {
        assert!(Policy::absent().summary().sections.values().all(|s| s.default == Effect::Allow));
        let broken = Policy::broken("line 3").summary();
        assert_eq!(broken.reason.as_deref(), Some("line 3"));
        assert!(broken.sections.len() == 6 && broken.sections.values().all(|s| s.default == Effect::Deny));
    }
}
