//! Writes on both sides of a split: what is there when the sides have met again.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::collections::BTreeSet;

use kith::client::Client;
use kith_tests::{
    cluster::{self, Cluster},
    sides::Sides,
    wait,
};

/// Behind the proxy a cut looks like a host whose kernel answers (see [`kith_tests::proxy`]),
/// for which the patience is long by default.
const SETTINGS: &str = "[timing]\nunresponsive = \"500ms\"\n";

#[test]
fn both_sides_of_an_available_cluster_go_on_and_are_joined() {
    let (cluster, mut sides, marks) = divided("available");
    wait::until("keys that both sides write", || {
        let both = sides.written_by_both().len();
        let alone = [0, 1].map(|side| sides.counts(side).acknowledged);
        match both >= 8 && alone.iter().all(|count| *count > 200) {
            true => Ok(()),
            false => Err(format!("{both} keys, {alone:?} writes")),
        }
    });
    meet_again(&cluster, &mut sides);
    let reported: BTreeSet<String> = cluster
        .nodes()
        .iter()
        .zip(marks)
        .flat_map(|(node, mark)| node.events_since(mark))
        .filter(|event| event.name() == "partition_conflict")
        .map(|event| event.text("key").to_owned())
        .collect();
    for key in sides.written_by_both() {
        assert!(reported.contains(key), "no conflict was reported of {key}");
    }
}

#[test]
fn of_a_strict_cluster_only_a_majority_goes_on() {
    let (cluster, mut sides, _) = divided("strict");
    wait::until("writes to be refused and acknowledged", || {
        let counts = [0, 1].map(|side| sides.counts(side));
        let refused = counts[0].refused + counts[0].indeterminate;
        match refused > 0 && counts[1].acknowledged > 500 {
            true => Ok(()),
            false => Err(format!("{counts:?}")),
        }
    });
    meet_again(&cluster, &mut sides);
    assert_eq!(sides.written_by_both(), Vec::<&str>::new());
}

/// A cluster cut in two, with clients on both sides once everybody has noticed.
fn divided(consistency: &str) -> (Cluster, Sides, Vec<usize>) {
    let flags = ["--partitions", "64", "--consistency", consistency];
    let plan = cluster::of(5).durable().proxied().config(SETTINGS);
    let cluster = plan.flags(&flags).start();
    cluster.expect_healthy();
    let marks = cluster.marks();
    let names = cluster.names();
    let (few, many) = names.split_at(2);
    cluster.network().split(few, many);
    for (index, node) in cluster.nodes().iter().enumerate() {
        for lost in if index < 2 { many } else { few } {
            node.expect_event(marks[index], "member_failed", lost);
        }
    }
    let clients = |indices: std::ops::Range<usize>| -> Vec<Client> {
        indices.map(|i| cluster.node(i).library()).collect()
    };
    let sides = Sides::begin(0, [clients(0..2), clients(2..5)]);
    (cluster, sides, marks)
}

/// The cut is mended: everybody tells the same of every partition, and nothing is lost.
fn meet_again(cluster: &Cluster, sides: &mut Sides) {
    sides.pause();
    cluster.network().heal();
    cluster.expect_all_alive();
    cluster.expect_healthy();
    let tell = |index: usize| {
        let views = cluster.node(index).partitions();
        let views = views.map_err(|error| format!("{error:#}"))?;
        let told = views
            .into_iter()
            .map(|v| (v.epoch, v.branch, v.owner, v.backups));
        Ok::<Vec<_>, String>(told.collect())
    };
    wait::until("all to tell the same of all partitions", || {
        let first = tell(0)?;
        for index in 1..cluster.nodes().len() {
            let other = tell(index)?;
            if let Some(at) = (0..first.len()).find(|&at| other.get(at) != first.get(at)) {
                let (one, other) = (&first[at], other.get(at));
                return Err(format!("partition {at}: {one:?} and {other:?}"));
            }
        }
        Ok(())
    });
    for node in cluster.nodes() {
        let lost = sides.lost_at(&node.library()).unwrap();
        assert_eq!(lost, Vec::<String>::new(), "asked at {}", node.name());
    }
}
