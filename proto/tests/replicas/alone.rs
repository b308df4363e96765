//! A member that decides alone.

use std::time::Duration;

use kith_proto::config::Consistency;

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
