//! A shard begins: with what an earlier life left in the store, or with genesis.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use super::{
    ask::Asks,
    care::Care,
    chain::{Chain, Configuration},
    clocks::Clocks,
    digest::{self},
    held::Record,
    host::{Now, SyncToken, View},
    message::Route,
    omit::Omit,
    owner::Owner,
    pace::Pace,
    route::Routes,
    settings::Config,
    shard::{Counters, Replica, Shard},
    spread::{self, GROUPS, Numbers},
    sweep::Sweep,
    write::Writes,
};
use crate::{
    id::PartitionId,
    kv::version::HlcClock,
    store::partitions::{Batch, Place, Store, StoreError},
    timers::Timers,
    wire::codec,
};

/// That the partitions of a group were minted: facts of the store.
#[rustfmt::skip]
const FOUNDED: [&str; GROUPS as usize] = [
    "founded 0", "founded 1", "founded 2", "founded 3", "founded 4", "founded 5", "founded 6", "founded 7",
    "founded 8", "founded 9", "founded 10", "founded 11", "founded 12", "founded 13", "founded 14", "founded 15",
];

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
            recovered: BTreeMap::new(),
            outputs: VecDeque::new(),
            token: SyncToken(1),
            sync_wanted: false,
            recorded: SyncToken(0),
            own_accepted: VecDeque::new(),
            broken: false,
        };
        // Of two lives' numbers none are equal.
        let after = shard.rng.random::<u64>() >> 16;
        shard.numbers = Numbers::new(after, shard.config.shard);
        shard.restore(partitions)?;
        shard.store.commit()?;
        Ok(shard)
    }

    pub(super) fn restore(&mut self, partitions: u16) -> Result<(), StoreError> {
        let mut leftovers = Batch::default();
        for (partition, record) in self.store.chains()? {
            if !self.is_mine(partition) {
                continue;
            }
            let (chain, held): Record = codec::decode(&record).map_err(|error| {
                StoreError(format!(
                    "the chain record of partition {partition}: {error}"
                ))
            })?;
            if chain.is_none() && held.is_none() {
                continue;
            }
            let mut replica = Replica::new(self.buckets);
            (replica.chain, replica.held) = (chain, held);
            self.forgot(partition, &mut replica)?;
            let mut after: Option<Place> = None;
            loop {
                let page = self.store.page(partition, after.as_ref(), 4096, 4 << 20)?;
                for (place, entry) in &page {
                    let size = entry.size(&place.key);
                    replica
                        .digests
                        .add(place.bucket, &place.key, &entry.version, size);
                    replica.latest_epoch = replica.latest_epoch.max(entry.version.epoch);
                    self.clock.saw(entry.version.hlc);
                }
                match page.last() {
                    Some((place, _)) => after = Some(place.clone()),
                    None => break,
                }
            }
            let chain = replica.chain.as_ref();
            if chain.is_some_and(Chain::is_fenced) {
                replica.promised_at = Some(self.now.time);
            }
            // A closed branch is served by nobody: see `learn_route`.
            if let Some(chain) = chain.filter(|chain| chain.config.closed_into.is_none()) {
                // If it was chosen just before this node stopped, nobody else may know of it.
                let owner = chain.config.owner();
                if owner != self.own && !chain.learner {
                    replica.telling = vec![owner];
                }
                self.routes.learn(Route::of(partition, &chain.config));
            }
            self.replicas.insert(partition, replica);
            // The life before may have ended before that was on the disk.
            self.recorded = self.durable();
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

    // Rule 8: what may have been lost with the machine is marked, durably before anything else is said in
    // this life.
    fn forgot(&mut self, partition: PartitionId, replica: &mut Replica) -> Result<(), StoreError> {
        if !self.config.forgetful || self.omits(Omit::LearnerMark) {
            return Ok(());
        }
        let own = self.own;
        let chain = replica.chain.as_mut().filter(|it| it.config.has(own));
        let marks = [
            chain.map(|chain| &mut chain.learner),
            replica.held.as_mut().map(|held| &mut held.lost),
        ];
        let mut marked = false;
        for mark in marks.into_iter().flatten() {
            marked |= !std::mem::replace(mark, true);
        }
        if !marked {
            return Ok(());
        }
        self.sync_wanted = true;
        self.store.write(Batch {
            chains: vec![(partition, replica.record())],
            ..Batch::default()
        })
    }

    /// Genesis: mints the first configuration of every partition of which nothing is known. Only the
    /// node that bootstrapped the cluster does, once.
    pub(super) fn found(&mut self, view: &View) {
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
            let mut replica = Replica::new(self.buckets);
            replica.owner = Some(Owner::new(self.own));
            self.routes.learn(Route::of(partition, &chain.config));
            replica.chain = Some(chain);
            batch.chains.push((partition, replica.record()));
            self.replicas.insert(partition, replica);
            self.counters_up("genesis");
        }
        self.write_batch(batch);
        self.durable();
    }
}
