//! What the simulator has found, and where: each of these seeds broke a promise once.
//!
//! A seed shows a bug with the code that had it; other changes of the protocol lead it elsewhere.
//! It stays here all the same: it costs little, and whoever doubts a line that was written for
//! one of them finds the reason.

use kith_sim::{
    options::{Mechanisms, NodeRange, Setup, scenario},
    run::run,
};

fn passes(name: &str, nodes: Option<usize>, seed: u64) {
    let setup = Setup {
        scenario: scenario(name).expect("there is such a scenario"),
        seed,
        nodes: nodes.map(|n| NodeRange { least: n, most: n }),
        minutes: None,
        mechanisms: Mechanisms::All,
    };
    let report = run(&setup, None).report;
    assert_eq!(report.violations, [], "{}", setup.replay());
}

/// Two members at a distance greeted each other with a ping at every ping, and never ended:
/// only the last greeting could be answered (`core/direct.rs`).
#[test]
fn greetings_that_never_ended() {
    passes("random", None, 36);
}

/// An address at which another node lives now was redialled for ever as that of a member that
/// had failed, and a stream opened and closed each time (`core/lost.rs`).
#[test]
fn redialling_an_address_with_a_new_resident() {
    passes("random", None, 10);
}

/// Of a member that was down, one had a later identity than the other, and they compared their
/// tables for ever (`core/sync.rs`).
#[test]
fn two_opinions_on_which_identity_is_down() {
    passes("random", None, 237);
}

/// A seed was cut off between Hello and Welcome: the joiner waited for as long as TCP does
/// (`core/streams.rs`).
#[test]
fn a_joiner_that_waited_for_an_answer_for_ever() {
    passes("random", None, 178);
}

/// Who was cut off for a moment, while the news of a failure spread, showed the dead as living
/// until it came across them by chance (`core/sync.rs`).
#[test]
fn news_of_a_failure_that_was_missed() {
    passes("random", None, 691);
}

/// The same, where the others knew of a later identity, in which it was down too.
#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "93 nodes: a second in release, minutes without"
)]
fn news_of_the_failure_of_a_later_identity_that_was_missed() {
    passes("random", None, 456);
}

/// A node that had gone on alone asked one of forty addresses every twenty seconds, and found its
/// own seed after ten minutes (`core/lost.rs`).
#[test]
fn alone_for_minutes_beside_a_living_seed() {
    passes("random", None, 2305);
}

/// Who woke read old accusations, and declared a member failed before it read the refutation
/// (`core/judge.rs`).
#[test]
fn a_sleeper_that_believed_old_accusations() {
    passes("random", None, 2928);
}
