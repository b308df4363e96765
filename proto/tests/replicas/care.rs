//! What operators are told when copies are missing, and when there are none.

use std::time::Duration;

use kith_proto::{config::Consistency, event::Event, replica::host::Standing};

use crate::cluster::Cluster;

const A_WHILE: Duration = Duration::from_secs(20);

fn told(cluster: &Cluster, of: impl Fn(&Event) -> bool) -> usize {
    let events = cluster.events.iter();
    events.filter(|(_, event)| of(event)).count()
}

#[test]
fn copies_made_elsewhere_are_told_and_then_that_all_are_there() {
    let mut cluster = Cluster::new(4, Consistency::Available);
    cluster.set(0, "key", "value").unwrap();
    cluster.run(A_WHILE);
    cluster.events.clear();
    cluster.standing[3] = Standing::Failed;
    cluster.show_with_places_kept();
    cluster.run(A_WHILE);
    assert_eq!(
        told(&cluster, |e| matches!(e, Event::PartitionCopied { .. })),
        0
    );
    cluster.show();
    cluster.run(A_WHILE);
    assert!(told(&cluster, |e| matches!(e, Event::PartitionCopied { .. })) > 0);
    let restored: Vec<&Event> = cluster
        .events
        .iter()
        .map(|(_, event)| event)
        .filter(|event| matches!(event, Event::RedundancyRestored { .. }))
        .collect();
    assert!(!restored.is_empty());
    for event in restored {
        let Event::RedundancyRestored { took_ms, .. } = event else {
            continue;
        };
        assert!(*took_ms >= 19_000, "copies were missing all the time");
    }
    cluster.events.clear();
    cluster.run(A_WHILE);
    assert_eq!(cluster.events, [], "nothing is amiss any more");
}

#[test]
fn a_strict_minority_says_who_would_bring_it_back() {
    let mut cluster = Cluster::new(3, Consistency::Strict);
    cluster.standing[0] = Standing::Failed;
    cluster.standing[1] = Standing::Failed;
    cluster.show_with_places_kept();
    cluster.run(A_WHILE);
    let blocked = cluster.events.iter().find_map(|(node, event)| match event {
        Event::PartitionBlocked { partitions, why } => Some((*node, partitions.len(), why.clone())),
        _ => None,
    });
    let (node, _, why) = blocked.expect("it is told");
    assert_eq!(node, 2);
    assert!(why.contains("2 of n"), "{why}");
    assert!(
        why.contains("n0 is gone") && why.contains("n1 is gone"),
        "{why}"
    );
    let count = told(&cluster, |e| matches!(e, Event::PartitionBlocked { .. }));
    cluster.run(A_WHILE);
    let again = told(&cluster, |e| matches!(e, Event::PartitionBlocked { .. }));
    assert_eq!(count, again, "once");
}

#[test]
fn a_partition_without_a_living_copy_is_told() {
    let mut cluster = Cluster::new(5, Consistency::Available);
    let members = cluster.members("key");
    assert_eq!(members.len(), 3);
    for member in &members {
        cluster.standing[*member] = Standing::Failed;
    }
    cluster.show_with_places_kept();
    cluster.run(A_WHILE);
    let why = cluster.events.iter().find_map(|(node, event)| match event {
        Event::PartitionLost { why, .. } if !members.contains(node) => Some(why.clone()),
        _ => None,
    });
    let why = why.expect("it is told");
    for member in members {
        assert!(why.contains(&format!("n{member}")), "{why}");
    }
}

#[test]
fn what_a_node_holds_is_counted() {
    let mut cluster = Cluster::new(3, Consistency::Available);
    let value = "x".repeat(10_000);
    cluster.set(0, "key", &value).unwrap();
    cluster.run(A_WHILE);
    for node in 0..3 {
        let bytes = cluster.shards[node].held_bytes();
        assert!((10_000..11_000).contains(&bytes), "n{node}: {bytes}");
    }
    for node in [0, 1] {
        cluster.standing[node] = Standing::Failed;
    }
    cluster.show();
    cluster.run(A_WHILE);
    assert_eq!(cluster.shards[2].holds(), (4, 4));
}
