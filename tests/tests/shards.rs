//! How many shards a node has is its own affair, and may be another number at every start.

use kith_tests::{
    checker::{self, Checker},
    cluster,
};

const KEYS: usize = 48;

#[test]
fn nodes_with_different_numbers_of_shards_are_one_cluster() {
    let mut cluster = cluster::of(4)
        .durable()
        .flags(&["--partitions", "64"])
        .prepare()
        .unwrap();
    let set = |cluster: &mut cluster::Cluster, index: usize, shards: &str| {
        let more = &mut cluster.spec(index).more;
        if let Some(at) = more.iter().position(|word| word == "--shards") {
            more.drain(at..at + 2);
        }
        more.extend(["--shards".to_owned(), shards.to_owned()]);
    };
    for (index, shards) in ["1", "2", "3", "16"].into_iter().enumerate() {
        set(&mut cluster, index, shards);
    }
    cluster.start_all().unwrap();
    cluster.expect_healthy();
    let through = cluster.nodes().iter().map(|node| node.library()).collect();
    let checker = Checker::begin(&checker::keys("key-", KEYS), 4, through);
    checker.expect_progress();

    // An owner goes without a word, and comes back with another number.
    for (victim, shards) in [(1, "3"), (3, "1")] {
        checker.through(cluster.others(victim));
        cluster.node(victim).kill();
        checker.expect_progress();
        checker.expect_nothing_lost(cluster.others(victim));
        set(&mut cluster, victim, shards);
        cluster.restart(victim);
        checker.expect_health(&cluster);
    }
}
