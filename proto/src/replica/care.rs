//! What operators are told: copies missing and complete again, partitions that are blocked or lost.
//!
//! Looked at a second after something changed, and every second while something is amiss; a
//! cluster that rests is not looked at. What is over within [`PATIENCE`] is not told at all: every
//! take-over and every hand-over passes such states.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    chain::Configuration,
    host::{Standing, View},
    owner::millis,
    shard::{Shard, Timer},
};
use crate::{
    event::Event,
    id::{NodeId, PartitionId},
    time::Time,
};

/// Looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// What lasts less long is no news.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is amiss, as far as this node knows.
#[derive(Debug, Default)]
pub(super) struct Care {
    /// Partitions owned here that lack copies: since when the first of them did.
    degraded: Option<(Time, BTreeSet<PartitionId>)>,
    blocked: Watch,
    lost: Watch,
}

/// Partitions in a state that should not last: since when, and whether that was told.
#[derive(Debug, Default)]
struct Watch(BTreeMap<PartitionId, (Time, bool)>);

impl Watch {
    /// Those that are in that state now; returned are the ones to be told of.
    fn look(&mut self, now: Time, present: BTreeSet<PartitionId>) -> Vec<PartitionId> {
        self.0.retain(|partition, _| present.contains(partition));
        let mut news = Vec::new();
        for partition in present {
            let (since, told) = self.0.entry(partition).or_insert((now, false));
            if !*told && now >= *since + PATIENCE {
                *told = true;
                news.push(partition);
            }
        }
        news
    }
}

impl Care {
    /// Partitions of which people were told that they are blocked, and that still are.
    pub(super) fn blocked_for_long(&self) -> impl Iterator<Item = PartitionId> {
        let told = self.blocked.0.iter().filter(|(_, (_, told))| *told);
        told.map(|(partition, _)| *partition)
    }

    /// A next configuration was installed: if that is blocked, it is from now on.
    pub(super) fn goes_on(&mut self, p: PartitionId) {
        self.blocked.0.remove(&p);
    }
}

impl Shard {
    /// Something has changed: what is amiss may be something else now.
    pub(super) fn care_soon(&mut self) {
        self.timers.set_by(Timer::Care, self.now.time + LOOK);
    }

    pub(super) fn take_care(&mut self) {
        let Some(view) = self.view.clone() else {
            return;
        };
        self.copies_missing(&view);
        self.what_is_blocked();
        self.what_is_lost(&view);
        let clock = self.look_at_own_clock();
        let care = &self.care;
        let amiss = clock
            || care.degraded.is_some()
            || !care.blocked.0.is_empty()
            || !care.lost.0.is_empty();
        if amiss {
            self.care_soon();
        }
    }

    fn copies_missing(&mut self, view: &View) {
        let now = self.now.time;
        let mut lacking = BTreeSet::new();
        let mut owned = BTreeSet::new();
        for (p, replica) in &self.replicas {
            let (Some(chain), Some(owner)) = (&replica.chain, &replica.owner) else {
                continue;
            };
            owned.insert(*p);
            // As many as placement has room for: fewer nodes than copies are no fault.
            let wanted = view.target.members(*p).len();
            let have = chain
                .config
                .members
                .iter()
                .filter(|member| owner.equal.contains(member) && !self.is_gone(**member));
            if have.count() < wanted {
                lacking.insert(*p);
            }
        }
        if lacking.is_empty() {
            if let Some((since, partitions)) = self.care.degraded.take() {
                let partitions = partitions.intersection(&owned).count();
                let took = now.saturating_since(since);
                if partitions > 0 && took >= LOOK {
                    self.event(Event::RedundancyRestored {
                        partitions,
                        took_ms: millis(took),
                    });
                }
            }
        } else {
            let (_, partitions) = self
                .care
                .degraded
                .get_or_insert_with(|| (now, BTreeSet::new()));
            partitions.extend(lacking);
        }
    }

    /// Partitions that this node has to decide about or owns, and that do not answer now.
    pub(super) fn stuck(&self) -> BTreeSet<PartitionId> {
        let mut stuck = BTreeSet::new();
        for (p, replica) in &self.replicas {
            let Some(chain) = &replica.chain else {
                continue;
            };
            let serving = replica.owner.as_ref().is_some_and(|owner| owner.serving);
            let undecided = chain.config.has(self.own)
                && (chain.is_fenced() || chain.learner || chain.config.owner() == self.own);
            let alone = serving && self.is_strict() && !self.majority_lives(&chain.config);
            if alone || (undecided && !serving) {
                stuck.insert(*p);
            }
        }
        stuck
    }

    fn what_is_blocked(&mut self) {
        let stuck = self.stuck();
        let news = self.care.blocked.look(self.now.time, stuck);
        for (why, partitions) in self.by_reason(&news, |shard, p| shard.what_blocks(p)) {
            self.event(Event::PartitionBlocked { partitions, why });
        }
    }

    fn what_is_lost(&mut self, view: &View) {
        let mut lost = BTreeSet::new();
        for (p, route) in self.routes.all() {
            let kept_here = self.is_member(*p);
            // Who stopped to come back, or left, is not lost; whoever left handed over before.
            let gone = |member: &NodeId| matches!(view.standing(*member), Some(Standing::Failed));
            if !kept_here && route.members.iter().all(gone) {
                lost.insert(*p);
            }
        }
        let news = self.care.lost.look(self.now.time, lost);
        for (why, partitions) in self.by_reason(&news, |shard, p| shard.who_had(p)) {
            self.event(Event::PartitionLost { partitions, why });
        }
    }

    // One line for many partitions with the same reason.
    fn by_reason(
        &self,
        partitions: &[PartitionId],
        why: impl Fn(&Self, PartitionId) -> String,
    ) -> BTreeMap<String, Vec<PartitionId>> {
        let mut reasons: BTreeMap<String, Vec<PartitionId>> = BTreeMap::new();
        for p in partitions {
            reasons.entry(why(self, *p)).or_default().push(*p);
        }
        reasons
    }

    fn who_had(&self, p: PartitionId) -> String {
        let members = self.routes.get(p).map(|route| route.members.clone());
        let names = self.names(&members.unwrap_or_default());
        format!(
            "every node that had a copy is gone: {names}; start one of them again, with its data directory"
        )
    }

    fn what_blocks(&self, p: PartitionId) -> String {
        let Some(config) = self.chain(p).map(|chain| &chain.config) else {
            return String::new();
        };
        let (state, reason) = self.state(p);
        if !self.is_strict() || config.closed_into.is_some() {
            return reason;
        }
        let reason = if state == "owner" {
            let gone = config
                .members
                .iter()
                .filter(|member| self.is_gone(**member));
            let gone: Vec<String> = gone
                .map(|member| format!("{} is gone", self.name(*member)))
                .collect();
            gone.join(", ")
        } else {
            reason
        };
        format!("{reason}; {}", self.what_would_mend(config))
    }

    /// What would bring a strict partition back.
    fn what_would_mend(&self, config: &Configuration) -> String {
        format!(
            "{} of {} have to be up and whole; if that cannot be, `kith recover` goes on with those that are here",
            config.majority(),
            self.names(&config.members)
        )
    }

    fn names(&self, nodes: &[NodeId]) -> String {
        let names: Vec<String> = nodes.iter().map(|node| self.name(*node)).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once_and_again_after_it_was_over() {
        let mut watch = Watch::default();
        let at = Time::from_millis;
        let here = || BTreeSet::from([3]);
        assert!(watch.look(at(0), here()).is_empty(), "it may be over soon");
        assert!(watch.look(at(4000), here()).is_empty());
        assert_eq!(watch.look(at(5000), here()), [3]);
        assert!(watch.look(at(6000), here()).is_empty(), "it was told");
        assert!(watch.look(at(7000), BTreeSet::new()).is_empty());
        assert!(watch.look(at(8000), here()).is_empty());
        assert_eq!(watch.look(at(13_000), here()), [3]);
    }
}
