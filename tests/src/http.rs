//! A small HTTP client for what an agent shows.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An agent answers at once, or something is wrong.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer: the status, and the body as text.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// Asks with any method; errors of the server are answers too.
///
/// # Errors
/// If there is no answer.
pub fn request(
    method: &str,
    address: SocketAddr,
    path: &str,
    body: Option<&Value>,
) -> Result<Response> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .proxy(None)
        .build()
        .into();
    let url = format!("http://{address}{path}");
    let what = || format!("{method} {url}");
    let mut answer = match (method, body) {
        ("GET", None) => agent.get(&url).call(),
        ("DELETE", None) => agent.delete(&url).call(),
        ("POST", None) => agent.post(&url).send_empty(),
        ("POST", Some(body)) => agent.post(&url).send_json(body),
        _ => bail!("{} is not supported here", what()),
    }
    .with_context(what)?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().read_to_string().with_context(what)?;
    Ok(Response { status, body })
}

/// Asks for one of the views.
///
/// # Errors
/// If there is no answer, or it is an error or of another shape.
pub fn view<T: DeserializeOwned>(address: SocketAddr, path: &str) -> Result<T> {
    let answer = request("GET", address, path, None)?;
    if answer.status != 200 {
        bail!(
            "GET {path} was answered with {}: {}",
            answer.status,
            answer.body
        );
    }
    serde_json::from_str(&answer.body).with_context(|| format!("GET {path}: {}", answer.body))
}
