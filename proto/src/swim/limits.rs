//! No accuser may bury the cluster: accusations are counted per accuser, and one whose
//! accusations are mostly refuted is doubted: its word confirms nothing, does not travel on, and
//! makes others look for themselves at most.

use std::time::Duration;

use crate::time::Time;

/// Accusations that one accuser may make at once.
const BURST: u32 = 64;
/// One more is allowed after each of these pauses.
const REFILL: Duration = Duration::from_millis(100);
/// The same for looking at those whom a doubted accuser accuses.
const DOUBTED_BURST: u32 = 8;
const DOUBTED_REFILL: Duration = Duration::from_millis(500);
/// So many refuted accusations are needed before an accuser is doubted.
const REFUTED_BEFORE_DOUBT: u32 = 6;
/// What was refuted or upheld counts half after this, again and again: who was sick may be well.
const FADE: Duration = Duration::from_secs(120);

/// So many at once, and one more after each pause.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: u32,
    most: u32,
    refill: Duration,
    refilled: Time,
}

impl Bucket {
    /// A full one: `most` at once, and one more after each `refill`.
    pub fn new(most: u32, refill: Duration) -> Self {
        Self {
            tokens: most,
            most,
            refill,
            refilled: Time::ZERO,
        }
    }

    /// Whether one more is allowed now; if so it is taken.
    pub fn take(&mut self, now: Time) -> bool {
        let elapsed = now.saturating_since(self.refilled);
        let earned = u32::try_from(elapsed.as_nanos() / self.refill.as_nanos()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(self.most);
            self.refilled = now;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

/// What is known of a member as an accuser.
#[derive(Clone, Copy, Debug)]
pub struct AccuserLimit {
    heard: Bucket,
    looked_at: Bucket,
    refuted: u32,
    upheld: u32,
    faded: Time,
}

impl Default for AccuserLimit {
    fn default() -> Self {
        Self {
            heard: Bucket::new(BURST, REFILL),
            looked_at: Bucket::new(DOUBTED_BURST, DOUBTED_REFILL),
            refuted: 0,
            upheld: 0,
            faded: Time::ZERO,
        }
    }
}

impl AccuserLimit {
    /// Whether one more accusation is heard now.
    pub fn admit(&mut self, now: Time) -> bool {
        self.fade(now);
        self.heard.take(now)
    }

    /// Whether one more of those whom it accuses is looked at now, although it is doubted.
    pub fn admit_doubted(&mut self, now: Time) -> bool {
        self.looked_at.take(now)
    }

    /// An accusation of this accuser was refuted by its target.
    pub fn refuted(&mut self) {
        self.refuted += 1;
        self.halve_many();
    }

    /// An accusation of this accuser led to a verdict that held.
    pub fn upheld(&mut self) {
        self.upheld += 1;
        self.halve_many();
    }

    /// Whether its word counts.
    pub fn is_credible(&self) -> bool {
        self.refuted < REFUTED_BEFORE_DOUBT || self.refuted <= self.upheld * 2
    }

    // The last few dozen count.
    fn halve_many(&mut self) {
        if self.refuted + self.upheld > 32 {
            self.halve();
        }
    }

    fn fade(&mut self, now: Time) {
        if now >= self.faded + FADE {
            let halvings = now.saturating_since(self.faded).as_nanos() / FADE.as_nanos();
            for _ in 0..halvings.min(8) {
                self.halve();
            }
            self.faded = now;
        }
    }

    fn halve(&mut self) {
        self.refuted /= 2;
        self.upheld /= 2;
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

    #[test]
    fn one_that_was_wrong_is_believed_again_after_some_minutes() {
        let mut limit = AccuserLimit::default();
        let now = Time::from_millis(1000);
        assert!(limit.admit(now));
        for _ in 0..32 {
            limit.refuted();
        }
        assert!(limit.admit(now + FADE) && !limit.is_credible());
        assert!(limit.admit(now + FADE * 3) && limit.is_credible());
    }
}
