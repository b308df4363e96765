//! The table of members. It keeps what foca sees and what records say side by side, and tells
//! from both what users are shown.

use std::{collections::BTreeMap, net::IpAddr};

use bytes::BufMut;
use foca::State;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    blocked::Blocked,
    record::{Phase, Record},
    tally::{Mark, Slot, Tally},
    unsteady::Returns,
};
use crate::{
    event::{Reason, Who},
    id::{Life, NodeId},
    input::StreamId,
    swim::{identity::Identity, inquiry::Inquiry, limits::AccuserLimit, suspicion::Suspicion},
    time::Time,
    wire::message::{Health, SyncEntry, Verdict},
};

const DIGEST_SEED: u64 = 0x6b69_7468_6473_7432;
/// Members kept at most; a cluster that large is not meant to be.
pub const MAX_MEMBERS: usize = 16_384;

/// How a member is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It answers.
    Alive,
    /// Somebody says that it does not.
    Suspect,
    /// It was declared failed.
    Failed,
    /// It is going for good and hands over what it has.
    Leaving,
    /// It is gone on purpose.
    Left,
    /// An operator removed it.
    Evicted,
}

/// Why and when a member was declared failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When this node declared it or heard of it.
    pub at: Time,
    /// Why.
    pub reason: Reason,
}

/// A ping that measures the way to a member before the first probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What it carried.
    pub nonce: u32,
    /// When it was sent.
    pub sent: Time,
    /// It was sent because the member had pinged this node.
    pub in_answer: bool,
}

/// All that is known of one member.
#[derive(Debug)]
pub struct Entry {
    /// Its newest identity, as foca has it.
    pub identity: Identity,
    /// Its newest incarnation.
    pub incarnation: u16,
    /// What foca makes of it; `None` while only its record is known.
    pub swim: Option<State>,
    /// Its newest record.
    pub record: Option<Record>,
    /// Since when it has its present status.
    pub since: Time,
    /// Users know of this life.
    pub announced: bool,
    /// Users know of an earlier life.
    pub known_before: bool,
    /// When something authentic was last heard from it.
    pub last_contact: Option<Time>,
    /// Why it failed, while it counts as failed.
    pub failure: Option<Failure>,
    /// The suspicion, while it is suspected.
    pub suspicion: Option<Box<Suspicion>>,
    /// A verdict on it that was heard and not followed, and when.
    pub hearsay: Option<Box<(Time, Verdict)>>,
    /// What is being found out about it.
    pub inquiry: Option<Box<Inquiry>>,
    /// The open stream to it.
    pub stream: Option<StreamId>,
    /// The ping that greeted it, until it is answered.
    pub greeting: Option<Greeting>,
    /// So many more may follow, until the way has been measured well.
    pub greetings_left: u8,
    /// What is known of it as an accuser.
    pub limit: AccuserLimit,
    /// How often it fell silent and came back lately.
    pub returns: Returns,
    /// Which of the ways to it are blocked.
    pub blocked: Blocked,
    /// When it was last told that it counts as down somewhere.
    pub disowned: Option<Time>,
    /// When a former life of it was last told of this one.
    pub told_of_later: Option<Time>,
}

impl Entry {
    /// An entry about which nothing is known but who it is.
    pub fn new(identity: Identity, now: Time) -> Self {
        Self {
            identity,
            incarnation: 0,
            swim: None,
            record: None,
            since: now,
            announced: false,
            known_before: false,
            last_contact: None,
            failure: None,
            suspicion: None,
            hearsay: None,
            inquiry: None,
            stream: None,
            greeting: None,
            greetings_left: 0,
            limit: AccuserLimit::default(),
            returns: Returns::default(),
            blocked: Blocked::default(),
            disowned: None,
            told_of_later: None,
        }
    }

    /// Its newest life.
    pub fn life(&self) -> Life {
        self.identity.life()
    }

    /// Its record, if it is of its newest life.
    pub fn current_record(&self) -> Option<&Record> {
        self.record
            .as_ref()
            .filter(|record| record.life.generation >= self.identity.generation)
    }

    /// How users see it.
    pub fn status(&self) -> Status {
        match self.current_record().map(|record| &record.phase) {
            Some(Phase::Evicted { .. }) => return Status::Evicted,
            Some(Phase::Left { .. }) => return Status::Left,
            _ => {}
        }
        match self.swim {
            Some(State::Down) => Status::Failed,
            Some(State::Suspect) => Status::Suspect,
            _ if matches!(
                self.current_record().map(|record| &record.phase),
                Some(Phase::Leaving)
            ) =>
            {
                Status::Leaving
            }
            _ => Status::Alive,
        }
    }

    /// Whether it takes part: alive or suspected, and its record known.
    pub fn is_living(&self) -> bool {
        self.announced
            && matches!(
                self.status(),
                Status::Alive | Status::Suspect | Status::Leaving
            )
    }

    /// Whether partitions are placed on it. Who stops and will be back keeps its places.
    pub fn takes_part(&self) -> bool {
        let active = |record: &Record| matches!(record.phase, Phase::Active | Phase::Stopping);
        self.is_living() && self.current_record().is_some_and(active)
    }

    /// Whether it is about to stop for a while: it should own nothing meanwhile.
    pub fn is_stopping(&self) -> bool {
        self.current_record()
            .is_some_and(|record| record.phase == Phase::Stopping)
    }

    /// Its name, or its id while no record is known.
    pub fn name(&self) -> String {
        match &self.record {
            Some(record) => record.name.clone(),
            None => self.identity.id.to_string(),
        }
    }

    /// For events.
    pub fn who(&self) -> Who {
        Who {
            member: self.name(),
            member_id: self.identity.id,
        }
    }

    /// For synchronisation.
    pub fn sync_entry(&self) -> SyncEntry {
        SyncEntry {
            identity: self.identity,
            incarnation: self.incarnation,
            health: if self.swim == Some(State::Down) {
                Health::Down
            } else {
                Health::Active
            },
            record: self.record.clone(),
        }
    }

    /// Whether that is its name.
    pub fn is_named(&self, name: &str) -> bool {
        match &self.record {
            Some(record) => record.name == name,
            None => self.identity.id.to_string() == name,
        }
    }

    // Incarnations and suspicions are left out: they change often and travel by gossip. Written
    // out field by field, since it is computed whenever an entry may have changed.
    pub(super) fn digest(&self) -> u64 {
        let mut bytes = [0; 56];
        let (mut writer, identity) = (&mut bytes[..], &self.identity);
        let ip = match identity.addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let (generation, version) = self.record.as_ref().map(Record::rank).unwrap_or_default();
        writer.put_u64(identity.id.0);
        writer.put_u64(identity.generation);
        writer.put_u32(identity.renewal);
        writer.put_slice(&ip);
        writer.put_u16(identity.addr.port());
        writer.put_u8(u8::from(self.swim == Some(State::Down)));
        writer.put_u8(u8::from(self.record.is_some()));
        writer.put_u64(generation);
        writer.put_u64(version);
        xxh3_64_with_seed(&bytes, DIGEST_SEED)
    }

    // What placement needs to know of it, as one number; 0 if it does not take part.
    pub(super) fn share(&self) -> u64 {
        let record = self.record.as_ref().filter(|_| self.takes_part());
        record.map_or(0, |record| {
            let mut bytes = [0; 12];
            let mut writer = &mut bytes[..];
            writer.put_u64(record.id().0);
            writer.put_u32(record.weight);
            xxh3_64_with_seed(
                record.zone.as_bytes(),
                xxh3_64_with_seed(&bytes, DIGEST_SEED),
            )
        })
    }
}

/// Everybody known, this node included.
///
/// Entries are changed freely through [`Table::get_mut`]; what is known of all of them together
/// stays right, because the one entry that was handed out last, and may have changed since it
/// was counted, is looked at anew whenever that is asked for.
#[derive(Debug)]
pub struct Table {
    own: NodeId,
    // Boxed, so that the map itself is small and stays close together: it is searched with every
    // packet.
    entries: BTreeMap<NodeId, Box<Slot>>,
    /// Of all entries as they were when they were counted last.
    tally: Tally,
    /// The entry that was handed out last.
    open: Option<NodeId>,
}

impl Table {
    /// A table that knows only this node.
    pub fn new(identity: Identity, record: Record, now: Time) -> Self {
        let mut table = Self {
            own: identity.id,
            entries: BTreeMap::new(),
            tally: Tally::default(),
            open: None,
        };
        if let Some(own) = table.entry(identity, now) {
            own.swim = Some(State::Alive);
            own.record = Some(record);
            own.announced = true;
        }
        table
    }

    /// This node's id.
    pub fn own_id(&self) -> NodeId {
        self.own
    }

    /// An entry.
    pub fn get(&self, id: NodeId) -> Option<&Entry> {
        self.entries.get(&id).map(|slot| &slot.entry)
    }

    /// An entry, to be changed.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Entry> {
        self.open(id);
        self.entries.get_mut(&id).map(|slot| &mut slot.entry)
    }

    /// An entry, made if there is none; `None` if the table is full.
    pub fn entry(&mut self, identity: Identity, now: Time) -> Option<&mut Entry> {
        if !self.entries.contains_key(&identity.id) && self.entries.len() >= MAX_MEMBERS {
            return None;
        }
        self.open(identity.id);
        let slot = self.entries.entry(identity.id).or_insert_with(|| {
            Box::new(Slot {
                entry: Entry::new(identity, now),
                mark: Mark::default(),
            })
        });
        Some(&mut slot.entry)
    }

    /// Something authentic came from a member. It changes nothing that is counted, and is said
    /// with every packet.
    pub fn heard(&mut self, id: NodeId, now: Time) {
        if let Some(slot) = self.entries.get_mut(&id) {
            slot.entry.last_contact = Some(now);
        }
    }

    /// Everybody, by id, this node included.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|slot| &slot.entry)
    }

    /// Everybody but this node.
    pub fn others(&self) -> impl Iterator<Item = &Entry> {
        let own = self.own;
        self.iter().filter(move |entry| entry.identity.id != own)
    }

    /// Others that take part. To count them or to choose among them, [`Table::living`] and
    /// [`Table::living_ids`] look at no entry.
    pub fn living_others(&self) -> impl Iterator<Item = &Entry> {
        self.others().filter(|entry| entry.is_living())
    }

    /// How many are known, this node included.
    #[allow(clippy::len_without_is_empty, reason = "this node is always in it")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many others take part.
    pub fn living(&self) -> usize {
        let counted = self.tally.living.len();
        self.open_marks().map_or(counted, |(before, now)| {
            counted + usize::from(now.living) - usize::from(before.living)
        })
    }

    /// Ids of others that take part.
    pub fn living_ids(&self) -> impl Iterator<Item = NodeId> {
        let open = self.open_marks().is_some_and(|(_, now)| now.living);
        self.with_open(&self.tally.living, open)
    }

    /// Ids of others that were declared failed.
    pub fn failed_ids(&self) -> impl Iterator<Item = NodeId> {
        let open = self.open_marks().is_some_and(|(_, now)| now.failed);
        self.with_open(&self.tally.failed, open)
    }

    /// Removes an entry for good.
    pub fn forget(&mut self, id: NodeId) -> Option<Entry> {
        self.settle();
        let slot = self.entries.remove(&id)?;
        self.tally.replace(id, slot.mark, Mark::default());
        Some(slot.entry)
    }

    /// Somebody by name, or by id as 16 hexadecimal digits; one that takes part, if names are
    /// ambiguous.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let mut found: Vec<&Entry> = self.iter().filter(|entry| entry.is_named(name)).collect();
        found.sort_by_key(|entry| !entry.is_living());
        found.first().copied().or_else(|| {
            let id: NodeId = name.parse().ok()?;
            self.get(id)
        })
    }

    /// The name of a node, or its id if it is not known.
    pub fn name_of(&self, id: NodeId) -> String {
        self.get(id).map_or_else(|| id.to_string(), Entry::name)
    }

    /// One number for all that is known.
    pub fn digest(&self) -> u64 {
        let open = self.open_marks();
        open.map_or(self.tally.digest, |(before, now)| {
            self.tally.digest ^ before.digest ^ now.digest
        })
    }

    /// A number for each member.
    pub fn summary(&self) -> Vec<(NodeId, u64)> {
        self.entries
            .iter()
            .map(|(id, slot)| (*id, slot.entry.digest()))
            .collect()
    }

    /// From another's summary: entries that it lacks or has otherwise, and ids that are wanted
    /// of it.
    pub fn differences(&self, summary: &[(NodeId, u64)]) -> (Vec<SyncEntry>, Vec<NodeId>) {
        let ours: BTreeMap<NodeId, u64> = self.summary().into_iter().collect();
        let theirs: BTreeMap<NodeId, u64> = summary.iter().copied().collect();
        let entries = self
            .iter()
            .filter(|entry| {
                let id = &entry.identity.id;
                theirs.get(id) != ours.get(id)
            })
            .map(Entry::sync_entry)
            .collect();
        let want = theirs
            .iter()
            .filter(|(id, digest)| ours.get(id) != Some(digest))
            .map(|(id, _)| *id)
            .collect();
        (entries, want)
    }

    /// One number for all that decides where partitions are placed.
    pub fn shares(&self) -> u64 {
        let open = self.open_marks();
        open.map_or(self.tally.shares, |(before, now)| {
            self.tally.shares ^ before.share ^ now.share
        })
    }

    // Counts the entry that was handed out before, if this is another.
    fn open(&mut self, id: NodeId) {
        if self.open != Some(id) {
            self.settle();
            self.open = Some(id);
        }
    }

    fn settle(&mut self) {
        if let Some(id) = self.open.take() {
            self.tally.recount(&mut self.entries, id, self.own);
        }
    }

    // A list of the tally, with the open entry as it is now.
    fn with_open<'a>(&self, list: &'a [NodeId], open: bool) -> impl Iterator<Item = NodeId> + 'a {
        let other = self.open;
        let rest = list.iter().copied().filter(move |id| Some(*id) != other);
        rest.chain(other.filter(|_| open))
    }

    // The mark of the open entry as it was counted, and as it would be now.
    fn open_marks(&self) -> Option<(Mark, Mark)> {
        let slot = self.entries.get(&self.open?)?;
        Some((slot.mark, Mark::of(&slot.entry, self.own)))
    }
}
