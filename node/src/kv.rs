//! Keys and values, for the servers that clients talk to and for embedding programs.
//!
//! ```text
//!   RESP, HTTP, CLI ── Kv::call(key, op) ──> the shard of the key's partition
//!                                              owner here: done here
//!                                              owner elsewhere: forwarded to it
//!                    <── outcome or error ──
//! ```
//!
//! Any node answers for any key.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use kith_proto::{
    id::{NodeId, PartitionId},
    kv::{
        MAX_KEY,
        op::{Op, Outcome},
        request::{Ack, Cursor, MAX_PATIENCE, Request, RequestError, Response},
        version::Version,
    },
    placement::partition_of,
    replica::spread::shard_of,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::workers::{WeakWorker, Worker};

/// Requests that may wait for a shard before callers wait themselves.
pub(crate) const CALL_QUEUE: usize = 4096;

/// A request on its way to a shard, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Call {
    /// The partition that it concerns.
    pub(crate) partition: PartitionId,
    /// What is asked.
    pub(crate) request: Request,
    /// Whoever waits for the answer may have gone.
    pub(crate) reply: oneshot::Sender<Result<Response, RequestError>>,
}

/// Where partitions are, as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// This node.
    pub own: Option<NodeId>,
    /// Members of each partition's configuration, the owner first; empty while unknown.
    pub partitions: Vec<Vec<NodeId>>,
    /// Those that can be reached.
    pub nodes: BTreeMap<NodeId, TopologyNode>,
}

/// A node, as clients have to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyNode {
    /// Its name.
    pub name: String,
    /// Where its RESP interface listens, if it has one.
    pub resp: Option<SocketAddr>,
    /// Where it gossips.
    pub gossip: SocketAddr,
    /// Whether it takes part at the moment.
    pub living: bool,
}

impl Topology {
    /// Number of partitions; 0 until the node has joined.
    pub fn len(&self) -> u16 {
        u16::try_from(self.partitions.len()).unwrap_or(u16::MAX)
    }

    /// Whether it has none yet.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// The owner of a partition, while one is known.
    pub fn owner(&self, partition: PartitionId) -> Option<NodeId> {
        self.partitions
            .get(usize::from(partition))?
            .first()
            .copied()
    }
}

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// Living keys with their versions.
    pub keys: Vec<(Bytes, Version)>,
    /// Where to go on within the partition; `None` at its end.
    pub next: Option<Cursor>,
}

/// Speaks to the partitions. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Kv {
    shards: Arc<[mpsc::Sender<Call>]>,
    topology: watch::Receiver<Arc<Topology>>,
    max_value: usize,
    workers: Arc<[WeakWorker]>,
}

impl Kv {
    pub(crate) fn new(
        shards: Arc<[mpsc::Sender<Call>]>,
        topology: watch::Receiver<Arc<Topology>>,
        max_value: usize,
        workers: Arc<[WeakWorker]>,
    ) -> Self {
        Self {
            shards,
            topology,
            max_value,
            workers,
        }
    }

    /// The threads that shards run on, on which it is asked with the least effort.
    pub(crate) fn workers(&self) -> Vec<Worker> {
        self.workers
            .iter()
            .filter_map(WeakWorker::upgrade)
            .collect()
    }

    /// Where partitions are.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.borrow())
    }

    /// The longest value taken (bytes).
    pub fn max_value(&self) -> usize {
        self.max_value
    }

    /// Does something with one key, wherever its owner is.
    ///
    /// # Errors
    /// See [`RequestError`]: it tells whether something may have changed.
    pub async fn call(&self, key: Bytes, op: Op, ack: Ack) -> Result<Outcome, RequestError> {
        self.begin(key, op, ack).await?.outcome().await
    }

    /// Begins to do something with one key: returns once it is in the queue of the key's
    /// shard. What is begun later about the same key is done later, so that a caller that
    /// begins one after the other need not wait for the first before it begins the second.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn begin(&self, key: Bytes, op: Op, ack: Ack) -> Result<Begun, RequestError> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(RequestError::Invalid(format!(
                "a key has 1 to {MAX_KEY} bytes, this one {}",
                key.len()
            )));
        }
        if let Op::Set { value, .. } | Op::Append { value } | Op::SetRange { value, .. } = &op
            && value.len() > self.max_value
        {
            return Err(RequestError::Invalid(format!(
                "a value has at most {} bytes, this one {}",
                self.max_value,
                value.len()
            )));
        }
        let partition = partition_of(&key, self.partitions()?);
        self.send(partition, Request::Key { key, op, ack }).await
    }

    /// Keys of a partition, in an order of its own: after a cursor, at most `limit`.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn scan(
        &self,
        partition: PartitionId,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<ScanPage, RequestError> {
        let request = Request::Scan {
            partition,
            after,
            limit,
        };
        match self.ask(partition, request).await? {
            Response::Scan { keys, next } => Ok(ScanPage { keys, next }),
            other => Err(mistaken(&other)),
        }
    }

    /// How many living keys a partition holds.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn count(&self, partition: PartitionId) -> Result<u64, RequestError> {
        self.begin_count(partition).await?.count().await
    }

    /// Begins to count the living keys of a partition.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn begin_count(&self, partition: PartitionId) -> Result<Begun, RequestError> {
        self.send(partition, Request::Count { partition }).await
    }

    /// Begins to ask which members have everything that a partition holds.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn begin_equal(&self, partition: PartitionId) -> Result<Begun, RequestError> {
        self.send(partition, Request::Equal { partition }).await
    }

    /// Begins to ask how many members have what the owner of a key has, which is to be that
    /// version or newer. Answered once `wanted` do, or after `patience`, at most
    /// [`MAX_PATIENCE`] milliseconds.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn begin_copies(
        &self,
        key: Bytes,
        at_least: Option<Version>,
        wanted: u8,
        patience: Duration,
    ) -> Result<Begun, RequestError> {
        let partition = partition_of(&key, self.partitions()?);
        let patience = u32::try_from(patience.as_millis()).unwrap_or(MAX_PATIENCE);
        let request = Request::Copies {
            key,
            at_least,
            wanted,
            patience: patience.min(MAX_PATIENCE),
        };
        self.send(partition, request).await
    }

    fn partitions(&self) -> Result<u16, RequestError> {
        match self.topology.borrow().len() {
            0 => Err(RequestError::Unavailable(
                "this node has not joined a cluster yet".to_owned(),
            )),
            partitions => Ok(partitions),
        }
    }

    async fn ask(
        &self,
        partition: PartitionId,
        request: Request,
    ) -> Result<Response, RequestError> {
        self.send(partition, request).await?.response().await
    }

    async fn send(&self, partition: PartitionId, request: Request) -> Result<Begun, RequestError> {
        let is_read = request.is_read();
        let shards = u16::try_from(self.shards.len()).unwrap_or(u16::MAX);
        let shard = &self.shards[usize::from(shard_of(partition, shards))];
        let (reply, answer) = oneshot::channel();
        let call = Call {
            partition,
            request,
            reply,
        };
        shard.send(call).await.map_err(|_unsent| stopped())?;
        Ok(Begun { answer, is_read })
    }
}

/// A request that a shard has in its queue. Dropping it does not undo it.
#[derive(Debug)]
pub struct Begun {
    answer: oneshot::Receiver<Result<Response, RequestError>>,
    is_read: bool,
}

impl Begun {
    /// Waits for what comes of an operation on a key. A wait that is given up may be begun
    /// again; one that has ended may not.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn outcome(&mut self) -> Result<Outcome, RequestError> {
        let answer = (&mut self.answer).await;
        self.sorted(answer).and_then(outcome_of)
    }

    /// What came of an operation on a key, if that is known already.
    pub fn try_outcome(&mut self) -> Option<Result<Outcome, RequestError>> {
        let answer = match self.answer.try_recv() {
            Ok(answer) => Ok(answer),
            Err(oneshot::error::TryRecvError::Empty) => return None,
            Err(oneshot::error::TryRecvError::Closed) => Err(()),
        };
        Some(self.sorted(answer).and_then(outcome_of))
    }

    /// Waits for a number of members. A wait that is given up may be begun again; one that has
    /// ended may not.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn copies(&mut self) -> Result<u8, RequestError> {
        let answer = (&mut self.answer).await;
        match self.sorted(answer)? {
            Response::Copies(count) => Ok(count),
            other => Err(mistaken(&other)),
        }
    }

    /// Waits for a number of keys.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn count(self) -> Result<u64, RequestError> {
        match self.response().await? {
            Response::Count(count) => Ok(count),
            other => Err(mistaken(&other)),
        }
    }

    /// Waits for members.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn equal(self) -> Result<Vec<NodeId>, RequestError> {
        match self.response().await? {
            Response::Equal(members) => Ok(members),
            other => Err(mistaken(&other)),
        }
    }

    async fn response(mut self) -> Result<Response, RequestError> {
        let answer = (&mut self.answer).await;
        self.sorted(answer)
    }

    fn sorted<E>(
        &self,
        answer: Result<Result<Response, RequestError>, E>,
    ) -> Result<Response, RequestError> {
        match answer {
            Ok(answer) => answer,
            Err(_) if self.is_read => Err(stopped()),
            Err(_) => Err(RequestError::Indeterminate(
                "this node stopped before it was known whether the write was done".to_owned(),
            )),
        }
    }
}

fn outcome_of(response: Response) -> Result<Outcome, RequestError> {
    match response {
        Response::Key(outcome) => Ok(outcome),
        other => Err(mistaken(&other)),
    }
}

fn stopped() -> RequestError {
    RequestError::Unavailable("this node is stopping".to_owned())
}

fn mistaken(response: &Response) -> RequestError {
    RequestError::Indeterminate(format!("an answer to another question came: {response:?}"))
}

#[cfg(test)]
pub(crate) mod fake;
