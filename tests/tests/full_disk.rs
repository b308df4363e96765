//! A disk that takes no more, while the agent runs: it cannot keep what it promises, and stops.

use std::fs;

use kith::view::Status;
use kith_tests::{cluster, wait};

#[test]
fn a_node_that_cannot_write_stops_says_why_and_comes_back_once_that_is_mended() {
    let mut cluster = cluster::of(3).durable().start();
    let before = cluster.node(2).expect_ready();
    let marks = cluster.marks();
    // What is written beside the old file cannot be: for root as for anybody else.
    let folder = cluster.folder().join("n3");
    let obstacle = folder.join("node.toml.tmp");
    fs::create_dir(&obstacle).unwrap();

    // Whoever joins is to be written down.
    cluster.grow().unwrap();
    assert_eq!(cluster.node(2).process().expect_code(), 1);
    let told = cluster.node(2).expect_line(marks[2], "this node stops");
    assert_eq!(told["level"], "ERROR");
    let words = wait::until("its last words", || {
        let text = cluster.node(2).process().log().text();
        let found = text.lines().find(|line| line.starts_with("error: "));
        found.map(str::to_owned).ok_or(text.clone())
    });
    for part in [
        "the node's state could not be kept",
        obstacle.to_str().unwrap(),
        "free space",
    ] {
        assert!(words.contains(part), "{part:?} is not in: {words}");
    }
    // The others notice at once, as they do of a process that is gone.
    let failed = cluster
        .node(0)
        .expect_event(marks[0], "member_failed", "n3");
    assert_eq!(failed.text("reason"), "refused");

    fs::remove_dir(&obstacle).unwrap();
    let after = cluster.restart(2).expect_ready();
    assert_eq!(after.id, before.id);
    assert!(after.generation > before.generation);
    cluster.expect_all_alive();
    cluster.node(0).expect_status("n3", Status::Alive);
}
