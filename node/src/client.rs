//! The client of a running agent: its HTTP interface as functions.
//!
//! It blocks; what needs several answers at once uses threads. [`Client::follow`] is an
//! endless iterator over events that finds its way back after the agent was away.

pub mod events;
pub mod kv;

use std::{fmt::Write as _, path::Path, time::Duration};

use kith_proto::wire::keyring::Key;
use serde::de::DeserializeOwned;
use ureq::http::{Request, Response, StatusCode};

use crate::{
    api::token::Token,
    view::{
        AgentView, KeyView, KeysChangeView, MemberView, PartitionView, Problem, RecoverView,
        SafeToStopView, StatusView,
    },
};
pub use events::{Events, Follow, Followed, Received};

/// Where an agent answers unless told otherwise.
pub const DEFAULT_AGENT: &str = "http://127.0.0.1:7402";

/// An agent that does not take a connection within this is not there.
const CONNECT: Duration = Duration::from_secs(3);
/// Longer than the agent itself gives a change of keys.
const ANSWER: Duration = Duration::from_secs(70);
/// Larger answers are not read: 16,384 partitions take about 4 MiB.
const MAX_ANSWER: u64 = 64 << 20;
/// The agent sends a ping every 15 s; one that is silent for longer than this is gone.
const SILENCE: Duration = Duration::from_secs(40);

/// A request that did not lead to what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one of an agent.
    #[error("{url:?} is not the address of an agent: {problem}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There was no answer. Whether a command took effect is unknown.
    #[error(
        "cannot reach the agent at {agent}: {reason}. Is it running? Another one is asked with \
         --agent or KITH_AGENT"
    )]
    Unreachable {
        /// Which agent.
        agent: String,
        /// Why.
        reason: String,
    },
    /// The agent does not take commands from this client; nothing has changed.
    #[error("{agent} does not allow this: {}", problem.detail)]
    Refused {
        /// Which agent.
        agent: String,
        /// Its words.
        problem: Problem,
    },
    /// The agent did not do it and said why; nothing has changed, unless
    /// [`Problem::is_indeterminate`].
    #[error("{}{}", if .0.is_indeterminate() { "it is not known whether this was done: " } else { "" }, .0.detail)]
    Problem(Problem),
    /// The answer is not one of an agent's.
    #[error("{agent} does not answer like an agent of this version: {problem}")]
    Protocol {
        /// Who answered.
        agent: String,
        /// What is wrong.
        problem: String,
    },
}

/// Asks one agent.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    token: Option<Token>,
    http: ureq::Agent,
    stream: ureq::Agent,
}

impl Client {
    /// A client of the agent at that address: `http://HOST:PORT`, or `HOST:PORT`. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// [`ClientError::Address`].
    pub fn new(url: &str, token: Option<Token>) -> Result<Self, ClientError> {
        let wrong = |problem| ClientError::Address {
            url: url.to_owned(),
            problem,
        };
        let rest = match url.split_once("://") {
            None => url,
            Some(("http", rest)) => rest,
            Some(("https", _)) => return Err(wrong("agents do not speak TLS here; use http://")),
            Some(_) => return Err(wrong("it begins with http://")),
        };
        let host = rest.trim_end_matches('/');
        let authority = host.parse::<ureq::http::uri::Authority>();
        if !authority.is_ok_and(|a| !a.host().is_empty() && !a.as_str().contains('@')) {
            return Err(wrong("expected http://HOST:PORT"));
        }
        let configured = || {
            ureq::Agent::config_builder()
                // An agent is a neighbour: never through the proxy for the world.
                .proxy(None)
                .http_status_as_error(false)
                .max_redirects(0)
                .user_agent(concat!("kith/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(CONNECT))
        };
        Ok(Self {
            url: format!("http://{host}"),
            token,
            http: configured().timeout_global(Some(ANSWER)).build().into(),
            stream: configured().timeout_per_read(Some(SILENCE)).build().into(),
        })
    }

    /// The agent's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The node itself.
    ///
    /// # Errors
    /// See [`ClientError`]; so with all that follow.
    pub fn agent(&self) -> Result<AgentView, ClientError> {
        self.get("/v1/agent")
    }

    /// Everybody it knows.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn members(&self) -> Result<Vec<MemberView>, ClientError> {
        self.get("/v1/members")
    }

    /// All partitions, or the one that holds a key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn partitions(&self, key: Option<&str>) -> Result<Vec<PartitionView>, ClientError> {
        match key {
            None => self.get("/v1/partitions"),
            Some(key) => self.get(&format!("/v1/partitions?key={}", escaped(key))),
        }
    }

    /// Is the cluster well?
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status")
    }

    /// May that member stop now?
    ///
    /// # Errors
    /// See [`ClientError`]; a [`ClientError::Problem`] with status 404 if nobody is called that.
    pub fn safe_to_stop(&self, member: &str) -> Result<SafeToStopView, ClientError> {
        self.get(&format!("/v1/status?safe_to_stop={}", escaped(member)))
    }

    /// Makes the node leave; returns once that is under way.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn leave(&self, returning: bool) -> Result<(), ClientError> {
        let path = format!("/v1/leave?returning={returning}");
        self.checked(self.request("POST", &path, None)).map(drop)
    }

    /// Removes a member by name or id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn evict(&self, member: &str) -> Result<(), ClientError> {
        let path = format!("/v1/evict/{}", escaped(member));
        self.checked(self.request("POST", &path, None)).map(drop)
    }

    /// Lets partitions go on that are blocked at this node, all of them or one; see
    /// [`crate::handle::Handle::recover`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn recover(&self, only: Option<u16>) -> Result<RecoverView, ClientError> {
        let path = match only {
            Some(partition) => format!("/v1/partitions/recover?partition={partition}"),
            None => "/v1/partitions/recover".to_owned(),
        };
        self.parsed(self.request("POST", &path, None))
    }

    /// The keys held, by id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn keys(&self) -> Result<Vec<KeyView>, ClientError> {
        self.get("/v1/keys")
    }

    /// Gives every living member a key, without using it yet.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn key_add(&self, key: &Key) -> Result<KeysChangeView, ClientError> {
        let body = serde_json::json!({ "action": "add", "key": key.to_base64().as_str() });
        self.parsed(self.request("POST", "/v1/keys", Some(&body)))
    }

    /// Makes every living member seal with a key that all of them hold.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn key_use(&self, id: &str) -> Result<KeysChangeView, ClientError> {
        let body = serde_json::json!({ "action": "use", "id": id });
        self.parsed(self.request("POST", "/v1/keys", Some(&body)))
    }

    /// Makes every living member forget a key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn key_remove(&self, id: &str) -> Result<KeysChangeView, ClientError> {
        self.parsed(self.request("DELETE", &format!("/v1/keys/{}", escaped(id)), None))
    }

    /// Follows the events after that number (all that are kept: `Some(0)`; new ones only:
    /// `None`) until the connection ends.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn events(&self, after: Option<u64>) -> Result<Events, ClientError> {
        let mut request = self
            .stream
            .get(format!("{}/v1/events", self.url))
            .header("accept", "text/event-stream");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.reveal()));
        }
        if let Some(seq) = after {
            request = request.header("last-event-id", seq.to_string());
        }
        let response = self.checked(request.call())?;
        Ok(Events::new(response.into_body().into_reader()))
    }

    /// Follows the events for ever: see [`Follow`].
    pub fn follow(&self, after: Option<u64>) -> Follow {
        Follow::new(self.clone(), after)
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.parsed(self.request("GET", path, None))
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.reveal()));
        }
        match body {
            None => self.http.run(request.body(())?),
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.http.run(request.body(body.to_string())?)
            }
        }
    }

    fn parsed<T: DeserializeOwned>(
        &self,
        answer: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, ClientError> {
        let mut response = self.checked(answer)?;
        let text = self.text(&mut response)?;
        serde_json::from_str(&text).map_err(|e| self.odd(&e.to_string()))
    }

    /// Sorts answers that are problems from those that are not.
    fn checked(
        &self,
        answer: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<Response<ureq::Body>, ClientError> {
        let mut response = answer.map_err(|e| self.unreachable(&reason(&e)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = self.text(&mut response)?;
        let Ok(problem) = serde_json::from_str::<Problem>(&text) else {
            return Err(self.odd(&format!("its answer is {status}")));
        };
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::Refused {
                agent: self.url.clone(),
                problem,
            },
            _ => ClientError::Problem(problem),
        })
    }

    fn text(&self, response: &mut Response<ureq::Body>) -> Result<String, ClientError> {
        let body = response.body_mut().with_config().limit(MAX_ANSWER);
        body.read_to_string()
            .map_err(|e| self.unreachable(&e.to_string()))
    }

    fn unreachable(&self, reason: &str) -> ClientError {
        ClientError::Unreachable {
            agent: self.url.clone(),
            reason: reason.to_owned(),
        }
    }

    fn odd(&self, problem: &str) -> ClientError {
        ClientError::Protocol {
            agent: self.url.clone(),
            problem: problem.to_owned(),
        }
    }
}

fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Protocol(_) => "what listens there does not speak HTTP (an agent does at \
                                     its port 7402, unless told otherwise; 7400 is for its peers)"
            .to_owned(),
        other => other.to_string(),
    }
}

/// Reads a token from a file.
///
/// # Errors
/// What is wrong, with the path.
pub fn token_from(path: &Path) -> Result<Token, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read the token file {}: {e}", path.display()))?;
    Token::parse(&text).map_err(|e| format!("{}: {e}; allowed: {}", path.display(), Token::ALLOWED))
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn escaped(text: impl AsRef<[u8]>) -> String {
    let text = text.as_ref();
    let mut out = String::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme() {
        for fine in [
            "127.0.0.1:7402",
            "http://127.0.0.1:7402/",
            "http://[::1]:7402",
            "host:1",
        ] {
            let client = Client::new(fine, None).unwrap();
            assert!(!client.url().ends_with('/'), "{}", client.url());
        }
        for wrong in [
            "",
            "https://host:1",
            "ftp://host",
            "http://",
            "http://a b",
            "http://u@h",
        ] {
            assert!(Client::new(wrong, None).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(escaped("a-b_c.d~1"), "a-b_c.d~1");
        assert_eq!(escaped("{tag}/ü?&"), "%7Btag%7D%2F%C3%BC%3F%26");
    }

    #[test]
    fn an_agent_that_is_not_there_is_unreachable() {
        // A port that was free a moment ago: bound and given back.
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap();
        let client = Client::new(&address.to_string(), None).unwrap();
        let error = client.members().unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("--agent"), "{error}");
    }
}
