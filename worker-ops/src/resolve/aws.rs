//! AWS credentials: the variables that the supervisor was started with, a profile, or the role of the instance.
//!
//! `aws-config` takes half of its settings from the process's environment and from nowhere else, and to change one's own environment
//! is not safe. So the program starts itself once more, in its own place, with the environment that the request gave.

use aws_config::BehaviorVersion;
use aws_config::Region;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use prost::Message as _;
use shared_proto::failure::Code;
use shared_proto::v1::target::Kind;
use shared_proto::v1::{AwsSession, AwsTarget, ResolveAws, Step};
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use super::{Resolved, files_valid, millis, step, unavailable, valid_until};
use crate::aws::session::{self, Role};
use crate::fault::{Fault, chain};
use crate::net::Dialer;

/// For all of it: metadata services answer at once or not at all, an STS call takes a second.
const DEADLINE: Duration = Duration::from_secs(20);
/// Where credential processes are looked for, unless the environment gives a PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the variables alone say; `None` where more is needed than they say.
pub(super) fn from_environment(how: &ResolveAws) -> Option<Result<Resolved, Fault>> {
    if how.source != "environment" {
        return None;
    }
    let key = variable(how, "AWS_ACCESS_KEY_ID");
    let secret = variable(how, "AWS_SECRET_ACCESS_KEY");
    match (key, secret) {
        (Some(_), Some(_)) if how.session.is_some() => None,
        (Some(key), Some(secret)) => Some(Ok(Resolved {
            target: Kind::Aws(AwsTarget {
                access_key_id: key.to_owned(),
                secret_access_key: secret.to_owned(),
                session_token: variable(how, "AWS_SESSION_TOKEN").unwrap_or_default().to_owned(),
                region: region_of(how).unwrap_or_default().to_owned(),
                endpoint_url: how.endpoint_url.clone(),
                expires_ms: 0,
            }),
            valid_until_ms: files_valid(),
            steps: vec![step("credentials", format!("{}: access key {key}", shown(how)))],
        })),
        (None, None) if variable(how, "AWS_WEB_IDENTITY_TOKEN_FILE").is_some() => None,
        (key, secret) => {
            let missing = match (key, secret) {
                (None, None) => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                (None, _) => "AWS_ACCESS_KEY_ID",
                _ => "AWS_SECRET_ACCESS_KEY",
            };
            Some(Err(unavailable(format!("the runner was started without {missing}"))
                .next("Start the runner with the AWS variables, or use another source in the connection's entry.")))
        }
    }
}

/// Starts the program once more in this one's place, with the same descriptor to ask for connections with. Returns only where that fails.
pub(super) fn again(how: &ResolveAws, socket: UnixStream, dial: OwnedFd) -> Fault {
    let failed = |why: &dyn std::fmt::Display| unavailable(format!("the resolver cannot start itself again: {why}"));
    let request = match held(&how.encode_to_vec()) {
        Ok(file) => file,
        Err(error) => return failed(&error),
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(&error),
    };
    if let Err(error) = fcntl(&dial, FcntlArg::F_SETFD(FdFlag::empty())) {
        return failed(&error);
    }
    let mut command = Command::new(program);
    command.arg("resolve-aws").env_clear().env("PATH", PATH).envs(&how.environment);
    failed(&command.stdin(Stdio::from(request)).stdout(Stdio::from(OwnedFd::from(socket))).exec())
}

/// Bytes in a file that has no name, to be read from its beginning.
fn held(bytes: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("request", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// With the request's environment as our own.
pub(super) async fn resolve(how: &ResolveAws, dialer: &Dialer) -> Result<Resolved, Fault> {
    match tokio::time::timeout(DEADLINE, resolve_unbounded(how, &dialer.or_direct(&how.endpoint_url))).await {
        Ok(resolved) => resolved,
        Err(_) => Err(unavailable(format!("{}: no answer within {} s", shown(how), DEADLINE.as_secs()))),
    }
}

async fn resolve_unbounded(how: &ResolveAws, dialer: &Dialer) -> Result<Resolved, Fault> {
    let region = region(how).await;
    let config = ProviderConfig::without_region()
        .with_region(region.clone())
        .with_behavior_version(Some(BehaviorVersion::latest()));
    let (found, expiry_ms) = if is_web_identity(how) {
        let (found, until_ms) = web_identity(how, region, dialer).await?;
        (found, Some(until_ms))
    } else {
        let credentials = credentials(how, &config).await?;
        let found = AwsTarget {
            access_key_id: credentials.access_key_id().to_owned(),
            secret_access_key: credentials.secret_access_key().to_owned(),
            session_token: credentials.session_token().unwrap_or_default().to_owned(),
            region: region.map(|r| r.to_string()).unwrap_or_default(),
            endpoint_url: how.endpoint_url.clone(),
            ..AwsTarget::default()
        };
        (found, credentials.expiry().map(|at| at.duration_since(UNIX_EPOCH).map_or(0, millis)))
    };
    let found = AwsTarget { expires_ms: expiry_ms.unwrap_or_default(), ..found };
    let mut steps = vec![step("credentials", format!("{}: access key {}", shown(how), found.access_key_id))];
    let (target, expiry_ms) = match &how.session {
        None => (found, expiry_ms),
        Some(session) => {
            let (target, expiry_ms) = assume(how, session, found, &mut steps, dialer).await?;
            (target, Some(expiry_ms))
        }
    };
    let valid_until_ms = match expiry_ms {
        None => files_valid(),
        Some(at) => valid_until(at)?,
    };
    Ok(Resolved { target: Kind::Aws(target), valid_until_ms, steps })
}

/// Pods of EKS have a token file, tasks of ECS a container endpoint, instances the metadata service; whoever has keys in the environment uses them.
fn is_web_identity(how: &ResolveAws) -> bool {
    variable(how, "AWS_WEB_IDENTITY_TOKEN_FILE").is_some()
        && (how.source == "instance_role"
            || how.source == "environment" && variable(how, "AWS_ACCESS_KEY_ID").is_none())
}

/// What a profile, the environment, the container or the instance has.
async fn credentials(how: &ResolveAws, config: &ProviderConfig) -> Result<Credentials, Fault> {
    match how.source.as_str() {
        "profile" => {
            let mut builder = ProfileFileCredentialsProvider::builder().configure(config);
            if !how.profile.is_empty() {
                builder = builder.profile_name(&how.profile);
            }
            ask(how, &builder.build()).await.map_err(|fault| missing_profile(how).unwrap_or(fault))
        }
        "environment" if variable(how, "AWS_ACCESS_KEY_ID").is_some() => Ok(Credentials::new(
            variable(how, "AWS_ACCESS_KEY_ID").unwrap_or_default(),
            variable(how, "AWS_SECRET_ACCESS_KEY").unwrap_or_default(),
            variable(how, "AWS_SESSION_TOKEN").map(str::to_owned),
            None,
            "environment",
        )),
        "instance_role"
            if ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
                .iter()
                .any(|name| variable(how, name).is_some()) =>
        {
            ask(how, &EcsCredentialsProvider::builder().configure(config).build()).await
        }
        "instance_role" => ask(how, &ImdsCredentialsProvider::builder().configure(config).build()).await,
        other => Err(unavailable(format!("{other:?} is no source of AWS credentials"))
            .next("Use environment, profile or instance_role as the source in the connection's entry.")),
    }
}

/// What to do: where STS was not reached its word on the role is not the matter.
fn next_step(fault: &Fault, refused: String) -> String {
    if fault.code() == Code::TargetUnreachable { fault.failure.next_step.clone() } else { refused }
}

/// The session that a pod's token is exchanged for. Asked here and not by aws-config, which knows no way past a proxy.
async fn web_identity(how: &ResolveAws, region: Option<Region>, dialer: &Dialer) -> Result<(AwsTarget, i64), Fault> {
    let named =
        |name: &str| variable(how, name).ok_or_else(|| unavailable(format!("the runner was started without {name}")));
    let Some(region) = region else {
        return Err(unavailable(format!("{}: a web identity cannot be exchanged without a region", shown(how)))
            .next("Give the connection's entry a region."));
    };
    let role = named("AWS_ROLE_ARN")?;
    let path = named("AWS_WEB_IDENTITY_TOKEN_FILE")?;
    let token = super::file::read("the web identity's token", Path::new(path))?;
    let at = AwsTarget { region: region.to_string(), endpoint_url: how.endpoint_url.clone(), ..AwsTarget::default() };
    let name = variable(how, "AWS_ROLE_SESSION_NAME").unwrap_or("runner");
    session::with_web_identity(at, role, name, token.trim(), dialer).await.map_err(|fault| {
        let next = next_step(&fault, format!("Look at the trust policy of {role}, and at the token in {path}."));
        let why = fault.failure.message;
        unavailable(format!("{}: the role {role} cannot be assumed: {why}", shown(how))).next(next)
    })
}

/// The session of a role that these credentials may assume, or a session of another one of its chain, as narrow as its policies make it. Only
/// this one leaves the resolver.
async fn assume(
    how: &ResolveAws,
    session: &AwsSession,
    found: AwsTarget,
    steps: &mut Vec<Step>,
    dialer: &Dialer,
) -> Result<(AwsTarget, i64), Fault> {
    if found.region.is_empty() {
        let role = &session.role_arn;
        return Err(unavailable(format!("the role {role} cannot be assumed without a region, whose STS is asked"))
            .next("Give the connection's entry a region."));
    }
    let (mut held, mut until_ms, mut with) = (found, 0, shown(how));
    for role in Role::all(session) {
        let assumed = session::assume(held, &role, dialer).await;
        (held, until_ms) = assumed.map_err(|fault| {
            let next = next_step(&fault, role.next_step());
            let why = fault.failure.message;
            unavailable(format!("{with}: the role {} cannot be assumed: {why}", role.arn)).next(next)
        })?;
        steps.push(step("role", format!("{}, as {}", role.arn, session.session_name)));
        with = format!("the session of {}", role.arn);
    }
    Ok((held, until_ms))
}

async fn ask(how: &ResolveAws, provider: &impl ProvideCredentials) -> Result<Credentials, Fault> {
    provider.provide_credentials().await.map_err(|e| unavailable(format!("{}: {}", shown(how), said(&e))))
}

/// What is wrong, in words. That "the credential provider was not enabled" tells nobody anything: what is below it does.
fn said(error: &CredentialsError) -> String {
    match (error, std::error::Error::source(error)) {
        (CredentialsError::CredentialsNotLoaded(_), Some(cause)) => chain(cause),
        (CredentialsError::CredentialsNotLoaded(_), None) => "it has no credentials".to_owned(),
        _ => chain(error),
    }
}

/// Whether the profile is in none of the files where it would be, and which they are.
fn missing_profile(how: &ResolveAws) -> Option<Fault> {
    let named = Some(how.profile.as_str()).filter(|p| !p.is_empty());
    let profile = named.or_else(|| variable(how, "AWS_PROFILE")).unwrap_or("default");
    let looked = [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")]
        .map(|(name, usual)| looked_for(how, profile, name, usual));
    let missing = looked.into_iter().collect::<Option<Vec<_>>>()?.join(", ");
    let message = format!("the AWS profile {profile:?} is not there: {missing}");
    Some(
        unavailable(message)
            .next("Add the profile to one of these files, or name one that is there in the connection's entry."),
    )
}

/// Why a file does not have the profile; `None`: it does.
fn looked_for(how: &ResolveAws, profile: &str, name: &str, usual: &str) -> Option<String> {
    let home = variable(how, "HOME").map(Path::new);
    let path = match (variable(how, name), home) {
        (Some(path), Some(home)) => path.strip_prefix("~/").map_or_else(|| PathBuf::from(path), |rest| home.join(rest)),
        (Some(path), None) => PathBuf::from(path),
        (None, Some(home)) => home.join(usual),
        (None, None) => return Some(format!("neither {name} nor HOME is set")),
    };
    match super::file::read("", &path) {
        Ok(text) if has_section(&text, profile) => None,
        Ok(_) => Some(format!("{} does not have it", path.display())),
        Err(fault) => Some(fault.failure.message.trim_start().to_owned()),
    }
}

/// `[profile NAME]`, or as in the file of credentials, and for the default one everywhere, `[NAME]`.
fn has_section(text: &str, profile: &str) -> bool {
    text.lines().filter_map(|line| line.trim().strip_prefix('[')?.split_once(']')).any(|(section, _)| {
        let mut words = section.split_whitespace();
        let first = words.next();
        match (first, words.next()) {
            (Some("profile"), Some(name)) => name == profile,
            (Some(name), None) => name == profile,
            _ => false,
        }
    })
}

/// The entry's region, the environment's, the profile's, the instance's.
async fn region(how: &ResolveAws) -> Option<Region> {
    if let Some(region) = region_of(how) {
        return Some(Region::new(region.to_owned()));
    }
    match how.source.as_str() {
        "profile" => {
            let mut builder = ProfileFileRegionProvider::builder();
            if !how.profile.is_empty() {
                builder = builder.profile_name(&how.profile);
            }
            builder.build().region().await
        }
        "instance_role" if variable(how, "AWS_EC2_METADATA_DISABLED") != Some("true") => {
            ImdsRegionProvider::builder().build().region().await
        }
        _ => None,
    }
}

fn region_of(how: &ResolveAws) -> Option<&str> {
    let named = Some(how.region.as_str()).filter(|r| !r.is_empty());
    named.or_else(|| variable(how, "AWS_REGION")).or_else(|| variable(how, "AWS_DEFAULT_REGION"))
}

fn variable<'a>(how: &'a ResolveAws, name: &str) -> Option<&'a str> {
    how.environment.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

fn shown(how: &ResolveAws) -> String {
    match (how.source.as_str(), how.profile.as_str()) {
        ("profile", "") => "the default AWS profile".to_owned(),
        ("profile", name) => format!("the AWS profile {name:?}"),
        ("instance_role", _) => "the instance's role".to_owned(),
        (source, _) => format!("the AWS source {source:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(source: &str, variables: &[(&str, &str)]) -> ResolveAws {
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ResolveAws { source: source.to_owned(), environment, ..Default::default() }
    }

    #[test]
    fn a_profile_that_is_not_there_is_missed_by_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config");
        std::fs::write(&config, "[profile prod]\nregion = x\n[default]\n[ profile  spaced ]\n").expect("writes");
        let (home, config) = (folder.path().display().to_string(), config.display().to_string());
        let missing = |profile: &str| {
            let how = how("profile", &[("HOME", &home), ("AWS_CONFIG_FILE", &config)]);
            missing_profile(&ResolveAws { profile: profile.into(), ..how }).map(|fault| fault.failure.message)
        };
        for there in ["prod", "default", "", "spaced"] {
            assert_eq!(missing(there), None, "{there}");
        }
        let said = missing("staging").expect("missing");
        assert!(
            said.starts_with(&format!("the AWS profile \"staging\" is not there: {config} does not have it, ")),
            "{said}"
        );
        assert!(said.contains(&format!("{home}/.aws/credentials: No such file")), "{said}");
        let said = missing_profile(&how("profile", &[])).expect("missing").failure.message;
        assert!(said.contains("neither AWS_CONFIG_FILE nor HOME is set"), "{said}");
    }

    #[test]
    fn variables_alone() {
        let all = [
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "s3cr3t"),
            ("AWS_SESSION_TOKEN", "t0ken"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
        ];
        let resolved = from_environment(&how("environment", &all)).expect("enough").expect("resolves");
        let Kind::Aws(target) = resolved.target else { panic!("not aws") };
        assert_eq!((target.session_token.as_str(), target.region.as_str()), ("t0ken", "eu-west-1"));
        for missing in [0, 1] {
            let mut some = all.to_vec();
            let (name, _) = some.remove(missing);
            let fault = from_environment(&how("environment", &some)).expect("an answer").expect_err("refused");
            assert_eq!(fault.code(), Code::CredentialsUnavailable);
            assert!(fault.failure.message.contains(name) && !fault.failure.message.contains("s3cr3t"));
        }
        let none = from_environment(&how("environment", &[])).expect("an answer").expect_err("refused");
        assert!(none.failure.message.contains("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        assert!(from_environment(&how("profile", &all)).is_none());
        assert!(from_environment(&how("environment", &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")])).is_none());
    }
}
