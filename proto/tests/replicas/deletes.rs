//! Deletions and expired values go in the end, and what they deleted stays away.

use std::time::Duration;

use bytes::Bytes;
use kith_proto::{
    config::Consistency,
    kv::{
        op::{Condition, Expiry, Op},
        version::Wall,
    },
    replica::{host::Standing, shard::Timing},
};

use crate::cluster::Cluster;

const GRACE: Duration = Duration::from_secs(200);

fn cluster(nodes: usize, consistency: Consistency) -> Cluster {
    let timing = Timing {
        tombstone_grace: GRACE,
        sweep: Duration::from_secs(10),
        ..Timing::default()
    };
    Cluster::with_timing(nodes, consistency, timing)
}

#[test]
fn a_tombstone_goes_everywhere_after_the_grace_and_not_before() {
    for consistency in [Consistency::Available, Consistency::Strict] {
        let mut cluster = cluster(3, consistency);
        cluster.set(0, "key", "value").unwrap();
        cluster.set(0, "other", "value").unwrap();
        cluster.delete(0, "key").unwrap();
        cluster.run(GRACE * 9 / 10);
        for node in 0..3 {
            assert!(cluster.entry(node, "key").is_some(), "n{node} forgot early");
        }
        cluster.run(GRACE);
        for node in 0..3 {
            assert_eq!(cluster.entry(node, "key"), None, "n{node}");
            assert!(cluster.entry(node, "other").is_some());
        }
    }
}

#[test]
fn nothing_is_forgotten_while_a_node_is_away() {
    let mut cluster = cluster(4, Consistency::Available);
    cluster.set(0, "key", "value").unwrap();
    let away = *cluster.members("key").last().unwrap();
    cluster.standing[away] = Standing::Failed;
    cluster.show();
    cluster.run(Duration::from_secs(30));
    assert!(!cluster.members("key").contains(&away));
    let living = cluster.living();
    cluster.delete(living, "key").unwrap();
    cluster.run(GRACE * 3);
    for member in cluster.members("key") {
        assert!(
            cluster.entry(member, "key").is_some(),
            "n{member} forgot it"
        );
    }
    // It comes back with the value that it knew, and the deletion wins.
    cluster.standing[away] = Standing::Living;
    cluster.show();
    cluster.run(Duration::from_secs(60));
    for node in cluster.holders("key") {
        let entry = cluster.entry(node, "key").unwrap();
        assert_eq!(entry.value, None, "n{node}");
    }
    cluster.run(GRACE * 2);
    assert_eq!(cluster.holders("key"), [0usize; 0], "now it may go");
}

#[test]
fn a_former_member_that_was_away_for_long_begins_anew() {
    let mut cluster = cluster(4, Consistency::Available);
    cluster.set(0, "key", "value").unwrap();
    let away = *cluster.members("key").last().unwrap();
    // For good, so that nobody waits for it.
    cluster.standing[away] = Standing::Gone;
    cluster.show();
    cluster.run(Duration::from_secs(30));
    let living = cluster.living();
    cluster.delete(living, "key").unwrap();
    cluster.run(GRACE * 3);
    assert_eq!(cluster.holders("key"), [away], "only the one that is away");
    assert!(cluster.entry(away, "key").unwrap().value.is_some());
    cluster.standing[away] = Standing::Living;
    cluster.show();
    cluster.run(Duration::from_secs(60));
    assert!(
        cluster.members("key").contains(&away),
        "it is a member again"
    );
    assert_eq!(
        cluster.holders("key"),
        [0usize; 0],
        "and brought nothing back"
    );
}

#[test]
fn an_expired_value_takes_no_room_and_copies_stay_equal() {
    let mut cluster = cluster(3, Consistency::Available);
    let at = Wall(1_700_000_000_000 + 30_000);
    let op = Op::Set {
        value: Bytes::from(vec![b'v'; 1000]),
        expiry: Expiry::At(at),
        condition: Condition::None,
        want_old: false,
    };
    cluster.ask(0, "key", op).unwrap();
    cluster.run(Duration::from_secs(20));
    assert!(cluster.entry(1, "key").unwrap().value.is_some());
    cluster.run(Duration::from_secs(120));
    for node in 0..3 {
        let entry = cluster.entry(node, "key").unwrap();
        assert_eq!((entry.value, entry.expires), (None, Some(at)));
    }
    cluster.run(GRACE * 2);
    assert_eq!(cluster.holders("key"), [0usize; 0]);
}
