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
    wire::{
        MAX_FRAME, codec,
        message::{DirectBody, Frame, Health, SyncEntry},
    },
};

/// For so long a newcomer hears of those who come after it.
const NEWCOMER: Duration = Duration::from_secs(5);
/// Newcomers are told of each other in batches, this far apart.
const BATCH: Duration = Duration::from_millis(15);
/// Of those that are down for the other side and live here so many are looked for at once: this
/// node may have missed the news that they are gone. After a split it is all of that side, and
/// hardly any of them is.
const DOUBTED_AT_ONCE: usize = 8;
/// Room in a frame for what comes beside entries (bytes).
const OTHER_FIELDS: usize = 16 << 10;

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
        // Those that are held, few in a large cluster, rather than all members.
        let streams: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(stream, known)| {
                let peer = known.peer.and_then(|life| self.table.get(life.id));
                peer.is_some_and(|entry| entry.stream == Some(**stream) && entry.is_living())
            })
            .map(|(stream, _)| *stream)
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
        let (entries, want) = self.table.differences(summary);
        let entries = parcels(entries).next().unwrap_or_default();
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
        let wanted = want
            .iter()
            .filter_map(|id| self.table.get(*id))
            .map(|entry| entry.sync_entry());
        let wanted = parcels(wanted).next();
        self.merge(now, entries);
        if let Some(entries) = wanted {
            let want = Vec::new();
            self.send_frame(stream, &Frame::SyncDelta { entries, want });
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
        let entries = untold
            .iter()
            .filter_map(|id| self.table.get(*id))
            .map(|entry| entry.sync_entry());
        let recent: Vec<(NodeId, StreamId)> = self
            .newcomers
            .recent
            .iter()
            .map(|(id, (stream, _))| (*id, *stream))
            .collect();
        // Encoded once for all: what it says of the receiver itself does no harm there.
        let frames: Vec<Vec<u8>> = parcels(entries)
            .map(|entries| codec::encode(&Frame::Newcomers(entries)))
            .collect();
        for (id, stream) in recent {
            let only_itself = untold.iter().all(|newcomer| *newcomer == id);
            if !only_itself && self.streams.contains_key(&stream) {
                for frame in &frames {
                    self.send_encoded(stream, frame.clone());
                }
            }
        }
    }

    /// What a peer knows of others.
    pub(super) fn merge(&mut self, now: Time, entries: Vec<SyncEntry>) {
        let mut doubted = 0;
        for entry in entries {
            let id = entry.identity.id;
            if self.merge_entry(now, entry) && doubted < DOUBTED_AT_ONCE {
                doubted += 1;
                self.start_inquiry(now, id);
            }
        }
    }

    // Whether it counts as down there, and lives here.
    fn merge_entry(&mut self, now: Time, theirs: SyncEntry) -> bool {
        let id = theirs.identity.id;
        if theirs.identity.generation == 0 {
            self.count("rejected_entry");
            return false;
        }
        let down = theirs.health == Health::Down;
        if id == self.table.own_id() {
            let own = self.detector.identity();
            if down
                && theirs.identity.life() == own.life()
                && theirs.identity.renewal >= own.renewal
            {
                self.detector.renew(now);
            }
            if let Some(record) = theirs.record {
                self.offer_record(now, record, false);
            }
            return false;
        }
        let over = theirs
            .record
            .as_ref()
            .is_some_and(|record| record.is_over());
        if self.table.entry(theirs.identity, now).is_none() {
            self.count("table_full");
            return false;
        }
        if let Some(record) = theirs.record {
            self.offer_record(now, record, false);
        }
        let Some(ours) = self.table.get(id) else {
            return false;
        };
        let rank = ours.identity.rank();
        let news = ours.swim.is_none() || theirs.identity.rank() > rank;
        if !down && !over {
            let newer =
                news || (theirs.identity.rank() == rank && theirs.incarnation > ours.incarnation);
            if newer {
                let alive =
                    foca::Member::new(theirs.identity, theirs.incarnation, foca::State::Alive);
                self.detector.apply(now, alive, false);
            }
        } else if news && matches!(ours.swim, None | Some(foca::State::Down)) {
            // Gone before we came, or once more since we heard of it last: shown, but no event.
            let down = foca::Member::new(theirs.identity, theirs.incarnation, foca::State::Down);
            self.detector.apply(now, down, false);
        } else if down && theirs.identity.rank() == rank && ours.is_living() {
            // Hearsay: it counts as down elsewhere and lives here. Down is final for an identity, so
            // it is asked to take a new one.
            self.disown(now, id);
            return true;
        } else if down && ours.is_living() {
            // It took another identity since, and is down in that one too.
            return news;
        }
        false
    }

    pub(super) fn disown(&mut self, now: Time, id: NodeId) {
        let Some(entry) = self.table.get_mut(id) else {
            return;
        };
        if entry
            .disowned
            .is_some_and(|last| now < last + Duration::from_millis(500))
        {
            return;
        }
        entry.disowned = Some(now);
        let (address, stream) = (entry.identity.addr, entry.stream);
        let body = DirectBody::Disowned {
            renewal: entry.identity.renewal,
        };
        match stream {
            Some(stream) => self.send_frame(stream, &Frame::Direct(body)),
            None => self.send_direct(address, body),
        }
    }
}

/// Entries in as many parts as it takes for each to fit into a frame, a [`Welcome`] with its
/// other fields included. A comparison sends the first part only: the rest still differs when
/// the next one comes.
///
/// [`Welcome`]: crate::wire::message::Welcome
pub(super) fn parcels(
    entries: impl IntoIterator<Item = SyncEntry>,
) -> impl Iterator<Item = Vec<SyncEntry>> {
    let mut entries = entries.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut room = MAX_FRAME - OTHER_FIELDS;
        let mut parcel = Vec::new();
        while let Some(entry) = entries.next_if(|entry| entry.most_bytes() <= room) {
            room -= entry.most_bytes();
            parcel.push(entry);
        }
        (!parcel.is_empty()).then_some(parcel)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, id::NodeId, members::record::Record, swim::identity::Identity};

    #[test]
    fn whatever_members_tell_of_themselves_a_frame_holds_a_parcel() {
        let addr = "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535"
            .parse()
            .unwrap();
        let mut config = Config::new(NodeId(u64::MAX), &"n".repeat(64), addr);
        config.generation = u64::MAX - 1;
        config.zone = "z".repeat(64);
        config.software = "s".repeat(64);
        (config.http, config.resp) = (Some(addr), Some(addr));
        config.weight = 10_000;
        // Short ones cost most beside their own bytes.
        config.tags = (0..500)
            .map(|tag| (format!("{tag:03}"), "v".to_owned()))
            .collect();
        let record = Record::of(&config).evicted(&"b".repeat(64));
        assert!(record.is_bounded());
        let entry = SyncEntry {
            identity: Identity {
                id: config.node,
                generation: config.generation,
                renewal: u32::MAX,
                addr,
            },
            incarnation: u16::MAX,
            health: Health::Active,
            record: Some(record),
        };
        let entries = vec![entry; 300];
        let parcels: Vec<Vec<SyncEntry>> = parcels(entries.clone()).collect();
        assert!(parcels.len() > 1, "all in one");
        assert_eq!(parcels.concat(), entries);
        for parcel in parcels {
            let frame = codec::encode(&Frame::Newcomers(parcel));
            assert!(frame.len() + OTHER_FIELDS / 2 < MAX_FRAME);
            assert!(codec::decode::<Frame>(&frame).is_ok());
        }
    }
}
