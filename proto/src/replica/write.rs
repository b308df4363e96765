//! Writes and reads at the owner.
//!
//! ```text
//!   request -> decide from what is there -> stamp, store -> [Write] every member and newcomer
//!                                                       -> enough have it -> answer
//!   request that changes nothing: available -> answer
//!                                 strict    -> a majority confirms what was read (rule 1) -> answer
//! ```
//!
//! A request that was given a version and did not finish in time is indeterminate, never a
//! success (rule 7: and it is never tried again by anybody but its client).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::{
    ask::{Origin, Waiting},
    chain::{ConfigId, Configuration},
    host::SyncToken,
    message::{Body, Content, WriteItem},
    omit::Omit,
    shard::{Shard, Timer},
};
use crate::{
    id::{NodeId, PartitionId},
    kv::{
        entry::Entry,
        op::Op,
        request::{Ack, Cursor, Request, RequestError, Response},
        version::Version,
    },
    time::Time,
};

/// Writes under way at a time; more are refused.
const MAX_UNDER_WAY: usize = 65_536;
/// Writes are put into one message up to this (bytes), about; one may be longer.
const BYTES_AT_ONCE: usize = 256 << 10;
/// The most keys of one page of a scan.
const MAX_PAGE: u32 = 4096;

/// A write, or a read to be confirmed, under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) partition: PartitionId,
    pub(super) id: ConfigId,
    pub(super) origin: Origin,
    pub(super) key: Bytes,
    /// The version that members must have; `None`: no entry.
    pub(super) version: Option<Version>,
    pub(super) is_read: bool,
    pub(super) need: usize,
    pub(super) have: BTreeSet<NodeId>,
    pub(super) response: Response,
    pub(super) deadline: Time,
}

/// What a write has to know of the configuration.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) id: ConfigId,
    pub(super) members: Vec<NodeId>,
    majority: usize,
}

impl Present {
    pub(super) fn of(config: &Configuration) -> Self {
        Self {
            id: config.id,
            members: config.members.clone(),
            majority: config.majority(),
        }
    }
}

/// Everything under way at the owners of this shard.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) under_way: BTreeMap<u64, UnderWay>,
    /// Those of them that only ask who has something, by when they are answered anyway.
    pub(super) counts: BTreeSet<(Time, u64)>,
    /// Own copies that count once they are on the disk.
    pub(super) unsynced: VecDeque<(SyncToken, u64)>,
    /// What is to be sent with the next flush.
    pub(super) batches: BTreeMap<(NodeId, PartitionId), (ConfigId, Vec<WriteItem>)>,
}

impl Writes {
    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let first = self.under_way.values().next().map(|write| write.deadline);
        let count = self.counts.first().map(|(deadline, _)| *deadline);
        first.into_iter().chain(count).min()
    }
}

impl Shard {
    /// Whether this node answers requests for a partition now.
    pub(super) fn is_ready(&self, p: PartitionId) -> bool {
        self.replicas.get(&p).is_some_and(|replica| {
            let open = self.omits(Omit::Fencing) || self.omits(Omit::OwnFence);
            let fenced = replica.chain.as_ref().is_none_or(|chain| chain.is_fenced());
            let serving = replica.owner.as_ref().is_some_and(|owner| {
                owner.serving
                    && owner
                        .change
                        .as_ref()
                        .is_none_or(|change| !change.is_fenced() || self.omits(Omit::OwnFence))
            });
            serving && (!fenced || open) && replica.proposal.is_none()
        })
    }

    /// Does what is asked; this node is the owner, and ready.
    pub(super) fn execute(&mut self, p: PartitionId, waiting: Waiting) {
        let Waiting {
            origin,
            body,
            deadline,
        } = waiting;
        match body {
            Request::Key { key, op, ack } => self.execute_key(p, origin, deadline, key, &op, ack),
            Request::Scan { after, limit, .. } => {
                let result = self.scan(p, after.as_ref(), limit.min(MAX_PAGE));
                self.reply(origin, result, None);
            }
            Request::Count { .. } => {
                let result = self.count(p);
                self.reply(origin, result, None);
            }
            Request::Equal { .. } => {
                let equal = self.replicas.get(&p).and_then(|r| r.owner.as_ref());
                let equal = equal.map(|owner| owner.equal.iter().copied().collect());
                self.reply(origin, Ok(Response::Equal(equal.unwrap_or_default())), None);
            }
            Request::Copies {
                key,
                at_least,
                wanted,
                patience,
            } => self.count_copies(p, origin, key, at_least, wanted, patience),
        }
    }

    fn execute_key(
        &mut self,
        p: PartitionId,
        origin: Origin,
        deadline: Time,
        key: Bytes,
        op: &Op,
        ack: Ack,
    ) {
        let Some(config) = self.chain(p).map(|chain| Present::of(&chain.config)) else {
            return;
        };
        self.client_is_served();
        let strict = self.is_strict();
        if strict && ack == Ack::One && !op.is_read() {
            let text =
                "a strict cluster acknowledges a write when a majority has it: ack=one is refused";
            return self.reply(origin, Err(RequestError::Invalid(text.to_owned())), None);
        }
        let place = self.place(p, &key);
        let present = self.read(&place);
        if self.is_broken() {
            return self.reply(origin, Err(broken()), None);
        }
        let mut decision = match op.decide(present.as_ref(), self.wall()) {
            Ok(decision) => decision,
            Err(error) => return self.reply(origin, Err(error.into()), None),
        };
        let Some((value, expires)) = decision.write else {
            let response = Response::Key(decision.outcome);
            if !strict || self.omits(Omit::Confirmation) {
                return self.reply(origin, Ok(response), None);
            }
            return self.confirm(p, &config, origin, deadline, key, present, response);
        };
        let need = match ack {
            Ack::One => 1,
            Ack::Quorum => config.majority,
            Ack::All => config.members.len(),
        };
        if let Some(why) = self.too_few(p, &config, need) {
            return self.reply(origin, Err(RequestError::Unavailable(why)), None);
        }
        if self.writes.len() >= MAX_UNDER_WAY {
            let text = "too many writes are under way; try again in a moment".to_owned();
            return self.reply(origin, Err(RequestError::Unavailable(text)), None);
        }
        // Rule 9.
        if let Some(why) = self.why_clock_refuses() {
            return self.reply(origin, Err(RequestError::Unavailable(why)), None);
        }
        let version = Version {
            // A leftover of a later epoch may have been merged; what is written now is newer.
            epoch: present
                .as_ref()
                .map_or(0, |entry| entry.version.epoch)
                .max(config.id.epoch),
            hlc: self.clock.stamp(self.now.wall),
            branch: config.id.branch,
        };
        if let Some(after) = &mut decision.outcome.after {
            after.version = version;
        }
        let entry = Entry {
            version,
            value,
            expires,
        };
        self.merge(p, [(key.clone(), entry.clone())], &[]);
        if self.is_broken() {
            return self.reply(origin, Err(indeterminate()), None);
        }
        let need = if self.omits(Omit::Quorum) { 1 } else { need };
        let response = Response::Key(decision.outcome);
        let write = UnderWay {
            partition: p,
            id: config.id,
            origin,
            key,
            version: Some(version),
            is_read: false,
            need,
            have: BTreeSet::new(),
            response,
            deadline,
        };
        let number = self.number();
        self.begin(number, &config, write, Content::Entry(entry));
    }

    // What cannot be answered is refused at once, not when its time is over.
    fn too_few(&self, p: PartitionId, config: &Present, need: usize) -> Option<String> {
        let reachable = |member: &&NodeId| {
            **member == self.own || self.view().is_some_and(|view| view.is_reachable(**member))
        };
        let there = config.members.iter().filter(reachable).count();
        (there < need).then(|| {
            format!(
                "partition {p} needs {need} of its {} members for that, and {there} can be reached; it goes on when \
                 more are back, or were replaced",
                config.members.len()
            )
        })
    }

    // Rule 1: only a version known to be at a majority is told; and that this is the owner still.
    //
    // A version of an earlier epoch is written anew under the present one first, unless all members are
    // equal. For a member that took no part in the last change may have a write of an owner between, that
    // nobody knows of, with a condition that what is told now does not meet: by its epoch it would win, once
    // that member takes over.
    #[expect(
        clippy::too_many_arguments,
        reason = "what a request under way consists of"
    )]
    fn confirm(
        &mut self,
        p: PartitionId,
        config: &Present,
        origin: Origin,
        deadline: Time,
        key: Bytes,
        present: Option<Entry>,
        mut response: Response,
    ) {
        if let Some(why) = self.too_few(p, config, config.majority) {
            return self.reply(origin, Err(RequestError::Unavailable(why)), None);
        }
        let mut version = present.as_ref().map(|entry| entry.version);
        let mut content = Content::Check(version);
        if let Some(entry) = present.filter(|it| it.version.epoch < config.id.epoch)
            && !self.all_are_equal(p, config)
        {
            // With the clock of the write itself: it tells how old a deletion is.
            let anew = Version {
                epoch: config.id.epoch,
                branch: config.id.branch,
                ..entry.version
            };
            let entry = Entry {
                version: anew,
                ..entry
            };
            if let Response::Key(outcome) = &mut response {
                let items = [&mut outcome.before, &mut outcome.after];
                for item in items.into_iter().flatten() {
                    item.version = anew;
                }
            }
            self.merge(p, [(key.clone(), entry.clone())], &[]);
            if self.is_broken() {
                return self.reply(origin, Err(broken()), None);
            }
            version = Some(anew);
            content = Content::Entry(entry);
        }
        let write = UnderWay {
            partition: p,
            id: config.id,
            origin,
            key,
            version,
            is_read: true,
            need: config.majority,
            have: BTreeSet::new(),
            response,
            deadline,
        };
        let number = self.number();
        self.begin(number, config, write, content);
    }

    fn all_are_equal(&self, p: PartitionId, config: &Present) -> bool {
        self.replicas
            .get(&p)
            .and_then(|replica| replica.owner.as_ref())
            .is_some_and(|owner| config.members.iter().all(|it| owner.equal.contains(it)))
    }

    pub(super) fn begin(
        &mut self,
        number: u64,
        config: &Present,
        write: UnderWay,
        content: Content,
    ) {
        let p = write.partition;
        let key = write.key.clone();
        self.writes.under_way.insert(number, write);
        self.timers
            .set_by(Timer::Requests, self.now.time + self.config.timing.request);
        for member in self.receivers(p, config) {
            let item = WriteItem {
                number,
                key: key.clone(),
                content: content.clone(),
            };
            let batch = self.writes.batches.entry((member, p));
            let (_, items) = batch.or_insert_with(|| (config.id, Vec::new()));
            items.push(item);
        }
        match self.data_durable() {
            Some(token) => self.writes.unsynced.push_back((token, number)),
            None => self.has(number, self.own),
        }
    }

    // Members that can be reached, and newcomers.
    fn receivers(&mut self, p: PartitionId, config: &Present) -> Vec<NodeId> {
        let own = self.own;
        let Some(view) = self.view.clone() else {
            return Vec::new();
        };
        let mut receivers = Vec::new();
        for member in &config.members {
            if *member == own {
                continue;
            }
            if view.is_reachable(*member) {
                receivers.push(*member);
            } else {
                self.is_unequal(p, *member);
            }
        }
        let change = self
            .replicas
            .get(&p)
            .and_then(|r| r.owner.as_ref()?.change.as_ref());
        receivers.extend(change.into_iter().flat_map(|change| change.learners()));
        receivers
    }

    /// Sends what was written since the last time.
    pub(super) fn send_writes(&mut self) {
        for ((to, p), (id, items)) in std::mem::take(&mut self.writes.batches) {
            let mut batch = Vec::new();
            let mut size = 0;
            for item in items {
                size += match &item.content {
                    Content::Entry(entry) => entry.size(&item.key),
                    Content::Check(_) => item.key.len(),
                };
                batch.push(item);
                if size >= BYTES_AT_ONCE {
                    self.tell(to, p, id, Body::Write(std::mem::take(&mut batch)), None);
                    size = 0;
                }
            }
            if !batch.is_empty() {
                self.tell(to, p, id, Body::Write(batch), None);
            }
        }
    }

    fn scan(
        &mut self,
        p: PartitionId,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Response, RequestError> {
        let wall = self.wall();
        let from = after.map(|cursor| crate::store::partitions::Place {
            partition: p,
            bucket: cursor.bucket,
            key: cursor.key.clone(),
        });
        let limit = limit.max(1) as usize;
        let page = match self.store.page(p, from.as_ref(), limit, BYTES_AT_ONCE) {
            Ok(page) => page,
            Err(error) => {
                self.broke(&error);
                return Err(broken());
            }
        };
        // An empty page is the end; a short one may have met the bound on bytes.
        let next = page.last().map(|(place, _)| Cursor {
            bucket: place.bucket,
            key: place.key.clone(),
        });
        let keys = page
            .into_iter()
            .filter(|(_, entry)| entry.live(wall).is_some())
            .map(|(place, entry)| (place.key, entry.version))
            .collect();
        Ok(Response::Scan { keys, next })
    }

    fn count(&mut self, p: PartitionId) -> Result<Response, RequestError> {
        let wall = self.wall();
        let mut after = None;
        let mut count = 0;
        loop {
            let page = match self.store.page(p, after.as_ref(), 4096, 4 << 20) {
                Ok(page) => page,
                Err(error) => {
                    self.broke(&error);
                    return Err(broken());
                }
            };
            let living = page.iter().filter(|(_, entry)| entry.live(wall).is_some());
            count += living.count() as u64;
            match page.last() {
                Some((place, _)) => after = Some(place.clone()),
                None => return Ok(Response::Count(count)),
            }
        }
    }
}

pub(super) fn broken() -> RequestError {
    RequestError::Unavailable("this node's disk has failed; others take over".to_owned())
}

fn indeterminate() -> RequestError {
    RequestError::Indeterminate("this node's disk failed while it was written".to_owned())
}
