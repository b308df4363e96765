//! The partition protocol in the lab: what is acknowledged is kept, whatever happens.

use std::time::Duration;

use kith_proto::config::Consistency;
use kith_sim::{
    lab::{
        Lab, Setup,
        check::{self, Objection},
        client::{self, Ended},
        plan::{Action, Plan, is_sound},
        run,
    },
    many,
};

const BOTH: [Consistency; 2] = [Consistency::Available, Consistency::Strict];

fn rest(mut lab: Lab) -> Lab {
    client::stop(&mut lab);
    check::at_rest(&mut lab, Duration::from_secs(60));
    assert_eq!(lab.objections(), Vec::<Objection>::new());
    lab
}

fn started(seed: u64, consistency: Consistency) -> Lab {
    let mut lab = Lab::new(Setup::new(seed, consistency));
    check::at_rest(&mut lab, Duration::from_secs(30));
    assert_eq!(lab.objections(), Vec::<Objection>::new());
    client::begin(&mut lab, 4, 8);
    lab
}

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

// A node that stops hands over what it owns, and owns it again when it is back.
#[test]
fn a_node_that_stops_hands_over_and_is_back() {
    for consistency in BOTH {
        let mut lab = started(4, consistency);
        lab.run(Duration::from_secs(1));
        let owned = |lab: &Lab, node| lab.shard(node).map_or(0, |shard| shard.served().count());
        let before = owned(&lab, 1);
        assert!(before > 0);
        lab.stop(1);
        assert!(lab.is_stopping(1) && lab.is_alive(1));
        let mut owned_last = before;
        let stopped = lab.run_until(Duration::from_secs(4), Duration::from_millis(1), |lab| {
            if lab.is_alive(1) {
                owned_last = owned(lab, 1);
            }
            !lab.is_alive(1)
        });
        assert!(stopped && owned_last == 0, "it still owned {owned_last}");
        lab.start(1);
        let lab = rest(lab);
        assert_eq!(owned(&lab, 1), before);
    }
}

// A node that leaves ends once others have what it held.
#[test]
fn a_node_that_leaves_is_gone() {
    for consistency in BOTH {
        let mut lab = started(5, consistency);
        lab.run(Duration::from_secs(1));
        lab.leave(1);
        lab.run(Duration::from_secs(5));
        let lab = rest(lab);
        assert!(lab.is_gone(1) && !lab.is_alive(1));
    }
}

// A full disk, or one that cannot be read, ends the node that has it; others go on, and when it is
// mended nothing is missing.
#[test]
fn a_node_whose_disk_fails_stops_and_others_take_over() {
    for consistency in BOTH {
        for fault in [Action::Fill(2, 10), Action::FailReads(2, 10)] {
            let mut lab = started(6, consistency);
            lab.schedule(Duration::from_secs(1), fault);
            lab.run(Duration::from_secs(4));
            assert!(!lab.is_alive(2), "its disk failed");
            let written = |lab: &Lab| {
                let history = lab.clients.history.iter();
                history.filter(|o| o.written().is_some()).count()
            };
            let before = written(&lab);
            lab.run(Duration::from_secs(1));
            assert!(written(&lab) > before + 50, "others go on");
            lab.schedule(Duration::ZERO, Action::Start(2));
            lab.run(Duration::from_secs(4));
            rest(lab);
        }
    }
}

// Whoever comes back with an empty directory is a new node, and takes nothing from anybody.
#[test]
fn a_wiped_node_is_a_new_one() {
    for consistency in BOTH {
        let mut lab = started(7, consistency);
        lab.run(Duration::from_secs(2));
        // Nothing that is wiped is missed only while all copies are equal.
        let whole = lab.run_until(Duration::from_secs(10), Duration::ZERO, |lab| is_sound(lab));
        assert!(whole, "the copies are equal");
        lab.schedule(Duration::ZERO, Action::Wipe(0));
        lab.run(Duration::from_secs(15));
        let lab = rest(lab);
        assert!(lab.is_gone(0) && lab.is_alive(5));
    }
}

// A slow disk holds up acknowledgements, and nothing else.
#[test]
fn a_slow_disk_loses_nothing() {
    for consistency in BOTH {
        let mut lab = started(8, consistency);
        let slow = Action::SlowDisk(1, Duration::from_millis(900));
        lab.schedule(Duration::from_secs(1), slow);
        lab.schedule(Duration::from_secs(2), Action::Kill(2));
        lab.schedule(Duration::from_secs(4), Action::Start(2));
        lab.schedule(Duration::from_secs(5), Action::Start(1));
        lab.run(Duration::from_secs(6));
        lab.slow_disk(1, None);
        rest(lab);
    }
}

fn passes(seeds: impl IntoIterator<Item = u64>, consistency: Consistency) {
    all_pass(seeds, |seed| Plan::draw(seed, consistency));
}

fn passes_with_stops(seeds: impl IntoIterator<Item = u64>, consistency: Consistency) {
    all_pass(seeds, |seed| Plan::draw(seed, consistency).with_stops());
}

fn all_pass(seeds: impl IntoIterator<Item = u64>, drawn: impl Fn(u64) -> Plan + Sync) {
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let failed = many::each_seed(0, seeds.len() as u64, |number| {
        let plan = drawn(seeds[number as usize]);
        let objections = run::run(&plan).objections;
        let first = objections.first();
        first.map(|first| {
            let consistency = plan.setup.settings.consistency;
            format!("{consistency:?} seed {}: {first}", plan.setup.seed)
        })
    });
    let failed: Vec<String> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Seeds of each mode; `kith-sim partitions` runs thousands.
const SEEDS: u64 = 100;

#[test]
fn random_seeds_pass_in_available_clusters() {
    passes(0..SEEDS, Consistency::Available);
}

#[test]
fn random_seeds_pass_in_strict_clusters() {
    passes(0..SEEDS, Consistency::Strict);
}

#[test]
fn random_seeds_with_nodes_that_stop_and_are_back_pass() {
    for consistency in BOTH {
        passes_with_stops(0..SEEDS, consistency);
    }
}

/// What random seeds have found, and was mended.
///
/// Strict 927: a newcomer was filled before the proposer had merged what was acknowledged, owned the next
/// configuration and overwrote it. 335, 531, 606: whoever chose a configuration stopped before it told
/// the new owner. 4257: what was read was not written anew, and an unknown conditional write of an owner
/// between won over it. 1201, 3537: an owner that saw nobody, or had just started, named itself the only copy.
/// 2036: a fenced learner was to own the next configuration. 2561: an owner that may have forgotten came
/// back so soon that nobody missed it. 3534, 9448: a copy went though a member that was thought to be equal
/// had stopped. 1920: a deletion was forgotten while a member that fell silent was thought to have it.
/// 3736: a newcomer was filled anew by an owner that had missed a configuration, and owned the next one; 1072: then
/// too few counted.
///
/// Available 453, 952: an adopted configuration could not be served, since most of its
/// members had gone on in another branch; 129, 188: likewise, and copies went with it; 8955: its newcomer had.
/// 1084: two branches waited for each other, one for a node that had no part in any. 751: who left was the
/// only one that knew whom it had handed over to. 505, 3082: a joined branch whose members had gone on, and
/// one whose owner alone had what was joined. 3073: a former member kept for a branch what another had settled.
/// 3989: whoever told an owner that was gone of its configuration did nothing else; 595, 722: who had asked a
/// moment before, as a former member, never began to own; 9384: an owner that had missed its configuration was
/// not told of it. 8522: two owners heard of each other from others only. 2048: a branch was still to be joined.
/// 2075189: the lab's own: an answer came so late that a deletion after it was forgotten.
/// 2036704: a member that had promised went on alone before it was asked for what it had.
/// 2086418: branches closed into one of which all members had gone on, one of them its owner.
/// 2226897: what an owner said to its rival was lost with a stream, and both tables told of one of them only.
/// 4324: the only member told of what it had chosen before that was on its disk, and chose anew after a power cut.
/// 2320494: the same, while nobody had been told yet: it counted its own acceptance before that was on its disk.
/// 2321160: the lab took for a deletion that was acknowledged what an owner that had been paused had done alone.
/// 2536161: what a newcomer kept of another branch replaced what was acknowledged since, by its epoch.
/// 1633: it was dropped instead, while those that had written it counted on it (an attempt to mend 2536161).
/// 2629611: or had been dropped though it was the only other copy; now it is taken over by the clock.
/// 2731491: what a newcomer keeps of a branch that none of its members was ever in kept it from being filled.
/// 2641627: what an owner alone had accepted, whose other members left for good, was adopted again and again. 2647400: a
/// former member dropped what it had at the word of an owner that had given that up.
/// 2248110: an owner was never told of the configuration that names it, and a member waited for it.
#[test]
fn seeds_that_failed_once_pass() {
    passes(
        [
            335, 518, 531, 606, 927, 1072, 1201, 1920, 2036, 2561, 3534, 3537, 3736, 4257, 4481,
            6267, 9448, 1001956, 1004372, 1007034, 1008051, 1008157, 1010787, 1013232, 1013877,
            2056214, 2088858, 2641627, 2647400,
        ],
        Consistency::Strict,
    );
    passes(
        [
            129, 188, 438, 453, 505, 516, 595, 722, 751, 952, 1044, 1084, 1133, 1233, 1362, 2048,
            3073, 3082, 3989, 6148, 8506, 8522, 8955, 9384, 1000695, 1006962, 2075189, 2036704,
            2086418, 2226897, 2248110, 4324, 2320494, 2321160, 2536161, 1633, 2629611, 2731491,
        ],
        Consistency::Available,
    );
}

/// Strict 10974: a newcomer forgot that it is counted on when it heard late of the configuration that chooses. 11701:
/// a node left for good while one was being chosen that counts on it. Available 2813440: an owner that had just
/// started told a node that it had not heard of to drop its copy.
#[test]
fn seeds_with_stops_that_failed_once_pass() {
    passes_with_stops([10974, 11701], Consistency::Strict);
    passes_with_stops([2813440], Consistency::Available);
}

// The same seed is the same run, whatever the mode: nothing else decides.
#[test]
fn the_same_seed_gives_the_same_digest() {
    for consistency in BOTH {
        let digest = |seed| run::run(&Plan::draw(seed, consistency)).digest;
        assert_eq!(digest(3), digest(3));
        assert_ne!(digest(3), digest(4));
    }
}
