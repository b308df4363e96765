//! What can be asked: one function a path.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{Method, StatusCode, Uri},
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use kith_proto::{
    output::Answer,
    wire::keyring::{Key, KeyId},
};
use serde::Deserialize;

use super::{App, MAX_BODY, guard, kv, metrics, problem::Failure, sse};
use crate::{
    kv::Kv,
    view::{KeysChangeView, RecoverView},
};

type Answered<T> = Result<Json<T>, Failure>;

/// All paths.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/agent", get(agent))
        .route("/v1/members", get(members))
        .route("/v1/partitions", get(partitions))
        .route("/v1/status", get(status))
        .route("/v1/events", get(sse::events))
        .route("/v1/leave", post(leave))
        .route("/v1/evict/{name}", post(evict))
        .route("/v1/partitions/recover", post(recover))
        .route("/v1/keys", get(keys).post(change_keys))
        .route("/v1/keys/{id}", delete(remove_key))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route("/v1/kv", get(kv::scan))
        .merge(values(app.handle.kv().map_or(MAX_BODY, Kv::max_value)))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(app.clone(), guard::check))
        .with_state(app)
}

/// Paths of keys, whose bodies may be as large as a value.
fn values(max_value: usize) -> Router<App> {
    let of_key = get(kv::get).put(kv::put).delete(kv::delete).post(kv::post);
    Router::new()
        // No key is empty, and that is another thing than a key that is not there.
        .route("/v1/kv/", of_key.clone())
        .route("/v1/kv/{*key}", of_key)
        .layer(DefaultBodyLimit::max(max_value))
}

/// The node answers, whatever its state.
async fn healthz(State(app): State<App>) -> Result<&'static str, Failure> {
    app.handle.agent().await?;
    Ok("ok\n")
}

/// The node is a member and serves.
async fn readyz(State(app): State<App>) -> Result<&'static str, Failure> {
    let agent = app.handle.agent().await?;
    if agent.phase == "active" {
        return Ok("ready\n");
    }
    Err(Failure::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not ready",
        format!("the node is {}", agent.phase),
    ))
}

async fn agent(State(app): State<App>) -> Answered<crate::view::AgentView> {
    Ok(Json(app.handle.agent().await?))
}

async fn members(State(app): State<App>) -> Answered<Vec<crate::view::MemberView>> {
    Ok(Json(app.handle.members().await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByKey {
    key: Option<String>,
}

async fn partitions(
    State(app): State<App>,
    query: Result<Query<ByKey>, QueryRejection>,
) -> Answered<Vec<crate::view::PartitionView>> {
    let Query(query) = query?;
    let key = query.key.map(String::into_bytes);
    Ok(Json(app.handle.partitions(key).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusQuery {
    safe_to_stop: Option<String>,
}

async fn status(
    State(app): State<App>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query?;
    let Some(member) = query.safe_to_stop else {
        return Ok(Json(app.handle.status().await?).into_response());
    };
    match app.handle.safe_to_stop(member.clone()).await? {
        Some(view) => Ok(Json(view).into_response()),
        None => Err(Failure::not_found(format!(
            "no member has the name or id {member:?}; `kith members` lists them"
        ))),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Leave {
    returning: Option<bool>,
}

/// Under way once this is answered; over once the agent is gone.
async fn leave(
    State(app): State<App>,
    query: Result<Query<Leave>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let Query(query) = query?;
    let body: Leave = match body? {
        body if body.is_empty() => Leave::default(),
        body => parsed(&body)?,
    };
    let returning = body.returning.or(query.returning).unwrap_or(false);
    match app.handle.leave(returning).await? {
        Answer::Refused(why) => Err(Failure::refused(why)),
        Answer::Done | Answer::Keys { .. } => {
            let view = serde_json::json!({ "leaving": true, "returning": returning });
            Ok((StatusCode::ACCEPTED, Json(view)).into_response())
        }
    }
}

async fn evict(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
) -> Answered<serde_json::Value> {
    let Path(name) = name?;
    match app.handle.evict(name.clone()).await? {
        Answer::Refused(why) => Err(Failure::refused(why)),
        Answer::Done | Answer::Keys { .. } => Ok(Json(serde_json::json!({ "evicted": name }))),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoverQuery {
    partition: Option<u16>,
}

async fn recover(
    State(app): State<App>,
    query: Result<Query<RecoverQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answered<RecoverView> {
    let Query(query) = query?;
    // Whoever names a partition there means no others.
    if !body?.is_empty() {
        return Err(Failure::bad_request(
            "this takes no body: ?partition=17 names one partition, without it all are meant",
        ));
    }
    let recovery = app.handle.recover(query.partition).await?;
    Ok(Json(RecoverView {
        partitions: recovery.begun,
        waiting: recovery.waiting,
        unneeded: recovery.unneeded,
    }))
}

async fn keys(State(app): State<App>) -> Answered<Vec<crate::view::KeyView>> {
    Ok(Json(app.handle.keys().await?))
}

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
enum KeysChange {
    Add { key: String },
    Use { id: String },
}

async fn change_keys(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Answered<KeysChangeView> {
    let (id, answer) = match parsed(&body?)? {
        KeysChange::Add { key } => {
            // The error tells nothing of the text.
            let key = Key::parse(&key).map_err(|e| Failure::bad_request(e.to_string()))?;
            (key.id(), app.handle.key_add(key).await?)
        }
        KeysChange::Use { id } => {
            let id = key_id(&id)?;
            (id, app.handle.key_use(id).await?)
        }
    };
    keys_changed(id, answer)
}

async fn remove_key(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Answered<KeysChangeView> {
    let id = key_id(&id?.0)?;
    keys_changed(id, app.handle.key_remove(id).await?)
}

fn keys_changed(id: KeyId, answer: Answer) -> Answered<KeysChangeView> {
    let (id, confirmed, missing) = match answer {
        Answer::Refused(why) => return Err(Failure::refused(why)),
        Answer::Done => (id, Vec::new(), Vec::new()),
        Answer::Keys {
            key,
            confirmed,
            missing,
        } => (key, confirmed, missing),
    };
    Ok(Json(KeysChangeView {
        id: id.to_string(),
        confirmed,
        missing,
    }))
}

fn key_id(text: &str) -> Result<KeyId, Failure> {
    text.parse()
        .map_err(|e: kith_proto::wire::keyring::ParseKeyIdError| {
            Failure::bad_request(e.to_string())
        })
}

fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|e| Failure::bad_request(format!("the body is not what is expected here: {e}")))
}

async fn no_such_path(uri: Uri) -> Failure {
    Failure::not_found(format!("there is nothing at {}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method not allowed",
        format!("{} cannot be used with {method}", uri.path()),
    )
}
