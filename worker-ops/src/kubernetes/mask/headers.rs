//! What a request may ask for, and what an answer is, by their headers.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    RANGE, UPGRADE, WARNING,
};
use http::{Method, StatusCode};
use thiserror::Error;

use super::MASK;
use super::stream::MaskError;

/// The longest piece of a header that an error shows, characters.
const SHOWN_MAX: usize = 200;
/// Beginnings of warnings that name fields only; a webhook's warning can say anything.
const WARNINGS: [&str; 2] = ["299 - \"unknown field ", "299 - \"duplicate field "];

/// Why a request for Secrets does not go out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum Refused {
    /// No form that it accepts can be masked.
    #[error("secrets are answered as JSON here, because their values are masked; the request accepts only `{accept}`")]
    NotAcceptable {
        /// What it accepts.
        accept: String,
    },
    /// Its `Accept` cannot be read.
    #[error("the request's Accept header cannot be read: `{accept}`")]
    Unreadable {
        /// What of it can be shown.
        accept: String,
    },
    /// It asks for a WebSocket or the like, in which nothing is masked.
    #[error("secrets are not answered over `{protocol}` here, because their values are masked")]
    Upgrade {
        /// The protocol that it asks for.
        protocol: String,
    },
}

/// The form of an answer about Secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// One JSON document: a Secret, a list, a Table, or a Status.
    Document {
        /// It answers a write: a refusal may quote what is stored.
        write: bool,
    },
    /// Any number of documents: the events of a watch.
    Watch,
    /// No body.
    Nothing,
}

// === impl Refused ===

impl Refused {
    /// What to do next.
    pub(crate) fn next_step(&self) -> &'static str {
        match self {
            Self::NotAcceptable { .. } => {
                "Accept application/json too, as kubectl does; or ask whoever owns the runner's policy to show the values of secrets."
            }
            Self::Unreadable { .. } => "Send `Accept: application/json`.",
            Self::Upgrade { .. } => "Watch over plain HTTP, as kubectl does.",
        }
    }
}

/// Restricts a request for Secrets to answers that can be masked: of what it accepts the forms of JSON remain, in their order and with
/// their weights; no compression, no ranges. A request that accepts anything accepts JSON.
///
/// The header is written anew from what was understood, so that nothing that an API server reads in another way goes out.
///
/// # Errors
/// It accepts no JSON (406), cannot be read, or asks to leave HTTP (400). The headers are as they were then.
pub(crate) fn request_headers(headers: &mut HeaderMap) -> Result<(), Refused> {
    if let Some(protocol) = headers.get(UPGRADE) {
        return Err(Refused::Upgrade { protocol: clear(protocol.as_bytes()) });
    }
    let accept = accept(headers)?;
    headers.insert(ACCEPT, accept);
    headers.remove(ACCEPT_ENCODING);
    headers.remove(RANGE);
    Ok(())
}

fn accept(headers: &HeaderMap) -> Result<HeaderValue, Refused> {
    let asked: Vec<_> = headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes).collect();
    let asked = asked.join(&b',');
    let unreadable = || Refused::Unreadable { accept: clear(&asked) };
    let text = std::str::from_utf8(&asked).ok().filter(|text| text.is_ascii()).ok_or_else(unreadable)?;
    // API servers cut at every comma, others not at one in quotes
    if text.contains(['"', '\\']) {
        return Err(unreadable());
    }
    let mut forms: Vec<Form> = Vec::new();
    let mut empty = true;
    for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        empty = false;
        forms.extend(Form::parse(range).map_err(|NotRead| unreadable())?);
    }
    if empty {
        return Ok(HeaderValue::from_static("application/json"));
    }
    // plain JSON with the weight 0 is not wanted, even where anything is
    let unwanted = forms.iter().any(|form| form.is_unwanted() && form.named && form.media == PLAIN);
    forms.retain(|form| !form.is_unwanted() && (form.named || !unwanted));
    let mut accepted: Vec<String> = Vec::new();
    for form in forms {
        let form = form.written();
        if !accepted.contains(&form) {
            accepted.push(form);
        }
    }
    if accepted.is_empty() {
        return Err(Refused::NotAcceptable { accept: clear(&asked) });
    }
    HeaderValue::from_str(&accepted.join(",")).map_err(|_| unreadable())
}

const PLAIN: &str = "application/json";

/// A media range that says something twice, or gives a weight that is none.
struct NotRead;

/// One form of JSON that a request accepts.
struct Form {
    /// The type with what the answer is transformed to, as API servers know it.
    media: &'static str,
    stream: bool,
    /// `Some("0")`: it is not accepted.
    weight: Option<String>,
    /// JSON is named, not only anything.
    named: bool,
}

// === impl Form ===

impl Form {
    /// Reads one media range; `Ok(None)`: it is no JSON that is known here.
    fn parse(range: &str) -> Result<Option<Self>, NotRead> {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut transform, mut version, mut group, mut stream, mut weight) = (None, None, None, false, None);
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').map_or((part, ""), |(name, value)| (name.trim(), value.trim()));
            match name.to_ascii_lowercase().as_str() {
                // said twice it could be the one or the other
                "as" if transform.is_some() => return Err(NotRead),
                "v" if version.is_some() => return Err(NotRead),
                "g" if group.is_some() => return Err(NotRead),
                "q" if weight.is_some() => return Err(NotRead),
                "as" => transform = Some(value),
                "v" => version = Some(value),
                "g" => group = Some(value),
                "stream" if value == "watch" => stream = true,
                "stream" => return Ok(None),
                "q" => weight = Some(quality(value).ok_or(NotRead)?),
                // such as a charset, which JSON has none of
                _ => {}
            }
        }
        let named = media == PLAIN;
        if !named && media != "*/*" && media != "application/*" {
            return Ok(None);
        }
        let media = match (transform, version, group) {
            (None, ..) => PLAIN,
            (Some("Table"), Some("v1"), Some("meta.k8s.io")) => "application/json;as=Table;v=v1;g=meta.k8s.io",
            (Some("Table"), Some("v1beta1"), Some("meta.k8s.io")) => {
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io"
            }
            (Some("PartialObjectMetadata"), Some("v1"), Some("meta.k8s.io")) => {
                "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
            }
            (Some("PartialObjectMetadata"), Some("v1beta1"), Some("meta.k8s.io")) => {
                "application/json;as=PartialObjectMetadata;v=v1beta1;g=meta.k8s.io"
            }
            (Some("PartialObjectMetadataList"), Some("v1"), Some("meta.k8s.io")) => {
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
            }
            (Some("PartialObjectMetadataList"), Some("v1beta1"), Some("meta.k8s.io")) => {
                "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io"
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { media, stream, weight, named }))
    }

    fn is_unwanted(&self) -> bool {
        self.weight.as_deref() == Some("0")
    }

    fn written(&self) -> String {
        let mut out = self.media.to_owned();
        if self.stream {
            out.push_str(";stream=watch");
        }
        if let Some(weight) = &self.weight {
            out.push_str(";q=");
            out.push_str(weight);
        }
        out
    }
}

/// A weight as RFC 9110 has it: 0 to 1 with three digits at most. All that are 0 are given as `0`. Java's own client leaves the 0 out.
fn quality(text: &str) -> Option<String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let zeros = part.bytes().all(|b| b == b'0');
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match whole {
        "" if part.is_empty() => None,
        "" | "0" if zeros => Some("0".to_owned()),
        "" | "0" => Some(format!("0.{part}")),
        "1" if zeros => Some("1".to_owned()),
        _ => None,
    }
}

// === impl Answer ===

impl Answer {
    /// The form of an answer. `watch`: the request's query says so (`watch` is there and neither `0` nor `false`) or its path does
    /// (`/api/v1/watch/…`). In doubt it does: a watch masks single documents as well.
    ///
    /// # Errors
    /// The body is no plain JSON: it must not be passed on.
    pub(crate) fn of(method: &Method, status: StatusCode, headers: &HeaderMap, watch: bool) -> Result<Self, MaskError> {
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(MaskError::Switched);
        }
        if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Self::Nothing);
        }
        if let Some(found) = headers.get_all(CONTENT_ENCODING).iter().find(|coding| !is_identity(coding)) {
            return Err(MaskError::ContentEncoding { found: clear(found.as_bytes()) });
        }
        let write = !matches!(*method, Method::GET | Method::HEAD);
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        if *method == Method::HEAD || (lengths.next().is_some_and(|l| l == "0") && lengths.next().is_none()) {
            return Ok(Self::Nothing);
        }
        let types: Vec<_> = headers.get_all(CONTENT_TYPE).iter().collect();
        match types.as_slice() {
            [only] if is_json(only) => {
                let watch = watch && !write && status.is_success();
                Ok(if watch { Self::Watch } else { Self::Document { write } })
            }
            [] => Err(MaskError::ContentType { found: "none".to_owned() }),
            [first, ..] => Err(MaskError::ContentType { found: clear(first.as_bytes()) }),
        }
    }
}

/// Makes the headers of an answer fit what is left of its body: without length and tags, which were those of the body with its values,
/// and with the words of warnings masked, except those that name fields. Trailers are not for passing on.
pub(crate) fn answer_headers(headers: &mut HeaderMap) {
    const DIGESTS: [&str; 4] = ["content-md5", "digest", "content-digest", "repr-digest"];
    for name in [CONTENT_LENGTH, ETAG].into_iter().chain(DIGESTS.map(HeaderName::from_static)) {
        headers.remove(name);
    }
    if let Ok(masked) = HeaderValue::from_str(&format!("299 - \"{MASK}\"")) {
        for warning in headers.iter_mut().filter(|(name, _)| **name == WARNING).map(|(_, value)| value) {
            if !WARNINGS.iter().any(|known| warning.as_bytes().starts_with(known.as_bytes())) {
                *warning = masked.clone();
            }
        }
    }
}

fn is_identity(coding: &HeaderValue) -> bool {
    let coding = coding.as_bytes().trim_ascii();
    coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
}

/// Whether a Content-Type is JSON, in whichever form an API server gives it.
fn is_json(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let json = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(PLAIN));
    json && parts.all(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        !name.trim().eq_ignore_ascii_case("charset") || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
    })
}

/// A header as an error may show it: short, without control characters.
pub(super) fn clear(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX).collect()
}
