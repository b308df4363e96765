//! Clients: each asks one thing at a time, of any node that lives, and remembers what it was told.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kith_proto::{
    input::RequestId,
    kv::{
        op::{Condition, Expiry, Item, Op, Outcome},
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
    /// That value was to be written; no two are equal.
    Write(Bytes, Only),
    /// It was to be deleted.
    Delete,
    /// It was read.
    Read,
    /// One was to be added.
    Add,
}

/// When something was to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Only {
    /// In any case.
    Always,
    /// If nothing is there.
    Absent,
    /// If that version is there, which has that value.
    Version(Version, Bytes),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nobody knows yet.
    Open,
    /// It was done.
    Done(Told),
    /// It was not done.
    Refused(String),
    /// It may have been done.
    Unknown(String),
}

/// What a client was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Whether something was changed.
    pub applied: bool,
    /// The version written, or read. Nobody is told the version of a deletion: it is looked for on the
    /// disks.
    pub version: Option<Version>,
    /// What was there before, if that was told: `Some(None)` is nothing.
    pub before: Option<Option<Bytes>>,
    /// What is there after an addition.
    pub after: Option<Bytes>,
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

impl Operation {
    /// What was told, if it was done.
    pub fn told(&self) -> Option<&Told> {
        match &self.result {
            Ended::Done(told) => Some(told),
            _ => None,
        }
    }

    /// The version that was acknowledged as written.
    pub fn written(&self) -> Option<Version> {
        let told = self.told().filter(|told| told.applied)?;
        if self.asked == Asked::Read {
            return None;
        }
        told.version
    }

    /// The value that was to be written.
    pub fn value(&self) -> Option<&Bytes> {
        match &self.asked {
            Asked::Write(value, _) => Some(value),
            _ => None,
        }
    }
}

impl Clients {
    /// Whether anybody waits for an answer that may yet come.
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    /// Everything that they asked, in the order in which it began.
    pub history: Vec<Operation>,
    /// Which client asked it; those of scripts are nobody's.
    open: BTreeMap<RequestId, (Option<usize>, usize)>,
    waiting: BTreeMap<usize, Time>,
    seen: BTreeMap<(usize, Bytes), (Version, Bytes)>,
    keys: usize,
    number: usize,
    stopped: bool,
    written: u64,
}

/// A client asks nothing more of a node that does not answer for so long.
const PATIENCE: Duration = Duration::from_secs(4);
/// Keys that are counted on.
const COUNTERS: usize = 2;
/// Between two requests of a client (µs).
const PAUSE: std::ops::Range<u64> = 100..50_000;

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

/// A key, by its number.
pub fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number}"))
}

/// A new value.
pub fn value(lab: &mut Lab) -> Bytes {
    lab.clients.written += 1;
    Bytes::from(format!("v{}", lab.clients.written))
}

/// Every key that clients use.
pub fn keys(lab: &Lab) -> Vec<Bytes> {
    let mut keys: Vec<Bytes> = lab.clients.history.iter().map(|o| o.key.clone()).collect();
    keys.sort();
    keys.dedup();
    keys
}

pub(super) fn turn(lab: &mut Lab, client: usize) {
    if lab.clients.stopped {
        return;
    }
    if let Some(since) = lab.clients.waiting.get(&client) {
        // The node may be paused; it may yet answer.
        if lab.now() < *since + PATIENCE {
            return lab.client_later(Duration::from_millis(200), client);
        }
        lab.clients.waiting.remove(&client);
    }
    let living = lab.living();
    if living.is_empty() {
        return lab.client_later(Duration::from_millis(100), client);
    }
    let node = living[lab.rng().random_range(0..living.len())];
    let drawn = lab.rng().random_range(0..20);
    if drawn == 0 {
        let number = lab.rng().random_range(0..COUNTERS);
        let key = Bytes::from(format!("count-{number}"));
        ask(lab, Some(client), node, key, Asked::Add);
        return;
    }
    let keys = lab.clients.keys;
    let key = key(lab.rng().random_range(0..keys));
    let seen = lab.clients.seen.get(&(client, key.clone())).cloned();
    let only = match (drawn, seen) {
        (1..8, _) => Some(Only::Always),
        (8, _) => Some(Only::Absent),
        (9, Some((version, value))) => Some(Only::Version(version, value)),
        _ => None,
    };
    let asked = match only {
        Some(only) => Asked::Write(value(lab), only),
        None if drawn < 12 => Asked::Delete,
        None => Asked::Read,
    };
    ask(lab, Some(client), node, key, asked);
}

/// Asks a node, for a client or a script; where it is in the history.
pub fn ask(
    lab: &mut Lab,
    client: Option<usize>,
    node: NodeIndex,
    key: Bytes,
    asked: Asked,
) -> usize {
    let op = match &asked {
        Asked::Write(value, only) => Op::Set {
            value: value.clone(),
            expiry: Expiry::Never,
            condition: match only {
                Only::Always => Condition::None,
                Only::Absent => Condition::Absent,
                Only::Version(version, _) => Condition::Version(*version),
            },
            want_old: true,
        },
        Asked::Delete => Op::Delete {
            condition: Condition::None,
            want_old: true,
        },
        Asked::Read => Op::Get,
        Asked::Add => Op::Increment { by: 1 },
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
    if let Some(client) = client {
        lab.clients.waiting.insert(client, began);
        lab.client_later(PATIENCE, client);
    }
    let request = RequestId(lab.requests + 1);
    lab.clients.open.insert(request, (client, index));
    let body = Request::Key {
        key,
        op,
        ack: Ack::Quorum,
    };
    lab.ask(node, body);
    index
}

pub(super) fn answered(
    lab: &mut Lab,
    node: NodeIndex,
    request: RequestId,
    result: Result<Response, RequestError>,
) {
    let Some((client, index)) = lab.clients.open.remove(&request) else {
        return lab.object("answers", format!("n{node} answers {request:?} twice"));
    };
    let operation = &lab.clients.history[index];
    let result = match result {
        Ok(Response::Key(outcome)) => Ended::Done(told(&operation.asked, outcome)),
        Ok(other) => {
            let text = format!("n{node} answers another question: {other:?}");
            return lab.object("answers", text);
        }
        Err(RequestError::Indeterminate(text)) => Ended::Unknown(text),
        Err(error) => Ended::Refused(error.to_string()),
    };
    end(lab, client, index, result);
}

fn told(asked: &Asked, outcome: Outcome) -> Told {
    let version = |item: &Option<Item>| item.as_ref().map(|item| item.version);
    let value = |item: Option<Item>| item.and_then(|item| item.value);
    match asked {
        Asked::Read => Told {
            applied: false,
            version: version(&outcome.before),
            before: Some(value(outcome.before)),
            after: None,
        },
        Asked::Add => Told {
            applied: outcome.applied,
            version: version(&outcome.after),
            before: None,
            after: value(outcome.after),
        },
        Asked::Write(..) | Asked::Delete => Told {
            applied: outcome.applied,
            version: version(&outcome.after),
            before: Some(value(outcome.before)),
            after: None,
        },
    }
}

fn end(lab: &mut Lab, client: Option<usize>, index: usize, result: Ended) {
    let now = lab.now();
    lab.mix(index as u64 + 1);
    let deleted = lab.deleted_as(&lab.clients.history[index], &result);
    let operation = &mut lab.clients.history[index];
    operation.ended = Some(now);
    operation.result = result;
    if let (Some(version), Ended::Done(told)) = (deleted, &mut operation.result) {
        told.version = Some(version);
    }
    let operation = operation.clone();
    lab.acknowledged(&operation);
    let Some(client) = client else {
        return;
    };
    // It may have lost its patience long ago.
    if lab.clients.waiting.get(&client) != Some(&operation.began) {
        return;
    }
    lab.clients.waiting.remove(&client);
    if let (Asked::Read, Some(told)) = (&operation.asked, operation.told())
        && let (Some(version), Some(Some(value))) = (told.version, &told.before)
    {
        let seen = (version, value.clone());
        lab.clients.seen.insert((client, operation.key), seen);
    }
    let pause = Duration::from_micros(lab.rng().random_range(PAUSE));
    lab.client_later(pause, client);
}

/// A node's process has ended: whoever waits for its answer knows that.
pub(super) fn lost(lab: &mut Lab, node: NodeIndex) {
    let open = lab.clients.open.iter();
    let lost: Vec<RequestId> = open
        .filter(|(_, (_, index))| lab.clients.history[*index].node == node)
        .map(|(request, _)| *request)
        .collect();
    for request in lost {
        if let Some((client, index)) = lab.clients.open.remove(&request) {
            let result = Ended::Unknown("the node has ended".to_owned());
            end(lab, client, index, result);
        }
    }
}

impl Lab {
    fn client_later(&mut self, after: Duration, client: usize) {
        let turn = super::Happening::Client(client);
        self.agenda.push(self.now + after, turn);
    }
}
