//! How long a probe waits for its answer: from measured round-trip times (RFC 6298), so that
//! a fast network does not wait half a second for what takes 200 µs.

use std::time::Duration;

/// So many samples make an estimate that one more does not overthrow.
const YOUNG: u8 = 8;
/// A sample that nobody expected is forgotten if so many others do not confirm it.
const DOUBT: u8 = 4;

/// Smoothed round-trip time and its variation for one member.
///
/// RFC 6298 but for two rules, since samples are few (one in many seconds) and some of them measure
/// not the way but a process that was busy, which would lengthen timeouts for minutes:
///
/// - While the estimate is young, it begins anew with each smaller sample: nothing is faster
///   than the way allows, and a process that has just started is seldom at its fastest.
/// - A sample outside of what was expected counts together with the next such one, or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RttEstimator {
    measured: Option<(Duration, Duration)>,
    /// Samples so far, up to [`YOUNG`].
    samples: u8,
    /// One that waits to be confirmed, and by how many others at most.
    doubted: Option<(Duration, u8)>,
}

impl RttEstimator {
    /// Takes in a measured round-trip time.
    pub fn sample(&mut self, rtt: Duration) {
        let young = self.samples < YOUNG;
        self.samples = (self.samples + 1).min(YOUNG);
        let begun_anew = |(smoothed, _): (Duration, Duration)| young && rtt < smoothed;
        let Some((smoothed, variation)) = self.measured.filter(|m| !begun_anew(*m)) else {
            self.measured = Some((rtt, rtt / 2));
            return;
        };
        if rtt > smoothed + variation * 4 {
            match self.doubted.take() {
                None => self.doubted = Some((rtt, DOUBT)),
                Some((doubted, _)) => {
                    self.take_in(doubted);
                    self.take_in(rtt);
                }
            }
            return;
        }
        self.doubted = self
            .doubted
            .and_then(|(doubted, left)| Some((doubted, left.checked_sub(1)?)));
        self.take_in(rtt);
    }

    // RFC 6298, section 2: α = 1/8, β = 1/4.
    fn take_in(&mut self, rtt: Duration) {
        if let Some((smoothed, variation)) = &mut self.measured {
            *variation = *variation * 3 / 4 + smoothed.abs_diff(rtt) / 4;
            *smoothed = *smoothed * 7 / 8 + rtt / 8;
        }
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

    const FAST: Duration = Duration::from_micros(200);

    fn of(samples: &[u64]) -> RttEstimator {
        let mut rtt = RttEstimator::default();
        for ms in samples {
            rtt.sample(Duration::from_millis(*ms));
        }
        rtt
    }

    #[test]
    fn a_first_sample_of_a_busy_process_is_corrected_by_the_next() {
        let mut rtt = of(&[300, 350]);
        assert_eq!(rtt.timeout(MIN, MAX), MAX);
        rtt.sample(FAST);
        assert_eq!(rtt.timeout(MIN, MAX), MIN);
    }

    #[test]
    fn one_late_answer_changes_nothing_and_two_do() {
        let mut rtt = RttEstimator::default();
        for _ in 0..3 {
            rtt.sample(FAST);
        }
        let mut often = rtt;
        for _ in 0..10 {
            rtt.sample(Duration::from_millis(300));
            for _ in 0..=DOUBT {
                rtt.sample(FAST);
            }
            assert_eq!(rtt.timeout(MIN, MAX), MIN);
        }
        often.sample(Duration::from_millis(300));
        for _ in 0..DOUBT {
            often.sample(FAST);
        }
        often.sample(Duration::from_millis(200));
        let timeout = often.timeout(MIN, MAX);
        assert!(timeout > Duration::from_millis(300), "{timeout:?}");
    }

    #[test]
    fn a_way_that_has_become_longer_is_learnt_at_the_second_sample() {
        let rtt = of(&[1, 1, 1, 1, 1, 1, 1, 1, 200, 200]);
        let timeout = rtt.timeout(MIN, MAX);
        assert!(timeout > Duration::from_millis(200), "{timeout:?}");
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
