//! Copies that are thought to be equal, and are not.

use std::time::Duration;

use bytes::Bytes;
use kith_proto::{
    config::Consistency,
    kv::{entry::Entry, version::Version},
    placement::partition_of,
    replica::{
        host::Input,
        message::{Body, Content, Message, WriteItem},
    },
};

use crate::cluster::{Cluster, PARTITIONS, id};

/// More than the pause between two comparisons.
const A_WHILE: Duration = Duration::from_secs(130);

#[test]
fn a_copy_that_differs_is_found_and_mended() {
    for consistency in [Consistency::Available, Consistency::Strict] {
        let mut cluster = Cluster::new(3, consistency);
        cluster.set(0, "key", "value").unwrap();
        let members = cluster.members("key");
        let (owner, backup) = (members[0], members[1]);
        let partition = partition_of(b"key", PARTITIONS);
        let chain = cluster.shards[owner].chain_of(partition).unwrap();
        let config = chain.config.id;
        // Something that the owner never wrote.
        let stray = Bytes::from("stray");
        let entry = Entry::tombstone(Version {
            epoch: 0,
            branch: config.branch,
            ..Version::default()
        });
        let item = WriteItem {
            number: 1,
            key: stray.clone(),
            content: Content::Entry(entry),
        };
        let message = Message::Partition {
            partition,
            id: config,
            body: Body::Write(vec![item]),
        };
        let from = id(owner);
        cluster.feed(backup, Input::Message { from, message });
        assert!(cluster.shards[backup].entry(partition, &stray).is_some());
        cluster.run(A_WHILE);
        let has = |node: usize| cluster.shards[node].digests_of(partition).unwrap().root();
        assert_eq!(has(owner), has(backup));
        let strict = consistency == Consistency::Strict;
        let everywhere = cluster.shards[backup].entry(partition, &stray).is_some();
        assert_eq!(
            everywhere, !strict,
            "the owner decides in strict clusters, both sides in others"
        );
    }
}

#[test]
fn equal_copies_cost_one_message_a_peer() {
    let mut cluster = Cluster::new(3, Consistency::Available);
    cluster.set(0, "key", "value").unwrap();
    cluster.run(A_WHILE);
    cluster.sent.clear();
    cluster.run(Duration::from_secs(60));
    let of = |body: fn(&Message) -> bool| cluster.sent.iter().filter(|(.., m)| body(m)).count();
    let roots = of(|message| matches!(message, Message::Roots(_)));
    assert!((1..=6).contains(&roots), "{roots} messages of three nodes");
    assert_eq!(
        of(|message| matches!(message, Message::Partition { .. })),
        0
    );
}
