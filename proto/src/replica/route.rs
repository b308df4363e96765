//! Who owns what, as far as is known: a table that may be out of date.
//!
//! Owners announce what they installed; tables are compared by digest when a stream opens, and
//! now and then. Whatever the table says, only the chain decides: an answer from somebody who
//! is no owner corrects it.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    chain::{ConfigId, Configuration},
    host::Output,
    message::{Body, Message, Route},
    shard::{Replica, Shard, Timer},
    spread::group_of,
};
use crate::{
    id::{NodeId, PartitionId},
    wire::codec,
};

/// Routes in one message.
const ROUTES_AT_ONCE: usize = 1024;

/// The table of one shard.
#[derive(Debug, Default)]
pub(super) struct Routes {
    table: BTreeMap<PartitionId, Route>,
    /// To be announced with the next flush.
    fresh: BTreeSet<PartitionId>,
    /// Of groups that have not changed since.
    digests: BTreeMap<u16, u64>,
    /// Changed since a host asked.
    changed: BTreeSet<PartitionId>,
}

impl Routes {
    pub(super) fn get(&self, partition: PartitionId) -> Option<&Route> {
        self.table.get(&partition)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&PartitionId, &Route)> {
        self.table.iter()
    }

    pub(super) fn owner(&self, partition: PartitionId) -> Option<NodeId> {
        self.get(partition)?.members.first().copied()
    }

    /// Whether the table says that a node owns a partition in that configuration.
    pub(super) fn is_owner(&self, partition: PartitionId, node: NodeId, id: ConfigId) -> bool {
        self.get(partition)
            .is_some_and(|route| route.id == id && route.members.first() == Some(&node))
    }

    /// Takes in a route, if it is newer than what is known. Whether it is.
    pub(super) fn learn(&mut self, route: Route) -> bool {
        let newer = self
            .get(route.partition)
            .is_none_or(|known| route.id > known.id);
        if newer {
            self.put(route);
        }
        newer
    }

    fn put(&mut self, route: Route) {
        self.digests.remove(&group_of(route.partition));
        self.changed.insert(route.partition);
        self.table.insert(route.partition, route);
    }

    /// What [`Shard::holds`] says may change, though the partition's configuration does not.
    pub(super) fn is_held_otherwise(&mut self, partition: PartitionId) {
        self.changed.insert(partition);
    }

    fn of_group(&self, group: u16) -> impl Iterator<Item = &Route> {
        let routes = self.table.values();
        routes.filter(move |route| group_of(route.partition) == group)
    }

    fn digest(&mut self, group: u16) -> u64 {
        if let Some(digest) = self.digests.get(&group) {
            return *digest;
        }
        let all: Vec<(PartitionId, ConfigId)> =
            self.of_group(group).map(|r| (r.partition, r.id)).collect();
        let digest = xxh3_64(&codec::encode(&all));
        self.digests.insert(group, digest);
        digest
    }
}

impl Shard {
    /// Routes that have changed since this was asked last, or are known by more members; `None` if
    /// there are none. [`Self::holds`] changes with them only.
    pub fn take_changed_routes(&mut self) -> Option<Vec<Route>> {
        if self.routes.changed.is_empty() {
            return None;
        }
        let changed = std::mem::take(&mut self.routes.changed);
        let routes = changed.iter().filter_map(|p| self.routes.get(*p).cloned());
        Some(routes.collect())
    }

    /// How many partitions this node owns, and in how many it is a member, or may be one by now; those that it
    /// handed over count until most of their members know, since nobody else may have heard of what was chosen.
    pub fn holds(&self) -> (usize, usize) {
        let mut holds = (0, 0);
        for replica in self.replicas.values() {
            let config = replica.chain.as_ref().map(|chain| &chain.config);
            let untold = config.is_some_and(|config| is_untold(replica, config));
            let owner = config.is_some_and(|config| config.owner() == self.own);
            let member = config.is_some_and(|config| config.has(self.own));
            // Its members may be choosing a configuration that counts on it (see `held`).
            let counted_on = replica.held_whole().is_some();
            holds.0 += usize::from(untold || owner);
            holds.1 += usize::from(untold || member || counted_on);
        }
        holds
    }

    /// What the partitions that this node is a member of take here (bytes), about.
    pub fn held_bytes(&self) -> u64 {
        let held = self.replicas.iter().filter(|(p, _)| self.is_member(**p));
        held.map(|(_, replica)| replica.digests.bytes()).sum()
    }

    /// What a configuration that was chosen says.
    pub(super) fn learn_route(&mut self, p: PartitionId, config: &Configuration) {
        // A closed branch is served by nobody.
        if config.closed_into.is_some() {
            return;
        }
        let follows = self
            .routes
            .get(p)
            .is_none_or(|known| config.descends_from(known.id) || config.id > known.id);
        if follows {
            self.routes.put(Route::of(p, config));
            self.release(p);
        }
    }

    /// This node serves it now: everybody is told, with the next flush.
    pub(super) fn announce(&mut self, p: PartitionId, config: &Configuration) {
        self.learn_route(p, config);
        self.routes.fresh.insert(p);
        self.look_for_rival(p);
    }

    pub(super) fn announce_routes(&mut self) {
        if self.routes.fresh.is_empty() {
            return;
        }
        let fresh = std::mem::take(&mut self.routes.fresh);
        let routes: Vec<Route> = fresh
            .iter()
            .filter_map(|partition| self.routes.get(*partition).cloned())
            .collect();
        for peer in self.reachable() {
            self.send_routes(peer, &routes);
        }
    }

    /// Others that this node can talk to.
    pub(super) fn reachable(&self) -> Vec<NodeId> {
        let Some(view) = self.view() else {
            return Vec::new();
        };
        let others = view.peers.keys().filter(|node| **node != self.own);
        others
            .copied()
            .filter(|node| view.is_reachable(*node))
            .collect()
    }

    fn send_routes(&mut self, to: NodeId, routes: &[Route]) {
        for some in routes.chunks(ROUTES_AT_ONCE) {
            self.send_route(to, Message::Routes(some.to_vec()));
        }
    }

    /// A message with routes, of which some may be this node's own.
    pub(super) fn send_route(&mut self, to: NodeId, message: Message) {
        let after = self.after_records();
        self.emit(Output::Send { to, message, after });
    }

    pub(super) fn hear_routes(&mut self, from: NodeId, routes: Vec<Route>) {
        let mut later = Vec::new();
        for route in routes {
            let p = route.partition;
            if !self.is_mine(p) || route.members.is_empty() {
                continue;
            }
            later.extend(self.serves_later(&route));
            self.is_it_a_rival(&route);
            if self.take_route(route) {
                self.release(p);
            }
        }
        // This node may have taken it for failed when it announced them, without it noticing.
        self.send_routes(from, &later);
    }

    // What this node serves, if it is newer.
    fn serves_later(&self, route: &Route) -> Option<Route> {
        let replica = self.replicas.get(&route.partition)?;
        let config = &replica.chain.as_ref()?.config;
        let serving = replica.owner.as_ref()?.serving;
        (serving && config.id > route.id).then(|| Route::of(route.partition, config))
    }

    /// Takes in what somebody says, if it is newer than what is known; or if of what is known nobody is left,
    /// and somebody serves another branch, though an older one. Whether it is taken in.
    pub(super) fn take_route(&mut self, route: Route) -> bool {
        let p = route.partition;
        let nobody_left = |route: &Route| !self.somebody_is_left(&route.members);
        let known = self.routes.get(p).is_some_and(nobody_left);
        let owner = route.members.first();
        if known && owner.is_some_and(|owner| !self.is_gone(*owner)) {
            self.routes.put(route);
            return true;
        }
        let owner = self.replicas.get(&p).and_then(|it| it.owner.as_ref());
        let serves = owner.is_some_and(|owner| owner.serving);
        !(serves && nobody_left(&route)) && self.routes.learn(route)
    }

    /// Everybody may have been told of another branch that was ahead, and of which nobody is left: whoever serves
    /// this one tells of it again.
    pub(super) fn claim(&mut self, p: PartitionId, config: &Configuration) {
        let known = self.routes.get(p).is_some_and(|it| it.id == config.id);
        if !known && self.take_route(Route::of(p, config)) {
            self.routes.fresh.insert(p);
        }
    }

    // An owner that hears of another configuration, from anybody, tells that one's owner of its own: the
    // answer says which of the two follows, or that they are rivals.
    fn is_it_a_rival(&mut self, route: &Route) {
        let p = route.partition;
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let (Some(chain), Some(owner)) = (&replica.chain, &replica.owner) else {
            return;
        };
        let config = &chain.config;
        let stale = config.id == route.id || config.ends(route.id);
        if stale || !owner.serving {
            return;
        }
        if let Some(other) = route.members.first().copied() {
            let body = Body::Install(Box::new(config.clone()));
            let id = config.id;
            self.tell(other, p, id, body, None);
        }
    }

    // Others may have told of another owner before this node was one, and say nothing any more once all
    // tables are the same.
    fn look_for_rival(&mut self, p: PartitionId) {
        if let Some(route) = self.routes.get(p).cloned() {
            self.is_it_a_rival(&route);
        }
    }

    /// What was said to these owners may have come to nothing.
    pub(super) fn look_for_rivals(&mut self, owned_by: impl Fn(NodeId) -> bool) {
        let said = self.replicas.keys().copied();
        let said = said.filter(|p| self.routes.owner(*p).is_some_and(&owned_by));
        for p in said.collect::<Vec<PartitionId>>() {
            self.look_for_rival(p);
        }
    }

    /// Asks somebody for the routes that are others there.
    pub(super) fn greet_with_routes(&mut self, peer: NodeId) {
        let digests = self
            .groups()
            .into_iter()
            .map(|group| (group, self.routes.digest(group)));
        let digests = digests.collect();
        self.send(peer, Message::RoutesDigest(digests));
    }

    /// The asker gets the routes of all groups of which it knows others.
    pub(super) fn hear_routes_digest(&mut self, from: NodeId, digests: &[(u16, u64)]) {
        let mut routes = Vec::new();
        for group in self.groups() {
            let told = digests.iter().find(|(of, _)| *of == group);
            if told.is_some_and(|(_, digest)| self.routes.digest(group) != *digest) {
                routes.extend(self.routes.of_group(group).cloned());
            }
        }
        self.send_routes(from, &routes);
    }

    /// One of them, by chance.
    pub(super) fn any_of(&mut self, nodes: &[NodeId]) -> Option<NodeId> {
        let index = (!nodes.is_empty()).then(|| self.rng.random_range(0..nodes.len()))?;
        nodes.get(index).copied()
    }

    /// Compares with somebody: whoever was told nothing, though no stream broke, learns it so.
    pub(super) fn compare_routes(&mut self) {
        let peers = self.reachable();
        if let Some(peer) = self.any_of(&peers) {
            self.greet_with_clock(peer);
            self.greet_with_routes(peer);
        }
        self.look_for_rivals(|_owner| true);
        let at = self.now.time + self.config.timing.routes;
        self.timers.set(Timer::Routes, at);
    }
}

// Whether too few of its members know of a configuration that was chosen here.
fn is_untold(replica: &Replica, config: &Configuration) -> bool {
    let unaware = config.members.iter();
    let unaware = unaware.filter(|member| replica.telling.contains(member));
    unaware.count() > config.members.len() - config.majority()
}
