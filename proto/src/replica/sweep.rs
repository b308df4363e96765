//! What is deleted or expired goes, in the end, without ever coming back.
//!
//! A shard walks through its store now and then, a page at a time:
//!
//! - a value whose time is over loses its bytes at once, at each replica by itself: its version, and
//!   so its digest, stays;
//! - a tombstone (or what was left of an expired value) goes a grace time after all members were
//!   known to have it. The owner says so for a few buckets at a time, and all drop the same.
//!
//! ```text
//!   O ->[Purge{before, buckets}] members      what died before, in these buckets
//! ```
//!
//! A deletion that is forgotten too early lets an older value come back, from a replica that had
//! not heard of it. So the grace begins when every member has confirmed that it is equal, nothing is
//! dropped while any node is away that may come back, or somebody may be there whom this branch went on
//! without, and a former member that was last known to be equal longer ago than the grace begins anew
//! when it is filled (rule A5). A member is never emptied: while one is not equal nothing is dropped.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    chain::ConfigId,
    clocks::MOST_AHEAD,
    host::{Peer, Standing},
    message::{Attempt, Body},
    omit::Omit,
    owner::millis,
    shard::{Shard, Timer},
};
use crate::{
    core::mesh::MESH_LIMIT,
    id::{NodeId, PartitionId},
    kv::{entry::Entry, version::Wall},
    store::partitions::{Batch, Place},
    time::Time,
};

/// Entries looked at before others have their turn.
const PAGE: usize = 512;
/// The same in bytes.
const PAGE_BYTES: usize = 1 << 20;
/// That a copy is equal is noted so many times in a grace time.
const STEPS: u32 = 24;
/// From one page to the next.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the walk is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    partitions: VecDeque<PartitionId>,
    /// The last place looked at, of the first of these.
    after: Option<Place>,
    /// What that one may drop: everything that died before.
    before: Option<Wall>,
    /// When this node last came to know somebody, who may have been left behind by a branch.
    met: Option<Time>,
}

/// Moments at which every member was equal: by the monotonic clock, and by the wall's.
#[derive(Debug, Default)]
pub(super) struct Complete {
    moments: VecDeque<(Time, Wall)>,
    /// The moment that is being looked at, and the members that have yet to confirm that they are equal. That
    /// they were once, and were sent everything since, is not enough: it may be under way.
    asked: Option<(Time, Wall, BTreeSet<NodeId>)>,
}

impl Complete {
    /// All members were equal then.
    fn note(&mut self, now: Time, wall: Wall) {
        self.moments.push_back((now, wall));
    }

    /// What died before that moment has been everywhere for the grace time.
    fn before(&mut self, now: Time, grace: Duration) -> Option<Wall> {
        let mut before = None;
        while let Some((at, wall)) = self.moments.front().copied()
            && at + grace <= now
        {
            before = Some(wall);
            if self.moments.len() == 1
                || self
                    .moments
                    .get(1)
                    .is_some_and(|(next, _)| *next + grace > now)
            {
                break;
            }
            self.moments.pop_front();
        }
        before
    }

    /// A member was found equal by a comparison of that time. The moment, if it was the last one.
    fn confirm(&mut self, member: NodeId, compared: Time) -> Option<(Time, Wall)> {
        let (at, wall, members) = self.asked.as_mut().filter(|(at, _, _)| compared >= *at)?;
        members.remove(&member);
        let moment = members.is_empty().then_some((*at, *wall));
        if moment.is_some() {
            self.asked = None;
        }
        moment
    }

    /// Something has come in that not all had.
    pub(super) fn forget(&mut self) {
        self.moments.clear();
        self.asked = None;
    }
}

/// Since when a key has no value, if it has none: the same at every replica that has the version.
fn dead_since(entry: &Entry, now: Wall) -> Option<Wall> {
    if entry.live(now).is_some() {
        return None;
    }
    let written = entry.version.hlc.wall();
    Some(entry.expires.map_or(written, |at| at.max(written)))
}

impl Shard {
    /// Sets the first walk.
    pub(super) fn sweep_begins(&mut self) {
        let at = self.now.time + self.config.timing.sweep;
        self.timers.set(Timer::Sweep, at);
    }

    /// Looks at the next page, or begins a new walk.
    pub(super) fn sweep(&mut self) {
        if self.sweep.partitions.is_empty() {
            self.sweep.partitions = self.replicas.keys().copied().collect();
            self.turn_to_partition();
        }
        let Some(p) = self.sweep.partitions.front().copied() else {
            return self.sweep_begins();
        };
        let after = self.sweep.after.clone();
        let page = match self.store.page(p, after.as_ref(), PAGE, PAGE_BYTES) {
            Ok(page) => page,
            Err(error) => return self.broke(&error),
        };
        match page.last() {
            Some((place, _)) => self.sweep.after = Some(place.clone()),
            None => {
                self.sweep.partitions.pop_front();
                if self.sweep.partitions.is_empty() {
                    return self.sweep_begins();
                }
                self.turn_to_partition();
            }
        }
        self.slim(p, &page);
        if let Some(before) = self.sweep.before {
            let wall = self.wall();
            let dead = page
                .iter()
                .filter(|(_, entry)| dead_since(entry, wall).is_some_and(|since| since <= before));
            let buckets: BTreeSet<u16> = dead.map(|(place, _)| place.bucket).collect();
            self.purge_everywhere(p, before, buckets.into_iter().collect());
        }
        // Partitions that hold nothing cost no pause.
        let pause = if page.is_empty() {
            Duration::ZERO
        } else {
            PAUSE
        };
        self.timers.set(Timer::Sweep, self.now.time + pause);
    }

    // What may be dropped of the partition whose turn it is, if it is owned here.
    fn turn_to_partition(&mut self) {
        self.sweep.after = None;
        self.sweep.before = None;
        let Some(p) = self.sweep.partitions.front().copied() else {
            return;
        };
        if self.replicas.get(&p).is_some_and(|r| r.owner.is_some()) {
            self.note_equal(p);
        }
        if !self.is_complete(p) {
            return;
        }
        self.ask_whether_equal(p);
        let now = self.now.time;
        let grace = self.config.timing.tombstone_grace;
        if let Some(owner) = self.replicas.get_mut(&p).and_then(|r| r.owner.as_mut()) {
            self.sweep.before = owner.complete.before(now, grace);
        }
    }

    // Once all members confirm that they have what is here now, the grace of what is deleted by now begins.
    fn ask_whether_equal(&mut self, p: PartitionId) {
        let (now, wall, own) = (self.now.time, self.now.wall, self.own);
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        let others: BTreeSet<NodeId> = config.members.into_iter().filter(|it| *it != own).collect();
        let believes = self.omits(Omit::TombstoneGrace);
        let Some(owner) = &mut self.replica(p).owner else {
            return;
        };
        if others.is_empty() || believes {
            return owner.complete.note(now, wall);
        }
        owner.complete.asked = Some((now, wall, others.clone()));
        for member in others {
            self.compare_with(p, member, config.id, Attempt::Repair(config.id.epoch));
        }
    }

    /// A member was found equal by a comparison that began then.
    pub(super) fn confirmed_equal(&mut self, p: PartitionId, member: NodeId, compared: Time) {
        let complete = self.is_complete(p);
        let owner = self.replicas.get_mut(&p).and_then(|r| r.owner.as_mut());
        if let Some(owner) = owner
            && let Some((at, wall)) = owner.complete.confirm(member, compared)
            && complete
        {
            owner.complete.note(at, wall);
        }
    }

    // Whether every member has everything, nothing is being changed, and nobody is away who may have an
    // older copy and come back.
    fn is_complete(&self, p: PartitionId) -> bool {
        let (Some(replica), Some(view)) = (self.replicas.get(&p), self.view()) else {
            return false;
        };
        let (Some(chain), Some(owner)) = (&replica.chain, &replica.owner) else {
            return false;
        };
        let all = |members: &BTreeSet<NodeId>| {
            let mut each = chain.config.members.iter();
            each.all(|member| members.contains(member))
        };
        let away = view
            .peers
            .values()
            .any(|peer| matches!(peer.standing, Standing::Failed | Standing::Returning));
        let settled = owner.serving
            && owner.change.is_none()
            && !chain.is_fenced()
            && chain.config.unmerged.is_none();
        if self.omits(Omit::TombstoneGrace) {
            return settled;
        }
        let known = replica.rival.is_none() && !self.may_have_left_some(p);
        settled && !away && known && all(&owner.equal) && all(&owner.installed)
    }

    // Whether somebody may be there who stayed in a configuration that this branch went on without: what it
    // has is joined one day, and may be older than what is deleted here.
    fn may_have_left_some(&self, p: PartitionId) -> bool {
        let (Some(replica), Some(view)) = (self.replicas.get(&p), self.view()) else {
            return false;
        };
        let config = replica.chain.as_ref().map(|chain| &chain.config);
        if config.is_none_or(|config| config.ancestors.iter().all(|last| last.over)) {
            return false;
        }
        let asks = self.config.timing.forget;
        let lately = |at: Option<Time>| at.is_some_and(|at| self.now.time < at + asks * 2);
        // In a larger cluster having no stream says nothing.
        let takes_part =
            |peer: &&Peer| matches!(peer.standing, Standing::Living | Standing::Leaving);
        let small = view.peers.values().filter(takes_part).count() <= MESH_LIMIT;
        let cut_off = |peer: &Peer| peer.stream.is_none() && peer.standing != Standing::Gone;
        let unheard = small && view.peers.values().any(cut_off);
        unheard || lately(self.sweep.met) || lately(replica.left_behind)
    }

    /// Somebody can be heard who could not before.
    pub(super) fn met_somebody(&mut self) {
        self.sweep.met = Some(self.now.time);
    }

    // An expired value's bytes are of no use to anybody. The clocks of others may be behind.
    fn slim(&mut self, p: PartitionId, page: &[(Place, Entry)]) {
        let wall = self.wall();
        let over = Wall(wall.0.saturating_sub(millis(MOST_AHEAD)));
        let mut batch = Batch::default();
        for (place, entry) in page {
            if entry.value.is_none() || !entry.is_expired(over) {
                continue;
            }
            let slim = Entry {
                value: None,
                ..entry.clone()
            };
            let (bucket, key, version) = (place.bucket, &place.key, &entry.version);
            let digests = &mut self.replica(p).digests;
            digests.remove(bucket, key, version, entry.size(key));
            digests.add(bucket, key, version, slim.size(key));
            batch.entries.push((place.clone(), Some(slim)));
        }
        if !batch.is_empty() {
            *self.counters.entry("expired").or_default() += batch.entries.len() as u64;
            self.write_batch(batch);
        }
    }

    fn purge_everywhere(&mut self, p: PartitionId, before: Wall, buckets: Vec<u16>) {
        if buckets.is_empty() || !self.is_complete(p) {
            return;
        }
        let Some(config) = self.chain(p).map(|chain| chain.config.clone()) else {
            return;
        };
        // Writes that are under way arrive first, as they did here.
        self.send_writes();
        if let Some(owner) = &mut self.replica(p).owner {
            owner.purged = Some(before);
        }
        for member in config.members {
            let body = Body::Purge {
                before,
                buckets: buckets.clone(),
            };
            self.tell(member, p, config.id, body, None);
        }
        self.purge(p, before, &buckets);
    }

    /// A member whose copy differs may have missed what was said: it hears it again, before what it
    /// has is compared key by key.
    pub(super) fn purge_again(&mut self, p: PartitionId, member: NodeId, buckets: &[u16]) {
        let Some(replica) = self.replicas.get(&p) else {
            return;
        };
        let purged = replica.owner.as_ref().and_then(|owner| owner.purged);
        if let (Some(before), Some(chain)) = (purged, &replica.chain) {
            let body = Body::Purge {
                before,
                buckets: buckets.to_vec(),
            };
            self.tell(member, p, chain.config.id, body, None);
        }
    }

    /// The owner says that what died before is known to all.
    pub(super) fn hear_purge(
        &mut self,
        from: NodeId,
        p: PartitionId,
        id: ConfigId,
        before: Wall,
        buckets: &[u16],
    ) {
        let takes = self.chain(p).is_some_and(|chain| {
            chain.matches(id).is_ok() && chain.config.owner() == from && !chain.is_fenced()
        });
        // Whoever does not is found to be unequal, and gets its copy repaired.
        if takes {
            self.purge(p, before, buckets);
        }
    }

    fn purge(&mut self, p: PartitionId, before: Wall, buckets: &[u16]) {
        let mut batch = Batch::default();
        for bucket in buckets {
            let page = match self.store.bucket(p, *bucket) {
                Ok(page) => page,
                Err(error) => return self.broke(&error),
            };
            for (place, entry) in page {
                // At that moment, not now: all decide alike.
                if dead_since(&entry, before).is_none_or(|since| since > before) {
                    continue;
                }
                let size = entry.size(&place.key);
                let digests = &mut self.replica(p).digests;
                digests.remove(place.bucket, &place.key, &entry.version, size);
                batch.entries.push((place, None));
            }
        }
        if !batch.is_empty() {
            *self.counters.entry("purged").or_default() += batch.entries.len() as u64;
            self.write_batch(batch);
        }
    }

    /// This copy is equal to the owner's now, or is the owner's. Kept durably, but not each time: see
    /// [`Self::is_stale`].
    pub(super) fn note_equal(&mut self, p: PartitionId) {
        let wall = self.wall();
        let own = self.own;
        let member = self.chain(p).filter(|chain| chain.config.has(own));
        if member.is_some_and(|chain| self.is_noted_anew(chain.equal_at))
            && let Some(chain) = &mut self.replica(p).chain
        {
            chain.equal_at = wall;
            self.keep_record(p);
        }
    }

    /// Whether so much time has passed since a copy was known to be equal that it is noted anew.
    pub(super) fn is_noted_anew(&self, at: Wall) -> bool {
        let step = millis(self.config.timing.tombstone_grace / STEPS);
        self.wall().0 >= at.0.saturating_add(step)
    }

    // When what is here was last known to be equal, as a member or a newcomer.
    fn equal_at(&self, p: PartitionId) -> Option<Wall> {
        let replica = self.replicas.get(&p)?;
        let chain = replica.chain.as_ref().map(|chain| chain.equal_at);
        chain.max(replica.held.map(|held| held.at))
    }

    /// Rule A5: what a former member has is so old that deletions may have been forgotten since. A
    /// margin is left for clocks, and for the steps in which equality is noted.
    pub fn is_stale(&self, p: PartitionId) -> bool {
        let grace = self.config.timing.tombstone_grace;
        let margin = MOST_AHEAD.min(grace / STEPS) + grace / STEPS;
        let age = |at: Wall| self.wall().0.saturating_sub(at.0);
        !self.omits(Omit::StaleRebuilds)
            && self
                .equal_at(p)
                .is_some_and(|at| age(at) >= millis(grace - margin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::version::{Hlc, Version};
    use bytes::Bytes;

    #[test]
    fn the_grace_begins_when_all_were_equal() {
        let mut complete = Complete::default();
        let at = Time::from_millis;
        let grace = Duration::from_millis(100);
        complete.note(at(10), Wall(1010));
        complete.note(at(50), Wall(1050));
        assert_eq!(complete.before(at(100), grace), None);
        assert_eq!(complete.before(at(110), grace), Some(Wall(1010)));
        assert_eq!(complete.before(at(149), grace), Some(Wall(1010)));
        assert_eq!(complete.before(at(151), grace), Some(Wall(1050)));
        complete.forget();
        assert_eq!(complete.before(at(999), grace), None);
    }

    #[test]
    fn the_dead_are_those_without_a_value() {
        let version = Version {
            hlc: Hlc::at(Wall(100)),
            ..Version::default()
        };
        let tombstone = Entry::tombstone(version);
        assert_eq!(dead_since(&tombstone, Wall(200)), Some(Wall(100)));
        let lives = Entry {
            version,
            value: Some(Bytes::from("v")),
            expires: Some(Wall(500)),
        };
        assert_eq!(dead_since(&lives, Wall(200)), None);
        assert_eq!(dead_since(&lives, Wall(600)), Some(Wall(500)));
        let slim = Entry {
            value: None,
            ..lives
        };
        assert_eq!(dead_since(&slim, Wall(600)), Some(Wall(500)), "the same");
    }
}
