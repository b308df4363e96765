//! Joining: whoever starts with a seed knows everybody, and everybody knows it.

use std::collections::BTreeSet;

use kith_tests::{cluster, host::Host};

#[test]
fn five_nodes_all_see_all() {
    let cluster = cluster::of(5).start();
    let clusters: BTreeSet<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.expect_ready().event.text("cluster_id").to_owned())
        .collect();
    assert_eq!(clusters.len(), 1, "more than one cluster: {clusters:?}");
    cluster.forbid_everywhere(&[0; 5], &["member_failed", "member_left"]);
}

#[test]
fn thirty_two_nodes_all_see_all() {
    let cluster = cluster::of(32).start();
    for node in cluster.nodes() {
        let told: BTreeSet<String> = node
            .events_since(0)
            .iter()
            .filter(|e| e.name() == "member_joined")
            .map(|e| e.text("member").to_owned())
            .collect();
        assert!(!told.contains(node.name()), "{} joined itself", node.name());
        assert_eq!(told.len(), 31, "{} was told of {told:?}", node.name());
    }
}

#[test]
fn one_living_seed_among_dead_ones_is_enough() {
    let mut cluster = cluster::of(2).start();
    let nobody = Host::claim().unwrap();
    let index = cluster.add_spec().unwrap();
    let dead = nobody.free().unwrap().to_string();
    cluster.spec(index).seeds.insert(0, dead.clone());
    cluster.spec(index).seeds.push(dead);
    cluster.start_all().unwrap();
    cluster.expect_all_alive();
}

#[test]
fn a_node_joins_through_a_member_that_is_not_the_first() {
    let mut cluster = cluster::of(3).start();
    let third = cluster.spec(2).address().to_string();
    let index = cluster.add_spec().unwrap();
    cluster.spec(index).seeds = vec![third];
    cluster.start_all().unwrap();
    cluster.expect_all_alive();
}
