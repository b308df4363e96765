//! No accuser may bury the cluster: accusations are counted per accuser, and one whose
//! accusations are mostly refuted weighs less.

use std::time::Duration;

use crate::time::Time;

/// Accusations that one accuser may make at once.
const BURST: u32 = 64;
/// One more is allowed after each of these pauses.
const REFILL: Duration = Duration::from_millis(100);
/// So many refuted accusations are needed before an accuser weighs less.
const REFUTED_BEFORE_DOUBT: u32 = 6;

/// What is known of a member as an accuser.
#[derive(Clone, Copy, Debug)]
pub struct AccuserLimit {
    tokens: u32,
    refilled: Time,
    refuted: u32,
    upheld: u32,
}

impl Default for AccuserLimit {
    fn default() -> Self {
        Self {
            tokens: BURST,
            refilled: Time::ZERO,
            refuted: 0,
            upheld: 0,
        }
    }
}

impl AccuserLimit {
    /// Whether one more accusation is heard now.
    pub fn admit(&mut self, now: Time) -> bool {
        let elapsed = now.saturating_since(self.refilled);
        let earned = u32::try_from(elapsed.as_nanos() / REFILL.as_nanos()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.refilled = now;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }

    /// An accusation of this accuser was refuted by its target.
    pub fn refuted(&mut self) {
        self.refuted += 1;
        self.halve();
    }

    /// An accusation of this accuser led to a verdict that held.
    pub fn upheld(&mut self) {
        self.upheld += 1;
        self.halve();
    }

    /// Whether its word counts as a confirmation.
    pub fn is_credible(&self) -> bool {
        self.refuted < REFUTED_BEFORE_DOUBT || self.refuted <= self.upheld * 2
    }

    // Old deeds fade: the last few dozen count.
    fn halve(&mut self) {
        if self.refuted + self.upheld > 32 {
            self.refuted /= 2;
            self.upheld /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_a_pause_lets_it_speak_again() {
        let mut limit = AccuserLimit::default();
        let now = Time::from_millis(1000);
        let heard = (0..1000).filter(|_| limit.admit(now)).count();
        assert_eq!(heard, BURST as usize);
        assert!(limit.admit(now + REFILL));
        assert!(!limit.admit(now + REFILL));
    }

    #[test]
    fn an_accuser_that_is_mostly_wrong_loses_its_weight_and_can_regain_it() {
        let mut limit = AccuserLimit::default();
        for _ in 0..REFUTED_BEFORE_DOUBT {
            assert!(limit.is_credible());
            limit.refuted();
        }
        assert!(!limit.is_credible());
        for _ in 0..3 {
            limit.upheld();
        }
        assert!(limit.is_credible());
    }
}
