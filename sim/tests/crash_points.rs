//! Crashes, pauses and cuts between any two steps of writes, and of what changes a configuration.

use kith_proto::config::Consistency;
use kith_sim::{
    lab::{
        Omit,
        points::{self, Case, Script},
    },
    many,
};

// Here every so many-th; `kith-sim partitions --points` goes through all of them.
const STRIDE: u64 = 11;

// What was wrong after any blow.
fn wrong_after(case: Case) -> Vec<String> {
    let reference = points::reference(case);
    assert!(reference.points > 30, "{case:?}: {reference:?}");
    let blows = points::blows(&reference, STRIDE);
    let each = many::each_seed(0, blows.len() as u64, |number| {
        points::with_blow(case, &reference, blows[number as usize])
    });
    each.into_iter().flatten().collect()
}

fn case(script: Script, consistency: Consistency) -> Case {
    Case {
        script,
        consistency,
        omit: None,
        seed: 0,
    }
}

fn survives_blows(consistency: Consistency) {
    let scripts = Script::of(consistency).iter();
    let found = scripts.flat_map(|script| wrong_after(case(*script, consistency)));
    assert_eq!(found.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn blows_at_any_step_in_available_clusters() {
    survives_blows(Consistency::Available);
}

#[test]
fn blows_at_any_step_in_strict_clusters() {
    survives_blows(Consistency::Strict);
}

// What is looked for can be found.
#[test]
fn a_broken_protocol_does_not_survive_them() {
    let broken = Case {
        omit: Some(Omit::StrictMajority),
        ..case(Script::Write, Consistency::Strict)
    };
    let found = wrong_after(broken);
    let by_ownership = |text: &String| text.contains("ownership");
    assert!(found.iter().any(by_ownership), "{found:?}");
}

// Otherwise a blow after step 17 would be another one than the seventeenth.
#[test]
fn steps_are_the_same_each_time() {
    for consistency in [Consistency::Available, Consistency::Strict] {
        for script in Script::of(consistency) {
            let points = || points::reference(case(*script, consistency)).points;
            assert_eq!(points(), points(), "{script:?}");
        }
    }
}
