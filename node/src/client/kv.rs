//! Keys and values of the cluster, through an agent.

pub use kith_proto::kv::{MAX_KEY, MAX_VALUE, request::Ack};
use ureq::http::{Request, Response, StatusCode, header};

use super::{Client, ClientError, escaped};
use crate::view::{CountedView, ScanView};

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub bytes: Vec<u8>,
    /// Which write it comes from: what [`Precondition::Version`] takes.
    pub version: String,
    /// When it expires (RFC 3339).
    pub expires: Option<String>,
}

/// What must hold for a change to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// There is no value.
    Absent,
    /// There is a value.
    Present,
    /// There is a value of that version.
    Version(String),
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// There was no value before.
    pub created: bool,
    /// The new value's version.
    pub version: String,
}

impl Client {
    /// Reads a value; `None` if there is none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn read(&self, key: &[u8]) -> Result<Option<Value>, ClientError> {
        let request = Request::builder().method("GET").uri(self.key_url(key, &[]));
        let answer = self.send(request, &[]);
        let Some(mut response) = unless_absent(answer)? else {
            return Ok(None);
        };
        let text = |name| header_of(&response, name);
        let (version, expires) = (text("etag"), text("kith-expires"));
        let body = response.body_mut().with_config();
        let bytes = body.limit(MAX_VALUE as u64 + 1).read_to_vec();
        Ok(Some(Value {
            bytes: bytes.map_err(|e| self.unreachable(&e.to_string()))?,
            version: version.unwrap_or_default().trim_matches('"').to_owned(),
            expires,
        }))
    }

    /// Stores a value, for ever or for a time (such as `30s`).
    ///
    /// # Errors
    /// See [`ClientError`]; a [`ClientError::Problem`] with status 412 if the precondition does
    /// not hold.
    pub fn write(
        &self,
        key: &[u8],
        value: &[u8],
        ttl: Option<&str>,
        only: &Precondition,
        ack: Ack,
    ) -> Result<Written, ClientError> {
        let mut query = vec![("ack", ack.word())];
        query.extend(ttl.map(|ttl| ("ttl", ttl)));
        let request = Request::builder()
            .method("PUT")
            .uri(self.key_url(key, &query))
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let response = self.send(conditional(request, only), value)?;
        let version = header_of(&response, "etag").unwrap_or_default();
        Ok(Written {
            created: response.status() == StatusCode::CREATED,
            version: version.trim_matches('"').to_owned(),
        })
    }

    /// Deletes a key; false if there is none.
    ///
    /// # Errors
    /// See [`ClientError`], and [`Self::write`] for preconditions.
    pub fn delete(&self, key: &[u8], only: &Precondition, ack: Ack) -> Result<bool, ClientError> {
        let url = self.key_url(key, &[("ack", ack.word())]);
        let request = Request::builder().method("DELETE").uri(url);
        let answer = self.send(conditional(request, only), &[]);
        Ok(unless_absent(answer)?.is_some())
    }

    /// Adds to an integer; a missing one counts as 0.
    ///
    /// # Errors
    /// See [`ClientError`]; a [`ClientError::Problem`] with status 409 if the value is none.
    pub fn increment(&self, key: &[u8], by: i64, ack: Ack) -> Result<CountedView, ClientError> {
        let by = by.to_string();
        let url = self.key_url(key, &[("incr", by.as_str()), ("ack", ack.word())]);
        let mut response = self.send(Request::builder().method("POST").uri(url), &[])?;
        let text = self.text(&mut response)?;
        serde_json::from_str(&text).map_err(|e| self.odd(&e.to_string()))
    }

    /// A page of the cluster's keys that begin so; `after` is the `next` of the page before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn scan(
        &self,
        prefix: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<ScanView, ClientError> {
        let mut path = format!("/v1/kv?limit={limit}&prefix={}", escaped(prefix));
        if let Some(after) = after {
            path.push_str("&after=");
            path.push_str(&escaped(after));
        }
        self.get(&path)
    }

    fn key_url(&self, key: &[u8], query: &[(&str, &str)]) -> String {
        let mut url = format!("{}/v1/kv/{}", self.url, escaped(key));
        for (at, (name, value)) in query.iter().enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.push_str(&escaped(value));
        }
        url
    }

    fn send(
        &self,
        mut request: ureq::http::request::Builder,
        body: &[u8],
    ) -> Result<Response<ureq::Body>, ClientError> {
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.reveal()));
        }
        let has_body = request
            .method_ref()
            .is_some_and(|method| method == "PUT" || method == "POST");
        let answer = if has_body {
            request
                .body(body)
                .map_err(Into::into)
                .and_then(|r| self.http.run(r))
        } else {
            request
                .body(())
                .map_err(Into::into)
                .and_then(|r| self.http.run(r))
        };
        self.checked(answer)
    }
}

fn conditional(
    request: ureq::http::request::Builder,
    only: &Precondition,
) -> ureq::http::request::Builder {
    match only {
        Precondition::None => request,
        Precondition::Absent => request.header(header::IF_NONE_MATCH, "*"),
        Precondition::Present => request.header(header::IF_MATCH, "*"),
        Precondition::Version(version) => {
            request.header(header::IF_MATCH, format!("\"{version}\""))
        }
    }
}

/// That there is no such key is an answer as well.
fn unless_absent(
    answer: Result<Response<ureq::Body>, ClientError>,
) -> Result<Option<Response<ureq::Body>>, ClientError> {
    match answer {
        Err(ClientError::Problem(problem)) if problem.status == 404 => Ok(None),
        answer => answer.map(Some),
    }
}

fn header_of(response: &Response<ureq::Body>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}
