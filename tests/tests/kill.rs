//! A process that is killed: everybody notices, says why, and its partitions move.

use std::collections::{BTreeMap, BTreeSet};

use kith::view::{PartitionView, Status};
use kith_tests::{agent::Agent, cluster, wait};

#[test]
fn a_killed_node_is_noticed_by_all_and_its_partitions_move_to_their_backups() {
    let cluster = cluster::of(5).start();
    wait::until("all copies to be made", || {
        match cluster.node(0).status().map_err(|e| format!("{e:#}"))? {
            status if status.healthy => Ok(()),
            status => Err(status.problems.join("; ")),
        }
    });
    let before = expect_owners(&cluster.nodes().iter().collect::<Vec<_>>());
    assert_eq!(owners(&before).len(), 5, "every node has a share");
    let marks = cluster.marks();

    cluster.node(2).kill();

    for event in cluster.expect_on_others(2, &marks, "member_failed") {
        assert_eq!(event.text("reason"), "refused", "{}", event.body);
        assert!(!event.list("accusers").is_empty(), "{}", event.body);
    }
    let survivors: Vec<&Agent> = cluster.others(2).collect();
    for survivor in &survivors {
        survivor.expect_status("n3", Status::Failed);
    }
    let after = expect_owners(&survivors);
    for (id, old) in &before {
        let new = &after[id];
        let owner = new.owner.as_deref();
        assert_ne!(owner, Some("n3"));
        if old.owner.as_deref() == Some("n3") {
            let heir = owner.map(str::to_owned).unwrap();
            assert!(
                old.backups.contains(&heir),
                "{old:?} went to a stranger: {new:?}"
            );
        }
    }
    assert_eq!(owners(&after).len(), 4);
    wait::until("its copies to be made elsewhere", || {
        let partitions = survivors[0].partitions().map_err(|e| format!("{e:#}"))?;
        let kept = |p: &&PartitionView| p.backups.iter().any(|b| b == "n3");
        match partitions.iter().filter(kept).count() {
            0 => Ok(()),
            kept => Err(format!("{kept} partitions list it as a backup")),
        }
    });
    // Nobody else was hurt.
    for survivor in &survivors {
        survivor.forbid(0, "the failure of a living node", |e| {
            e.name() == "member_failed" && e.text("member") != "n3"
        });
    }
}

#[test]
fn two_killed_at_once_are_both_noticed() {
    let cluster = cluster::of(5).start();
    let marks = cluster.marks();
    cluster.node(1).kill();
    cluster.node(3).kill();
    for index in [0, 2, 4] {
        let node = cluster.node(index);
        node.expect_event(marks[index], "member_failed", "n2");
        node.expect_event(marks[index], "member_failed", "n4");
    }
    cluster.expect_alive_on(&[0, 2, 4]);
}

#[test]
fn the_last_survivor_of_two_owns_everything() {
    let cluster = cluster::of(2).start();
    let mark = cluster.node(0).mark();
    cluster.node(1).kill();
    cluster.node(0).expect_event(mark, "member_failed", "n2");
    let survivor = cluster.node(0);
    wait::until("n1 to own everything", || {
        let partitions = survivor.partitions().map_err(|e| format!("{e:#}"))?;
        let all = partitions.iter().all(|p| p.owner.as_deref() == Some("n1"));
        if all {
            Ok(())
        } else {
            Err("others are listed as owners".into())
        }
    });
}

/// Waits until all of these nodes propose the same owners and backups, none of which is unknown
/// to them as alive; gives them back by partition.
fn expect_owners(nodes: &[&Agent]) -> BTreeMap<u16, PartitionView> {
    let names: BTreeSet<String> = nodes.iter().map(|n| n.name().to_owned()).collect();
    wait::until("all to agree on who owns what", || {
        let mut views = Vec::new();
        for node in nodes {
            views.push(node.partitions().map_err(|e| format!("{e:#}"))?);
        }
        let first = views.swap_remove(0);
        // What each does for a partition is its own; who keeps it is common to all.
        let places = |view: &[PartitionView]| -> Vec<_> {
            let place = |p: &PartitionView| (p.id, p.epoch, p.owner.clone(), p.backups.clone());
            view.iter().map(place).collect()
        };
        if views.iter().any(|view| places(view) != places(&first)) {
            return Err("they differ".into());
        }
        let by_id: BTreeMap<u16, PartitionView> = first.into_iter().map(|p| (p.id, p)).collect();
        let owners = owners(&by_id);
        if owners == names {
            Ok(by_id)
        } else {
            Err(format!("owners are {owners:?}"))
        }
    })
}

fn owners(partitions: &BTreeMap<u16, PartitionView>) -> BTreeSet<String> {
    partitions
        .values()
        .filter_map(|p| p.owner.clone())
        .collect()
}
