//! `/v1/kv`: keys and values over HTTP.
//!
//! ```text
//!   GET    /v1/kv/{key}                     the value as it is; ETag is its version
//!   PUT    /v1/kv/{key}?ttl=30s&ack=all     If-None-Match: * only if absent, If-Match: "version"
//!   DELETE /v1/kv/{key}                     If-Match as well
//!   POST   /v1/kv/{key}?incr=5              adds to an integer
//!   GET    /v1/kv?prefix=a&limit=100        keys of the whole cluster, page by page
//! ```
//!
//! A key is the rest of the path, percent-encoded: any bytes, slashes too.

mod scan;

use std::time::{Duration, Instant};

use axum::{
    Json,
    body::Bytes,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use kith_proto::kv::{
    op::{Condition, Expiry, Item, Op, Outcome},
    request::{Ack, RequestError},
    version::{Version, Wall},
};
use serde::Deserialize;

pub(super) use self::scan::scan;
use super::{
    App,
    operations::{Ended, Interface, Work},
    problem::Failure,
};
use crate::{clock::rfc3339, kv::Kv, view::CountedView};

/// When a value expires (RFC 3339); absent if never.
const EXPIRES: HeaderName = HeaderName::from_static("kith-expires");
/// Where the keys begin.
const PATH: &str = "/v1/kv/";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    ttl: Option<String>,
    #[serde(default)]
    ack: Ack,
    incr: Option<i64>,
}

type Parsed<T> = Result<Query<T>, QueryRejection>;

/// Reads a value.
pub(super) async fn get(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    options: Parsed<Options>,
) -> Result<Response, Failure> {
    let Query(options) = options?;
    only(&options, false, false)?;
    let outcome = ask(&app, &uri, Op::Get, options.ack).await?;
    let item = outcome.before.ok_or_else(|| absent(&uri))?;
    let known = header_text(&headers, &header::IF_NONE_MATCH);
    let is_known = known.is_some_and(|known| known == "*" || known == etag(item.version));
    let (status, body) = match item.value.clone() {
        _ if is_known => (StatusCode::NOT_MODIFIED, Bytes::new()),
        value => (StatusCode::OK, value.unwrap_or_default()),
    };
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    let mut response = (status, kind, body).into_response();
    describe(&mut response, &item);
    Ok(response)
}

/// Stores a value: 201 if there was none, 204 otherwise.
pub(super) async fn put(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    options: Parsed<Options>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let Query(options) = options?;
    only(&options, true, false)?;
    let max_value = keys_of(&app)?.max_value();
    let value = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::too_large(max_value),
        _ => rejection.into(),
    })?;
    let op = Op::Set {
        condition: condition(&headers)?,
        expiry: expiry(&options)?,
        value,
        want_old: false,
    };
    let outcome = ask(&app, &uri, op, options.ack).await?;
    if !outcome.applied {
        return Ok(unmet(outcome.before.as_ref()));
    }
    let status = match outcome.before {
        None => StatusCode::CREATED,
        Some(_) => StatusCode::NO_CONTENT,
    };
    let mut response = status.into_response();
    if let Some(item) = outcome.after {
        describe(&mut response, &item);
    }
    Ok(response)
}

/// Deletes a key: 204, or 404 if there is none.
pub(super) async fn delete(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
    options: Parsed<Options>,
) -> Result<Response, Failure> {
    let Query(options) = options?;
    only(&options, false, false)?;
    let op = Op::Delete {
        condition: condition(&headers)?,
        want_old: false,
    };
    let outcome = ask(&app, &uri, op, options.ack).await?;
    match (outcome.applied, &outcome.before) {
        (true, _) => Ok(StatusCode::NO_CONTENT.into_response()),
        (false, None) => Err(absent(&uri)),
        (false, present) => Ok(unmet(present.as_ref())),
    }
}

/// Adds to an integer, and tells the sum.
pub(super) async fn post(
    State(app): State<App>,
    uri: Uri,
    options: Parsed<Options>,
) -> Result<Response, Failure> {
    let Query(options) = options?;
    only(&options, false, true)?;
    let by = options
        .incr
        .ok_or_else(|| Failure::bad_request("say how much to add: ?incr=1"))?;
    let outcome = ask(&app, &uri, Op::Increment { by }, options.ack).await?;
    let item = outcome.after.ok_or_else(no_sum)?;
    let value = item.value.as_deref().and_then(|value| {
        let text = std::str::from_utf8(value).ok()?;
        text.parse().ok()
    });
    let view = CountedView {
        value: value.ok_or_else(no_sum)?,
        version: item.version.to_string(),
    };
    let mut response = Json(view).into_response();
    describe(&mut response, &item);
    Ok(response)
}

fn keys_of(app: &App) -> Result<&Kv, Failure> {
    app.handle.kv().ok_or_else(|| {
        Failure::unavailable("this node has no partitions: ask another one for keys")
    })
}

async fn ask(app: &App, uri: &Uri, op: Op, ack: Ack) -> Result<Outcome, Failure> {
    let kv = keys_of(app)?;
    let key = key_in(uri)?;
    let work = if op.is_read() {
        Work::Read
    } else {
        Work::Write
    };
    let since = Instant::now();
    let outcome = kv.call(key, op, ack).await;
    count(app, work, outcome.as_ref().err(), since.elapsed());
    Ok(outcome?)
}

fn count(app: &App, work: Work, error: Option<&RequestError>, took: Duration) {
    let ended = match error {
        None => Ended::Done,
        Some(RequestError::Op(_) | RequestError::Invalid(_)) => Ended::Refused,
        Some(RequestError::Unavailable(_)) => Ended::Unavailable,
        Some(RequestError::Indeterminate(_)) => Ended::Indeterminate,
    };
    app.operations.ended(Interface::Http, work, ended, took);
}

/// The key in a path, as bytes.
fn key_in(uri: &Uri) -> Result<Bytes, Failure> {
    let text = uri.path().strip_prefix(PATH).unwrap_or_default();
    let wrong = || Failure::bad_request("the key is not properly percent-encoded");
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, behind @ ..] = rest {
        if *byte != b'%' {
            key.push(*byte);
            rest = behind;
            continue;
        }
        let digits = behind
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        key.push(byte.ok_or_else(wrong)?);
        rest = &behind[2..];
    }
    Ok(key.into())
}

/// Refuses options that mean nothing here.
fn only(options: &Options, ttl: bool, incr: bool) -> Result<(), Failure> {
    if options.ttl.is_some() && !ttl {
        return Err(Failure::bad_request("ttl only goes with PUT"));
    }
    if options.incr.is_some() && !incr {
        return Err(Failure::bad_request("incr only goes with POST"));
    }
    Ok(())
}

fn expiry(options: &Options) -> Result<Expiry, Failure> {
    let Some(ttl) = &options.ttl else {
        return Ok(Expiry::Never);
    };
    let wrong = || {
        let text = format!("ttl={ttl} is not a length of time such as 200ms, 30s or 1h");
        Failure::bad_request(text)
    };
    let span = humantime::parse_duration(ttl).map_err(|_says_less| wrong())?;
    match u64::try_from(span.as_millis()) {
        Ok(millis) if millis > 0 => Ok(Expiry::After(millis)),
        _ => Err(wrong()),
    }
}

/// What `If-Match` and `If-None-Match` ask for.
fn condition(headers: &HeaderMap) -> Result<Condition, Failure> {
    let none_match = header_text(headers, &header::IF_NONE_MATCH);
    let wanted = match (header_text(headers, &header::IF_MATCH), none_match) {
        (None, None) => return Ok(Condition::None),
        (None, Some("*")) => return Ok(Condition::Absent),
        (None, Some(_)) => {
            return Err(Failure::bad_request("here If-None-Match can only be *"));
        }
        (Some(wanted), None) => wanted,
        (Some(_), Some(_)) => {
            return Err(Failure::bad_request(
                "If-Match and If-None-Match exclude each other",
            ));
        }
    };
    if wanted == "*" {
        return Ok(Condition::Present);
    }
    let version = wanted
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .and_then(|text| text.parse().ok());
    version.map(Condition::Version).ok_or_else(|| {
        Failure::bad_request("If-Match is not * or one ETag of this interface, in quotes")
    })
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn etag(version: Version) -> String {
    format!("\"{version}\"")
}

/// Version and expiry, as headers.
fn describe(response: &mut Response, item: &Item) {
    let headers = response.headers_mut();
    // What is stored can change at any moment.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(value) = etag(item.version).parse() {
        headers.insert(header::ETAG, value);
    }
    if let Some(Ok(value)) = item.expires.and_then(date).map(|text| text.parse()) {
        headers.insert(EXPIRES, value);
    }
}

fn date(at: Wall) -> Option<String> {
    let date = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(at.0))?;
    // Later than what the calendar here knows; it expires all the same.
    const YEAR_9999: u64 = 253_370_764_800_000;
    (at.0 < YEAR_9999).then(|| rfc3339(date))
}

/// A condition did not hold; the answer tells what is there.
fn unmet(present: Option<&Item>) -> Response {
    let text = match present {
        Some(item) => format!("the key has version {}", item.version),
        None => "the key is not there".to_owned(),
    };
    let status = StatusCode::PRECONDITION_FAILED;
    let mut response = Failure::new(status, "condition not met", text).into_response();
    if let Some(item) = present {
        describe(&mut response, item);
    }
    response
}

fn absent(uri: &Uri) -> Failure {
    let key = uri.path().strip_prefix(PATH).unwrap_or_default();
    Failure::not_found(format!("there is no key {key}"))
}

fn no_sum() -> Failure {
    Failure::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "error",
        "the sum was stored, but not told",
    )
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Op(error) => Self::refused(error.to_string()),
            RequestError::Invalid(text) => Self::bad_request(text),
            RequestError::Unavailable(text) => Self::unavailable(text),
            RequestError::Indeterminate(text) => Self::indeterminate(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_paths_are_any_bytes() {
        let key = |path: &str| key_in(&path.parse().unwrap());
        assert_eq!(key("/v1/kv/a/b%2Fc%00%ff").unwrap(), &b"a/b/c\0\xff"[..]);
        for wrong in ["/v1/kv/a%", "/v1/kv/a%2", "/v1/kv/a%+1"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }
}
