//! The protocol without one of its rules: the checkers notice, and say which promise is broken.
//!
//! Those of which random seeds show nothing within the seeds run here have a script, or are named in
//! `sim/README.md` as not shown.

use std::time::Duration;

use kith_proto::config::Consistency::{self, Available, Strict};
use kith_sim::{
    lab::{
        Lab, Omit, Setup,
        check::{self, Objection},
        client::{self, Asked, Only},
        plan::Plan,
        run,
    },
    many,
};

fn objections(seed: u64, consistency: Consistency, omit: Option<Omit>) -> Vec<Objection> {
    let mut plan = Plan::draw(seed, consistency);
    plan.setup.omit = omit;
    run::run(&plan).objections
}

/// So many seeds show what happens without a rule, or it counts as not noticed.
const SEEDS: u64 = 300;
/// Looked at together, on all processors.
const AT_ONCE: u64 = 8;

// Some seed from `first` on breaks one of the promises without the rule, and none with it. Which one
// does moves with every change of the protocol, so it is looked for.
fn caught(omit: Omit, consistency: Consistency, first: u64, checks: &[&str]) {
    let mut from = first;
    while from < first + SEEDS {
        let each = many::each_seed(from, AT_ONCE, |seed| {
            let broken = objections(seed, consistency, Some(omit));
            let shown = broken.iter().any(|it| checks.contains(&it.check));
            shown && objections(seed, consistency, None).is_empty()
        });
        if each.contains(&true) {
            return;
        }
        from += AT_ONCE;
    }
    panic!("{omit:?}: nobody noticed in {SEEDS} seeds from {first} on");
}

#[test]
fn rule_1_reads_that_nobody_confirms() {
    caught(Omit::Confirmation, Strict, 0, &["linearizability"]);
}

#[test]
fn rule_2_an_owner_that_does_not_fence_itself() {
    caught(Omit::OwnFence, Strict, 0, &["linearizability"]);
}

#[test]
fn rule_4_transfers_of_any_effort() {
    caught(
        Omit::Attempts,
        Strict,
        92,
        &["linearizability", "durability"],
    );
}

#[test]
fn rule_7_writes_that_are_tried_again() {
    caught(Omit::NoRetry, Strict, 0, &["linearizability"]);
}

#[test]
fn rule_10_writes_of_an_earlier_configuration() {
    caught(
        Omit::ExactEpoch,
        Strict,
        29,
        &["ownership", "linearizability"],
    );
}

#[test]
fn rule_a3_what_is_joined_keeps_its_version() {
    caught(
        Omit::WrittenAnew,
        Available,
        12,
        &["redundancy", "durability"],
    );
}

#[test]
fn rule_a4_a_branch_closed_by_its_owner_alone() {
    caught(Omit::ChosenClose, Available, 1, &["ownership"]);
}

#[test]
fn promises_that_do_not_fence() {
    caught(Omit::Fencing, Strict, 0, &["linearizability"]);
}

#[test]
fn take_overs_that_do_not_merge() {
    caught(Omit::Merge, Strict, 0, &["linearizability"]);
}

#[test]
fn writes_without_a_quorum() {
    for consistency in [Available, Strict] {
        caught(Omit::Quorum, consistency, 0, &["redundancy"]);
    }
}

#[test]
fn copies_dropped_too_early() {
    caught(Omit::KeptCopies, Strict, 1, &["redundancy"]);
}

#[test]
fn strict_take_overs_without_a_majority() {
    caught(Omit::StrictMajority, Strict, 0, &["ownership"]);
}

fn settled(setup: Setup) -> Lab {
    let mut lab = Lab::new(setup);
    check::at_rest(&mut lab, Duration::from_secs(30));
    assert_eq!(lab.objections(), Vec::<Objection>::new());
    lab
}

fn write(lab: &mut Lab, node: usize) {
    let value = client::value(lab);
    let asked = Asked::Write(value, Only::Always);
    client::ask(lab, None, node, client::key(0), asked);
    lab.run(Duration::from_millis(50));
}

fn checks(lab: &Lab) -> Vec<&'static str> {
    lab.objections()
        .iter()
        .map(|objection| objection.check)
        .collect()
}

// The owner's clock jumps two minutes ahead of the others'.
fn with_a_clock_ahead(omit: Option<Omit>) -> Lab {
    let mut setup = Setup::new(1, Strict);
    setup.settings.partitions = 1;
    setup.omit = omit;
    let mut lab = settled(setup);
    let owner = lab.servers(0)[0];
    lab.set_wall_error(owner, 120_000);
    lab.run(Duration::from_secs(10));
    write(&mut lab, owner);
    lab
}

#[test]
fn rule_9_a_clock_that_is_ahead() {
    let lab = with_a_clock_ahead(None);
    assert_eq!(checks(&lab), Vec::<&str>::new());
    assert_eq!(
        lab.clients.history.last().and_then(|o| o.written()),
        None,
        "refused"
    );
    let lab = with_a_clock_ahead(Some(Omit::ClockBound));
    assert_eq!(checks(&lab), ["clocks"]);
}

// A member is down while a key is deleted, for longer than deletions are remembered.
fn deleted_while_a_member_is_down(omit: Option<Omit>) -> Lab {
    let mut setup = Setup::new(2, Available);
    setup.nodes = 3;
    setup.settings.partitions = 1;
    setup.repair_delay = Duration::from_secs(60);
    setup.tombstone_grace = Duration::from_millis(500);
    setup.omit = omit;
    let mut lab = settled(setup);
    let owner = lab.servers(0)[0];
    let backup = (owner + 1) % 3;
    write(&mut lab, owner);
    lab.kill(backup, false);
    lab.run(Duration::from_secs(1));
    client::ask(&mut lab, None, owner, client::key(0), Asked::Delete);
    lab.run(Duration::from_secs(5));
    lab.start(backup);
    lab.run(Duration::from_secs(2));
    check::at_rest(&mut lab, Duration::from_secs(30));
    lab
}

#[test]
fn tombstones_dropped_too_early() {
    let lab = deleted_while_a_member_is_down(None);
    assert_eq!(checks(&lab), Vec::<&str>::new());
    let lab = deleted_while_a_member_is_down(Some(Omit::TombstoneGrace));
    assert!(checks(&lab).contains(&"deletes"), "{:?}", lab.objections());
}
