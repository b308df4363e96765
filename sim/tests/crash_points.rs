//! Crashes between any two steps of what changes a configuration.

use kith_proto::config::Consistency;
use kith_sim::{
    lab::points::{self, Script},
    many,
};

// Here every so many-th; `kith-sim partitions --points` goes through all of them.
const STRIDE: u64 = 11;

fn survives_crashes(consistency: Consistency) {
    let mut found = Vec::new();
    for script in Script::of(consistency) {
        let reference = points::reference(*script, consistency);
        assert!(reference.points > 30, "{script:?}: {reference:?}");
        let crashes = points::crashes(&reference, STRIDE);
        let each = many::each_seed(0, crashes.len() as u64, |number| {
            points::with_crash(*script, consistency, &reference, crashes[number as usize])
        });
        found.extend(each.into_iter().flatten());
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn crashes_at_any_step_in_available_clusters() {
    survives_crashes(Consistency::Available);
}

#[test]
fn crashes_at_any_step_in_strict_clusters() {
    survives_crashes(Consistency::Strict);
}

// Otherwise a crash after step 17 would be another one than the seventeenth.
#[test]
fn steps_are_the_same_each_time() {
    for consistency in [Consistency::Available, Consistency::Strict] {
        for script in Script::of(consistency) {
            let points = || points::reference(*script, consistency).points;
            assert_eq!(points(), points(), "{script:?}");
        }
    }
}
