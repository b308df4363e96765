//! How long partitions are without service after a fault.

use std::time::Duration;

use kith_sim::lab::{
    availability::{Fault, measure},
    command::Mode,
};

#[test]
fn service_goes_on_within_a_bound() {
    for mode in [Mode::Available, Mode::Strict] {
        for fault in Fault::ALL {
            let mut concerned = 0;
            for seed in 0..8 {
                let measured = measure(seed, mode, fault, Duration::ZERO);
                assert_eq!(measured.objections, Vec::<String>::new());
                assert_eq!(measured.not_at_all, 0, "{mode:?} {fault:?} seed {seed}");
                concerned += measured.times.len();
            }
            assert!(concerned > 8, "{mode:?} {fault:?}: {concerned}");
        }
    }
}

// The bound is one that can be broken.
#[test]
fn a_fault_that_is_noticed_late_is_objected_to() {
    let late = Duration::from_millis(500);
    for fault in Fault::ALL {
        let measured = measure(1, Mode::Strict, fault, late);
        let of_this = |text: &String| text.starts_with("availability");
        assert!(measured.objections.iter().any(of_this), "{fault:?}");
    }
}
