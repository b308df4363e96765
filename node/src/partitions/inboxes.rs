//! What peers say about partitions, on its way to the shards that it is about.

use std::sync::{Arc, OnceLock};

use kith_proto::{
    id::NodeId,
    replica::{
        message::{self, Body, Message},
        spread,
    },
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{MAX_SHARDS, ToShard};
use crate::{
    counters::{About, HostCounters},
    peer::TakeFrame,
};

/// The inboxes of all shards, from when they have begun. They do not keep shards from ending.
#[derive(Clone, Debug)]
pub(crate) struct Inboxes {
    count: u16,
    shards: Arc<OnceLock<Vec<mpsc::WeakUnboundedSender<ToShard>>>>,
    counters: Arc<HostCounters>,
}

impl Inboxes {
    /// For so many shards, or as many as there may be.
    pub(crate) fn new(shards: u16, counters: Arc<HostCounters>) -> Self {
        Self {
            count: shards.clamp(1, MAX_SHARDS),
            shards: Arc::default(),
            counters,
        }
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> u16 {
        self.count
    }

    /// Where what comes and goes is counted.
    pub(super) fn counters(&self) -> &Arc<HostCounters> {
        &self.counters
    }

    /// The shards have begun.
    pub(super) fn open<'a>(
        &self,
        inboxes: impl Iterator<Item = &'a mpsc::UnboundedSender<ToShard>>,
    ) {
        let inboxes = inboxes.map(mpsc::UnboundedSender::downgrade).collect();
        // They begin once.
        self.shards.get_or_init(|| inboxes);
    }

    /// A peer's frame about partitions; false if it cannot be read.
    pub(crate) fn frame(&self, from: NodeId, frame: &[u8], room: OwnedSemaphorePermit) -> bool {
        let messages = match message::decode_all(frame) {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(target: "kith", %from, %error, "a frame about partitions cannot be read");
                return false;
            }
        };
        // Before they have begun it is lost, as it may be on its way.
        let Some(shards) = self.shards.get() else {
            return true;
        };
        let mut parts: Vec<Vec<Message>> = vec![Vec::new(); shards.len()];
        let mut put = |shard: u16, message| {
            if let Some(part) = parts.get_mut(usize::from(shard)) {
                part.push(message);
            }
        };
        for (message, size) in messages {
            let about = About::Partitions(message.kind());
            self.counters.traffic.received(about, size);
            if let Message::Partition {
                body: Body::Stored { .. },
                ..
            } = message
            {
                self.counters.copies_stored.up();
            }
            match message {
                // Nearly all, and for one.
                Message::Partition { partition, .. } | Message::Ask { partition, .. } => {
                    put(spread::shard_of(partition, self.count), message);
                }
                others => {
                    for (shard, message) in spread::spread(others, self.count) {
                        put(shard, message);
                    }
                }
            }
        }
        let mut room = Some(room);
        for (shard, part) in shards.iter().zip(parts) {
            if !part.is_empty()
                && let Some(shard) = shard.upgrade()
            {
                // Fails only if it has ended, which it has told.
                drop(shard.send(ToShard::Peer(from, part, room.take())));
            }
        }
        true
    }

    /// The same for those who need not know more.
    pub(crate) fn taker(&self) -> TakeFrame {
        let inboxes = self.clone();
        Arc::new(move |from, frame, room| inboxes.frame(from, frame, room))
    }
}
