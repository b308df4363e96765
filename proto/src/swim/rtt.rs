//! How long a probe waits for its answer: from measured round-trip times (RFC 6298), so that
//! a fast network does not wait half a second for what takes 200 µs.

use std::time::Duration;

/// Smoothed round-trip time and its variation for one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RttEstimator {
    measured: Option<(Duration, Duration)>,
}

impl RttEstimator {
    /// Takes in a measured round-trip time (RFC 6298, section 2: α = 1/8, β = 1/4).
    pub fn sample(&mut self, rtt: Duration) {
        self.measured = Some(match self.measured {
            None => (rtt, rtt / 2),
            Some((smoothed, variation)) => (
                smoothed * 7 / 8 + rtt / 8,
                variation * 3 / 4 + smoothed.abs_diff(rtt) / 4,
            ),
        });
    }

    /// The smoothed round-trip time, once measured.
    pub fn smoothed(&self) -> Option<Duration> {
        self.measured.map(|(smoothed, _)| smoothed)
    }

    /// How long to wait for an answer, between `min` and `max`; `max` while nothing is known.
    pub fn timeout(&self, min: Duration, max: Duration) -> Duration {
        match self.measured {
            None => max,
            Some((smoothed, variation)) => (smoothed + variation * 4).clamp(min, max),
        }
    }
}

/// The share of first pings that were lost although their targets live, smoothed over the
/// last sixty or so; makes windows longer where a network loses packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossEstimator {
    /// In parts per million, so that no floating point decides anything.
    ppm: u32,
}

impl LossEstimator {
    /// Takes in whether a ping to a living member was answered in time.
    pub fn sample(&mut self, lost: bool) {
        let target = if lost { 1_000_000 } else { 0 };
        self.ppm = self.ppm - self.ppm / 64 + target / 64;
    }

    /// Parts per million.
    pub fn ppm(self) -> u32 {
        self.ppm
    }

    /// `window`, longer by four times the loss: a ping is lost with it, or its answer.
    pub fn stretch(self, window: Duration) -> Duration {
        window + window * (self.ppm / 1000) / 1000 * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_millis(500);

    #[test]
    fn a_fast_member_is_given_the_least_and_an_unknown_one_the_most() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.timeout(MIN, MAX), MAX);
        for _ in 0..10 {
            rtt.sample(Duration::from_micros(200));
        }
        assert_eq!(rtt.timeout(MIN, MAX), MIN);
    }

    #[test]
    fn a_slow_and_shaky_member_is_given_more() {
        let mut rtt = RttEstimator::default();
        for n in 0..40 {
            rtt.sample(Duration::from_millis(if n % 2 == 0 { 60 } else { 100 }));
        }
        let timeout = rtt.timeout(MIN, MAX);
        assert!(
            timeout > Duration::from_millis(100) && timeout < MAX,
            "{timeout:?}"
        );
    }

    #[test]
    fn loss_is_learnt_and_forgotten() {
        let mut loss = LossEstimator::default();
        for n in 0..2000 {
            loss.sample(n % 2 == 0);
        }
        assert!((400_000..600_000).contains(&loss.ppm()), "{loss:?}");
        for _ in 0..1000 {
            loss.sample(false);
        }
        assert!(loss.ppm() < 1000, "{loss:?}");
        assert_eq!(LossEstimator::default().stretch(MAX), MAX);
    }
}
