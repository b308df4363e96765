//! Which counters of one sender's life were seen already.
//!
//! A sliding window as in RFC 4303 (section 3.4.3) on the ring of words of RFC 6479: moving
//! ahead clears the words it enters and shifts nothing.
//!
//! ```text
//!            refused: too old           each accepted once               always accepted
//!   0 ───────────────────────┬───────────────────────────────────┬──────────────────────▶
//!                    highest − 1023                           highest
//! ```

/// How far behind the highest counter a packet may arrive (packets). A sender's counter runs
/// over all its receivers: at a thousand packets a second, a packet may be a second late.
pub const WINDOW: u64 = 1024;

/// One word more than the window has: it may begin and end in the middle of one.
const WORDS: u64 = WINDOW / BITS + 1;
const BITS: u64 = u64::BITS as u64;

/// The counters accepted so far.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The highest counter accepted; 0 before any, which is not marked yet and so still is
    /// to be had.
    highest: u64,
    /// One bit for each counter. Counter `c` is bit `c % BITS` of word `c / BITS % WORDS`.
    words: [u64; WORDS as usize],
}

impl ReplayWindow {
    /// A window that accepts every counter.
    pub fn new() -> Self {
        Self {
            highest: 0,
            words: [0; WORDS as usize],
        }
    }

    /// Accepts a counter unless it was accepted before or is [`WINDOW`] or more behind the
    /// highest. To be asked about packets that proved authentic only: a forged counter far
    /// ahead would shut out the sender.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let entered = (counter / BITS - self.highest / BITS).min(WORDS);
            for step in 0..entered {
                // Counted down from the new word, so that nothing overflows at the end.
                self.words[slot(counter / BITS - step)] = 0;
            }
            self.highest = counter;
        } else if self.highest - counter >= WINDOW {
            return false;
        }
        let word = &mut self.words[slot(counter / BITS)];
        let bit = 1 << (counter % BITS);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

fn slot(word: u64) -> usize {
    (word % WORDS) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{prelude::*, sample::Index};

    use super::*;

    /// What the window promises, said in the plainest way.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let highest = self.seen.last().copied().unwrap_or(0);
            highest.saturating_sub(counter) < WINDOW && self.seen.insert(counter)
        }
    }

    #[test]
    fn accepts_each_counter_once_and_nothing_too_old() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(0));
        assert!(!window.accept(0));
        assert!(window.accept(WINDOW));
        assert!(window.accept(1), "1023 behind is still inside");
        assert!(!window.accept(0), "1024 behind is outside");
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(window.accept(u64::MAX - WINDOW + 1));
        assert!(!window.accept(u64::MAX - WINDOW));
    }

    proptest! {
        /// Steps ahead of all sizes, and packets that come late or again.
        #[test]
        fn equals_a_set(
            start in prop_oneof![Just(0), 0..5000u64, Just(u64::MAX - 60_000)],
            steps in prop::collection::vec(
                prop_oneof![
                    8 => (0..4u64, 0..3u64),
                    4 => (0..1u64, 0..1200u64),
                    2 => (60..70u64, 0..70u64),
                    1 => (900..1200u64, 0..1100u64),
                    1 => (0..20_000u64, 0..3000u64),
                ],
                0..400,
            ),
        ) {
            let (mut window, mut model) = (ReplayWindow::new(), Model::default());
            let mut ahead = start;
            for (forward, back) in steps {
                ahead = ahead.saturating_add(forward);
                let counter = ahead.saturating_sub(back);
                prop_assert_eq!(window.accept(counter), model.accept(counter), "{}", counter);
            }
        }

        /// A sender's packets in any order within the window, some of them more than once.
        #[test]
        fn reordering_loses_nothing(
            mut counters in Just((0..WINDOW).collect::<Vec<_>>()).prop_shuffle(),
            again in prop::collection::vec((any::<Index>(), any::<Index>()), 0..50),
        ) {
            for (which, place) in again {
                let counter = counters[which.index(counters.len())];
                counters.insert(place.index(counters.len()), counter);
            }
            let mut window = ReplayWindow::new();
            let accepted = counters.iter().filter(|c| window.accept(**c)).count();
            prop_assert_eq!(accepted as u64, WINDOW);
        }
    }
}
