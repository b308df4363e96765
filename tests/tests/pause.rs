//! A process that is stopped for a while is not a dead one.

use std::{thread, time::Duration};

use kith::view::Status;
use kith_tests::{cluster, process::Signal};

#[test]
fn nobody_fails_a_node_that_was_stopped_for_three_seconds() {
    let cluster = cluster::of(5).start();
    let marks = cluster.marks();

    cluster.node(2).signal(Signal::STOP);
    // Not a wait for something: the pause is what is tried here.
    thread::sleep(Duration::from_secs(3));
    cluster.node(2).signal(Signal::CONT);

    // All are alive, not suspected, also in the eyes of the sleeper.
    cluster.expect_all_alive();
    cluster.forbid_everywhere(&marks, &["member_failed", "member_left", "member_rejoined"]);
    let sleeper = cluster.node(2);
    sleeper.forbid(marks[2], "an accusation", |e| {
        e.name() == "member_suspected" && e.text("accuser") == "n3"
    });
}

#[test]
fn a_node_that_was_stopped_for_long_fails_and_recovers_as_the_same_life() {
    let settings = "[timing]\nunresponsive = \"500ms\"\n";
    let cluster = cluster::of(4).config(settings).start();
    let marks = cluster.marks();
    let generation = cluster.node(2).expect_ready().generation;

    cluster.node(2).signal(Signal::STOP);
    for event in cluster.expect_on_others(2, &marks, "member_failed") {
        assert_eq!(event.text("reason"), "unresponsive", "{}", event.body);
    }
    cluster.node(2).signal(Signal::CONT);

    for (node, mark) in [0, 1, 3].map(|i| (cluster.node(i), marks[i])) {
        let what = "the recovery of n3 from failure";
        let recovered = node.wait_event(what, mark, kith_tests::wait::PATIENCE, |e| {
            e.is("member_recovered", "n3") && e.number("failed_ms").is_some()
        });
        recovered.unwrap();
        let view = node.expect_status("n3", Status::Alive);
        assert_eq!(view.generation, generation, "it is the same life");
    }
    cluster.expect_all_alive();
    cluster.forbid_everywhere(&marks, &["member_left", "member_joined", "member_rejoined"]);
    // The sleeper woke up to a silence of its own making, and accused nobody.
    let sleeper = cluster.node(2);
    sleeper.forbid(marks[2], "the failure of another", |e| {
        e.name() == "member_failed"
    });
}
