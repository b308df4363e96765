//! Going on purpose is never taken for a failure.

use kith::view::Status;
use kith_tests::{
    cluster::{self, Cluster},
    process::{self, Signal},
};

#[test]
fn a_node_that_is_stopped_says_that_it_will_be_back() {
    let cluster = cluster::of(5).start();
    cluster.expect_healthy();
    let marks = cluster.marks();
    cluster.node(2).signal(Signal::TERM);
    assert_eq!(cluster.node(2).process().expect_code(), 0);
    expect_left(&cluster, 2, &marks, true);
    expect_all_handed_over(&cluster, 2);
}

#[test]
fn interrupting_is_stopping() {
    let cluster = cluster::of(3).start();
    // Copies that are still being made cannot be handed over.
    cluster.expect_healthy();
    let marks = cluster.marks();
    cluster.node(0).signal(Signal::INT);
    assert_eq!(cluster.node(0).process().expect_code(), 0);
    expect_left(&cluster, 0, &marks, true);
    // Here every node has a copy of everything, the one that stops included.
    expect_all_handed_over(&cluster, 0);
}

#[test]
fn kith_leave_is_for_good() {
    let cluster = cluster::of(4).start();
    let marks = cluster.marks();
    let mut command = cluster.node(3).client(&["leave"]).unwrap();
    let (code, text) = process::run(&mut command).unwrap();
    assert_eq!(code, 0, "{text}");
    assert_eq!(cluster.node(3).process().expect_code(), 0);
    expect_left(&cluster, 3, &marks, false);
}

#[test]
fn a_node_that_left_over_http_comes_back_as_a_member() {
    let mut cluster = cluster::of(3).durable().start();
    let marks = cluster.marks();
    let answer = cluster.node(2).ask("POST", "/v1/leave", None).unwrap();
    assert!(matches!(answer.status, 200..=299), "{answer:?}");
    assert_eq!(cluster.node(2).process().expect_code(), 0);
    expect_left(&cluster, 2, &marks, false);

    cluster.restart(2);
    cluster.expect_all_alive();
}

#[test]
fn when_all_stop_at_once_none_hangs_and_none_complains() {
    let cluster = cluster::of(5).start();
    cluster.expect_healthy();
    let marks = cluster.marks();
    for node in cluster.nodes() {
        node.signal(Signal::TERM);
    }
    for node in cluster.nodes() {
        assert_eq!(node.process().expect_code(), 0);
    }
    cluster.forbid_everywhere(&marks, &["member_failed"]);
    for index in 0..5 {
        expect_all_handed_over(&cluster, index);
    }
}

#[test]
fn a_node_that_is_alone_stops() {
    let cluster = cluster::of(1).start();
    cluster.node(0).signal(Signal::TERM);
    assert_eq!(cluster.node(0).process().expect_code(), 0);
}

/// Nobody could own meanwhile what only this node has: it does not wait for that.
#[test]
fn a_node_with_the_only_copies_stops() {
    let cluster = cluster::of(2).flags(&["--copies", "1"]).start();
    cluster.expect_healthy();
    let marks = cluster.marks();
    cluster.node(0).signal(Signal::TERM);
    assert_eq!(cluster.node(0).process().expect_code(), 0);
    expect_left(&cluster, 0, &marks, true);
    expect_all_handed_over(&cluster, 0);
}

/// Its only backup is away: what that could have owned is nobody's, and not waited for.
#[test]
fn a_node_that_stops_after_its_backup_does_not_wait_for_it() {
    let cluster = cluster::of(4).flags(&["--copies", "2"]).start();
    cluster.expect_healthy();
    for index in 0..3 {
        cluster.node(index).signal(Signal::TERM);
        assert_eq!(cluster.node(index).process().expect_code(), 0);
        expect_all_handed_over(&cluster, index);
    }
}

/// Whoever stops gives away what it owns, and is not given it back; where all stop nobody waits.
fn expect_all_handed_over(cluster: &Cluster, index: usize) {
    let text = cluster.node(index).process().log().text();
    assert!(!text.contains("not all partitions"), "{text}");
}

/// Every other node hears that the node left, and nothing worse of anybody.
fn expect_left(cluster: &Cluster, index: usize, marks: &[usize], returning: bool) {
    for event in cluster.expect_on_others(index, marks, "member_left") {
        assert_eq!(event.flag("returning"), Some(returning), "{}", event.body);
    }
    let name = cluster.node(index).name();
    let others: Vec<&str> = cluster.others(index).map(|node| node.name()).collect();
    for node in cluster.others(index) {
        node.expect_status(name, Status::Left);
        node.expect_alive(&others);
    }
    cluster.forbid_everywhere(marks, &["member_failed"]);
}
