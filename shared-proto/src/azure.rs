//! Azure's clouds: which hosts each has, and what a resource's id looks like. The resolver asks these hosts for tokens, workers ask them, the
//! supervisor lets workers be connected to these.
//!
//! It must never name a host that is not Microsoft's own of that cloud.

/// A cloud, which has its own directory, its own hosts and its own portal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cloud {
    /// Azure itself.
    #[default]
    Public,
    /// Azure Government of the United States.
    UsGovernment,
    /// Azure in China, operated by 21Vianet.
    China,
}

// === impl Cloud ===

impl Cloud {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Public, Self::UsGovernment, Self::China];

    /// As it is written and sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::UsGovernment => "usgovernment",
            Self::China => "china",
        }
    }
    /// The cloud of that name; empty: the public one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cloud| cloud.as_str() == name || (name.is_empty() && *cloud == Self::Public))
    }
    /// Where Microsoft Entra gives tokens: <https://learn.microsoft.com/entra/identity-platform/authentication-national-cloud>.
    pub const fn authority(self) -> &'static str {
        match self {
            Self::Public => "login.microsoftonline.com",
            Self::UsGovernment => "login.microsoftonline.us",
            Self::China => "login.partner.microsoftonline.cn",
        }
    }
    /// Where Resource Manager is, and for whom its tokens are.
    pub const fn management(self) -> &'static str {
        match self {
            Self::Public => "management.azure.com",
            Self::UsGovernment => "management.usgovcloudapi.net",
            Self::China => "management.chinacloudapi.cn",
        }
    }
    /// Where the Log Analytics API is: <https://learn.microsoft.com/azure/azure-monitor/logs/api/request-format>.
    pub const fn logs(self) -> &'static str {
        match self {
            Self::Public => "api.loganalytics.azure.com",
            Self::UsGovernment => "api.loganalytics.us",
            Self::China => "api.loganalytics.azure.cn",
        }
    }
    /// For whom the tokens of the Log Analytics API are, which of the public one is its older name.
    pub const fn logs_audience(self) -> &'static str {
        match self {
            Self::Public => "api.loganalytics.io",
            Self::UsGovernment | Self::China => self.logs(),
        }
    }
    /// What the hosts of Key Vaults end in, and for whom their tokens are: <https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates>.
    pub const fn vault(self) -> &'static str {
        match self {
            Self::Public => "vault.azure.net",
            Self::UsGovernment => "vault.usgovcloudapi.net",
            Self::China => "vault.azure.cn",
        }
    }
    /// Where people look at resources.
    pub const fn portal(self) -> &'static str {
        match self {
            Self::Public => "portal.azure.com",
            Self::UsGovernment => "portal.azure.us",
            Self::China => "portal.azure.cn",
        }
    }
}

/// Whether a text is a Key Vault's name, which becomes part of a host's: 3 to 24 letters, digits and dashes.
pub fn is_vault(text: &str) -> bool {
    (3..=24).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('-')
}

/// Whether a text is an id of a subscription, an application or a workspace: 8-4-4-4-12 hexadecimal digits.
pub fn is_guid(text: &str) -> bool {
    let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_hexdigit());
    let mut parts = text.split('-');
    [8, 4, 4, 4, 12].into_iter().all(|n| parts.next().is_some_and(|part| digits(part, n))) && parts.next().is_none()
}

/// Whether a text is a tenant: its id, or a domain of it.
pub fn is_tenant(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    is_guid(text) || (text.len() <= 253 && text.contains('.') && text.split('.').all(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_have_names_and_hosts_of_their_own() {
        for cloud in Cloud::ALL {
            assert_eq!(Cloud::from_name(cloud.as_str()), Some(cloud));
        }
        assert_eq!((Cloud::from_name(""), Cloud::from_name("Public")), (Some(Cloud::Public), None));
        let hosts = |c: Cloud| [c.authority(), c.management(), c.logs(), c.portal(), c.vault()];
        let mut all: Vec<_> = Cloud::ALL.into_iter().flat_map(hosts).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 15);
        assert!(is_vault("shop-1a") && is_vault(&"a".repeat(24)));
        for bad in ["", "ab", "1ab", "ab-", "a.b", "a/b", &"a".repeat(25)] {
            assert!(!is_vault(bad), "{bad}");
        }
    }

    #[test]
    fn ids_and_tenants() {
        assert!(is_guid("0b1f6471-1bf0-4dda-aec3-cb9272F09590"));
        for bad in [
            "",
            "0b1f6471-1bf0-4dda-aec3-cb9272f0959",
            "0b1f6471-1bf0-4dda-aec3-cb9272f095900",
            "0b1f64711bf0-4dda-aec3-cb9272f09590",
            "gb1f6471-1bf0-4dda-aec3-cb9272f09590",
            "0b1f6471-1bf0-4dda-aec3-cb9272f09590-",
            "0b1f6471-1bf0-4dda-aec3-cb9272f0959/",
        ] {
            assert!(!is_guid(bad) && !is_tenant(bad), "{bad}");
        }
        assert!(is_tenant("contoso.onmicrosoft.com") && is_tenant("0b1f6471-1bf0-4dda-aec3-cb9272f09590"));
        for bad in ["common", "a.b/../c", "a..b", ".a", "-a.b", "a.b-", "a.b?c", &"a.".repeat(127)] {
            assert!(!is_tenant(bad), "{bad}");
        }
    }
}
