//! Strict clusters that lost more than is promised: they wait for an operator's word, and go on with it.

use std::time::Duration;

use kith_proto::{config::Consistency, event::Event};
use kith_sim::lab::{
    Lab, Setup,
    check::{self, Objection},
    client, plan,
};

const NODES: usize = 5;

// So many partitions were gone on with, as nodes told their users.
fn recovered(lab: &Lab) -> usize {
    let told = lab.events.iter();
    told.filter(|(_, _, event)| matches!(event, Event::PartitionRecovered { .. }))
        .count()
}

// Two nodes are lost at a moment when all copies were equal: for good, or until an operator has spoken. What
// the others have is everything that was acknowledged, so every promise holds afterwards, but that of going on
// without a word. How many partitions needed it.
fn two_are_lost(seed: u64, lost: [usize; 2], for_good: bool) -> usize {
    let mut setup = Setup::new(seed, Consistency::Strict);
    setup.repair_delay = Duration::from_secs(2);
    let mut lab = Lab::new(setup);
    check::at_rest(&mut lab, Duration::from_secs(30));
    client::begin(&mut lab, 4, 8);
    lab.run(Duration::from_secs(1));
    let sound = lab.run_until(Duration::from_secs(10), Duration::from_micros(500), |lab| {
        plan::is_sound(lab)
    });
    assert!(sound, "seed {seed}: copies are never equal");
    for node in lost {
        if for_good {
            lab.wipe(node);
        } else {
            lab.kill(node, false);
        }
    }
    // Until people are told.
    lab.run(Duration::from_secs(10));
    assert_eq!(recovered(&lab), 0, "seed {seed}: without anybody's word");
    let lost_ids = lost.map(|node| lab.id(node));
    let needs_word = |p: &u16| {
        lab.living().into_iter().any(|node| {
            let chain = lab.shard(node).and_then(|shard| shard.chain_of(*p));
            chain.is_some_and(|chain| {
                let config = &chain.config;
                config.has(lab.id(node)) && lost_ids.iter().all(|lost| config.has(*lost))
            })
        })
    };
    let partitions = 0..lab.setup.settings.partitions;
    let stuck = partitions.filter(needs_word).count();
    for node in lab.living() {
        lab.recover(node);
    }
    lab.run(Duration::from_secs(2));
    assert!(
        recovered(&lab) >= stuck,
        "seed {seed}: {} of {stuck}",
        recovered(&lab)
    );
    for node in lost {
        lab.start(node);
    }
    lab.run(Duration::from_secs(3));
    client::stop(&mut lab);
    check::at_rest(&mut lab, Duration::from_secs(60));
    // Those that were given up and live go on, too, until both meet: the one case with two owners.
    let two_owners = ["ownership", "linearizability"];
    let wrong = lab.objections().iter();
    let wrong = wrong.filter(|it| for_good || !two_owners.contains(&it.check));
    let wrong: Vec<&Objection> = wrong.collect();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
    stuck
}

#[test]
fn an_operators_word_goes_on_where_no_majority_is_left() {
    let mut stuck = 0;
    for seed in 0..6 {
        let first = seed as usize % NODES;
        let second = (first + 1 + seed as usize / NODES) % NODES;
        for for_good in [true, false] {
            stuck += two_are_lost(seed, [first, second], for_good);
        }
    }
    assert!(stuck > 10, "{stuck}");
}
