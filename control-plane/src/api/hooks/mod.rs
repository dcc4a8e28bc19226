//! What Git hosts send: whether it is theirs, and what of it matters here. One file a host reads its own form; what comes of it is `deliveries`' business.
//!
//! Nothing of a payload is believed before its signature was checked, over the bytes as they came. A payload names a repository, branches, commits and
//! files; it must never name anything that is run, fetched from elsewhere, or given to a job.

mod bitbucket;
mod gitea;
mod github;
mod gitlab;
mod repository;
#[cfg(test)]
mod tests;

pub(super) use repository::same_repository;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use utoipa::ToSchema;

/// Before a secret that is used as a key in its base64 form: <https://www.standardwebhooks.com/>, which GitLab follows.
const STANDARD_PREFIX: &str = "whsec_";
/// How far the moment of such a signature may be from ours, seconds.
const CLOCKS_APART_S: i64 = 300;
/// Files of one push that are looked at; of one with more it is not known which they are.
const FILES_MAX: usize = 20_000;
/// The longest name of a branch, bytes.
const BRANCH_MAX: usize = 255;

/// A kind of Git host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Host {
    /// GitHub, also an enterprise's own.
    Github,
    /// GitLab.
    Gitlab,
    /// Bitbucket Cloud.
    Bitbucket,
    /// Gitea and Forgejo.
    Gitea,
}

/// What a delivery tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// The hook was set up.
    Ping,
    /// Branches have other commits than before.
    Pushes(Vec<Push>),
    /// A pull request, or a merge request, has another head.
    PullRequest(PullRequest),
    /// Nothing that a job is made of, and why.
    Nothing(String),
}

/// A branch of a repository has another commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Push {
    /// The addresses under which the repository is known.
    pub(super) repository: Vec<String>,
    pub(super) branch: String,
    /// The repository's default branch, where that is told.
    pub(super) default_branch: Option<String>,
    /// A whole object name.
    pub(super) commit: String,
    /// The files that it added, changed or removed; none where that is not told, or not of all.
    pub(super) files: Option<Vec<String>>,
}

/// Somebody would like a branch to be merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PullRequest {
    /// The addresses of the repository that it is to be merged into.
    pub(super) repository: Vec<String>,
    /// The branch that it is to be merged into.
    pub(super) target: String,
    pub(super) default_branch: Option<String>,
    /// Its head: a whole object name, or where the host tells none, its branch, which is the repository's own then.
    pub(super) head: String,
    /// Whether its branch is one of that repository: then its author may push there.
    pub(super) own: bool,
}

// === impl Host ===

impl Host {
    /// Its name, as it is kept.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Bitbucket => "bitbucket",
            Self::Gitea => "gitea",
        }
    }
    /// The one of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Github, Self::Gitlab, Self::Bitbucket, Self::Gitea].into_iter().find(|host| host.as_str() == name)
    }

    /// A new secret, in the form that the host takes.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub(super) fn secret(self) -> Result<String, Failure> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| Code::Internal.on(format!("no randomness: {e}")))?;
        Ok(match self {
            Self::Gitlab => format!("{STANDARD_PREFIX}{}", STANDARD.encode(bytes)),
            _ => URL_SAFE_NO_PAD.encode(bytes),
        })
    }

    /// Whether whoever sent this knows the secret. Takes as long whether it does or not.
    pub(super) fn is_signed(self, headers: &HeaderMap, body: &[u8], secret: &str, now_ms: i64) -> bool {
        let signed = |name: &str, prefix: &str| {
            let given = one(headers, name).and_then(|text| text.strip_prefix(prefix)).and_then(digits);
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            // a signature that is none is compared with one that fits nothing
            hmac::verify(&key, body, &given.unwrap_or_default()).is_ok()
        };
        match self {
            Self::Github => signed("x-hub-signature-256", "sha256="),
            Self::Bitbucket => signed("x-hub-signature", "sha256="),
            Self::Gitea if headers.contains_key("x-forgejo-signature") => signed("x-forgejo-signature", ""),
            Self::Gitea => signed("x-gitea-signature", ""),
            Self::Gitlab if headers.contains_key("webhook-signature") => standard(headers, body, secret, now_ms),
            // a digest of each: neither length nor beginning is told by the time that it takes
            Self::Gitlab => {
                let given = Sha256::digest(one(headers, "x-gitlab-token").unwrap_or_default());
                constant_time::verify_slices_are_equal(&given, &Sha256::digest(secret)).is_ok()
            }
        }
    }

    /// By which name the host knows the delivery, and what it calls what it tells of. Neither is signed.
    pub(super) fn named_in(self, headers: &HeaderMap) -> (String, String) {
        let (delivery, event) = match self {
            Self::Github => (["x-github-delivery", ""], "x-github-event"),
            Self::Gitlab => (["idempotency-key", "x-gitlab-event-uuid"], "x-gitlab-event"),
            Self::Bitbucket => (["x-request-uuid", ""], "x-event-key"),
            Self::Gitea => (["x-gitea-delivery", "x-forgejo-delivery"], "x-gitea-event"),
        };
        let delivery = delivery.iter().filter(|name| !name.is_empty()).find_map(|name| one(headers, name));
        (short(delivery.unwrap_or_default()), short(one(headers, event).unwrap_or_default()))
    }

    /// Reads a payload whose signature was checked.
    ///
    /// # Errors
    /// `invalid_argument`: it is not of the form that the host documents.
    pub(super) fn read(self, event: &str, body: &[u8]) -> Result<Event, Failure> {
        let payload: Value = serde_json::from_slice(body).map_err(|_| {
            Code::InvalidArgument
                .on("the delivery is no JSON")
                .next("Set the hook's content type to application/json at the host.")
        })?;
        let read = match self {
            Self::Github => github::read(event, &payload),
            Self::Gitlab => gitlab::read(&payload),
            Self::Bitbucket => bitbucket::read(event, &payload),
            Self::Gitea => gitea::read(event, &payload),
        };
        read.ok_or_else(|| {
            Code::InvalidArgument.on(format!("the delivery is not of the form that {} documents", self.as_str()))
        })
    }
}

/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>: of id, moment and content.
fn standard(headers: &HeaderMap, body: &[u8], secret: &str, now_ms: i64) -> bool {
    let header = |name| one(headers, name).unwrap_or_default();
    let (id, moment, signatures) = (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
    let (key, signed) = (standard_key(secret), standard_content(id, moment, body));
    let fits = |text: &str| {
        let given = text.strip_prefix("v1,").and_then(|text| STANDARD.decode(text).ok());
        hmac::verify(&key, &signed, &given.unwrap_or_default()).is_ok()
    };
    // a few: keys that are being changed
    let is_signed = signatures.split(' ').take(4).filter(|text| fits(text)).count() > 0;
    let is_now = moment.parse::<i64>().is_ok_and(|s| (now_ms / 1000).saturating_sub(s).abs() <= CLOCKS_APART_S);
    is_signed && is_now && !id.is_empty()
}

/// The signature of what we send ourselves: the header `webhook-signature`.
pub(super) fn signature(id: &str, moment: &str, body: &[u8], secret: &str) -> String {
    let tag = hmac::sign(&standard_key(secret), &standard_content(id, moment, body));
    format!("v1,{}", STANDARD.encode(tag))
}

/// Whether a secret is what it seems to be: one that begins as a base64 form does is one.
pub(super) fn is_whole(secret: &str) -> bool {
    secret.strip_prefix(STANDARD_PREFIX).is_none_or(|key| STANDARD.decode(key).is_ok())
}

/// A secret in its base64 form, or any text as it is.
fn standard_key(secret: &str) -> hmac::Key {
    let key = secret.strip_prefix(STANDARD_PREFIX).and_then(|key| STANDARD.decode(key).ok());
    hmac::Key::new(hmac::HMAC_SHA256, &key.unwrap_or_else(|| secret.as_bytes().to_vec()))
}

fn standard_content(id: &str, moment: &str, body: &[u8]) -> Vec<u8> {
    let mut signed = format!("{id}.{moment}.").into_bytes();
    signed.extend_from_slice(body);
    signed
}

/// The value of a header that is there once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    value.to_str().ok()
}

/// The bytes of hexadecimal digits, all of them.
fn digits(text: &str) -> Option<Vec<u8>> {
    (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| shared_proto::hex::decode(text))
}

/// What is kept of a text that nobody has signed.
fn short(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(100).collect()
}

/// A whole object name that is not the one of nothing.
fn commit(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let whole = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    (whole && !is_none(text)).then(|| text.to_ascii_lowercase())
}

/// The name of no object: what is before a branch that is new, and after one that is deleted.
fn is_none(commit: &str) -> bool {
    !commit.is_empty() && commit.bytes().all(|b| b == b'0')
}

/// The name of a branch.
fn branch(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    ((1..=BRANCH_MAX).contains(&text.len()) && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A push as GitHub tells one, and those who came after it do. `of`: the repository, with the members that have its addresses; `told`: whether
/// its commits are all that has changed.
fn pushed(payload: &Value, (of, addresses): (&Value, &[&str]), deleted: bool, told: bool) -> Option<Event> {
    let Some(name) = payload["ref"].as_str()?.strip_prefix("refs/heads/") else {
        return Some(Event::Nothing("it is no branch that was pushed".into()));
    };
    if deleted {
        return Some(Event::Nothing(format!("the branch {name} was deleted")));
    }
    Some(Event::Pushes(vec![Push {
        repository: texts(of, addresses)?,
        branch: branch(&Value::from(name))?,
        default_branch: branch(&of["default_branch"]),
        commit: commit(&payload["after"])?,
        files: told.then(|| files(&payload["commits"])).flatten(),
    }]))
}

/// How many of a push's commits are told.
fn listed(payload: &Value) -> u64 {
    payload["commits"].as_array().map_or(0, Vec::len) as u64
}

/// Those of the named members that are texts; none: none is one.
fn texts(of: &Value, names: &[&str]) -> Option<Vec<String>> {
    let texts = names.iter().filter_map(|name| of[*name].as_str()).filter(|text| !text.is_empty());
    Some(texts.map(str::to_owned).collect()).filter(|all: &Vec<_>| !all.is_empty())
}

/// The files of commits, each of which tells `added`, `modified` and `removed`; none where one does not, or there are too many.
fn files(commits: &Value) -> Option<Vec<String>> {
    let commits = commits.as_array().filter(|commits| !commits.is_empty())?;
    let mut files = std::collections::BTreeSet::new();
    for commit in commits {
        for member in ["added", "modified", "removed"] {
            for file in commit[member].as_array()? {
                files.insert(file.as_str()?.to_owned());
                if files.len() > FILES_MAX {
                    return None;
                }
            }
        }
    }
    Some(files.into_iter().collect())
}
