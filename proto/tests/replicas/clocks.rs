//! Clocks that run ahead, and those that are behind.

use std::time::Duration;

use kith_proto::{config::Consistency, event::Event, kv::request::RequestError};

use crate::cluster::Cluster;

fn warned(cluster: &Cluster, node: usize) -> usize {
    let own = |event: &Event| matches!(event, Event::Warning { kind, .. } if kind == "clock_ahead");
    let events = cluster.events.iter();
    events
        .filter(|(at, event)| *at == node && own(event))
        .count()
}

#[test]
fn an_owner_whose_clock_runs_ahead_refuses_to_write_and_says_so() {
    let mut cluster = Cluster::new(3, Consistency::Available);
    cluster.set(0, "key", "before").unwrap();
    let owner = cluster.members("key")[0];
    cluster.wall_errors[owner] = 90_000;
    let refused = cluster.set(owner, "key", "ahead");
    let Err(RequestError::Unavailable(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains(&format!("n{owner} is 90 s ahead")), "{why}");
    cluster.run(Duration::from_secs(120));
    assert_eq!(warned(&cluster, owner), 1, "once");
    cluster.wall_errors[owner] = 0;
    cluster.set(owner, "key", "after").unwrap();
}

#[test]
fn others_report_a_clock_that_is_ahead_of_theirs() {
    let mut cluster = Cluster::new(3, Consistency::Available);
    cluster.wall_errors[2] = 90_000;
    cluster.run(Duration::from_secs(600));
    for node in 0..3 {
        assert_eq!(warned(&cluster, node), 1, "n{node}");
    }
}

#[test]
fn one_whose_clock_is_behind_keeps_nobody_from_writing() {
    let mut cluster = Cluster::new(3, Consistency::Strict);
    cluster.wall_errors[1] = -3_600_000;
    cluster.run(Duration::from_secs(600));
    for key in ["a", "b", "c", "d", "e", "f"] {
        cluster.set(0, key, "value").unwrap();
    }
}
