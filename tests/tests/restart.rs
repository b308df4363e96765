//! A node that crashed comes back as the same node in a new life.

use kith::view::Status;
use kith_tests::cluster::{self, Cluster};

#[test]
fn a_killed_node_rejoins_with_its_id_and_a_larger_generation() {
    let mut cluster = cluster::of(4).durable().start();
    let before = cluster.node(2).expect_ready();
    let marks = cluster.marks();
    cluster.node(2).kill();
    cluster.expect_on_others(2, &marks, "member_failed");

    let marks = cluster.marks();
    let after = cluster.restart(2).expect_ready();
    assert_eq!(after.id, before.id);
    assert!(after.generation > before.generation);
    assert_eq!(after.gossip, before.gossip);
    expect_rejoined(&cluster, &marks, after.generation);
    cluster.expect_all_alive();
}

#[test]
fn a_node_restarted_before_anybody_noticed_is_not_refused() {
    let mut cluster = cluster::of(4).durable().start();
    let marks = cluster.marks();
    // No waiting between the two, so that most times nobody has noticed.
    cluster.node(2).kill();
    let after = cluster.restart(2).expect_ready();
    expect_rejoined(&cluster, &marks, after.generation);
    cluster.expect_all_alive();
    for (index, node) in [
        (0, cluster.node(0)),
        (1, cluster.node(1)),
        (3, cluster.node(3)),
    ] {
        // The old life may have been declared over; the new one not.
        let view = node.expect_status("n3", Status::Alive);
        assert_eq!(view.generation, after.generation);
        node.forbid(marks[index], "a departure", |e| e.name() == "member_left");
        let failures = node.events_since(marks[index]);
        let failures = failures
            .iter()
            .filter(|e| e.is("member_failed", "n3"))
            .count();
        assert!(
            failures <= 1,
            "{} declared n3 failed {failures} times",
            node.name()
        );
    }
}

#[test]
fn a_seed_that_is_restarted_finds_the_others_again() {
    let mut cluster = cluster::of(3).durable().start();
    let marks = cluster.marks();
    cluster.node(0).kill();
    cluster.expect_on_others(0, &marks, "member_failed");
    // The first node has no seed: it must not bootstrap a cluster of its own.
    let before = cluster.node(1).about().unwrap().cluster_id;
    cluster.restart(0);
    cluster.expect_all_alive();
    assert_eq!(cluster.node(0).about().unwrap().cluster_id, before);
}

#[test]
fn a_cluster_that_was_killed_as_a_whole_comes_together_again() {
    let mut cluster = cluster::of(3).durable().start();
    let before = cluster.node(0).about().unwrap().cluster_id;
    for node in cluster.nodes() {
        node.kill();
    }
    for index in [2, 1, 0] {
        cluster.restart(index);
    }
    cluster.expect_all_alive();
    for node in cluster.nodes() {
        assert_eq!(node.about().unwrap().cluster_id, before);
    }
}

#[test]
fn a_node_that_lost_its_disk_takes_over_its_name_as_a_new_node() {
    let mut cluster = cluster::of(3).durable().start();
    let before = cluster.node(2).expect_ready();
    let marks = cluster.marks();
    cluster.node(2).kill();
    cluster.expect_on_others(2, &marks, "member_failed");
    std::fs::remove_dir_all(cluster.folder().join("n3")).unwrap();

    let marks = cluster.marks();
    let after = cluster.restart(2).expect_ready();
    assert_ne!(after.id, before.id);
    for index in [0, 1] {
        let joined = cluster
            .node(index)
            .expect_event(marks[index], "member_joined", "n3");
        assert_eq!(joined.text("member_id"), after.id);
    }
    cluster.expect_all_alive();
}

/// Every other node says that n3 is back in that life.
fn expect_rejoined(cluster: &Cluster, marks: &[usize], generation: u64) {
    for event in cluster.expect_on_others(2, marks, "member_rejoined") {
        assert_eq!(
            event.number("generation"),
            Some(generation),
            "{}",
            event.body
        );
    }
}
