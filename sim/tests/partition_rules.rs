//! The protocol without one of its rules: the checkers notice, and say which promise is broken.
//!
//! Those of which random seeds show little or nothing are in `rule_scripts`.

use kith_proto::config::Consistency::{self, Available, Strict};
use kith_sim::{
    lab::{Omit, check::Objection, plan::Plan, run},
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
fn rule_5_promises_that_outlive_their_configuration() {
    for consistency in [Available, Strict] {
        caught(Omit::FreshVotes, consistency, 0, &["placement"]);
    }
}

#[test]
fn rule_7_writes_that_are_tried_again() {
    caught(Omit::NoRetry, Strict, 0, &["linearizability"]);
}

#[test]
fn rule_a3_what_is_joined_keeps_its_version() {
    caught(
        Omit::WrittenAnew,
        Available,
        96,
        &["redundancy", "durability"],
    );
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
fn strict_take_overs_without_a_majority() {
    caught(Omit::StrictMajority, Strict, 0, &["ownership"]);
}
