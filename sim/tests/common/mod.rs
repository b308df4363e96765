//! What several of these tests begin with.

use std::time::Duration;

use kith_sim::{
    report::{all_see_all, show},
    world::{HostId, World},
};

/// A cluster in which all see all, `settle` after they first did: measurements of round trips and
/// streams between all take some seconds.
pub(crate) fn cluster(seed: u64, nodes: usize, settle: Duration) -> (World, Vec<HostId>) {
    let mut world = World::new(seed);
    let first = world.add(&[], |_| {});
    let mut hosts = vec![first];
    for _ in 1..nodes {
        hosts.push(world.add(&[first], |_| {}));
    }
    let patience = Duration::from_secs(20);
    let together = world.run_while(patience, |world| all_see_all(world, &hosts));
    assert!(together, "not together:\n{}", show(&world));
    world.run(settle);
    (world, hosts)
}
