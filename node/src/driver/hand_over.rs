//! Between the driver and the partitions: views, frames, and handing over before leaving.

use kith_proto::{
    input::{Command, Input, RequestId, StreamId},
    members::table::Status,
    output::Stop,
    wire::MAX_FRAME,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    BATCH, Departure, Driver, FromShard, HAND_OVER, Nodes, TopologyNode, answer, broken, log_event,
    views,
};
use crate::{peer::Introduction, view::PartitionView};

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
            FromShard::Holds {
                shard,
                owned,
                member,
            } => self.partitions.set_holds(shard, (owned, member)),
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
        if self.departure.is_some() || !self.is_wanted_elsewhere(returning) {
            return false;
        }
        let limit = self.core.config().timing.leave;
        let patience = if returning {
            HAND_OVER.min(limit)
        } else {
            limit
        };
        self.departure = Some(Departure {
            returning,
            until: self.clock.now() + patience,
        });
        // Nobody waits for its answer.
        let request = RequestId(0);
        let command = Command::Depart { returning };
        self.feed(Input::Command { request, command });
        true
    }

    // Whether there is something to hand over, and somebody to take it.
    fn is_wanted_elsewhere(&self, returning: bool) -> bool {
        let (owned, member) = self.partitions.holds();
        let held = if returning { owned } else { member };
        let living = self
            .core
            .table()
            .living_others()
            .any(|entry| entry.status() == Status::Alive && !entry.is_stopping());
        held > 0 && living
    }

    /// Goes on with leaving once everything was handed over, or it takes too long.
    pub(super) fn has_handed_over(&mut self) -> bool {
        let Some(departure) = &self.departure else {
            return false;
        };
        let (returning, until) = (departure.returning, departure.until);
        let late = self.clock.now() >= until;
        if !late && self.is_wanted_elsewhere(returning) {
            return false;
        }
        if late {
            let (owned, member) = self.partitions.holds();
            tracing::warn!(
                target: "kith",
                owned,
                member,
                "not all partitions were handed over in time"
            );
        }
        self.departure = None;
        let request = RequestId(0);
        let command = Command::Leave { returning };
        self.feed(Input::Command { request, command });
        true
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
