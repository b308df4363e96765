//! Clients: each asks one thing at a time, of any node that lives, and remembers what it was told.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kith_proto::{
    input::RequestId,
    kv::{
        op::{Condition, Expiry, Op},
        request::{Ack, Request, RequestError, Response},
        version::Version,
    },
    time::Time,
};
use rand::RngExt;

use super::{Lab, NodeIndex};

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// That value was written; no two are equal.
    Write(Bytes),
    /// It was deleted.
    Delete,
    /// It was read.
    Read,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nobody knows yet.
    Open,
    /// It was done: the version written, or read (`None`: there was no value).
    Done(Option<Version>, Option<Bytes>),
    /// It was not done.
    Refused(String),
    /// It may have been done.
    Unknown(String),
}

/// One request of a client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The key.
    pub key: Bytes,
    /// What was asked.
    pub asked: Asked,
    /// Which node.
    pub node: NodeIndex,
    /// When.
    pub began: Time,
    /// When it was answered.
    pub ended: Option<Time>,
    /// How.
    pub result: Ended,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    /// Everything that they asked, in the order in which it began.
    pub history: Vec<Operation>,
    keys: usize,
    number: usize,
    open: BTreeMap<RequestId, (usize, usize)>,
    waiting: BTreeMap<usize, Time>,
    stopped: bool,
    written: u64,
}

/// A client asks nothing more of a node that does not answer for so long.
const PATIENCE: Duration = Duration::from_secs(4);

/// Lets clients begin: so many, on so many keys.
pub fn begin(lab: &mut Lab, clients: usize, keys: usize) {
    lab.clients.keys = keys;
    lab.clients.number = clients;
    for client in 0..clients {
        let after = Duration::from_millis(lab.rng().random_range(0..20));
        lab.client_later(after, client);
    }
}

/// They ask nothing new.
pub fn stop(lab: &mut Lab) {
    lab.clients.stopped = true;
}

/// They go on.
pub fn go_on(lab: &mut Lab) {
    lab.clients.stopped = false;
    for client in 0..lab.clients.number {
        if !lab.clients.waiting.contains_key(&client) {
            lab.client_later(Duration::from_millis(1), client);
        }
    }
}

/// A key, by its number.
pub fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

pub(super) fn turn(lab: &mut Lab, client: usize) {
    if lab.clients.stopped {
        return;
    }
    if let Some(since) = lab.clients.waiting.get(&client) {
        // The node may have died with the request.
        if lab.now() < *since + PATIENCE {
            return lab.client_later(Duration::from_millis(200), client);
        }
        lab.clients.waiting.remove(&client);
        lab.clients.open.retain(|_, (owner, _)| *owner != client);
    }
    let alive: Vec<NodeIndex> = (0..lab.len()).filter(|node| lab.is_alive(*node)).collect();
    if alive.is_empty() {
        return lab.client_later(Duration::from_millis(100), client);
    }
    let node = alive[lab.rng().random_range(0..alive.len())];
    let keys = lab.clients.keys;
    let key = key(lab.rng().random_range(0..keys));
    let (asked, op) = match lab.rng().random_range(0..10) {
        0..5 => {
            lab.clients.written += 1;
            let value = Bytes::from(format!("v{}", lab.clients.written));
            let op = Op::Set {
                value: value.clone(),
                expiry: Expiry::Never,
                condition: Condition::None,
                want_old: false,
            };
            (Asked::Write(value), op)
        }
        5 => {
            let op = Op::Delete {
                condition: Condition::None,
                want_old: false,
            };
            (Asked::Delete, op)
        }
        _ => (Asked::Read, Op::Get),
    };
    let index = lab.clients.history.len();
    let began = lab.now();
    lab.clients.history.push(Operation {
        key: key.clone(),
        asked,
        node,
        began,
        ended: None,
        result: Ended::Open,
    });
    lab.clients.waiting.insert(client, began);
    lab.clients
        .open
        .insert(RequestId(lab.requests + 1), (client, index));
    let request = Request::Key {
        key,
        op,
        ack: Ack::Quorum,
    };
    lab.ask(node, request);
    lab.client_later(PATIENCE, client);
}

pub(super) fn answered(
    lab: &mut Lab,
    node: NodeIndex,
    request: RequestId,
    result: Result<Response, RequestError>,
) {
    let Some((client, index)) = lab.clients.open.remove(&request) else {
        lab.verdict.answered_elsewhere(request, node);
        return;
    };
    lab.clients.waiting.remove(&client);
    let now = lab.now();
    let operation = &mut lab.clients.history[index];
    operation.ended = Some(now);
    operation.result = match result {
        Ok(Response::Key(outcome)) => match operation.asked {
            Asked::Read => {
                let item = outcome.before;
                let version = item.as_ref().map(|item| item.version);
                Ended::Done(version, item.and_then(|item| item.value))
            }
            // A delete that found nothing wrote nothing.
            _ => Ended::Done(outcome.after.map(|item| item.version), None),
        },
        Ok(other) => Ended::Refused(format!("an answer to another question: {other:?}")),
        Err(RequestError::Indeterminate(text)) => Ended::Unknown(text),
        Err(error) => Ended::Refused(error.to_string()),
    };
    let pause = Duration::from_micros(lab.rng().random_range(100..20_000));
    lab.client_later(pause, client);
}
