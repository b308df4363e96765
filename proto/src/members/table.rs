//! The table of members. It keeps what foca sees and what records say side by side, and tells
//! from both what users are shown.

use std::collections::BTreeMap;

use foca::State;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::record::{Phase, Record};
use crate::{
    event::{Reason, Who},
    id::{Life, NodeId},
    input::StreamId,
    swim::{identity::Identity, inquiry::Inquiry, limits::AccuserLimit, suspicion::Suspicion},
    time::Time,
    wire::{
        codec,
        message::{Health, SyncEntry},
    },
};

const DIGEST_SEED: u64 = 0x6b69_7468_6473_7432;
/// Members kept at most; a cluster that large is not meant to be.
pub const MAX_MEMBERS: usize = 16_384;

/// How a member is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It answers.
    Alive,
    /// Somebody says that it does not.
    Suspect,
    /// It was declared failed.
    Failed,
    /// It is going for good.
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
    pub suspicion: Option<Suspicion>,
    /// What is being found out about it.
    pub inquiry: Option<Inquiry>,
    /// The open stream to it.
    pub stream: Option<StreamId>,
    /// The ping that greeted it when its stream opened: nonce, and when it was sent.
    pub greeting: Option<(u32, Time)>,
    /// What is known of it as an accuser.
    pub limit: AccuserLimit,
    /// UDP to it was found blocked while its stream works; told once.
    pub half_blocked: bool,
    /// When it was last told that it counts as down somewhere.
    pub disowned: Option<Time>,
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
            inquiry: None,
            stream: None,
            greeting: None,
            limit: AccuserLimit::default(),
            half_blocked: false,
            disowned: None,
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

    // Incarnations and suspicions are left out: they change often and travel by gossip.
    fn digest(&self) -> u64 {
        let entry = (
            self.identity,
            self.swim == Some(State::Down),
            self.record.as_ref().map(Record::rank),
        );
        xxh3_64_with_seed(&codec::encode(&entry), DIGEST_SEED)
    }
}

/// Everybody known, this node included.
#[derive(Debug)]
pub struct Table {
    own: NodeId,
    entries: BTreeMap<NodeId, Entry>,
}

impl Table {
    /// A table that knows only this node.
    pub fn new(identity: Identity, record: Record, now: Time) -> Self {
        let mut own = Entry::new(identity, now);
        own.swim = Some(State::Alive);
        own.record = Some(record);
        own.announced = true;
        Self {
            own: identity.id,
            entries: BTreeMap::from([(identity.id, own)]),
        }
    }

    /// This node's id.
    pub fn own_id(&self) -> NodeId {
        self.own
    }

    /// An entry.
    pub fn get(&self, id: NodeId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// An entry, to be changed.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// An entry, made if there is none; `None` if the table is full.
    pub fn entry(&mut self, identity: Identity, now: Time) -> Option<&mut Entry> {
        if !self.entries.contains_key(&identity.id) && self.entries.len() >= MAX_MEMBERS {
            return None;
        }
        Some(
            self.entries
                .entry(identity.id)
                .or_insert_with(|| Entry::new(identity, now)),
        )
    }

    /// Everybody, by id, this node included.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Everybody but this node.
    pub fn others(&self) -> impl Iterator<Item = &Entry> {
        let own = self.own;
        self.entries
            .values()
            .filter(move |entry| entry.identity.id != own)
    }

    /// Others that take part.
    pub fn living_others(&self) -> impl Iterator<Item = &Entry> {
        self.others().filter(|entry| entry.is_living())
    }

    /// Others, to be changed.
    pub fn others_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        let own = self.own;
        self.entries
            .values_mut()
            .filter(move |entry| entry.identity.id != own)
    }

    /// Removes an entry for good.
    pub fn forget(&mut self, id: NodeId) -> Option<Entry> {
        self.entries.remove(&id)
    }

    /// Somebody by name, or by id as 16 hexadecimal digits; one that takes part, if names are
    /// ambiguous.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        let mut found: Vec<&Entry> = self
            .entries
            .values()
            .filter(|entry| entry.name() == name)
            .collect();
        found.sort_by_key(|entry| !entry.is_living());
        found.first().copied().or_else(|| {
            let id: NodeId = name.parse().ok()?;
            self.entries.get(&id)
        })
    }

    /// The name of a node, or its id if it is not known.
    pub fn name_of(&self, id: NodeId) -> String {
        self.entries
            .get(&id)
            .map_or_else(|| id.to_string(), Entry::name)
    }

    /// One number for all that is known.
    pub fn digest(&self) -> u64 {
        self.entries
            .values()
            .fold(0, |digest, entry| digest ^ entry.digest())
    }

    /// A number for each member.
    pub fn summary(&self) -> Vec<(NodeId, u64)> {
        self.entries
            .iter()
            .map(|(id, entry)| (*id, entry.digest()))
            .collect()
    }

    /// From another's summary: entries that it lacks or has otherwise, and ids that are wanted
    /// of it.
    pub fn differences(&self, summary: &[(NodeId, u64)]) -> (Vec<SyncEntry>, Vec<NodeId>) {
        let theirs: BTreeMap<NodeId, u64> = summary.iter().copied().collect();
        let entries = self
            .entries
            .iter()
            .filter(|(id, entry)| theirs.get(id) != Some(&entry.digest()))
            .map(|(_, entry)| entry.sync_entry())
            .collect();
        let want = theirs
            .iter()
            .filter(|(id, digest)| {
                self.entries
                    .get(id)
                    .is_none_or(|entry| entry.digest() != **digest)
            })
            .map(|(id, _)| *id)
            .collect();
        (entries, want)
    }
}
