//! The short way between shards and peer streams, past the driver.
//!
//! ```text
//!   shard ──frame──┬─ a lane is open, and nothing on the long way ────────────────> stream
//!                  └─ else ──> driver: which stream leads there? It opens the lane ─> stream
//!   stream ─frame──┬─ its peer is known, and nothing on the long way ─────────────> shards
//!                  └─ else ──> driver: whose stream is it? From now on that is known > shards
//! ```
//!
//! Who is at the other end of a stream, and which stream leads to a member, only the driver knows,
//! and it is asked for the first frame. What goes the long way is not overtaken: as long as it has
//! not arrived, all that follows goes the same way. So frames between two shards arrive in the
//! order in which they were sent, for as long as a stream lasts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use kith_proto::id::NodeId;
use tokio::sync::OwnedSemaphorePermit;

use super::stream::{Closed, Lane};

/// Takes a frame for partitions from a known peer, with its share of what may be received; false
/// if it cannot be read.
pub(crate) type TakeFrame = Arc<dyn Fn(NodeId, &[u8], OwnedSemaphorePermit) -> bool + Send + Sync>;

/// How many frames are on the long way.
#[derive(Clone, Debug, Default)]
pub(super) struct LongWay(Arc<AtomicUsize>);

impl LongWay {
    /// One more sets out; it has arrived when what is returned is dropped.
    pub(super) fn set_out(&self) -> Detour {
        self.0.fetch_add(1, Ordering::Relaxed);
        Detour(Self(Arc::clone(&self.0)))
    }

    /// Whether all have arrived.
    pub(super) fn is_empty(&self) -> bool {
        // What they brought has been handed on before.
        self.0.load(Ordering::Acquire) == 0
    }
}

/// A frame is on the long way.
#[derive(Debug)]
pub(crate) struct Detour(LongWay);

impl Drop for Detour {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Release);
    }
}

/// The lanes to all members that shards talk to.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<NodeId, Way>>);

#[derive(Debug, Default)]
struct Way {
    lane: Option<Lane>,
    detours: LongWay,
}

impl Lanes {
    /// Sends a frame to a member, or gives it back: then it has to go the long way, and to carry
    /// the detour to its end.
    ///
    /// # Errors
    /// The frame, and its detour.
    pub(crate) fn send(&self, to: NodeId, frame: Vec<u8>) -> Result<(), (Vec<u8>, Detour)> {
        let mut ways = self.lock();
        let way = ways.entry(to).or_default();
        let frame = match &way.lane {
            Some(lane) if way.detours.is_empty() => match lane.send(frame) {
                Ok(()) => return Ok(()),
                Err(Closed(frame)) => frame,
            },
            _ => frame,
        };
        Err((frame, way.detours.set_out()))
    }

    /// This is the stream that leads to a member.
    pub(super) fn open(&self, to: NodeId, lane: Lane) {
        self.lock().entry(to).or_default().lane = Some(lane);
    }

    /// Forgets lanes whose streams have ended.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, way| {
            let open = way.lane.as_ref().is_some_and(Lane::is_open);
            open || !way.detours.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Way>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kith_proto::input::StreamId;
    use tokio::sync::mpsc;

    use super::{
        super::{queue::Queued, stream::Outbox},
        *,
    };
    use crate::counters::HostCounters;

    const PEER: NodeId = NodeId(7);

    fn outbox() -> (Outbox, mpsc::UnboundedReceiver<Queued>) {
        Outbox::new(StreamId(1), &Arc::new(HostCounters::default()))
    }

    #[test]
    fn nothing_overtakes_what_went_the_long_way() {
        let (outbox, mut queue) = outbox();
        let lanes = Lanes::default();
        let (first, detour) = lanes.send(PEER, vec![1]).unwrap_err();
        // The driver sends it, and opens the lane.
        outbox.send(first);
        lanes.open(PEER, outbox.lane());
        let (second, other) = lanes.send(PEER, vec![2]).unwrap_err();
        drop(detour);
        let (third, another) = lanes.send(PEER, vec![3]).unwrap_err();
        for (frame, detour) in [(second, other), (third, another)] {
            outbox.send(frame);
            drop(detour);
        }
        lanes.send(PEER, vec![4]).unwrap();
        let arrived: Vec<_> = std::iter::from_fn(|| Some(queue.try_recv().ok()?.frame)).collect();
        assert_eq!(arrived, [[1], [2], [3], [4]]);
    }

    #[test]
    fn a_lane_ends_with_its_stream_and_does_not_keep_it_open() {
        let (outbox, mut queue) = outbox();
        let lanes = Lanes::default();
        lanes.open(PEER, outbox.lane());
        lanes.send(PEER, vec![1]).unwrap();
        lanes.sweep();
        assert_eq!(lanes.lock().len(), 1);
        drop(outbox);
        assert_eq!(
            queue.blocking_recv().map(|queued| queued.frame),
            Some(vec![1])
        );
        assert!(queue.blocking_recv().is_none(), "nobody sends any more");
        let (frame, detour) = lanes.send(PEER, vec![2]).unwrap_err();
        assert_eq!(frame, [2]);
        lanes.sweep();
        assert_eq!(lanes.lock().len(), 1, "something is on the long way");
        drop(detour);
        lanes.sweep();
        assert!(lanes.lock().is_empty());
    }
}
