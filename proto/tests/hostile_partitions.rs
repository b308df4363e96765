//! A partition core is told whatever damaged or senseless messages say: it neither panics nor
//! claims memory without bound, and goes on serving what it owns.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kith_proto::{
    config::ClusterSettings,
    id::NodeId,
    input::{RequestId, StreamId},
    kv::{
        entry::Entry,
        op::{Condition, Expiry, Op},
        request::{Ack, Request},
        version::{Version, Wall},
    },
    placement::{Assignment, partition_of},
    replica::{
        chain::{Ballot, ConfigId, Configuration, Rejection},
        digest::Group,
        host::{Input, Now, Output, Peer, Standing, SyncMode, View},
        message::{self, Attempt, Body, Carried, Content, Message, Route, WriteItem},
        shard::{Config, Shard, Timing},
    },
    store::partitions::MemoryStore,
    time::Time,
};
use proptest::prelude::*;

const OWN: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const PARTITIONS: u16 = 4;

fn at(millis: u64) -> Now {
    Now {
        time: Time::from_millis(millis),
        wall: Wall(1_000_000 + millis),
    }
}

fn founder() -> Shard {
    let config = Config {
        node: OWN,
        shard: (0, 1),
        sync: SyncMode::Interval,
        timing: Timing::default(),
        forgetful: false,
        omit: None,
    };
    let store = Box::<MemoryStore>::default();
    let mut shard = Shard::open(config, store, PARTITIONS, [7; 32], at(1)).unwrap();
    let peer = |name: &str, stream| Peer {
        name: name.to_owned(),
        standing: Standing::Living,
        stream: Some(StreamId(stream)),
    };
    let view = View {
        peers: BTreeMap::from([(OWN, peer("own", 0)), (PEER, peer("peer", 5))]),
        target: Arc::new(Assignment::empty(PARTITIONS)),
        settings: ClusterSettings {
            partitions: PARTITIONS,
            ..ClusterSettings::default()
        },
        founder: true,
        leaving: false,
    };
    shard.handle(at(2), Input::View(Arc::new(view)));
    shard.flush(at(2));
    shard
}

/// One of each kind, about the configuration that is there.
fn samples(config: &Configuration) -> Vec<Message> {
    let ballot = Ballot {
        counter: 3,
        node: PEER,
    };
    let (attempt, key) = (Attempt::Ballot(ballot), Bytes::from("key"));
    let entry = Entry::tombstone(Version::default());
    let boxed = || Box::new(config.next(vec![PEER, OWN]));
    let bodies = vec![
        Body::Prepare {
            ballot,
            config: Box::new(config.clone()),
            by_word: false,
        },
        Body::Accept {
            ballot,
            next: boxed(),
        },
        Body::Accepted { ballot },
        Body::Rejected {
            attempt,
            why: Rejection::Newer(boxed()),
        },
        Body::Install(boxed()),
        Body::Installed,
        Body::Write(vec![WriteItem {
            number: 1,
            key: key.clone(),
            content: Content::Entry(entry.clone()),
        }]),
        Body::Written {
            done: vec![1],
            lacking: vec![2],
        },
        Body::Compare {
            attempt,
            root: 1,
            groups: vec![1; 40],
        },
        Body::Differ {
            attempt,
            groups: vec![Group {
                number: u16::MAX,
                buckets: vec![1, 2, 3],
            }],
        },
        Body::List {
            attempt,
            buckets: vec![1, u16::MAX],
        },
        Body::Listed {
            attempt,
            buckets: vec![1],
            keys: vec![(key.clone(), Version::default())],
        },
        Body::Entries {
            attempt,
            entries: vec![Carried {
                key: key.clone(),
                entry,
            }],
            drop: vec![(key, Version::default())],
        },
        Body::Fill {
            attempt,
            config: boxed(),
        },
        Body::MayForget { member: true },
        Body::Forget,
        Body::Closed(boxed()),
    ];
    let about = |body| Message::Partition {
        partition: 1,
        id: config.id,
        body,
    };
    let mut all: Vec<Message> = bodies.into_iter().map(about).collect();
    all.push(Message::RoutesDigest(vec![(9, 9), (u16::MAX, 0)]));
    all.push(Message::Routes(vec![Route {
        partition: 2,
        id: ConfigId {
            epoch: u64::MAX,
            branch: 1,
        },
        members: vec![PEER],
    }]));
    all
}

fn drain(shard: &mut Shard) -> Vec<Output> {
    std::iter::from_fn(|| shard.poll_output()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bytes_of_strangers_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        bytes.insert(0, message::FRAME_MARK);
        if let Ok(message) = message::decode(&bytes) {
            prop_assert_eq!(message::decode(&message::encode(&message)), Ok(message));
        }
    }

    #[test]
    fn damaged_messages_do_no_harm(
        choices in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..40)
    ) {
        let mut shard = founder();
        let config = shard.chain_of(1).unwrap().config.clone();
        let samples = samples(&config);
        let mut millis = 10;
        let mut spoken_of = false;
        for (which, place, value) in choices {
            let mut frame = message::encode(which.get(&samples));
            let index = 1 + place.index(frame.len() - 1);
            frame[index] = value;
            if let Ok(message) = message::decode(&frame) {
                // Damage may name another partition: what a member says of it is believed.
                spoken_of |= match &message {
                    Message::Partition { partition, .. } => *partition == 3,
                    Message::Routes(routes) => routes.iter().any(|route| route.partition == 3),
                    _ => false,
                };
                shard.handle(at(millis), Input::Message { from: PEER, message });
                shard.flush(at(millis));
                drain(&mut shard);
            }
            millis += 7;
            shard.handle(at(millis), Input::Tick);
        }
        prop_assert!(!shard.is_broken());
        let key = (0..).map(|n| Bytes::from(format!("k{n}"))).find(|key| partition_of(key, PARTITIONS) == 3).unwrap();
        let body = Request::Key {
            key,
            op: Op::Set {
                value: Bytes::from("v"),
                expiry: Expiry::Never,
                condition: Condition::None,
                want_old: false,
            },
            ack: Ack::Quorum,
        };
        shard.handle(at(millis + 1), Input::Request { request: RequestId(1), partition: 3, body });
        let answered = drain(&mut shard)
            .iter()
            .any(|output| matches!(output, Output::Reply { result: Ok(_), .. }));
        prop_assert!(answered || spoken_of, "a partition that nobody spoke of is not served");
    }
}
