//! What waits to be sent on a stream: how much, and for how long.
//!
//! A peer reads too slowly if much waits for it and has waited long, or if too much does. Much alone
//! says nothing: a few clients at once with values of megabytes, and it is there before the first
//! byte of it could have gone.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// So much may wait however long it takes (bytes).
pub(crate) const MAX_QUEUED: usize = 64 << 20;
/// If more does, what goes next may have waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than this never waits (bytes).
pub(crate) const MOST_QUEUED: usize = 256 << 20;

/// A frame that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(super) frame: Vec<u8>,
    since: Instant,
}

/// How much waits, and how long what goes next has.
#[derive(Debug)]
pub(super) struct Queue {
    bytes: AtomicUsize,
    began: Instant,
    /// When what is written now was queued (milliseconds after the beginning).
    next: AtomicU64,
}

impl Queue {
    /// Nothing waits yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            began: now,
            next: AtomicU64::new(0),
        }
    }

    /// A frame is to wait, which takes so many bytes.
    ///
    /// # Errors
    /// The peer reads too slowly.
    pub(super) fn push(
        &self,
        now: Instant,
        frame: Vec<u8>,
        size: usize,
    ) -> Result<Queued, TooSlow> {
        let before = self.bytes.load(Relaxed);
        let after = before + size;
        // One frame always fits, however long it is.
        if before > 0 && after > MAX_QUEUED {
            let waited = self.millis(now).saturating_sub(self.next.load(Relaxed));
            if Duration::from_millis(waited) > PATIENCE || after > MOST_QUEUED {
                return Err(TooSlow);
            }
        }
        if before == 0 {
            self.next.store(self.millis(now), Relaxed);
        }
        self.bytes.fetch_add(size, Relaxed);
        Ok(Queued { frame, since: now })
    }

    /// This one is written next.
    pub(super) fn goes(&self, queued: &Queued) {
        self.next.store(self.millis(queued.since), Relaxed);
    }

    /// So many bytes do not wait any more.
    pub(super) fn gone(&self, size: usize) {
        self.bytes.fetch_sub(size, Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

/// A peer does not take what waits for it.
#[derive(Debug)]
pub(super) struct TooSlow;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const FRAME: usize = 16 << 20;

    #[test]
    fn much_may_wait_as_long_as_what_goes_next_has_not_waited_long() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let queue = Queue::new(begin);
        let mut waiting = VecDeque::new();
        // After a long time in which there was nothing to send.
        for _ in 0..10 {
            waiting.push_back(queue.push(at(100), Vec::new(), FRAME).unwrap());
        }
        // One a second goes, and one more comes: there are always as many.
        for second in 101..200 {
            let next = waiting.pop_front().unwrap();
            queue.goes(&next);
            queue.gone(FRAME);
            match queue.push(at(second), Vec::new(), FRAME) {
                Ok(queued) => waiting.push_back(queued),
                Err(TooSlow) => {
                    assert_eq!(second, 106, "it takes longer than is waited");
                    return;
                }
            }
        }
        panic!("{} frames wait, and nobody minds", waiting.len());
    }

    #[test]
    fn who_reads_nothing_is_too_slow_after_some_time_or_some_more() {
        let begin = Instant::now();
        let queue = Queue::new(begin);
        for _ in 0..MAX_QUEUED / FRAME {
            queue.push(begin, Vec::new(), FRAME).unwrap();
        }
        queue.push(begin + PATIENCE, Vec::new(), FRAME).unwrap();
        let later = begin + PATIENCE + Duration::from_millis(1);
        assert!(queue.push(later, Vec::new(), 1).is_err());
        let queue = Queue::new(begin);
        for _ in 0..MOST_QUEUED / FRAME {
            queue.push(begin, Vec::new(), FRAME).unwrap();
        }
        assert!(queue.push(begin, Vec::new(), 1).is_err());
    }

    #[test]
    fn little_may_wait_for_ever_and_one_frame_always_may() {
        let begin = Instant::now();
        let late = begin + Duration::from_secs(3600);
        let queue = Queue::new(begin);
        let first = queue.push(begin, Vec::new(), FRAME).unwrap();
        queue.push(late, Vec::new(), FRAME).unwrap();
        queue.goes(&first);
        queue.gone(FRAME);
        queue.gone(FRAME);
        queue.push(late, Vec::new(), 2 * MOST_QUEUED).unwrap();
    }
}
