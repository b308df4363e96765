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

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use kith_proto::{
    id::{NodeId, PartitionId},
    kv::{
        MAX_KEY,
        op::{Op, Outcome},
        request::{Ack, Cursor, Request, RequestError, Response},
        version::Version,
    },
    placement::partition_of,
};
use tokio::sync::{mpsc, oneshot, watch};

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
}

impl Kv {
    pub(crate) fn new(
        shards: Arc<[mpsc::Sender<Call>]>,
        topology: watch::Receiver<Arc<Topology>>,
        max_value: usize,
    ) -> Self {
        Self {
            shards,
            topology,
            max_value,
        }
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
        match self.ask(partition, Request::Key { key, op, ack }).await? {
            Response::Key(outcome) => Ok(outcome),
            other => Err(mistaken(&other)),
        }
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
        match self.ask(partition, Request::Count { partition }).await? {
            Response::Count(count) => Ok(count),
            other => Err(mistaken(&other)),
        }
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
        let stopped = || RequestError::Unavailable("this node is stopping".to_owned());
        let is_read = request.is_read();
        let shard = &self.shards[usize::from(partition) % self.shards.len()];
        let (reply, answer) = oneshot::channel();
        let call = Call {
            partition,
            request,
            reply,
        };
        shard.send(call).await.map_err(|_unsent| stopped())?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) if is_read => Err(stopped()),
            Err(_) => Err(RequestError::Indeterminate(
                "this node stopped before it was known whether the write was done".to_owned(),
            )),
        }
    }
}

fn mistaken(response: &Response) -> RequestError {
    RequestError::Indeterminate(format!("an answer to another question came: {response:?}"))
}

#[cfg(test)]
pub(crate) mod fake {
    //! Partitions of a cluster of one, in memory: for tests of what stands before them.

    use std::time::{SystemTime, UNIX_EPOCH};

    use kith_proto::kv::{
        entry::Entry,
        version::{HlcClock, Wall},
    };

    use super::*;

    const PARTITIONS: u16 = 16;

    fn wall() -> Wall {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Wall(u64::try_from(since.as_millis()).unwrap())
    }

    /// A `Kv` whose one node, with that RESP address, owns everything.
    pub(crate) fn kv(resp: Option<SocketAddr>) -> Kv {
        let own = NodeId(1);
        let node = TopologyNode {
            name: "n1".to_owned(),
            resp,
            gossip: "127.0.0.1:7400".parse().unwrap(),
            living: true,
        };
        let topology = Topology {
            own: Some(own),
            partitions: vec![vec![own]; usize::from(PARTITIONS)],
            nodes: BTreeMap::from([(own, node)]),
        };
        let (sender, calls) = mpsc::channel(CALL_QUEUE);
        tokio::spawn(serve(calls));
        let (_, topology) = watch::channel(Arc::new(topology));
        Kv::new(Arc::from([sender]), topology, 1 << 20)
    }

    async fn serve(mut calls: mpsc::Receiver<Call>) {
        let mut clock = HlcClock::default();
        let mut all: BTreeMap<(PartitionId, Bytes), Entry> = BTreeMap::new();
        while let Some(call) = calls.recv().await {
            let living = |partition| {
                all.iter()
                    .filter(move |((p, _), entry)| *p == partition && entry.live(wall()).is_some())
            };
            let answer = match call.request {
                Request::Key { key, op, .. } => {
                    let place = (call.partition, key);
                    op.decide(all.get(&place), wall())
                        .map_err(RequestError::from)
                        .map(|mut decision| {
                            if let Some((value, expires)) = decision.write {
                                let version = Version {
                                    epoch: 1,
                                    hlc: clock.stamp(wall()),
                                    branch: 1,
                                };
                                if let Some(after) = &mut decision.outcome.after {
                                    after.version = version;
                                }
                                let entry = Entry {
                                    version,
                                    value,
                                    expires,
                                };
                                all.insert(place, entry);
                            }
                            Response::Key(decision.outcome)
                        })
                }
                Request::Scan {
                    partition,
                    after,
                    limit,
                } => {
                    let keys: Vec<_> = living(partition)
                        .map(|((_, key), entry)| (key.clone(), entry.version))
                        .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after.key))
                        .take(limit as usize)
                        .collect();
                    let full = keys.len() == limit as usize;
                    let next = keys.last().filter(|_| full).map(|(key, _)| Cursor {
                        bucket: 0,
                        key: key.clone(),
                    });
                    Ok(Response::Scan { keys, next })
                }
                Request::Count { partition } => {
                    Ok(Response::Count(living(partition).count() as u64))
                }
            };
            drop(call.reply.send(answer));
        }
    }

    #[tokio::test]
    async fn a_value_is_kept_and_scanned() {
        let kv = kv(None);
        let set = Op::Set {
            value: Bytes::from("v"),
            expiry: Default::default(),
            condition: Default::default(),
            want_old: false,
        };
        let key = Bytes::from("k");
        assert!(
            kv.call(key.clone(), set, Ack::Quorum)
                .await
                .unwrap()
                .applied
        );
        let read = kv.call(key.clone(), Op::Get, Ack::Quorum).await.unwrap();
        assert_eq!(read.before.unwrap().value, Some(Bytes::from("v")));
        let partition = partition_of(&key, PARTITIONS);
        assert_eq!(kv.scan(partition, None, 10).await.unwrap().keys[0].0, key);
        assert_eq!(kv.count(partition).await.unwrap(), 1);
    }
}
