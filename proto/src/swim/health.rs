//! Local health: how far this node trusts its own accusations.
//!
//! Lifeguard (Dadgar et al. 2017, arXiv 1707.00788), section IV.A: a node that misses answers
//! and negative acknowledgements, that must refute suspicions, or that finds itself late,
//! concludes that it is slow itself, and gives others more time.

/// The worst score.
pub const WORST: u8 = 8;

/// A score from 0 (well) to [`WORST`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalHealth {
    score: u8,
}

impl LocalHealth {
    /// Something worked.
    pub fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// Something did not, `by` times.
    pub fn worsen(&mut self, by: u8) {
        self.score = self.score.saturating_add(by).min(WORST);
    }

    /// The score: 0 to [`WORST`].
    pub fn score(self) -> u8 {
        self.score
    }

    /// By how much this node's own probe timers are stretched: 1 to 9.
    pub fn factor(self) -> u32 {
        u32::from(self.score) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_within_its_bounds() {
        let mut health = LocalHealth::default();
        health.improve();
        assert_eq!((health.score(), health.factor()), (0, 1));
        health.worsen(200);
        assert_eq!((health.score(), health.factor()), (WORST, 9));
        health.improve();
        assert_eq!(health.score(), WORST - 1);
    }
}
