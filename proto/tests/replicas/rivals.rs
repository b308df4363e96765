//! Branches that meet.

use std::time::Duration;

use kith_proto::{
    config::Consistency,
    id::NodeId,
    placement::partition_of,
    replica::{
        chain::{ConfigId, Configuration},
        host::{Input, Standing},
        message::{Body, Message},
    },
};

use crate::cluster::{Cluster, PARTITIONS};

// What is closed into it would be served by nobody until somebody of it is back, though it is the larger one.
#[test]
fn nobody_gives_up_for_a_branch_of_which_nobody_is_left() {
    let mut cluster = Cluster::new(3, Consistency::Available);
    // Long enough for a node that nobody has ever heard of to count as gone.
    cluster.run(Duration::from_secs(60));
    cluster.set(0, "key", "before").unwrap();
    let (owner, partition) = (cluster.members("key")[0], partition_of(b"key", PARTITIONS));
    let from = NodeId(77);
    let id = ConfigId {
        epoch: 99,
        branch: u64::MAX,
    };
    let rival = Configuration {
        id,
        ..Configuration::genesis(from, id.branch)
    };
    let message = Message::Partition {
        partition,
        id,
        body: Body::Install(Box::new(rival)),
    };
    cluster.feed(owner, Input::Message { from, message });
    cluster.run(Duration::from_secs(5));
    let met = cluster.shards[owner].counters().get("rivals_met");
    assert_eq!(met, Some(&1));
    cluster.set(0, "key", "after").unwrap();
    assert_eq!(cluster.members("key")[0], owner);
}

// Others go on without it already: what it chose alone would be out of reach until it is back.
#[test]
fn a_node_that_has_said_farewell_does_not_go_on_alone() {
    let mut cluster = Cluster::new(3, Consistency::Available);
    cluster.set(0, "key", "value").unwrap();
    let (backup, partition) = (cluster.members("key")[1], partition_of(b"key", PARTITIONS));
    let config = |cluster: &Cluster| {
        let chain = cluster.shards[backup].chain_of(partition);
        chain.map(|chain| chain.config.clone())
    };
    let before = config(&cluster);
    for (stands, goes_on) in [(Standing::Returning, false), (Standing::Living, true)] {
        cluster.standing = vec![Standing::Failed; 3];
        cluster.standing[backup] = stands;
        cluster.show();
        cluster.run(Duration::from_secs(3));
        assert_eq!(config(&cluster) != before, goes_on, "{stands:?}");
    }
}
