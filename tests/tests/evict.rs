//! Removing a member by hand.

use kith::view::Status;
use kith_tests::{cluster, process};

#[test]
fn an_evicted_node_that_lives_stops_and_says_so() {
    let cluster = cluster::of(4).start();
    let marks = cluster.marks();
    let mut command = cluster.node(0).client(&["evict", "n3"]).unwrap();
    let (code, text) = process::run(&mut command).unwrap();
    assert_eq!(code, 0, "{text}");

    assert_eq!(cluster.node(2).process().expect_code(), 4);
    let words = cluster.node(2).process().log().text();
    assert!(words.contains("evicted"), "{words}");
    for event in cluster.expect_on_others(2, &marks, "member_evicted") {
        assert_eq!(event.text("by"), "n1", "{}", event.body);
    }
    for node in cluster.others(2) {
        node.expect_alive(&["n1", "n2", "n4"]);
        node.expect_status("n3", Status::Evicted);
    }
}

#[test]
fn a_failed_member_is_evicted_and_comes_back_only_in_a_new_life() {
    let mut cluster = cluster::of(3).durable().start();
    let marks = cluster.marks();
    cluster.node(2).kill();
    cluster.expect_on_others(2, &marks, "member_failed");

    let answer = cluster.node(1).ask("POST", "/v1/evict/n3", None).unwrap();
    assert!(matches!(answer.status, 200..=299), "{answer:?}");
    cluster.expect_on_others(2, &marks, "member_evicted");
    for node in cluster.others(2) {
        node.expect_status("n3", Status::Evicted);
    }

    cluster.restart(2);
    cluster.expect_all_alive();
}

#[test]
fn nobody_of_that_name() {
    let cluster = cluster::of(1).start();
    let mut command = cluster.node(0).client(&["evict", "nobody"]).unwrap();
    let (code, text) = process::run(&mut command).unwrap();
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("nobody"), "{text}");
}
