//! After the faults, within a bound, all living nodes see the same, and what is true.
//!
//! The bound is 30 s for every scenario and every fault, splits of a day included: whoever was cut
//! off is looked for by both sides every 20 s and a fifth at the most (`redial_max`), and one
//! contact is enough. Who merely missed news while a way was gone for a moment hears of it when
//! it comes across the dead by probing, or compares what it knows with somebody. The latter alone
//! could take longer ([`super::longest_comparison`]: 61 s for fifty nodes), but nobody has been seen
//! to wait for it: in 2,000 random seeds all were together after 21.6 s.
//!
//! The aim of Rapid (Suresh et al. 2018), and what every user expects: each living node sees
//! each living node alive, in its present life, and nobody else living. At the end of the run all
//! agree on everything else, too: on who left and who failed, and on every record, as their
//! digests say, so that push/pull has nothing to do any more.

use std::time::Duration;

use kith_proto::{id::NodeId, members::table::Status};

use super::{Check, Finding, Scene, millis};
use crate::{host::HostId, report::Report, world::World};

/// See the module's text.
#[derive(Default)]
pub struct Convergence {
    view: Together,
    converged: Option<Duration>,
}

impl Check for Convergence {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn look(&mut self, scene: &Scene<'_>) -> Finding {
        let Some(calm) = scene.calm else {
            return Ok(());
        };
        if self.converged.is_some() {
            return Ok(());
        }
        let after = scene.now().saturating_since(calm);
        match self.view.problem(scene.world) {
            None => self.converged = Some(after),
            Some(problem) if after > scene.limits.convergence => {
                return Err(format!("{after:.1?} after the last fault {problem}"));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Finding {
        if let Some(problem) = Together::default().problem(scene.world) {
            return Err(format!("at the end {problem}"));
        }
        same_digests(scene.world)
    }

    fn report(&self, report: &mut Report) {
        report.converged_ms = self.converged.map(millis);
    }
}

/// Looks whether all living nodes are together. It remembers where it found a problem last and
/// looks there first, so that looking often is cheap.
#[derive(Default)]
pub struct Together {
    problem_at: Option<(HostId, HostId)>,
    /// Nobody is excused.
    strict: bool,
}

impl Together {
    /// Excuses nobody, not even who finds nobody to join: a cluster that is to come together.
    pub fn strict() -> Self {
        Self {
            strict: true,
            ..Self::default()
        }
    }

    /// What keeps nodes from being together, if anything does.
    pub fn problem(&mut self, world: &World) -> Option<String> {
        let strict = self.strict;
        let excused = |host: HostId| !strict && is_excused(world, host);
        if let Some((observer, other)) = self.problem_at
            && !excused(observer)
            && !excused(other)
            && let Some(problem) = pair(world, observer, other)
        {
            return Some(problem);
        }
        self.problem_at = None;
        let members: Vec<HostId> = world.truth.running_hosts().collect();
        for observer in &members {
            let Some(core) = world.core(*observer) else {
                continue;
            };
            if excused(*observer) {
                continue;
            }
            if core.phase_name() != "active" {
                return Some(format!("n{observer} is still {}", core.phase_name()));
            }
            let mut expected = 0;
            for other in &members {
                if excused(*other) {
                    continue;
                }
                expected += 1;
                if let Some(problem) = pair(world, *observer, *other) {
                    self.problem_at = Some((*observer, *other));
                    return Some(problem);
                }
            }
            if core.living() != expected {
                return Some(too_many(world, *observer, expected));
            }
        }
        None
    }
}

// What is wrong with how one sees the other.
fn pair(world: &World, observer: HostId, other: HostId) -> Option<String> {
    let (core, life) = (world.core(observer)?, world.truth.current(other)?);
    let theirs = world.core(other)?;
    let own = theirs.table().get(life.id)?.identity;
    let Some(entry) = core.table().get(life.id) else {
        return Some(format!("n{observer} does not know n{other}"));
    };
    let living = entry.announced && entry.swim.is_some() && entry.status() == Status::Alive;
    if observer != other && !living {
        let status = entry.status();
        return Some(format!(
            "n{observer} sees n{other}, which lives, as {status:?}"
        ));
    }
    if entry.identity.rank() != own.rank() {
        return Some(format!(
            "n{observer} knows n{other} as {:?}, which is {own:?}",
            entry.identity
        ));
    }
    None
}

fn too_many(world: &World, observer: HostId, expected: usize) -> String {
    let Some(core) = world.core(observer) else {
        return format!("n{observer} is gone");
    };
    let strangers: Vec<String> = core
        .table()
        .living_others()
        .filter(|entry| world.truth.running(entry.identity.id).is_none())
        .map(|entry| format!("{} ({:?})", entry.name(), entry.status()))
        .collect();
    format!(
        "n{observer} sees {} living members where there are {expected}; not living: {}",
        core.living(),
        strangers.join(", ")
    )
}

/// It cannot be a member, or not of the cluster of the others: nobody lives at any address that it
/// knows, and nobody looks for it. That is so for one that joins too late, and for one that only
/// knew a member which was gone before it could tell the others.
pub(super) fn is_excused(world: &World, host: HostId) -> bool {
    let Some(core) = world.core(host) else {
        return true;
    };
    let alone = match core.phase_name() {
        "joining" => true,
        "active" => core.living() == 1 && !is_known(world, host),
        _ => false,
    };
    alone && world.is_lost(host)
}

fn is_known(world: &World, host: HostId) -> bool {
    let mut others = world.truth.running_hosts().filter(|other| *other != host);
    others.any(|other| {
        let core = world.core(other);
        core.is_some_and(|core| core.table().get(world.id(host)).is_some())
    })
}

// Everything known is the same everywhere.
fn same_digests(world: &World) -> Finding {
    let mut first: Option<(HostId, u64)> = None;
    for host in world.truth.running_hosts() {
        let Some(core) = world.core(host) else {
            continue;
        };
        if is_excused(world, host) {
            continue;
        }
        let digest = core.table().digest();
        match first {
            None => first = Some((host, digest)),
            Some((_, same)) if same == digest => {}
            Some((other, _)) => return Err(difference(world, other, host)),
        }
    }
    Ok(())
}

fn difference(world: &World, a: HostId, b: HostId) -> String {
    let (Some(one), Some(other)) = (world.core(a), world.core(b)) else {
        return "a node is gone".to_owned();
    };
    let describe = |host: HostId, id: NodeId| {
        world
            .core(host)
            .and_then(|core| core.table().get(id))
            .map_or_else(
                || "nothing".to_owned(),
                |entry| {
                    format!(
                        "{:?}, {:?}, record {:?}",
                        entry.identity,
                        entry.swim,
                        entry.record.as_ref().map(|record| record.rank())
                    )
                },
            )
    };
    let (theirs, wanted) = one.table().differences(&other.table().summary());
    let ids: Vec<NodeId> = theirs
        .iter()
        .map(|entry| entry.identity.id)
        .chain(wanted)
        .collect();
    let Some(id) = ids.first() else {
        return format!("n{a} and n{b} have different digests of the same table");
    };
    format!(
        "n{a} and n{b} do not know the same of {}: n{a} {}; n{b} {}",
        one.table().name_of(*id),
        describe(a, *id),
        describe(b, *id)
    )
}
