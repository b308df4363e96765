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
    Kv::new(Arc::from([sender]), topology, 1 << 20, Arc::default())
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
            give.send(Kv::new(
                Arc::from([sender]),
                topology,
                1 << 20,
                Arc::default(),
            ))
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
    Kv::new(
        Arc::clone(&kv.shards),
        topology,
        kv.max_value,
        Arc::default(),
    )
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
            Request::Copies { .. } => Ok(Response::Copies(1)),
            Request::Equal { .. } => Ok(Response::Equal(vec![NodeId(1)])),
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
