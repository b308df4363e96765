//! The partition core: everything that a node does for its share of the partitions.
//!
//! It decides nothing itself; inputs are routed to the files beside it, each with one subject.
//! A node runs one or more of them ("shards"), each with some of the partitions (see
//! [`super::spread`]); they share nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{
    ask::Asks,
    care::Care,
    chain::{Chain, ConfigId, Configuration, Rejection},
    clocks::Clocks,
    digest::{self, Digests},
    host::{Input, Now, Output, SyncMode, SyncToken, View},
    message::{Attempt, Body, Message, Route},
    omit::Omit,
    owner::Owner,
    pace::Pace,
    proposal::Proposal,
    route::Routes,
    session::Session,
    spread::{self, GROUPS, Numbers},
    sweep::Sweep,
    write::Writes,
};
use crate::{
    event::Event,
    id::{NodeId, PartitionId},
    kv::{
        entry::Entry,
        version::{Hlc, HlcClock, Wall},
    },
    store::partitions::{Batch, Place, Store, StoreError},
    time::Time,
    timers::Timers,
    wire::codec,
};

/// That the partitions of a group were minted: facts of the store.
#[rustfmt::skip]
const FOUNDED: [&str; GROUPS as usize] = [
    "founded 0", "founded 1", "founded 2", "founded 3", "founded 4", "founded 5", "founded 6", "founded 7",
    "founded 8", "founded 9", "founded 10", "founded 11", "founded 12", "founded 13", "founded 14", "founded 15",
];

/// Settings of a partition core.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Which of the node's shards this is, and of how many.
    pub shard: (u16, u16),
    /// When data must be on the disk before it counts.
    pub sync: SyncMode,
    /// Time limits.
    pub timing: Timing,
    /// What an earlier life acknowledged may not be here: the machine stopped uncleanly, and data was
    /// not always synced (rule 8).
    pub forgetful: bool,
    /// The rule that is left out: none, but for tests that show what happens then.
    pub omit: Option<Omit>,
}

/// Time limits of partitions, and how fast copies are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Rank `r` among the members that live begins a take-over so much later, `r` times.
    pub rank: Duration,
    /// A proposal without progress for so long is begun anew, with a larger ballot.
    pub proposal: Duration,
    /// A promise that led to nothing for so long is followed by a proposal of one's own.
    pub promise: Duration,
    /// An owner that fences itself for a change gives it up after this.
    pub fence: Duration,
    /// A request is answered within this, if only by saying that it could not be.
    pub request: Duration,
    /// Exchanges that were not answered are repeated after this.
    pub retry: Duration,
    /// Copies are compared this often, even if nothing seems wrong.
    pub anti_entropy: Duration,
    /// Tables of owners are compared with somebody this often.
    pub routes: Duration,
    /// What is deleted is forgotten so long after all members knew of it.
    pub tombstone_grace: Duration,
    /// From the end of one walk through the store, for what is deleted or expired, to the next.
    pub sweep: Duration,
    /// A node makes and repairs copies at this rate at the most (bytes per second).
    pub transfer_rate: u64,
    /// Members of whom nobody has told count as failed once this node has been one for so long.
    pub unknown: Duration,
    /// Who is no member any more asks this often whether it may drop what it has.
    pub forget: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            rank: Duration::from_millis(50),
            proposal: Duration::from_millis(1000),
            promise: Duration::from_millis(800),
            fence: Duration::from_millis(200),
            request: Duration::from_millis(3000),
            retry: Duration::from_millis(250),
            anti_entropy: Duration::from_secs(60),
            routes: Duration::from_secs(30),
            transfer_rate: 64 << 20,
            tombstone_grace: Duration::from_secs(24 * 3600),
            sweep: Duration::from_secs(600),
            unknown: Duration::from_secs(10),
            forget: Duration::from_secs(5),
        }
    }
}

/// What a shard has timers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Look at a partition again.
    Partition(PartitionId),
    /// A take-over is due, unless the owner is there again.
    TakeOver(PartitionId),
    /// Look for requests whose time is over.
    Requests,
    /// Compare routes with somebody.
    Routes,
    /// Compare copies that are thought to be equal.
    Audit,
    /// Look whether something is amiss.
    Care,
    /// Look for what is deleted or expired.
    Sweep,
    /// Transfers that waited go on.
    Transfers,
    /// Tell in one line what was taken over.
    Summary,
}

/// What one node has of one partition.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) chain: Option<Chain>,
    pub(super) digests: Digests,
    /// When it promised somebody else's ballot, or its own for a change.
    pub(super) promised_at: Option<Time>,
    /// Who fills this node, which is no member (yet).
    pub(super) filled_by: Option<Filler>,
    /// While this node owns it.
    pub(super) owner: Option<Owner>,
    /// While this node proposes a next configuration.
    pub(super) proposal: Option<Proposal>,
    /// Comparisons under way, by peer.
    pub(super) sessions: BTreeMap<NodeId, Session>,
    /// A configuration of another branch, which has to be joined with this one.
    pub(super) rival: Option<Configuration>,
    /// Members of the present configuration that are in another branch.
    pub(super) went_on: BTreeSet<NodeId>,
    /// The configuration whose owner is in another branch by now.
    pub(super) deserted: Option<ConfigId>,
    /// Whom to tell of the present configuration until they have it, though another owns it.
    pub(super) telling: Vec<NodeId>,
    pub(super) backoff: Option<Time>,
}

/// The owner that makes a copy of a partition here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filler {
    pub(super) node: NodeId,
    pub(super) id: ConfigId,
    pub(super) attempt: Attempt,
    /// When it last said something.
    pub(super) heard: Time,
    /// The last comparison found this copy equal to its own.
    pub(super) equal: bool,
}

impl Filler {
    /// One that says nothing for so long has given it up.
    pub(super) const PATIENCE: Duration = Duration::from_secs(5);

    pub(super) fn is(&self, node: NodeId, id: ConfigId, attempt: Attempt) -> bool {
        (self.node, self.id, self.attempt) == (node, id, attempt)
    }
}

impl Replica {
    /// Whether somebody is making a copy here.
    pub(super) fn is_filled(&self, now: Time) -> bool {
        self.filled_by
            .is_some_and(|by| now < by.heard + Filler::PATIENCE)
    }

    fn new(buckets: u16) -> Self {
        Self {
            chain: None,
            digests: Digests::new(buckets),
            promised_at: None,
            filled_by: None,
            owner: None,
            proposal: None,
            sessions: BTreeMap::new(),
            rival: None,
            went_on: BTreeSet::new(),
            deserted: None,
            telling: Vec::new(),
            backoff: None,
        }
    }
}

/// Numbers for operators.
pub type Counters = BTreeMap<&'static str, u64>;

/// One shard's partitions. See the module's text.
pub struct Shard {
    pub(super) config: Config,
    pub(super) own: NodeId,
    pub(super) store: Box<dyn Store + Send>,
    pub(super) rng: ChaCha8Rng,
    pub(super) clock: HlcClock,
    pub(super) now: Now,
    pub(super) view: Option<Arc<View>>,
    pub(super) first_view: Option<Time>,
    pub(super) buckets: u16,
    pub(super) replicas: BTreeMap<PartitionId, Replica>,
    pub(super) routes: Routes,
    pub(super) writes: Writes,
    pub(super) asks: Asks,
    pub(super) care: Care,
    pub(super) sweep: Sweep,
    pub(super) pace: Pace,
    pub(super) clocks: Clocks,
    pub(super) timers: Timers<Timer>,
    pub(super) counters: Counters,
    numbers: Numbers,
    /// Genesis was looked after in this life.
    founded: bool,
    /// Partitions whose change waits until fewer are being changed.
    pub(super) queued_changes: BTreeSet<PartitionId>,
    /// What was taken over a moment ago: by owner before, how many, and the longest (ms).
    pub(super) taken_over: BTreeMap<NodeId, (usize, u64)>,
    outputs: VecDeque<Output>,
    token: SyncToken,
    sync_wanted: bool,
    broken: bool,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("own", &self.own)
            .field("partitions", &self.replicas.len())
            .finish_non_exhaustive()
    }
}

impl Shard {
    /// Opens what an earlier life left in the store; `seed` is all the randomness it gets.
    ///
    /// # Errors
    /// If the store cannot be read, or holds what was not written by a partition core.
    pub fn open(
        config: Config,
        store: Box<dyn Store + Send>,
        partitions: u16,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, StoreError> {
        let mut shard = Self {
            own: config.node,
            config,
            store,
            rng: ChaCha8Rng::from_seed(seed),
            clock: HlcClock::default(),
            now,
            view: None,
            first_view: None,
            buckets: digest::buckets(partitions),
            replicas: BTreeMap::new(),
            routes: Routes::default(),
            writes: Writes::default(),
            asks: Asks::default(),
            care: Care::default(),
            sweep: Sweep::default(),
            pace: Pace::default(),
            clocks: Clocks::default(),
            timers: Timers::default(),
            counters: Counters::new(),
            numbers: Numbers::new(0, (0, 1)),
            founded: false,
            queued_changes: BTreeSet::new(),
            taken_over: BTreeMap::new(),
            outputs: VecDeque::new(),
            token: SyncToken(1),
            sync_wanted: false,
            broken: false,
        };
        // Of two lives' numbers none are equal.
        let after = shard.rng.random::<u64>() >> 16;
        shard.numbers = Numbers::new(after, shard.config.shard);
        shard.restore(partitions)?;
        shard.store.commit()?;
        Ok(shard)
    }

    fn restore(&mut self, partitions: u16) -> Result<(), StoreError> {
        let mut leftovers = Batch::default();
        for (partition, record) in self.store.chains()? {
            if !self.is_mine(partition) {
                continue;
            }
            let mut chain: Chain = codec::decode(&record).map_err(|error| {
                StoreError(format!(
                    "the chain record of partition {partition}: {error}"
                ))
            })?;
            // Rule 8: the mark is durable before anything else is said in this life.
            let forgot = self.config.forgetful
                && chain.config.has(self.own)
                && !self.omits(Omit::LearnerMark);
            if forgot && !chain.learner {
                chain.learner = true;
                self.store.write(Batch {
                    chains: vec![(partition, codec::encode(&chain))],
                    ..Batch::default()
                })?;
                self.sync_wanted = true;
            }
            let mut replica = Replica::new(self.buckets);
            let mut after: Option<Place> = None;
            loop {
                let page = self.store.page(partition, after.as_ref(), 4096, 4 << 20)?;
                for (place, entry) in &page {
                    let size = entry.size(&place.key);
                    replica
                        .digests
                        .add(place.bucket, &place.key, &entry.version, size);
                    self.clock.saw(entry.version.hlc);
                }
                match page.last() {
                    Some((place, _)) => after = Some(place.clone()),
                    None => break,
                }
            }
            if chain.is_fenced() {
                replica.promised_at = Some(self.now.time);
            }
            // A closed branch is served by nobody: see `learn_route`.
            if chain.config.closed_into.is_none() {
                self.routes.learn(Route {
                    partition,
                    id: chain.config.id,
                    members: chain.config.members.clone(),
                });
            }
            replica.chain = Some(chain);
            self.replicas.insert(partition, replica);
        }
        // Copies that were being made when the process ended: nobody counts on them.
        for partition in (0..partitions).filter(|partition| self.is_mine(*partition)) {
            let known = self.replicas.contains_key(&partition);
            if !known && !self.store.page(partition, None, 1, 1)?.is_empty() {
                leftovers.cleared.push(partition);
            }
        }
        if leftovers.is_empty() {
            return Ok(());
        }
        self.store.write(leftovers)
    }

    /// Takes in something that happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.now = now;
        if self.broken {
            self.refuse_all(input);
            return;
        }
        match input {
            Input::Tick => self.tick(),
            Input::View(view) => self.view_changed(view),
            Input::Message { from, message } => self.message(from, message),
            Input::Request {
                request,
                partition,
                body,
            } => self.request(request, partition, body),
            Input::Synced(token) => self.synced(token),
        }
    }

    /// Sends what was gathered while inputs were handled: once after everything that had
    /// arrived.
    pub fn flush(&mut self, now: Now) {
        self.now = now;
        self.begin_queued_changes();
        self.send_writes();
        self.announce_routes();
        if !self.broken
            && let Err(error) = self.store.commit()
        {
            // Nothing of what depends on it is told.
            self.outputs.clear();
            self.broke(&error);
        }
        if std::mem::take(&mut self.sync_wanted) {
            self.outputs.push_back(Output::Sync(self.token));
            self.token.0 += 1;
        }
    }

    /// What is to be done next, if anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is wanted.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    fn tick(&mut self) {
        while let Some(timer) = self.timers.pop(self.now.time) {
            match timer {
                Timer::Partition(partition) => self.drive(partition),
                Timer::TakeOver(partition) => self.take_over_is_due(partition),
                Timer::Requests => self.requests_over(),
                Timer::Routes => self.compare_routes(),
                Timer::Audit => self.audit(),
                Timer::Care => self.take_care(),
                Timer::Sweep => self.sweep(),
                Timer::Transfers => self.transfers_go_on(),
                Timer::Summary => self.summarise(),
            }
        }
    }

    fn message(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Partition {
                partition,
                id,
                body,
            } => {
                if self.is_mine(partition) {
                    self.partition_message(from, partition, id, body);
                }
            }
            Message::Routes(routes) => self.hear_routes(from, routes),
            Message::RoutesDigest(digests) => self.hear_routes_digest(from, &digests),
            Message::Ask {
                number,
                partition,
                request,
            } => self.asked(from, number, partition, request),
            Message::Answer { number, result } => self.answered(number, result),
            Message::NotOwner { number, route } => self.not_owner(number, route),
            Message::Roots(roots) => self.hear_roots(from, roots),
            Message::Unequal(unequal) => self.hear_unequal(from, unequal),
            Message::Clock(wall) => self.hear_clock(from, wall),
        }
    }

    fn partition_message(&mut self, from: NodeId, p: PartitionId, id: ConfigId, body: Body) {
        match body {
            Body::Prepare {
                ballot,
                config,
                by_word,
            } => self.hear_prepare(from, p, id, ballot, &config, by_word),
            Body::Promise {
                ballot,
                accepted,
                root,
                hlc,
            } => self.hear_promise(from, p, id, ballot, accepted, root, hlc),
            Body::Accept { ballot, next } => self.hear_accept(from, p, id, ballot, &next),
            Body::Accepted { ballot } => self.hear_accepted(from, p, id, ballot),
            Body::Rejected { attempt, why } => self.hear_rejected(from, p, id, attempt, why),
            Body::Install(config) => self.hear_install(from, p, &config),
            Body::Installed => self.hear_installed(from, p, id),
            Body::Write(items) => self.hear_write(from, p, id, items),
            Body::Written { done, lacking } => self.hear_written(from, p, id, &done, &lacking),
            Body::NotWritten { numbers, why } => self.hear_not_written(from, p, id, &numbers, why),
            Body::Compare { .. }
            | Body::List { .. }
            | Body::Fetch { .. }
            | Body::Entries { .. } => self.asked_to_compare(from, p, id, body),
            Body::Equal { attempt, root } => self.session_equal(from, p, attempt, root),
            Body::Differ { attempt, digests } => self.session_differs(from, p, attempt, &digests),
            Body::Listed {
                attempt,
                buckets,
                keys,
            } => self.session_listed(from, p, attempt, &buckets, keys),
            Body::Stored { attempt } => self.session_stored(from, p, attempt),
            Body::Fill { attempt } => self.hear_fill(from, p, id, attempt),
            Body::Filling { attempt } => self.hear_filling(from, p, attempt),
            Body::Abandon { attempt } => self.hear_abandon(from, p, id, attempt),
            Body::Vouch => self.hear_vouch(from, p, id),
            Body::MayForget => self.may_forget(from, p, id),
            Body::Forget => self.hear_forget(from, p, id),
            Body::Closed(config) => self.hear_closed(from, p, *config),
            Body::Purge { before, buckets } => self.hear_purge(from, p, id, before, &buckets),
        }
    }

    fn view_changed(&mut self, view: Arc<View>) {
        let before = self.view.replace(Arc::clone(&view));
        if self.first_view.is_none() {
            self.first_view = Some(self.now.time);
            self.timers
                .set(Timer::Routes, self.now.time + self.config.timing.retry);
            self.audit_begins();
            self.sweep_begins();
        }
        if view.founder && !std::mem::replace(&mut self.founded, true) {
            self.found(&view);
        }
        self.care_soon();
        let was = |node: &NodeId| before.as_ref().and_then(|before| before.stream(*node));
        let peers: Vec<NodeId> = view
            .peers
            .keys()
            .copied()
            .filter(|n| *n != self.own)
            .collect();
        for node in peers {
            let (earlier, stream) = (was(&node), view.stream(node));
            if earlier == stream {
                continue;
            }
            if earlier.is_some() {
                self.peer_lost(node);
            }
            if stream.is_some() {
                self.peer_connected(node);
            }
        }
        for partition in self.known_partitions() {
            self.drive(partition);
        }
        self.release_all();
    }

    /// Genesis: mints the first configuration of every partition of which nothing is known. Only the
    /// node that bootstrapped the cluster does, once.
    fn found(&mut self, view: &View) {
        let mut batch = Batch::default();
        let mut founding = Vec::new();
        // By group: the next life may have another number of shards.
        for group in self.groups() {
            let name = FOUNDED[usize::from(group)];
            match self.store.fact(name) {
                Ok(None) => {}
                Ok(Some(_)) => continue,
                Err(error) => return self.broke(&error),
            }
            batch.facts.push((name, vec![1]));
            founding.push(group);
        }
        if founding.is_empty() {
            return;
        }
        let mine: Vec<PartitionId> = (0..view.settings.partitions)
            .filter(|partition| founding.contains(&spread::group_of(*partition)))
            .collect();
        for partition in mine {
            if self.replicas.contains_key(&partition) {
                continue;
            }
            let mut chain = Chain::new(Configuration::genesis(self.own, self.rng.random()));
            chain.equal_at = self.now.wall;
            batch.chains.push((partition, codec::encode(&chain)));
            let mut replica = Replica::new(self.buckets);
            replica.owner = Some(Owner::new(self.own, &chain.config));
            self.routes.learn(Route {
                partition,
                id: chain.config.id,
                members: chain.config.members.clone(),
            });
            replica.chain = Some(chain);
            self.replicas.insert(partition, replica);
            self.counters_up("genesis");
        }
        self.write_batch(batch);
        self.durable();
    }

    /// Whether a group of partitions belongs to this shard.
    fn has_group(&self, group: u16) -> bool {
        let (shard, shards) = self.config.shard;
        spread::shard_of_group(group, shards) == shard
    }

    /// The groups that belong to this shard.
    pub(super) fn groups(&self) -> Vec<u16> {
        let all = 0..GROUPS;
        all.filter(|group| self.has_group(*group)).collect()
    }

    /// This shard's share of what a node may do at a time.
    pub(super) fn share(&self, of: usize) -> usize {
        (of / usize::from(self.config.shard.1.max(1))).max(1)
    }

    /// Whether a partition belongs to this shard.
    pub(super) fn is_mine(&self, partition: PartitionId) -> bool {
        self.has_group(spread::group_of(partition))
    }

    pub(super) fn known_partitions(&self) -> Vec<PartitionId> {
        self.replicas.keys().copied().collect()
    }

    pub(super) fn replica(&mut self, partition: PartitionId) -> &mut Replica {
        let buckets = self.buckets;
        self.replicas
            .entry(partition)
            .or_insert_with(|| Replica::new(buckets))
    }

    pub(super) fn chain(&self, partition: PartitionId) -> Option<&Chain> {
        self.replicas.get(&partition)?.chain.as_ref()
    }

    pub(super) fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn counters_up(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers.next()
    }

    /// A message about a partition, not before `after` is on the disk.
    pub(super) fn tell(
        &mut self,
        to: NodeId,
        partition: PartitionId,
        id: ConfigId,
        body: Body,
        after: Option<SyncToken>,
    ) {
        if to == self.own {
            return;
        }
        let message = Message::Partition {
            partition,
            id,
            body,
        };
        self.outputs.push_back(Output::Send { to, message, after });
    }

    pub(super) fn reject(
        &mut self,
        to: NodeId,
        partition: PartitionId,
        id: ConfigId,
        attempt: Attempt,
        why: Rejection,
    ) {
        self.tell(to, partition, id, Body::Rejected { attempt, why }, None);
    }

    /// What was written until now must be on the disk before what carries this token.
    pub(super) fn durable(&mut self) -> SyncToken {
        self.sync_wanted = true;
        self.token
    }

    /// The same for data, if this node's data must be on the disk before it counts.
    pub(super) fn data_durable(&mut self) -> Option<SyncToken> {
        (self.config.sync == SyncMode::Always).then(|| self.durable())
    }

    /// Keeps a partition's chain record; what depends on it waits for the token.
    pub(super) fn keep_chain(&mut self, partition: PartitionId) -> SyncToken {
        if let Some(chain) = self.chain(partition) {
            let chains = vec![(partition, codec::encode(chain))];
            self.write_batch(Batch {
                chains,
                ..Batch::default()
            });
        }
        self.durable()
    }

    pub(super) fn write_batch(&mut self, batch: Batch) {
        if let Err(error) = self.store.write(batch) {
            self.broke(&error);
        }
    }

    pub(super) fn place(&self, partition: PartitionId, key: &Bytes) -> Place {
        Place {
            partition,
            bucket: digest::bucket_of(key, self.buckets),
            key: key.clone(),
        }
    }

    pub(super) fn read(&mut self, place: &Place) -> Option<Entry> {
        match self.store.get(place) {
            Ok(entry) => entry,
            Err(error) => {
                self.broke(&error);
                None
            }
        }
    }

    /// Merges entries by version into what is there; `drop` are versions to be removed, or replaced by
    /// whatever comes with them.
    pub(super) fn merge(
        &mut self,
        partition: PartitionId,
        entries: impl IntoIterator<Item = (Bytes, Entry)>,
        drop: &[(Bytes, crate::kv::version::Version)],
    ) {
        let mut batch = Batch::default();
        let mut changes: BTreeMap<Place, (Option<Entry>, Option<Entry>)> = BTreeMap::new();
        let dropped: BTreeMap<&Bytes, &crate::kv::version::Version> =
            drop.iter().map(|(key, version)| (key, version)).collect();
        for (key, entry) in entries {
            self.clock.saw(entry.version.hlc);
            let place = self.place(partition, &key);
            let present = match changes.get(&place) {
                Some((_, newest)) => newest.clone(),
                None => self.read(&place),
            };
            let stays = |present: &Entry| {
                present.version >= entry.version && dropped.get(&key) != Some(&&present.version)
            };
            if present.as_ref().is_some_and(stays) {
                continue;
            }
            changes
                .entry(place)
                .and_modify(|(_, newest)| *newest = Some(entry.clone()))
                .or_insert_with(|| (present, Some(entry.clone())));
        }
        for (key, version) in drop {
            let place = self.place(partition, key);
            let present = self.read(&place);
            if present
                .as_ref()
                .is_some_and(|entry| entry.version == *version)
                && !changes.contains_key(&place)
            {
                changes.insert(place, (present, None));
            }
        }
        let replica = self.replica(partition);
        for (place, (before, after)) in changes {
            if let Some(before) = &before {
                let size = before.size(&place.key);
                replica
                    .digests
                    .remove(place.bucket, &place.key, &before.version, size);
            }
            if let Some(after) = &after {
                let size = after.size(&place.key);
                replica
                    .digests
                    .add(place.bucket, &place.key, &after.version, size);
            }
            batch.entries.push((place, after));
        }
        if !batch.is_empty() {
            self.write_batch(batch);
        }
    }

    pub(super) fn root(&mut self, partition: PartitionId) -> u64 {
        self.replica(partition).digests.root()
    }

    pub(super) fn largest_hlc(&self) -> Hlc {
        self.clock.last()
    }

    pub(super) fn wall(&self) -> Wall {
        self.now.wall
    }

    /// The store failed: what it may have lost must not be served.
    pub(super) fn broke(&mut self, error: &StoreError) {
        if !std::mem::replace(&mut self.broken, true) {
            self.outputs.push_back(Output::Broken(error.0.clone()));
        }
    }

    /// Whether the store has failed.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Numbers for operators.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
