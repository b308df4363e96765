//! Members that keep falling silent and coming back: starved ones, above all.
//!
//! The first times all is done at once to find out what happened, and to tell everybody. Whoever
//! has come back a few times lately will most likely do so again: that it is silent is nothing
//! that others have to hurry for, and to ask it a hundred questions makes it slower. What is never
//! told with leisure is that a process is over, or that a host is gone.

use std::time::Duration;

use crate::time::Time;

/// So many returns lately make a member unsteady.
const UNSTEADY: u32 = 2;
/// Returns count half after this, again and again.
const FADE: Duration = Duration::from_secs(60);

/// How often a member came back lately, after it was suspected or declared failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returns {
    count: u32,
    last: Time,
}

impl Returns {
    /// It came back.
    pub fn note(&mut self, now: Time) {
        self.count = self.lately(now).saturating_add(1).min(UNSTEADY * 2);
        self.last = now;
    }

    /// Whether it will probably come back if it falls silent now.
    pub fn is_unsteady(&self, now: Time) -> bool {
        self.lately(now) >= UNSTEADY
    }

    fn lately(&self, now: Time) -> u32 {
        let halvings = now.saturating_since(self.last).as_nanos() / FADE.as_nanos();
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        self.count.checked_shr(halvings).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_again_and_again_is_unsteady_until_it_has_been_well_for_a_while() {
        let mut returns = Returns::default();
        let mut now = Time::from_millis(1000);
        assert!(!returns.is_unsteady(now));
        for _ in 0..UNSTEADY {
            assert!(!returns.is_unsteady(now));
            now += Duration::from_secs(8);
            returns.note(now);
        }
        assert!(returns.is_unsteady(now));
        assert!(!returns.is_unsteady(now + FADE));
        for _ in 0..100 {
            returns.note(now);
        }
        assert!(returns.is_unsteady(now + FADE));
        assert!(!returns.is_unsteady(now + FADE * 2));
        assert!(!returns.is_unsteady(now + FADE * 1000));
    }
}
