//! Crashes, pauses and cuts between any two steps of writes, and of what changes a configuration.

use kith_proto::config::Consistency;
use kith_sim::{
    lab::points::{self, Script},
    many,
};

// Here every so many-th; `kith-sim partitions --points` goes through all of them.
const STRIDE: u64 = 11;

fn survives_blows(consistency: Consistency) {
    let mut found = Vec::new();
    for script in Script::of(consistency) {
        let reference = points::reference(*script, consistency);
        assert!(reference.points > 30, "{script:?}: {reference:?}");
        let blows = points::blows(&reference, STRIDE);
        let each = many::each_seed(0, blows.len() as u64, |number| {
            points::with_blow(*script, consistency, &reference, blows[number as usize])
        });
        found.extend(each.into_iter().flatten());
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn blows_at_any_step_in_available_clusters() {
    survives_blows(Consistency::Available);
}

#[test]
fn blows_at_any_step_in_strict_clusters() {
    survives_blows(Consistency::Strict);
}

// Otherwise a blow after step 17 would be another one than the seventeenth.
#[test]
fn steps_are_the_same_each_time() {
    for consistency in [Consistency::Available, Consistency::Strict] {
        for script in Script::of(consistency) {
            let points = || points::reference(*script, consistency).points;
            assert_eq!(points(), points(), "{script:?}");
        }
    }
}
