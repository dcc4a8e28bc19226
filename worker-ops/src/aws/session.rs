//! Sessions of roles: of a web identity, and STS' AssumeRole, one role after the other,
//! <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use shared_proto::v1::{AwsSession, AwsTarget};

use super::connect::{Account, STS, malformed};
use super::tree;
use crate::fault::Fault;
use crate::net::Dialer;

/// A role as it is assumed.
pub(crate) struct Role<'a> {
    pub(crate) arn: &'a str,
    external_id: &'a str,
    session: &'a AwsSession,
    /// Its session's name goes with tags and source identity, which those that come of it inherit.
    is_first: bool,
    /// Its session is the one that is used, and is narrowed.
    is_last: bool,
}

// === impl Role ===

impl<'a> Role<'a> {
    /// Those of a session, in the order in which they are assumed.
    pub(crate) fn all(session: &'a AwsSession) -> Vec<Self> {
        let chain = session.chain.iter().map(|role| (role.role_arn.as_str(), role.external_id.as_str()));
        let roles: Vec<_> = chain.chain([(session.role_arn.as_str(), session.external_id.as_str())]).collect();
        let last = roles.len() - 1;
        let role = |(n, (arn, external_id))| Self { arn, external_id, session, is_first: n == 0, is_last: n == last };
        roles.into_iter().enumerate().map(role).collect()
    }

    /// What to look at where it cannot be assumed.
    pub(crate) fn next_step(&self) -> String {
        let mut also = Vec::new();
        // what the first session has, those that come of it have to be allowed too
        if !self.session.tags.is_empty() {
            also.push("that it allows sts:TagSession");
        }
        if !self.session.source_identity.is_empty() {
            also.push("that it allows sts:SetSourceIdentity");
        }
        if self.is_last {
            also.push("the session's policies in the connection's entry");
        }
        let also: String = also.iter().map(|what| format!(", and {what}")).collect();
        format!("Look at the trust policy of {}{also}.", self.arn)
    }
}

/// A session of a role, from credentials that may assume it; with when it ends, Unix milliseconds.
///
/// # Errors
/// What STS says.
pub(crate) async fn assume(target: AwsTarget, role: &Role<'_>, dialer: &Dialer) -> Result<(AwsTarget, i64), Fault> {
    let session = role.session;
    let (region, endpoint_url) = (target.region.clone(), target.endpoint_url.clone());
    let account = Account::new(target, "", dialer)?;
    let mut parameters = vec![
        ("RoleArn".to_owned(), role.arn.to_owned()),
        ("RoleSessionName".to_owned(), session.session_name.clone()),
        ("DurationSeconds".to_owned(), session.duration_seconds.to_string()),
    ];
    let mut push = |name: String, value: &str| {
        if !value.is_empty() {
            parameters.push((name, value.to_owned()));
        }
    };
    push("ExternalId".to_owned(), role.external_id);
    if role.is_first {
        let mut tags: Vec<_> = session.tags.iter().collect();
        tags.sort();
        for (n, (key, value)) in tags.iter().enumerate() {
            push(format!("Tags.member.{}.Key", n + 1), key);
            push(format!("Tags.member.{}.Value", n + 1), value);
            // sessions that come of this one have them too, and cannot change them
            if !role.is_last {
                push(format!("TransitiveTagKeys.member.{}", n + 1), key);
            }
        }
        push("SourceIdentity".to_owned(), &session.source_identity);
    }
    if role.is_last {
        push("Policy".to_owned(), &session.policy);
        for (n, arn) in session.policy_arns.iter().enumerate() {
            push(format!("PolicyArns.member.{}.arn", n + 1), arn);
        }
    }
    let parameters = parameters.iter().map(|(name, value)| (name.as_str(), json!(value))).collect();
    let answer = account.ask(STS)?.call("AssumeRole", "", parameters).await?;
    of_answer(&answer, "AssumeRoleResult", region, endpoint_url)
}

/// A session of a role for whom a token says that they are, at a region; with when it ends, Unix milliseconds. Nothing else is proof, so nothing
/// is signed: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>.
///
/// # Errors
/// What STS says.
pub(crate) async fn with_web_identity(
    at: AwsTarget,
    role: &str,
    name: &str,
    token: &str,
    dialer: &Dialer,
) -> Result<(AwsTarget, i64), Fault> {
    let (region, endpoint_url) = (at.region.clone(), at.endpoint_url.clone());
    let account = Account::nobodys(at, dialer)?;
    let parameters =
        vec![("RoleArn", json!(role)), ("RoleSessionName", json!(name)), ("WebIdentityToken", json!(token))];
    let answer = account.ask(STS)?.call("AssumeRoleWithWebIdentity", "", parameters).await?;
    of_answer(&answer, "AssumeRoleWithWebIdentityResult", region, endpoint_url)
}

fn of_answer(answer: &Value, result: &str, region: String, endpoint_url: String) -> Result<(AwsTarget, i64), Fault> {
    let field = |name| tree::text(answer, &format!("{result}/Credentials/{name}"));
    let ends: Timestamp = field("Expiration").parse().map_err(|_| malformed("sts", "a session without its end"))?;
    let target = AwsTarget {
        access_key_id: field("AccessKeyId"),
        secret_access_key: field("SecretAccessKey"),
        session_token: field("SessionToken"),
        region,
        endpoint_url,
        expires_ms: ends.as_millisecond(),
    };
    if target.access_key_id.is_empty() || target.secret_access_key.is_empty() || target.session_token.is_empty() {
        return Err(malformed("sts", "a session without its credentials"));
    }
    Ok((target, ends.as_millisecond()))
}
