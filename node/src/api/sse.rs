//! `GET /v1/events`: server-sent events (WHATWG HTML, section 9.2).
//!
//! `id` is the sequence number, `event` the name, `data` the [`crate::view::EventView`]. A
//! reader that comes back says the last number it has (`Last-Event-ID`, or `?since=`) and
//! gets what happened since. The stream begins with the number after which it goes on (an `id`
//! without data), so that a reader who has seen nothing yet can come back, too. What is not kept
//! any more is told, where it would have stood, as an event `missed` with `{"missed":N}`: decisions
//! about single partitions are kept less long than what happened to members.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;

use super::{
    App, MAX_FOLLOWERS,
    follow::{Followed, Follower},
    problem::Failure,
};

/// A comment is sent this often, so that both sides notice when the other one is gone.
const PING: Duration = Duration::from_secs(15);

/// `?since=SEQ`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Since {
    since: Option<u64>,
}

/// Follows the events until the client goes, or the node stops.
pub(super) async fn events(
    State(app): State<App>,
    headers: HeaderMap,
    query: Result<Query<Since>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query?;
    let last = match headers.get("last-event-id") {
        None => query.since,
        // What a browser sends before it has seen any.
        Some(value) if value.is_empty() => query.since,
        Some(value) => {
            let seq = value.to_str().ok().and_then(|text| text.parse().ok());
            Some(seq.ok_or_else(|| Failure::bad_request("Last-Event-ID is not a number"))?)
        }
    };
    let Ok(place) = app.followers.clone().try_acquire_owned() else {
        return Err(Failure::busy(format!(
            "{MAX_FOLLOWERS} clients follow the events already; that is as many as may"
        )));
    };
    let stopped = {
        let handle = app.handle.clone();
        Box::pin(async move { drop(handle.stopped().await) })
    };
    let follower = Follower::new(app.handle, last);
    let start = Event::default().id(follower.last().to_string());
    let reader = (follower, stopped, place);
    let events = stream::unfold(reader, async |(mut follower, mut stopped, place)| {
        // What happened before the node stopped is still told.
        let next = tokio::select! {
            biased;
            next = follower.next() => next?,
            () = &mut stopped => return None,
        };
        Some((
            Ok::<_, Infallible>(written(&next)),
            (follower, stopped, place),
        ))
    });
    let ping = KeepAlive::new().interval(PING).text("ping");
    let events = stream::iter([Ok(start)]).chain(events);
    Ok(Sse::new(events).keep_alive(ping).into_response())
}

fn written(next: &Followed) -> Event {
    match next {
        Followed::Missed(missed) => Event::default()
            .event("missed")
            .data(serde_json::json!({ "missed": missed }).to_string()),
        Followed::Event(view) => {
            let json = serde_json::to_value(view.as_ref()).unwrap_or_default();
            let name = json["event"].as_str().unwrap_or("event");
            Event::default()
                .id(view.seq.to_string())
                .event(name)
                .data(json.to_string())
        }
    }
}
