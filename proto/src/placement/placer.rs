//! Assignments, computed once for equal peers.
//!
//! An assignment is a pure function, so it makes no difference who computed it: a node that
//! sees members come and go again finds the former answer, and hosts that run many nodes in one
//! process give them one [`Placer`], since most of them ask the same question.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Assignment, Peer, assign};

/// Answers kept, the latest: enough for the few views that differ while a change spreads
/// (some 100 KiB each with a thousand nodes).
const KEPT: usize = 8;

/// Computes assignments. A clone is the same placer.
#[derive(Clone, Debug, Default)]
pub struct Placer(Arc<Mutex<VecDeque<Known>>>);

#[derive(Debug)]
struct Known {
    peers: Vec<Peer>,
    partitions: u16,
    copies: u8,
    answer: Arc<Assignment>,
}

impl Placer {
    /// What [`assign`] says.
    ///
    /// # Panics
    ///
    /// As it does.
    #[must_use]
    pub fn assign(&self, peers: Vec<Peer>, partitions: u16, copies: u8) -> Arc<Assignment> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = known.iter().position(|known| {
            (known.partitions, known.copies) == (partitions, copies) && known.peers == peers
        });
        let latest = match place.and_then(|place| known.remove(place)) {
            Some(known) => known,
            None => Known {
                answer: Arc::new(assign(&peers, partitions, copies)),
                peers,
                partitions,
                copies,
            },
        };
        let answer = latest.answer.clone();
        known.push_front(latest);
        known.truncate(KEPT);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn peers(ids: std::ops::Range<u64>) -> Vec<Peer> {
        ids.map(|id| Peer {
            id: NodeId(id),
            weight: 100,
            zone: String::new(),
        })
        .collect()
    }

    #[test]
    fn equal_questions_share_an_answer_and_others_do_not() {
        let (placer, other) = (Placer::default(), Placer::default());
        let first = placer.assign(peers(0..5), 16, 2);
        assert!(Arc::ptr_eq(
            &first,
            &placer.clone().assign(peers(0..5), 16, 2)
        ));
        assert_eq!(first, other.assign(peers(0..5), 16, 2));
        for (ids, partitions, copies) in [(0..6, 16, 2), (0..5, 32, 2), (0..5, 16, 3)] {
            let answer = placer.assign(peers(ids.clone()), partitions, copies);
            assert_eq!(*answer, assign(&peers(ids), partitions, copies));
            assert_ne!(first, answer);
        }
    }

    #[test]
    fn what_was_not_asked_for_long_is_forgotten() {
        let placer = Placer::default();
        let first = placer.assign(peers(0..2), 16, 2);
        for nodes in 3..=2 + KEPT as u64 {
            drop(placer.assign(peers(0..nodes), 16, 2));
        }
        assert_eq!(Arc::strong_count(&first), 1);
    }
}
