//! A member that decides alone.

use std::time::Duration;

use kith_proto::{config::Consistency, event::Event, replica::host::Standing};

use crate::cluster::{Cluster, PARTITIONS};

fn epochs(cluster: &Cluster) -> Vec<u64> {
    let epoch = |p| {
        cluster.shards[0]
            .chain_of(p)
            .map(|chain| chain.config.id.epoch)
    };
    (0..PARTITIONS).filter_map(epoch).collect()
}

// Rule 3. It would choose another configuration of the same epoch, if it lost this one with its machine.
#[test]
fn it_counts_its_own_acceptance_only_once_that_is_on_its_disk() {
    for consistency in [Consistency::Strict, Consistency::Available] {
        let mut cluster = Cluster::new(1, consistency);
        cluster.set(0, "key", "value").unwrap();
        let before = epochs(&cluster);
        assert_eq!(before.len(), usize::from(PARTITIONS));
        cluster.syncing[0] = Some(Vec::new());
        cluster.restarts(0);
        cluster.run(Duration::from_secs(5));
        assert_eq!(epochs(&cluster), before, "nothing is chosen yet");
        cluster.disk_goes_on(0);
        cluster.set(0, "key", "another").unwrap();
        let after = epochs(&cluster);
        let chosen = after
            .iter()
            .zip(&before)
            .all(|(after, before)| after > before);
        assert!(chosen, "{before:?}, then {after:?}");
    }
}

// They would wait for one who is gone, until tables are compared or copies are made elsewhere.
#[test]
fn who_goes_on_alone_tells_everybody_at_once() {
    for survivor in [1, 2, 0] {
        let mut cluster = Cluster::new(5, Consistency::Available);
        let members = cluster.members("key");
        let owner = members[0];
        let survivor = members[survivor];
        for member in members.iter().filter(|member| **member != survivor) {
            cluster.standing[*member] = Standing::Failed;
        }
        cluster.show_with_places_kept();
        let failed = cluster.now;
        for asker in (0..5).filter(|node| !members.contains(node)) {
            cluster.set(asker, "key", "value").unwrap();
        }
        let took = cluster.now.saturating_since(failed);
        assert!(took < Duration::from_millis(500), "{took:?}");
        let from = format!("n{owner}");
        let told = cluster.events.iter().any(|(node, event)| {
            let taken_over =
                matches!(event, Event::PartitionTakenOver { from: it, .. } if *it == from);
            *node == survivor && taken_over
        });
        assert!(told, "{:?}", cluster.events);
    }
}
