//! An Azure connection's keys. All that Microsoft Entra would refuse by form is refused here, at the start.

use super::ConfigError;
use shared_proto::azure::{Cloud, is_guid, is_tenant};
use std::path::PathBuf;

/// Subscriptions of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Azure {
    /// Where tokens come from.
    pub source: AzureSource,
    /// Its id or a domain of it; empty: the managed identity's own.
    pub tenant: String,
    /// The application's id; of a managed identity: that of one which a user has assigned, empty: the machine's own.
    pub client_id: String,
    /// The default subscription; empty: none.
    pub subscription: String,
    /// The cloud that the tenant is in.
    pub cloud: Cloud,
    /// A stand-in or a private endpoint, for tokens too; empty: Azure's own hosts.
    pub endpoint_url: String,
}

/// Where tokens come from, with the file that proves who asks. Files are read whenever tokens are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AzureSource {
    /// An application's secret.
    ClientSecret(PathBuf),
    /// An application's certificate and its RSA key, PEM.
    ClientCertificate(PathBuf),
    /// A token of another issuer that the application trusts; `None`: the file that AZURE_FEDERATED_TOKEN_FILE names.
    WorkloadIdentity(Option<PathBuf>),
    /// What Azure gives the machine, the container app or the web app that the runner is in.
    ManagedIdentity,
}

/// What `source` says.
#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileSource {
    ClientSecret,
    ClientCertificate,
    WorkloadIdentity,
    ManagedIdentity,
}

/// The keys of an Azure connection that no other provider has.
#[derive(Default)]
#[cfg_attr(test, derive(serde::Deserialize), serde(default))]
pub(super) struct FileAzure {
    pub(super) tenant: Option<String>,
    pub(super) client_id: Option<String>,
    pub(super) client_secret_file: Option<PathBuf>,
    pub(super) certificate_file: Option<PathBuf>,
    pub(super) federated_token_file: Option<PathBuf>,
    pub(super) subscription: Option<String>,
    pub(super) cloud: Option<String>,
}

// === impl Azure ===

impl Azure {
    /// The file that must not be shown to jobs.
    pub fn file(&self) -> Option<&PathBuf> {
        match &self.source {
            AzureSource::ClientSecret(path) | AzureSource::ClientCertificate(path) => Some(path),
            AzureSource::WorkloadIdentity(path) => path.as_ref(),
            AzureSource::ManagedIdentity => None,
        }
    }
    /// For `config show`.
    pub(super) fn shown(&self) -> String {
        let Self { source, tenant, client_id, subscription, cloud, endpoint_url } = self;
        format!("azure {} {tenant} {client_id} {subscription} {} {endpoint_url}", source.as_str(), cloud.as_str())
    }
}

// === impl AzureSource ===

impl AzureSource {
    /// As it is written and sent.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ClientSecret(_) => "client_secret",
            Self::ClientCertificate(_) => "client_certificate",
            Self::WorkloadIdentity(_) => "workload_identity",
            Self::ManagedIdentity => "managed_identity",
        }
    }
}

// === impl FileAzure ===

impl FileAzure {
    pub(super) fn is_given(&self) -> bool {
        self.tenant.is_some()
            || self.client_id.is_some()
            || self.client_secret_file.is_some()
            || self.certificate_file.is_some()
            || self.federated_token_file.is_some()
            || self.subscription.is_some()
            || self.cloud.is_some()
    }

    /// The connection `name`.
    pub(super) fn check(
        self,
        name: &str,
        source: Option<FileSource>,
        endpoint_url: String,
    ) -> Result<Azure, ConfigError> {
        let bad = |what: String| ConfigError(format!("connections.{name}: {what}"));
        let source = source.ok_or_else(|| {
            bad("needs source = \"client_secret\", \"client_certificate\", \"workload_identity\" or \"managed_identity\"".into())
        })?;
        let files = [
            (FileSource::ClientSecret, "client_secret_file", self.client_secret_file),
            (FileSource::ClientCertificate, "certificate_file", self.certificate_file),
            (FileSource::WorkloadIdentity, "federated_token_file", self.federated_token_file),
        ];
        let mut file = None;
        for (of, key, path) in files {
            match path {
                Some(path) if of != source => {
                    return Err(bad(format!("{key} belongs to another source: leave {} out", path.display())));
                }
                Some(path) if !path.is_absolute() => {
                    return Err(bad(format!("{key}: {:?} is not an absolute path", path.display().to_string())));
                }
                Some(path) => file = Some(path),
                None if of == source && of != FileSource::WorkloadIdentity => {
                    return Err(bad(format!("this source needs {key} = \"/path\"")));
                }
                None => {}
            }
        }
        let source = match (source, file) {
            (FileSource::ClientSecret, Some(path)) => AzureSource::ClientSecret(path),
            (FileSource::ClientCertificate, Some(path)) => AzureSource::ClientCertificate(path),
            (FileSource::WorkloadIdentity, path) => AzureSource::WorkloadIdentity(path),
            _ => AzureSource::ManagedIdentity,
        };
        let (tenant, client_id) = (self.tenant.unwrap_or_default(), self.client_id.unwrap_or_default());
        let own = source == AzureSource::ManagedIdentity;
        let none = |text: &str| own && text.is_empty();
        if !none(&tenant) && !is_tenant(&tenant) {
            return Err(bad(format!("tenant: {tenant:?} is neither the id of a tenant nor a domain of it")));
        }
        if !none(&client_id) && !is_guid(&client_id) {
            return Err(bad(format!("client_id: {client_id:?} is no application's id")));
        }
        let subscription = self.subscription.unwrap_or_default();
        if !subscription.is_empty() && !is_guid(&subscription) {
            return Err(bad(format!("subscription: {subscription:?} is no subscription's id")));
        }
        let cloud = self.cloud.unwrap_or_else(|| Cloud::Public.as_str().to_owned());
        let cloud = Cloud::ALL
            .into_iter()
            .find(|c| c.as_str() == cloud)
            .ok_or_else(|| bad(format!("cloud: {cloud:?} is none of public, usgovernment and china")))?;
        Ok(Azure { source, tenant, client_id, subscription, cloud, endpoint_url })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b1f6471-1bf0-4dda-aec3-cb9272f09590";

    fn azure(source: FileSource, keys: &str) -> Result<Azure, String> {
        let keys = toml::from_str::<FileAzure>(keys).expect(keys);
        keys.check("prod", Some(source), String::new()).map_err(|e| e.0)
    }

    #[test]
    fn each_source_has_what_it_needs_and_nothing_of_another() {
        let who = format!("tenant = 'contoso.onmicrosoft.com'\nclient_id = '{ID}'\n");
        for (source, key, needed) in [
            (FileSource::ClientSecret, "client_secret_file", true),
            (FileSource::ClientCertificate, "certificate_file", true),
            (FileSource::WorkloadIdentity, "federated_token_file", false),
        ] {
            let given = azure(source, &format!("{who}{key} = '/f'")).expect("fine");
            assert_eq!(given.file(), Some(&PathBuf::from("/f")));
            assert_eq!(azure(source, &who).is_ok(), !needed, "{key}");
            assert!(azure(source, &format!("{who}{key} = 'f'")).expect_err("relative").contains("absolute"));
            let why = azure(FileSource::ManagedIdentity, &format!("{key} = '/f'")).expect_err("of another");
            assert!(why.contains(key) && why.contains("another source"), "{why}");
            for without in [format!("tenant = 'a.b'\n{key} = '/f'"), format!("client_id = '{ID}'\n{key} = '/f'")] {
                assert!(azure(source, &without).is_err(), "{without}");
            }
        }
        let own = azure(FileSource::ManagedIdentity, "").expect("fine");
        assert_eq!((own.cloud, own.file()), (Cloud::Public, None));
        assert!(azure(FileSource::ManagedIdentity, &format!("client_id = '{ID}'")).is_ok());
        let why = FileAzure::default().check("prod", None, String::new()).expect_err("none").0;
        assert!(why.contains("needs source"), "{why}");
    }

    #[test]
    fn what_would_be_refused_by_its_form_is_named() {
        for (keys, word) in [
            ("tenant = 'common'", "tenant"),
            ("tenant = 'a.b/x'", "tenant"),
            ("client_id = 'x'", "client_id"),
            ("subscription = 'prod'", "subscription"),
            ("cloud = 'germany'", "public, usgovernment and china"),
            ("cloud = ''", "public, usgovernment and china"),
        ] {
            let why = azure(FileSource::ManagedIdentity, keys).expect_err(keys);
            assert!(why.starts_with("connections.prod: ") && why.contains(word), "{why}");
        }
        for (name, cloud) in [("usgovernment", Cloud::UsGovernment), ("china", Cloud::China)] {
            let keys = format!("cloud = '{name}'\nsubscription = '{ID}'");
            assert_eq!(azure(FileSource::ManagedIdentity, &keys).expect("fine").cloud, cloud);
        }
    }
}
