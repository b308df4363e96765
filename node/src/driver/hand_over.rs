//! Between the driver and the partitions: views, frames, and handing over before leaving.

use std::collections::BTreeSet;

use kith_proto::{
    config::Consistency,
    id::NodeId,
    input::{Command, Input, RequestId, StreamId},
    members::table::Status,
    output::Stop,
    replica::depart,
    wire::MAX_FRAME,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    BATCH, Driver, Duration, FromShard, Nodes, Time, TopologyNode, answer, broken, log_event, views,
};
use crate::{
    peer::Introduction,
    view::{LeavingView, PartitionView},
};

/// How often it is told what is left to be handed over.
const TOLD: Duration = Duration::from_secs(5);

/// Partitions are handed over before the node leaves.
///
/// Who leaves for good has copies made elsewhere, however much that is: it gives up once nothing was
/// handed over for `--leave-timeout`. Who will be back only gives away what others have already.
#[derive(Debug)]
pub(crate) struct Departure {
    returning: bool,
    began: Time,
    patience: Duration,
    /// Partitions that are left.
    left: usize,
    /// [`crate::counters::HostCounters::copies_stored`] when it was looked last.
    stored: u64,
    /// When something was handed over last.
    moved: Time,
    told: Time,
}

impl Departure {
    fn begin(now: Time, returning: bool, patience: Duration, left: usize, stored: u64) -> Self {
        Self {
            returning,
            began: now,
            patience,
            left,
            stored,
            moved: now,
            told: now,
        }
    }

    /// What is left now, and what others have stored so far.
    fn look(&mut self, now: Time, left: usize, stored: u64) {
        if left < self.left || stored > self.stored {
            self.moved = now;
        }
        self.left = left;
        self.stored = stored;
    }

    fn is_late(&self, now: Time) -> bool {
        match self.returning {
            true => now >= self.began + depart::PATIENCE.min(self.patience),
            false => now >= self.moved + self.patience,
        }
    }

    /// Whether it goes on when the node is told again to leave. Whoever wants it to stop does not want it
    /// to make copies first.
    fn goes_on(&self, returning: bool) -> bool {
        !self.returning && !returning
    }

    /// Whether it is time to say how it goes.
    fn tells(&mut self, now: Time) -> bool {
        let due = now >= self.told + TOLD;
        if due {
            self.told = now;
        }
        due
    }

    fn idle_ms(&self, now: Time) -> u64 {
        let idle = now.saturating_since(self.moved).as_millis();
        u64::try_from(idle).unwrap_or(u64::MAX)
    }
}

impl Driver {
    /// Tells partitions what has changed for them.
    pub(super) fn tell_partitions(&mut self) -> Option<Stop> {
        let (repair, grace) = self.partitions.patience();
        let view = self.core.partition_view(self.clock.now(), repair, grace)?;
        let nodes = self.nodes();
        match self.partitions.view(view, nodes) {
            Ok(()) => None,
            Err(error) => Some(broken("partitions could not be opened", &error)),
        }
    }

    fn nodes(&self) -> Nodes {
        let known = self.core.table().iter().filter_map(|entry| {
            let record = entry.record.as_ref()?;
            let node = TopologyNode {
                name: record.name.clone(),
                resp: record.resp,
                gossip: entry.identity.addr,
                living: entry.is_living(),
            };
            Some((entry.identity.id, node))
        });
        known.collect()
    }

    /// A frame of a peer, for the core or for partitions.
    pub(super) fn take_frame(
        &mut self,
        stream: StreamId,
        frame: Vec<u8>,
        room: OwnedSemaphorePermit,
        introduction: Option<Introduction>,
    ) {
        let Some(introduction) = introduction else {
            drop(room);
            if frame.len() > MAX_FRAME {
                tracing::debug!(target: "kith", stream = stream.0, size = frame.len(), "a frame is too long");
                return self.peers.close(stream);
            }
            return self.feed(Input::StreamFrame { stream, frame });
        };
        // Before the handshake is done nobody is there to speak of partitions.
        let Some(peer) = self.core.peer_of(stream) else {
            return;
        };
        if self.partitions.frame(peer.id, &frame, room) {
            introduction.comes_from(peer.id);
        } else {
            self.peers.close(stream);
        }
    }

    /// Does what a shard wants.
    pub(super) fn heed(&mut self, what: FromShard) -> Option<Stop> {
        match what {
            FromShard::Frame(to, frame, detour) => {
                if let Some(stream) = self.core.stream_to(to) {
                    self.peers.send_first(to, stream, frame, detour);
                }
            }
            FromShard::Event(event) => {
                if let Some(event) = self.partitions.gather(event) {
                    log_event::log(&self.events.publish(event));
                }
            }
            FromShard::Gathered(number) => {
                if let Some(event) = self.partitions.gathered(number) {
                    log_event::log(&self.events.publish(event));
                }
            }
            FromShard::Broken(text) => {
                tracing::error!(target: "kith", "what partitions hold cannot be kept: {text}. This node stops, others take over");
                return Some(Stop::LeftUncleanly(format!(
                    "what partitions hold cannot be kept: {text}"
                )));
            }
            FromShard::Needs(shard, needs) => {
                let all = self.partitions.set_needs(shard, needs);
                self.core.partition_peers(self.clock.now(), all);
            }
            FromShard::Holds(shard, holds) => self.partitions.set_holds(shard, holds),
        }
        None
    }

    pub(super) fn absorb_shards(&mut self) -> Option<Stop> {
        for _ in 0..BATCH {
            let Ok(what) = self.from_shards.try_recv() else {
                break;
            };
            if let Some(stop) = self.heed(what) {
                return Some(stop);
            }
        }
        None
    }

    /// Whether partitions have to be handed over before the node leaves; that begins now.
    pub(super) fn hands_over(&mut self, returning: bool) -> bool {
        if let Some(departure) = self.departure.take() {
            if departure.goes_on(returning) {
                self.departure = Some(departure);
                return true;
            }
            self.warn_of_what_is_left(
                &departure,
                "asked to stop before all partitions were handed over",
            );
            return false;
        }
        let left = self.left_to_hand_over(returning);
        if left == 0 {
            return false;
        }
        let patience = self.core.config().timing.leave;
        let stored = self.counters.copies_stored.get();
        let departure = Departure::begin(self.clock.now(), returning, patience, left, stored);
        self.departure = Some(departure);
        // Nobody waits for its answer.
        let request = RequestId(0);
        let command = Command::Depart { returning };
        self.feed(Input::Command { request, command });
        true
    }

    // How many partitions somebody else should have before this node goes; 0 if nobody is there to take
    // them.
    fn left_to_hand_over(&self, returning: bool) -> usize {
        let table = self.core.table();
        let takers: BTreeSet<NodeId> = table
            .living_others()
            .filter(|entry| entry.status() == Status::Alive && !entry.is_stopping())
            .map(|entry| entry.identity.id)
            .collect();
        let holds = self.partitions.holds();
        if takers.is_empty() {
            return 0;
        }
        if !returning {
            return holds.member;
        }
        if holds.owned == 0 {
            return 0;
        }
        let consistency = self.core.cluster().map(|c| c.settings.consistency);
        let is_strict = consistency == Some(Consistency::Strict);
        let only_ours = self.partitions.with_topology(|topology| {
            let members = topology.partitions.iter();
            let ours =
                members.filter(|it| depart::is_only_ours(it, table.own_id(), &takers, is_strict));
            ours.count()
        });
        // What was handed over a moment ago counts until others know that.
        holds.owned.saturating_sub(only_ours)
    }

    /// Goes on with leaving once everything was handed over, or that leads nowhere.
    pub(super) fn has_handed_over(&mut self) -> bool {
        let Some(mut departure) = self.departure.take() else {
            return false;
        };
        let now = self.clock.now();
        let left = self.left_to_hand_over(departure.returning);
        departure.look(now, left, self.counters.copies_stored.get());
        if left > 0 && !departure.is_late(now) {
            if departure.tells(now) {
                let bytes = self.partitions.holds().bytes;
                tracing::info!(target: "kith", partitions = left, bytes, "leaving: still to be handed over");
            }
            self.departure = Some(departure);
            return false;
        }
        self.warn_of_what_is_left(&departure, "not all partitions were handed over in time");
        let request = RequestId(0);
        let returning = departure.returning;
        let command = Command::Leave { returning };
        self.feed(Input::Command { request, command });
        true
    }

    fn warn_of_what_is_left(&self, departure: &Departure, text: &str) {
        if self.left_to_hand_over(departure.returning) == 0 {
            return;
        }
        let holds = self.partitions.holds();
        let idle_ms = departure.idle_ms(self.clock.now());
        tracing::warn!(target: "kith", owned = holds.owned, member = holds.member, idle_ms, "{text}");
    }

    /// How handing over goes, while that is done.
    pub(super) fn departure_view(&self) -> Option<LeavingView> {
        let departure = self.departure.as_ref()?;
        Some(LeavingView {
            partitions: departure.left,
            bytes: self.partitions.holds().bytes,
            idle_ms: departure.idle_ms(self.clock.now()),
        })
    }

    /// Partitions as this node knows them.
    pub(super) fn show_partitions(
        &self,
        key: Option<Vec<u8>>,
        reply: oneshot::Sender<Vec<PartitionView>>,
    ) {
        let names = views::names(&self.core);
        let partitions = self
            .core
            .cluster()
            .map(|cluster| cluster.settings.partitions);
        let (shown, showing) = oneshot::channel();
        self.partitions.show(shown);
        tokio::spawn(async move {
            let showing = showing.await.unwrap_or_default();
            let views = views::partitions(&showing.partitions, partitions, &names, key.as_deref());
            answer(reply, views);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    #[test]
    fn whoever_leaves_for_good_goes_on_while_something_is_handed_over() {
        let mut departure = Departure::begin(at(0), false, PATIENCE, 9, 100);
        for (second, left, stored) in [(25, 9, 101), (50, 9, 102), (75, 8, 102)] {
            departure.look(at(second), left, stored);
            assert!(!departure.is_late(at(second + 29)), "{second} s");
            assert_eq!(departure.idle_ms(at(second + 1)), 1000);
        }
        departure.look(at(104), 8, 102);
        assert!(!departure.is_late(at(104)));
        // One more that came meanwhile is nothing handed over.
        departure.look(at(105), 9, 102);
        assert!(departure.is_late(at(105)));
    }

    #[test]
    fn whoever_will_be_back_stops_soon_whatever_moves() {
        let mut departure = Departure::begin(at(0), true, PATIENCE, 9, 100);
        departure.look(at(4), 8, 101);
        assert!(!departure.is_late(at(4)));
        departure.look(at(5), 7, 102);
        assert!(departure.is_late(at(5)));
    }

    #[test]
    fn told_to_leave_again_it_goes_on_and_told_to_stop_it_stops() {
        let leaving = Departure::begin(at(0), false, PATIENCE, 9, 100);
        assert!(leaving.goes_on(false) && !leaving.goes_on(true));
        let stopping = Departure::begin(at(0), true, PATIENCE, 9, 100);
        assert!(!stopping.goes_on(false) && !stopping.goes_on(true));
    }

    #[test]
    fn what_is_left_is_told_every_few_seconds() {
        let mut departure = Departure::begin(at(0), false, PATIENCE, 9, 100);
        let told = (1..=20).filter(|second| departure.tells(at(*second)));
        assert_eq!(told.collect::<Vec<_>>(), [5, 10, 15, 20]);
    }
}
