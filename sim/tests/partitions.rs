//! The partition protocol in the lab: what is acknowledged is kept, whatever happens.

use std::time::Duration;

use kith_proto::{config::Consistency, replica::shard::Omit};
use kith_sim::lab::{
    Lab, Setup,
    client::{self, Ended},
    plan::{self, Action, Faults},
    verdict,
};

fn rest(mut lab: Lab) -> Lab {
    client::stop(&mut lab);
    verdict::at_rest(&mut lab, Duration::from_secs(60));
    assert_eq!(lab.verdict().objections, Vec::<String>::new());
    lab
}

fn started(seed: u64, consistency: Consistency) -> Lab {
    let mut lab = Lab::new(Setup::new(seed, consistency));
    verdict::at_rest(&mut lab, Duration::from_secs(30));
    assert_eq!(lab.verdict().objections, Vec::<String>::new());
    client::begin(&mut lab, 4, 8);
    lab
}

const BOTH: [Consistency; 2] = [Consistency::Available, Consistency::Strict];

#[test]
fn partitions_are_shared_out_and_written() {
    for consistency in BOTH {
        let mut lab = started(1, consistency);
        lab.run(Duration::from_secs(5));
        let lab = rest(lab);
        let done = lab.clients.history.iter();
        let done = done.filter(|o| matches!(o.result, Ended::Done(..))).count();
        assert!(
            done > 500 && done + 8 >= lab.clients.history.len(),
            "{done}"
        );
    }
}

#[test]
fn an_owner_that_dies_is_followed_and_nothing_is_lost() {
    for consistency in BOTH {
        for seed in 0..3 {
            let mut lab = started(seed, consistency);
            lab.run(Duration::from_secs(1));
            lab.schedule(Duration::from_millis(100), Action::Kill(1));
            lab.schedule(Duration::from_millis(4000), Action::Start(1));
            lab.run(Duration::from_secs(6));
            rest(lab);
        }
    }
}

#[test]
fn a_split_is_healed() {
    for consistency in BOTH {
        for seed in 0..3 {
            let mut lab = started(seed, consistency);
            lab.run(Duration::from_secs(1));
            lab.schedule(Duration::ZERO, Action::Split(vec![0, 1]));
            lab.schedule(Duration::from_secs(8), Action::Heal);
            lab.run(Duration::from_secs(12));
            rest(lab);
        }
    }
}

// Kills, pauses, accusations, joins, clock errors; cuts too.
const FAULTS: Faults = Faults {
    dead: 1,
    power: false,
    cuts: true,
    seconds: 15,
};

#[test]
fn whatever_happens() {
    for consistency in BOTH {
        for seed in 0..SEEDS {
            let (_, objections) = plan::run(
                Setup::new(seed, consistency),
                Faults {
                    seconds: 5,
                    ..FAULTS
                },
            );
            assert!(
                objections.is_empty(),
                "{consistency:?} seed {seed}: {objections:#?}"
            );
        }
    }
}

/// Seeds of each mode; the example `partitions` runs thousands.
const SEEDS: u64 = 4;

// Each was found by the example `partitions`, and mended.
#[test]
fn seeds_that_failed_once() {
    let found = [
        // Closed into a branch that all its members had left: nobody joined it.
        (Consistency::Available, 19),
        (Consistency::Available, 66),
        (Consistency::Available, 164),
        // Closed, and started again: it took itself for the one that serves.
        (Consistency::Available, 2),
        // A copy that waited for a joined branch to be settled had not heard that it was.
        (Consistency::Available, 31),
        // A newcomer that was to own it, and that another proposer began to fill anew, served too soon.
        (Consistency::Strict, 38),
    ];
    for (consistency, seed) in found {
        let (_, objections) = plan::run(Setup::new(seed, consistency), FAULTS);
        assert!(
            objections.is_empty(),
            "{consistency:?} seed {seed}: {objections:#?}"
        );
    }
}

// Without a rule a promise is broken, and the checkers say so: not at rest is not enough.
fn caught_within(seeds: u64, omit: Omit) {
    let caught = (0..seeds).any(|seed| {
        let setup = Setup {
            omit,
            ..Setup::new(seed, Consistency::Strict)
        };
        let (_, objections) = plan::run(setup, FAULTS);
        objections.iter().any(|text| {
            text.starts_with("durability")
                || text.starts_with("linearizability")
                || text.contains("answers for")
        })
    });
    assert!(caught, "nobody noticed in {seeds} seeds");
}

#[test]
fn promises_that_do_not_fence_are_caught() {
    let omit = Omit {
        fencing: true,
        ..Omit::default()
    };
    caught_within(OMITTED, omit);
}

#[test]
fn take_overs_that_do_not_merge_are_caught() {
    let omit = Omit {
        merge: true,
        ..Omit::default()
    };
    caught_within(OMITTED, omit);
}

#[test]
fn writes_without_a_quorum_are_caught() {
    let omit = Omit {
        quorum: true,
        ..Omit::default()
    };
    caught_within(OMITTED, omit);
}

/// Seeds within which an omitted rule is noticed.
const OMITTED: u64 = 10;

#[test]
#[ignore = "for looking at one seed"]
fn one_seed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let strict = std::env::var("STRICT").is_ok();
    let faults = Faults {
        dead: number("DEAD").unwrap_or(1) as usize,
        power: std::env::var("POWER").is_ok(),
        cuts: strict || std::env::var("CUTS").is_ok(),
        seconds: number("SECONDS").unwrap_or(15),
    };
    let consistency = BOTH[usize::from(strict)];
    let setup = Setup::new(number("SEED").unwrap_or(0), consistency);
    let (_, objections) = plan::run_verbosely(setup, faults, std::env::var("VERBOSE").is_ok());
    assert!(objections.is_empty(), "{}", objections.join("\n"));
}
