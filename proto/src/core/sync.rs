//! Push/pull: two members compare what they know, a number first, differences after. And
//! newcomers: who joined through this node lately hears at once of whoever joins after it, so
//! that many nodes started together all know each other without waiting for gossip.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;

use super::{Core, Phase, timers::TimerKind};
use crate::{
    id::NodeId,
    input::StreamId,
    time::Time,
    wire::message::{Frame, SyncEntry},
};

/// For so long a newcomer hears of those who come after it.
const NEWCOMER: Duration = Duration::from_secs(5);
/// Newcomers are told of each other in batches, this far apart.
const BATCH: Duration = Duration::from_millis(15);
/// Entries in one frame; the rest follows with the next comparison.
const MAX_ENTRIES: usize = 2000;

/// Who came lately, and who of them was not told yet.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    recent: BTreeMap<NodeId, (StreamId, Time)>,
    untold: Vec<NodeId>,
}

impl Core {
    pub(super) fn push_pull(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Active) {
            return;
        }
        let streams: Vec<StreamId> = self
            .table
            .living_others()
            .filter_map(|entry| entry.stream)
            .collect();
        if !streams.is_empty() {
            self.count("push_pulls");
            let stream = streams[self.rng.random_range(0..streams.len())];
            self.send_digest(stream);
        }
        let period = self.scaled(self.config.timing.push_pull);
        let pause = self.jitter(period);
        self.timers.set(TimerKind::PushPull, now + pause);
    }

    pub(super) fn send_digest(&mut self, stream: StreamId) {
        let digest = self.table.digest();
        self.send_frame(stream, &Frame::SyncDigest(digest));
    }

    pub(super) fn hear_digest(&mut self, stream: StreamId, digest: u64) {
        if digest != self.table.digest() {
            let summary = self.table.summary();
            self.send_frame(stream, &Frame::SyncSummary(summary));
        }
    }

    pub(super) fn hear_summary(&mut self, stream: StreamId, summary: &[(NodeId, u64)]) {
        let (mut entries, want) = self.table.differences(summary);
        entries.truncate(MAX_ENTRIES);
        self.send_frame(stream, &Frame::SyncDelta { entries, want });
    }

    pub(super) fn hear_delta(
        &mut self,
        now: Time,
        stream: StreamId,
        entries: Vec<SyncEntry>,
        want: &[NodeId],
    ) {
        // What is wanted is what we knew before we heard of theirs.
        let wanted: Vec<SyncEntry> = want
            .iter()
            .take(MAX_ENTRIES)
            .filter_map(|id| self.table.get(*id))
            .map(|entry| entry.sync_entry())
            .collect();
        self.merge(now, entries);
        if !wanted.is_empty() {
            let frame = Frame::SyncDelta {
                entries: wanted,
                want: Vec::new(),
            };
            self.send_frame(stream, &frame);
        }
    }

    pub(super) fn greet_newcomer(&mut self, now: Time, id: NodeId, stream: StreamId) {
        self.newcomers.recent.insert(id, (stream, now));
        self.newcomers.untold.push(id);
        self.timers.set_by(TimerKind::Newcomers, now + BATCH);
    }

    pub(super) fn tell_newcomers(&mut self, now: Time) {
        self.newcomers
            .recent
            .retain(|_, (_, came)| now < *came + NEWCOMER);
        let untold = std::mem::take(&mut self.newcomers.untold);
        let entries: Vec<SyncEntry> = untold
            .iter()
            .filter_map(|id| self.table.get(*id))
            .map(|entry| entry.sync_entry())
            .collect();
        let recent: Vec<(NodeId, StreamId)> = self
            .newcomers
            .recent
            .iter()
            .map(|(id, (stream, _))| (*id, *stream))
            .collect();
        for (id, stream) in recent {
            let others: Vec<SyncEntry> = entries
                .iter()
                .filter(|entry| entry.identity.id != id)
                .cloned()
                .collect();
            if !others.is_empty() && self.streams.contains_key(&stream) {
                self.send_frame(stream, &Frame::Newcomers(others));
            }
        }
    }
}
