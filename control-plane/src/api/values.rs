//! What the variables of stacks, jobs and sets may be beside plain values: references to secrets of the runner's stores, and values that were
//! sealed to it. Neither is ever read here: the one has names alone, the other does not open.

use super::source::{Variables, is_identifier};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use shared_proto::failure::{Code, Failure};
use shared_proto::sealed::{ADDED, RECIPIENTS_MAX, SEALED_MAX, SealKey};
use shared_proto::secrets::{self, REFERENCES_MAX, VALUE_MAX};
use shared_proto::v1::{SealedVariable, SecretReference};
use std::collections::{BTreeMap, HashMap};
use utoipa::ToSchema;

/// Sealed values of one stack, bytes, as they are sent.
const SEALED_BYTES_MAX: usize = 384 * 1024;
/// Sets of one stack.
const SETS_MAX: usize = 16;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    /// A store of the runner's own configuration.
    from: String,
    /// Which of its secrets; the runner's configuration says which may be asked for.
    path: String,
    /// The field that is meant, of what is an object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
}

/// A value that was sealed to a runner's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    /// The key's fingerprint: 64 hexadecimal digits.
    key: String,
    /// HPKE's encapsulated key, base64.
    encapsulated: String,
    /// The ciphertext, base64.
    ciphertext: String,
}

/// Variables of all kinds, each in one of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Values {
    pub(super) variables: Variables,
    pub(super) secrets: BTreeMap<String, Reference>,
    /// One form for each key that it is sealed to.
    pub(super) sealed: BTreeMap<String, Vec<Sealed>>,
}

// === impl Reference ===

impl Reference {
    fn wire(&self) -> SecretReference {
        SecretReference { from: self.from.clone(), path: self.path.clone(), key: self.key.clone() }
    }
}

// === impl Sealed ===

impl Sealed {
    /// As a runner is told.
    ///
    /// # Errors
    /// `invalid_argument`: it is of another form than what `runnerctl` seals.
    fn wire(&self, variable: &str) -> Result<SealedVariable, Failure> {
        let bad = |what: &str| Code::InvalidArgument.on(format!("the sealed variable {variable}: {what}"));
        let bytes =
            |text: &str, what: &str| STANDARD.decode(text).map_err(|_| bad(&format!("{what} is not in base64")));
        if SealKey::from_text(&self.key).is_none() {
            return Err(bad("key is no fingerprint of 64 hexadecimal digits"));
        }
        let (encapsulated, ciphertext) =
            (bytes(&self.encapsulated, "encapsulated")?, bytes(&self.ciphertext, "ciphertext")?);
        if encapsulated.len() != 32 || !(ADDED..=VALUE_MAX + ADDED).contains(&ciphertext.len()) {
            return Err(bad("encapsulated or ciphertext has not the length of one"));
        }
        Ok(SealedVariable { variable: variable.to_owned(), key: self.key.clone(), encapsulated, ciphertext })
    }
}

// === impl Values ===

impl Values {
    /// These, with others over them: of whatever kind a variable was, it is the others'.
    pub(super) fn over(mut self, others: Self) -> Self {
        let names: Vec<_> = others.names().map(str::to_owned).collect();
        for name in &names {
            self.variables.remove(name);
            self.secrets.remove(name);
            self.sealed.remove(name);
        }
        self.variables = self.variables.over(others.variables);
        self.secrets.extend(others.secrets);
        self.sealed.extend(others.sealed);
        self
    }

    /// Those of such names.
    pub(super) fn only(mut self, is_wanted: impl Fn(&str) -> bool) -> Self {
        self.variables.retain(&is_wanted);
        self.secrets.retain(|name, _| is_wanted(name));
        self.sealed.retain(|name, _| is_wanted(name));
        self
    }

    /// Checks names, numbers and sizes, and that no variable is of two kinds.
    ///
    /// # Errors
    /// `invalid_argument`, `too_large`.
    pub(super) fn checked(self) -> Result<Self, Failure> {
        let variables = self.variables.checked()?;
        let all = Self { variables, ..self };
        let mut names: Vec<_> = all.names().collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Code::InvalidArgument.on(format!("the variable {} has more than one value", twice[0])));
        }
        if let Some(name) = names.iter().find(|name| !is_identifier(name)) {
            let name: String = name.chars().take(100).collect();
            return Err(Code::InvalidArgument.on(format!("{name:?} is no name of a variable")));
        }
        if all.secrets.len() > REFERENCES_MAX {
            let count = all.secrets.len();
            return Err(
                Code::TooLarge.on(format!("there are {count} references to secrets, the limit is {REFERENCES_MAX}"))
            );
        }
        for (name, reference) in &all.secrets {
            secrets::check(name, &reference.wire())?;
        }
        let sealed = all.sealed()?;
        if sealed.len() > SEALED_MAX {
            return Err(
                Code::TooLarge.on(format!("there are {} sealed values, the limit is {SEALED_MAX}", sealed.len()))
            );
        }
        if let Some((name, _)) = all.sealed.iter().find(|(_, forms)| !(1..=RECIPIENTS_MAX).contains(&forms.len())) {
            let message = format!("the sealed variable {name} is to be sealed to 1 to {RECIPIENTS_MAX} keys");
            return Err(Code::InvalidArgument.on(message));
        }
        let bytes: usize = sealed.iter().map(|form| form.ciphertext.len()).sum();
        if bytes > SEALED_BYTES_MAX {
            return Err(
                Code::TooLarge.on(format!("the sealed values take {bytes} bytes, the limit is {SEALED_BYTES_MAX}"))
            );
        }
        Ok(all)
    }

    /// References, as a runner is told.
    pub(super) fn references(&self) -> HashMap<String, SecretReference> {
        self.secrets.iter().map(|(name, reference)| (name.clone(), reference.wire())).collect()
    }

    /// What is sealed, as a runner is told.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(super) fn sealed(&self) -> Result<Vec<SealedVariable>, Failure> {
        let forms = self.sealed.iter().flat_map(|(name, forms)| forms.iter().map(move |form| form.wire(name)));
        forms.collect()
    }

    /// The names of all.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables
            .names()
            .chain(self.secrets.keys().map(String::as_str))
            .chain(self.sealed.keys().map(String::as_str))
    }
}

/// Names of sets, each once and in their order.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(super) fn checked_sets(names: Vec<String>) -> Result<Vec<String>, Failure> {
    if names.len() > SETS_MAX {
        return Err(Code::TooLarge.on(format!("there are {} sets of variables, the limit is {SETS_MAX}", names.len())));
    }
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        let name = super::checked::name("variable_sets", &name)?;
        if seen.contains(&name) {
            return Err(Code::InvalidArgument.on(format!("variable_sets names {name} twice")));
        }
        seen.push(name);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn values(variables: Value, secrets: Value, sealed: Value) -> Values {
        Values {
            variables: serde_json::from_value(variables).expect("variables"),
            secrets: serde_json::from_value(secrets).expect("references"),
            sealed: serde_json::from_value(sealed).expect("sealed values"),
        }
    }
    fn form(ciphertext: usize) -> Value {
        json!({
            "key": "ab".repeat(32), "encapsulated": STANDARD.encode([7; 32]), "ciphertext": STANDARD.encode(vec![7; ciphertext])
        })
    }

    #[test]
    fn what_goes_over_another_takes_its_place_whatever_kind_it_is_of() {
        let reference = json!({"from": "vault", "path": "a"});
        let below = values(json!({"a": 1, "b": [true]}), json!({"c": reference}), json!({"d": [form(16)]}));
        let above = values(json!({"c": "text"}), json!({"a": reference, "d": reference}), json!({"b": [form(17)]}));
        let both = below.over(above).checked().expect("fine");
        assert_eq!(both.variables.wire(), HashMap::from([("c".to_owned(), "text".to_owned())]));
        let mut references: Vec<_> = both.references().into_keys().collect();
        references.sort();
        assert_eq!(references, ["a", "d"]);
        assert_eq!(both.sealed().expect("sealed").iter().map(|form| form.ciphertext.len()).collect::<Vec<_>>(), [17]);
    }

    #[test]
    fn values_are_held_to_their_form_and_bounds() {
        let reference = json!({"from": "vault", "path": "a"});
        let none = || json!({});
        assert!(
            values(none(), json!({"a": reference}), json!({"b": [form(ADDED), form(VALUE_MAX + ADDED)]}))
                .checked()
                .is_ok()
        );
        let many = |count: usize| -> Value {
            (0..count).map(|n| (format!("v{n}"), reference.clone())).collect::<serde_json::Map<_, _>>().into()
        };
        assert!(values(none(), many(REFERENCES_MAX), none()).checked().is_ok());
        let forms = |count: usize, bytes: usize| json!({"a": vec![form(bytes); count]});
        let variables = |count: usize| -> Value {
            (0..count)
                .map(|n| (format!("v{n}"), json!(vec![form(16); RECIPIENTS_MAX])))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        assert!(values(none(), none(), variables(SEALED_MAX / RECIPIENTS_MAX)).checked().is_ok());
        let wrong = |name: &str, value: Value| {
            let mut one = form(16);
            one[name] = value;
            json!({"a": [one]})
        };
        for (bad, code) in [
            (values(json!({"a": 1}), json!({"a": reference}), none()), Code::InvalidArgument),
            (values(none(), json!({"a": reference}), json!({"a": [form(16)]})), Code::InvalidArgument),
            (values(none(), json!({"1a": reference}), none()), Code::InvalidArgument),
            (values(none(), json!({"a": {"from": "v/w", "path": "a"}}), none()), Code::InvalidArgument),
            (values(none(), json!({"a": {"from": "v", "path": "../a"}}), none()), Code::InvalidArgument),
            (values(none(), many(REFERENCES_MAX + 1), none()), Code::TooLarge),
            (values(none(), none(), forms(0, 16)), Code::InvalidArgument),
            (values(none(), none(), forms(RECIPIENTS_MAX + 1, 16)), Code::InvalidArgument),
            (values(none(), none(), variables(SEALED_MAX / RECIPIENTS_MAX + 1)), Code::TooLarge),
            (values(none(), none(), forms(1, ADDED - 1)), Code::InvalidArgument),
            (values(none(), none(), forms(1, VALUE_MAX + ADDED + 1)), Code::InvalidArgument),
            (values(none(), none(), forms(7, VALUE_MAX)), Code::TooLarge),
            (values(none(), none(), wrong("key", "ab".into())), Code::InvalidArgument),
            (values(none(), none(), wrong("encapsulated", "AAAA".into())), Code::InvalidArgument),
            (values(none(), none(), wrong("ciphertext", "s3cr3t!".into())), Code::InvalidArgument),
        ] {
            let failure = bad.checked().expect_err("refused");
            assert!(failure.code == code && !failure.to_string().contains("s3cr3t"), "{failure}");
        }
    }

    #[test]
    fn sets_are_few_and_each_once() {
        assert_eq!(checked_sets(vec!["b".into(), "a".into()]), Ok(vec!["b".to_owned(), "a".to_owned()]));
        let many = |n: usize| checked_sets((0..n).map(|i| format!("s{i}")).collect()).map_err(|f| f.code);
        assert!(many(SETS_MAX).is_ok());
        assert_eq!(many(SETS_MAX + 1), Err(Code::TooLarge));
        for bad in [vec!["a".to_owned(), "a".to_owned()], vec!["A b".to_owned()]] {
            assert_eq!(checked_sets(bad).map_err(|f| f.code), Err(Code::InvalidArgument));
        }
    }
}
