//! One line for people about what several shards found at the same time.

use std::{collections::BTreeMap, time::Duration};

use kith_proto::event::Event;
use tokio::{sync::mpsc, time::sleep};

use super::FromShard;

/// Shards that take over partitions of the same member tell of it within this.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Shards look every second whether something is amiss.
const A_LOOK_LATER: Duration = Duration::from_millis(1500);

/// Events of shards that are kept back for a moment, so that they can be told as one.
#[derive(Debug, Default)]
pub(super) struct Summaries {
    last: u64,
    kept: BTreeMap<u64, Event>,
}

impl Summaries {
    /// Keeps back what other shards may tell as well, and gives anything else back. When it
    /// is to be told comes by `outgoing`, for [`Self::take`].
    pub(super) fn gather(
        &mut self,
        event: Event,
        outgoing: &mpsc::UnboundedSender<FromShard>,
    ) -> Option<Event> {
        let patience = match event {
            Event::TakeoverSummary { .. } | Event::RecoverySummary { .. } => AT_ONCE,
            Event::RedundancyRestored { .. }
            | Event::PartitionBlocked { .. }
            | Event::PartitionLost { .. } => A_LOOK_LATER,
            _ => return Some(event),
        };
        if self.kept.values_mut().any(|kept| merge(kept, &event)) {
            return None;
        }
        self.last += 1;
        let number = self.last;
        self.kept.insert(number, event);
        let outgoing = outgoing.clone();
        tokio::spawn(async move {
            sleep(patience).await;
            // The node may have stopped meanwhile.
            drop(outgoing.send(FromShard::Gathered(number)));
        });
        None
    }

    /// What was gathered under that number.
    pub(super) fn take(&mut self, number: u64) -> Option<Event> {
        self.kept.remove(&number)
    }
}

/// Adds another shard's event to one about the same. Whether it is.
fn merge(event: &mut Event, other: &Event) -> bool {
    match (event, other) {
        (
            Event::TakeoverSummary {
                from,
                partitions,
                took_ms,
            },
            Event::TakeoverSummary {
                from: whose,
                partitions: more,
                took_ms: took,
            },
        ) if from == whose => {
            *partitions += more;
            *took_ms = (*took_ms).max(*took);
            true
        }
        (
            Event::RecoverySummary {
                partitions,
                without,
            },
            Event::RecoverySummary {
                partitions: more,
                without: whom,
            },
        ) if without == whom => {
            *partitions += more;
            true
        }
        (
            Event::RedundancyRestored {
                partitions,
                took_ms,
            },
            Event::RedundancyRestored {
                partitions: more,
                took_ms: took,
            },
        ) => {
            *partitions += more;
            *took_ms = (*took_ms).max(*took);
            true
        }
        (
            Event::PartitionBlocked { partitions, why },
            Event::PartitionBlocked {
                partitions: more,
                why: reason,
            },
        )
        | (
            Event::PartitionLost { partitions, why },
            Event::PartitionLost {
                partitions: more,
                why: reason,
            },
        ) if why == reason => {
            partitions.extend(more);
            partitions.sort_unstable();
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_shards_tell_each_for_itself_is_told_once() {
        let (outgoing, mut from_shards) = mpsc::unbounded_channel();
        let mut summaries = Summaries::default();
        let taken_over = |from: &str, partitions, took_ms| Event::TakeoverSummary {
            from: from.to_owned(),
            partitions,
            took_ms,
        };
        let lost = |partitions: &[u16]| Event::PartitionLost {
            partitions: partitions.to_vec(),
            why: "gone".to_owned(),
        };
        let recovered = |without: &str, partitions| Event::RecoverySummary {
            partitions,
            without: vec![without.to_owned()],
        };
        let told = [
            lost(&[4, 8]),
            recovered("n4", 5),
            recovered("n5", 1),
            recovered("n4", 6),
            taken_over("n1", 3, 60),
            taken_over("n2", 1, 1),
            taken_over("n1", 4, 50),
            lost(&[3, 5]),
        ];
        for event in told {
            assert_eq!(summaries.gather(event, &outgoing), None);
        }
        let mut gathered = Vec::new();
        while gathered.len() < 5 {
            let Some(FromShard::Gathered(number)) = from_shards.recv().await else {
                panic!("{gathered:?} and no more");
            };
            gathered.extend(summaries.take(number));
            assert_eq!(summaries.take(number), None);
        }
        let expected = [
            taken_over("n1", 7, 60),
            taken_over("n2", 1, 1),
            recovered("n4", 11),
            recovered("n5", 1),
            lost(&[3, 4, 5, 8]),
        ];
        for event in expected {
            assert!(gathered.contains(&event), "{event:?} in {gathered:?}");
        }
        // What is of one shard alone is not kept back.
        let event = Event::ClusterHealed {
            members: Vec::new(),
        };
        assert_eq!(summaries.gather(event.clone(), &outgoing), Some(event));
    }
}
