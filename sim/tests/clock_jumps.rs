//! Clocks that jump by more than rule 9 allows, ahead and back, while clients write and owners change.

use std::time::Duration;

use kith_proto::config::Consistency;
use kith_sim::lab::{
    Lab, Setup,
    check::{self, Objection},
    client,
};

// Ten minutes ahead, ten behind, right again (ms).
const JUMPS: [i64; 3] = [600_000, -600_000, 0];

fn jumps(seed: u64, consistency: Consistency) -> Lab {
    let mut lab = Lab::new(Setup::new(seed, consistency));
    check::at_rest(&mut lab, Duration::from_secs(30));
    client::begin(&mut lab, 4, 8);
    let jumper = usize::try_from(seed).unwrap_or_default() % lab.len();
    let other = (jumper + 1) % lab.len();
    for error in JUMPS {
        lab.run(Duration::from_secs(1));
        lab.set_wall_error(jumper, error);
        lab.run(Duration::from_millis(500));
        lab.kill(other, false);
        lab.run(Duration::from_secs(1));
        lab.start(other);
    }
    lab.run(Duration::from_secs(1));
    client::stop(&mut lab);
    check::at_rest(&mut lab, Duration::from_secs(60));
    lab
}

#[test]
fn a_clock_that_jumps_loses_nothing_and_stamps_nothing_far_ahead() {
    for consistency in [Consistency::Available, Consistency::Strict] {
        for seed in 0..5 {
            let lab = jumps(seed, consistency);
            let none = Vec::<Objection>::new();
            assert_eq!(lab.objections(), none, "{consistency:?} seed {seed}");
            let done = lab.clients.history.iter();
            let done = done.filter(|o| o.told().is_some()).count();
            assert!(done > 300, "{consistency:?} seed {seed}: {done}");
        }
    }
}
