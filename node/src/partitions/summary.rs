//! One line for people about what several shards did at the same time.

use std::{collections::BTreeMap, time::Duration};

use kith_proto::event::Event;
use tokio::{sync::mpsc, time::sleep};

use super::FromShard;

/// Shards that take over partitions of the same member tell of it within this.
const TOGETHER: Duration = Duration::from_millis(100);

/// Summaries that shards have told, until they are told as one.
#[derive(Debug, Default)]
pub(super) struct Summaries {
    /// By the member whose partitions were taken over: how many, and the longest (ms).
    taken_over: BTreeMap<String, (usize, u64)>,
}

impl Summaries {
    /// Keeps a summary back, and gives anything else back. That a summary is complete comes
    /// by `outgoing`, for [`Self::take`].
    pub(super) fn gather(
        &mut self,
        event: Event,
        outgoing: &mpsc::UnboundedSender<FromShard>,
    ) -> Option<Event> {
        let Event::TakeoverSummary {
            from,
            partitions,
            took_ms,
        } = event
        else {
            return Some(event);
        };
        if let Some(gathered) = self.taken_over.get_mut(&from) {
            *gathered = (gathered.0 + partitions, gathered.1.max(took_ms));
            return None;
        }
        self.taken_over.insert(from.clone(), (partitions, took_ms));
        let outgoing = outgoing.clone();
        tokio::spawn(async move {
            sleep(TOGETHER).await;
            // The node may have stopped meanwhile.
            drop(outgoing.send(FromShard::Gathered(from)));
        });
        None
    }

    /// What was gathered about a member.
    pub(super) fn take(&mut self, from: String) -> Option<Event> {
        let (partitions, took_ms) = self.taken_over.remove(&from)?;
        Some(Event::TakeoverSummary {
            from,
            partitions,
            took_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_shards_tell_each_for_itself_is_told_once() {
        let (outgoing, mut from_shards) = mpsc::unbounded_channel();
        let mut summaries = Summaries::default();
        let summary = |partitions, took_ms| Event::TakeoverSummary {
            from: "n1".to_owned(),
            partitions,
            took_ms,
        };
        assert_eq!(summaries.gather(summary(3, 60), &outgoing), None);
        assert_eq!(summaries.gather(summary(4, 50), &outgoing), None);
        let other = Event::TakeoverSummary {
            from: "n2".to_owned(),
            partitions: 1,
            took_ms: 1,
        };
        assert_eq!(summaries.gather(other.clone(), &outgoing), None);
        let mut told = Vec::new();
        while let Some(FromShard::Gathered(about)) = from_shards.recv().await {
            told.extend(summaries.take(about.clone()));
            assert_eq!(summaries.take(about), None);
            if told.len() == 2 {
                break;
            }
        }
        told.sort_by_key(|event| format!("{event:?}"));
        assert_eq!(told, [summary(7, 60), other]);
        // What is no summary is not kept back.
        let event = Event::ClusterHealed {
            members: Vec::new(),
        };
        assert_eq!(summaries.gather(event.clone(), &outgoing), Some(event));
    }
}
