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

use rand::rngs::ChaCha8Rng;

use super::{
    ask::Asks,
    care::Care,
    chain::{Ballot, Chain, ConfigId, Configuration, Rejection},
    clocks::Clocks,
    digest::Digests,
    held::Held,
    host::{Input, Now, Output, SyncToken, View},
    message::{Attempt, Body, Message},
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
    kv::version::HlcClock,
    store::partitions::Store,
    time::Time,
    timers::Timers,
};

pub use super::settings::{Config, Timing};

/// What a shard has timers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Look at a partition again.
    Partition(PartitionId),
    /// A take-over is due, unless the owner is there again.
    TakeOver(PartitionId),
    /// Look for requests whose time is over.
    Requests,
    /// See [`Shard::inquire_for_owners`].
    Owners,
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
    /// No entry is of a larger epoch.
    pub(super) latest_epoch: u64,
    /// When it promised somebody else's ballot, or its own for a change.
    pub(super) promised_at: Option<Time>,
    /// Who fills this node, which is no member (yet).
    pub(super) filled_by: Option<Filler>,
    /// A copy that was made here, and may be counted on by now.
    pub(super) held: Option<Held>,
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
    /// When a member that this branch went on without last asked what became of its own.
    pub(super) left_behind: Option<Time>,
    /// The configuration whose owner is in another branch by now, or may have forgotten what it acknowledged.
    pub(super) deserted: Option<ConfigId>,
    /// Whom to tell of the present configuration until they have it, though another owns it.
    pub(super) telling: Vec<NodeId>,
    /// When they are told again.
    pub(super) tell_at: Option<Time>,
    /// Not before that a proposal, a change or a question is tried again.
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
    /// When it began nothing was dropped, since that may be counted on.
    pub(super) begun_with_held: bool,
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

    pub(super) fn new(buckets: u16) -> Self {
        Self {
            chain: None,
            held: None,
            digests: Digests::new(buckets),
            latest_epoch: 0,
            promised_at: None,
            filled_by: None,
            owner: None,
            proposal: None,
            sessions: BTreeMap::new(),
            rival: None,
            left_behind: None,
            went_on: BTreeSet::new(),
            deserted: None,
            telling: Vec::new(),
            tell_at: None,
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
    pub(super) numbers: Numbers,
    /// Genesis was looked after in this life.
    pub(super) founded: bool,
    /// Partitions whose change waits until fewer are being changed.
    pub(super) queued_changes: BTreeSet<PartitionId>,
    /// What was taken over a moment ago: by owner before, how many, and the longest (ms).
    pub(super) taken_over: BTreeMap<NodeId, (usize, u64)>,
    /// How many went on by an operator's word a moment ago, by the names of those that were given up.
    pub(super) recovered: BTreeMap<Vec<String>, usize>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) token: SyncToken,
    pub(super) sync_wanted: bool,
    /// All records of partitions are on the disk with it.
    pub(super) recorded: SyncToken,
    /// What this node accepted of its own proposals, and when that is on the disk.
    pub(super) own_accepted: VecDeque<(SyncToken, PartitionId, ConfigId, Ballot)>,
    pub(super) broken: bool,
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
            Input::Synced(token) => {
                self.accepted_here(token);
                self.synced(token);
            }
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
                Timer::Owners => self.inquire_for_owners(),
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
            Body::Differ { attempt, groups } => self.session_differs(from, p, attempt, &groups),
            Body::Listed {
                attempt,
                buckets,
                keys,
            } => self.session_listed(from, p, attempt, &buckets, keys),
            Body::Stored { attempt } => self.session_stored(from, p, attempt),
            Body::Fill { attempt, config } => self.hear_fill(from, p, id, attempt, &config),
            Body::Filling { attempt } => self.hear_filling(from, p, attempt),
            Body::Abandon { attempt } => self.hear_abandon(from, p, id, attempt),
            Body::Vouch => self.hear_vouch(from, p, id),
            Body::MayForget { member } => self.may_forget(from, p, id, member),
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

    /// Whether the configuration that is installed here names this node.
    pub(super) fn is_member(&self, partition: PartitionId) -> bool {
        self.chain(partition)
            .is_some_and(|chain| chain.config.has(self.own))
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
        let told = body.tells_configuration();
        let after = after.or_else(|| self.after_records().filter(|_| told));
        let message = Message::Partition {
            partition,
            id,
            body,
        };
        self.outputs.push_back(Output::Send { to, message, after });
    }

    /// What tells of a configuration waits for this. Whoever is the only member of what it chose would choose
    /// anew if it lost its record: until that is on the disk nobody hears of it.
    pub(super) fn after_records(&self) -> Option<SyncToken> {
        let waits = !self.omits(Omit::DurableBallots);
        waits.then_some(self.recorded)
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

    /// Numbers for operators.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
