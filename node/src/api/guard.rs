//! Who may ask: the token, and what a web page open on the same machine may not do.
//!
//! An interface on loopback without a token trusts the people of the machine, but not the
//! pages that their browsers show. A page can send requests to `127.0.0.1`: commands are
//! refused when they come from another origin. And by letting its own name point to
//! `127.0.0.1` (DNS rebinding) it could become the same origin: names other than
//! `localhost` are refused on loopback.

use std::{net::IpAddr, time::Duration};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt as _;

use super::{ANSWER_TIMEOUT, App, MAX_BODY, problem::Failure, token::Token};
use crate::kv::Kv;

/// Lets a request through, or answers it with why not.
pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let open = request.uri().path() == "/healthz";
    let wanted = app.token.get();
    let limit = body_limit(&app, request.uri().path());
    let checked = size(limit, request.headers())
        .and_then(|()| token(wanted.as_deref().filter(|_| !open), request.headers()))
        .and_then(|()| match wanted {
            // Whoever knows the token is no page of a stranger.
            Some(_) => Ok(()),
            None => origin(&app, request.method(), request.headers()),
        });
    if let Err(failure) = checked {
        drain(request).await;
        return failure.into_response();
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let text = "the node did not answer in time; the command may still take effect";
            Failure::indeterminate(text).into_response()
        }
    }
}

/// What is read of a body that is not wanted (bytes), and for how long.
const DRAINED: usize = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Reads what a client sends before it is told that it is not wanted: most send all of it
/// before they look for an answer, and a connection that is closed with something unread is
/// broken for them. Who asks before it sends needs only the answer.
async fn drain(request: Request) {
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let mut body = request.into_body().into_data_stream();
    let all = async {
        let mut left = DRAINED;
        while let Some(Ok(piece)) = body.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    // Who takes longer has to live with it.
    drop(tokio::time::timeout(DRAIN_TIME, all).await);
}

/// Values may be larger than everything else.
fn body_limit(app: &App, path: &str) -> usize {
    let kv = app.handle.kv().filter(|_| path.starts_with("/v1/kv/"));
    kv.map_or(MAX_BODY, Kv::max_value)
}

/// A body that says that it is too large need not come at all.
fn size(limit: usize, headers: &HeaderMap) -> Result<(), Failure> {
    let told: Option<usize> = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    match told {
        Some(length) if length > limit => Err(Failure::too_large(limit)),
        _ => Ok(()),
    }
}

fn token(wanted: Option<&Token>, headers: &HeaderMap) -> Result<(), Failure> {
    let Some(token) = wanted else {
        return Ok(());
    };
    let refused = |detail| Failure::new(StatusCode::UNAUTHORIZED, "not authorised", detail);
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match shown {
        Some(shown) if token.matches(shown) => Ok(()),
        Some(_) => Err(refused("that is not this agent's token")),
        None => Err(refused(
            "this agent asks for a token: Authorization: Bearer ..., or --token-file",
        )),
    }
}

fn origin(app: &App, method: &Method, headers: &HeaderMap) -> Result<(), Failure> {
    let refused = |detail| Failure::new(StatusCode::FORBIDDEN, "forbidden", detail);
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    if app.local && !host.is_empty() && !is_local_name(host) {
        return Err(refused(
            "this agent is asked by its address or as localhost, not by another name",
        ));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match text(header::ORIGIN) {
        Some(origin) if !reads && origin.split_once("://").is_none_or(|(_, at)| at != host) => {
            Err(refused("commands from pages of other sites are not taken"))
        }
        _ => Ok(()),
    }
}

fn is_local_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_local_name;

    #[test]
    fn only_addresses_and_localhost_are_local() {
        for fine in ["127.0.0.1:7402", "localhost", "LOCALHOST:1", "[::1]:7402"] {
            assert!(is_local_name(fine), "{fine}");
        }
        for wrong in [
            "evil.example",
            "127.0.0.1.evil.example:7402",
            "localhost.evil",
            "a b",
        ] {
            assert!(!is_local_name(wrong), "{wrong}");
        }
    }
}
