//! Log lines that strangers can cause are limited, so that nobody can fill a disk with them.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets one line through per period and counts the others.
#[derive(Debug)]
pub(crate) struct Limited {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: Option<Instant>,
    suppressed: u64,
}

impl Limited {
    /// At most one line per `period`.
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period,
            state: Mutex::default(),
        }
    }

    /// May a line be written at `now`? If so, the number of those that were not since the
    /// last one.
    pub(crate) fn allow(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.next.is_some_and(|next| now < next) {
            state.suppressed += 1;
            return None;
        }
        state.next = Some(now + self.period);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_period_and_the_rest_is_counted() {
        let limited = Limited::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(limited.allow(start), Some(0));
        assert_eq!(limited.allow(start + Duration::from_secs(1)), None);
        assert_eq!(limited.allow(start + Duration::from_secs(9)), None);
        assert_eq!(limited.allow(start + Duration::from_secs(10)), Some(2));
        assert_eq!(limited.allow(start + Duration::from_secs(20)), Some(0));
    }
}
