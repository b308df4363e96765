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
    replica::spread::shard_of,
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
pub(crate) mod fake {
    //! Partitions of a cluster of one, in memory: for tests of what stands before them.

    use std::{
        ops::Bound,
        time::{SystemTime, UNIX_EPOCH},
    };

    use kith_proto::{
        kv::{
            entry::Entry,
            version::{HlcClock, Wall},
        },
        replica::digest::{bucket_of, buckets},
    };

    use super::*;

    const PARTITIONS: u16 = 16;

    fn wall() -> Wall {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Wall(u64::try_from(since.as_millis()).unwrap())
    }

    /// A `Kv` whose one node, with that RESP address, owns everything.
    pub(crate) fn kv(resp: Option<SocketAddr>) -> Kv {
        with_topology(alone(resp))
    }

    /// One node, with that RESP address, that owns everything.
    pub(crate) fn alone(resp: Option<SocketAddr>) -> Topology {
        let own = NodeId(1);
        let node = TopologyNode {
            name: "n1".to_owned(),
            resp,
            gossip: "127.0.0.1:7400".parse().unwrap(),
            living: true,
        };
        Topology {
            own: Some(own),
            partitions: vec![vec![own]; usize::from(PARTITIONS)],
            nodes: BTreeMap::from([(own, node)]),
        }
    }

    /// A `Kv` that says that partitions are there, and keeps them all itself.
    pub(crate) fn with_topology(topology: Topology) -> Kv {
        let (sender, calls) = mpsc::channel(CALL_QUEUE);
        tokio::spawn(serve(calls, buckets(topology.len())));
        let (_, topology) = watch::channel(Arc::new(topology));
        Kv::new(Arc::from([sender]), topology, 1 << 20)
    }

    /// The same as [`with_topology`], with a thread of its own behind it.
    pub(crate) fn in_thread(topology: Topology) -> Kv {
        let (give, take) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (sender, calls) = mpsc::channel(CALL_QUEUE);
                let buckets = buckets(topology.len());
                let (_, topology) = watch::channel(Arc::new(topology));
                give.send(Kv::new(Arc::from([sender]), topology, 1 << 20))
                    .unwrap();
                // Until the last clone of it is gone.
                serve(calls, buckets).await;
            });
        });
        take.recv().unwrap()
    }

    /// The same keys, as a node with another view of the cluster has them.
    pub(crate) fn seen_otherwise(kv: &Kv, topology: Topology) -> Kv {
        let (_, topology) = watch::channel(Arc::new(topology));
        Kv::new(Arc::clone(&kv.shards), topology, kv.max_value)
    }

    async fn serve(mut calls: mpsc::Receiver<Call>, buckets: u16) {
        let mut clock = HlcClock::default();
        let mut all: BTreeMap<(PartitionId, u16, Bytes), Entry> = BTreeMap::new();
        while let Some(call) = calls.recv().await {
            let living = |partition, after: Option<Cursor>| {
                let from = match after {
                    Some(after) => Bound::Excluded((partition, after.bucket, after.key)),
                    None => Bound::Included((partition, 0, Bytes::new())),
                };
                let to = Bound::Excluded((partition + 1, 0, Bytes::new()));
                all.range((from, to))
                    .filter(|(_, entry)| entry.live(wall()).is_some())
            };
            let answer = match call.request {
                Request::Key { key, op, .. } => {
                    let place = (call.partition, bucket_of(&key, buckets), key);
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
                    let found: Vec<_> = living(partition, after).take(limit as usize).collect();
                    let full = found.len() == limit as usize;
                    let next = found.last().filter(|_| full).map(|(place, _)| Cursor {
                        bucket: place.1,
                        key: place.2.clone(),
                    });
                    let keys = found
                        .into_iter()
                        .map(|((_, _, key), entry)| (key.clone(), entry.version))
                        .collect();
                    Ok(Response::Scan { keys, next })
                }
                Request::Count { partition } => {
                    Ok(Response::Count(living(partition, None).count() as u64))
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
