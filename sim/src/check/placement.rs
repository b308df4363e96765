//! Equal views place alike, as `proto/src/placement.rs` promises.
//!
//! Once all is calm, every node proposes the same assignment: the one that follows from who
//! really lives. In it each partition has as many different nodes as there are copies (or
//! nodes), no two in one zone where there are enough zones, and each node has its fair share
//! within 5 % or one partition, as far as that can be told simply: with equal weights and
//! without zones. Where one node came or went between two calm moments, little more moved
//! than had to.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kith_proto::{
    id::NodeId,
    placement::{Assignment, Peer, assign, diff},
    time::Time,
};

use super::{Check, Finding, Scene, convergence::is_excused};
use crate::{host::HostId, report::Report};

/// Assignments are computed a moment after the last change.
const SETTLED: Duration = Duration::from_secs(1);

/// What was proposed when all had come together.
struct Before {
    peers: Vec<Peer>,
    assignment: Assignment,
}

/// See the module's text.
#[derive(Default)]
pub struct Placement {
    before: Option<Before>,
    look_at: Option<Time>,
    moved: Option<(usize, usize)>,
}

impl Check for Placement {
    fn name(&self) -> &'static str {
        "placement"
    }

    fn look(&mut self, scene: &Scene<'_>) -> Finding {
        let Some(formed) = scene.formed else {
            return Ok(());
        };
        let at = *self.look_at.get_or_insert(formed + SETTLED);
        if self.before.is_none() && scene.now() >= at && scene.calm.is_none() {
            self.look_at = Some(Time::from_nanos(u64::MAX));
            if let Some((_, assignment)) = anybody(scene) {
                self.before = Some(Before {
                    peers: peers(scene),
                    assignment: assignment.clone(),
                });
            }
        }
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Finding {
        let Some((first, assignment)) = anybody(scene) else {
            return Ok(());
        };
        for host in scene.truth().running_hosts() {
            if is_member(scene, host)
                && let Some(core) = scene.world.core(host)
                && core.assignment() != assignment
            {
                let moved = diff(assignment, core.assignment()).changed.len();
                return Err(format!(
                    "n{first} and n{host} see the same members and place {moved} partitions otherwise"
                ));
            }
        }
        let peers = peers(scene);
        let copies = settings(scene, first).map_or(0, |settings| settings.1);
        let wanted = assign(&peers, assignment.partitions() as u16, copies);
        if *assignment != wanted {
            return Err(format!("n{first} does not place as follows from who lives"));
        }
        is_proper(assignment, &peers, usize::from(copies))?;
        self.moved_little(&peers, assignment, usize::from(copies))
    }

    fn report(&self, report: &mut Report) {
        report.copies_moved = self
            .moved
            .map(|(moved, least)| [moved as u64, least as u64]);
    }
}

impl Placement {
    fn moved_little(&mut self, after: &[Peer], assignment: &Assignment, copies: usize) -> Finding {
        let Some(before) = &self.before else {
            return Ok(());
        };
        if before.assignment.partitions() != assignment.partitions() {
            return Ok(());
        }
        let ids = |peers: &[Peer]| peers.iter().map(|p| p.id).collect::<BTreeSet<NodeId>>();
        let (old, new) = (ids(&before.peers), ids(after));
        let changed: Vec<NodeId> = old.symmetric_difference(&new).copied().collect();
        let others_alike = before
            .peers
            .iter()
            .filter(|peer| new.contains(&peer.id))
            .all(|peer| after.contains(peer));
        let [one] = changed[..] else {
            return Ok(());
        };
        if !others_alike || old.len().min(new.len()) < copies {
            return Ok(());
        }
        let holder = if old.contains(&one) {
            &before.assignment
        } else {
            assignment
        };
        let (owned, backups) = holder.counts(one);
        let (moved, least) = (
            diff(&before.assignment, assignment).copies_moved,
            owned + backups,
        );
        self.moved = Some((moved, least));
        if !is_plain(after) {
            return Ok(());
        }
        let Some(percent) = worst_case_percent(least) else {
            return Ok(());
        };
        let most = (least * percent).div_ceil(100) + 1;
        if moved > most {
            return Err(format!(
                "{moved} copies moved where one node with {least} came or went; {most} would be the \
                 worst that was ever measured"
            ));
        }
        Ok(())
    }
}

/// The worst measured for equal weights without zones, by copies of a node, in percent of
/// the least: what `proto/src/placement.rs` says of up to 100 nodes, with a tenth added. Nothing is
/// promised where a node has fewer copies: the luck of the draw may move a dozen times the least.
fn worst_case_percent(copies_per_node: usize) -> Option<usize> {
    match copies_per_node {
        0..=12 => None,
        13..=24 => Some(465),
        25..=49 => Some(363),
        50..=99 => Some(222),
        100..=149 => Some(151),
        150..=199 => Some(134),
        200..=399 => Some(123),
        _ => Some(114),
    }
}

fn is_plain(peers: &[Peer]) -> bool {
    peers.windows(2).all(|two| two[0].weight == two[1].weight)
        && peers.iter().all(|peer| peer.zone.is_empty())
}

fn is_proper(assignment: &Assignment, peers: &[Peer], copies: usize) -> Finding {
    let zone_of: BTreeMap<NodeId, &str> = peers
        .iter()
        .map(|peer| (peer.id, peer.zone.as_str()))
        .collect();
    let zones: BTreeSet<&str> = zone_of.values().copied().collect();
    let wanted = copies.min(peers.len());
    for (partition, members) in assignment.iter() {
        let distinct: BTreeSet<NodeId> = members.iter().copied().collect();
        if distinct.len() != wanted || members.len() != wanted {
            return Err(format!(
                "partition {partition} is on {members:?}: {wanted} different nodes are wanted"
            ));
        }
        let used: BTreeSet<&str> = members
            .iter()
            .filter_map(|id| zone_of.get(id).copied())
            .collect();
        if !zones.contains("") && zones.len() >= wanted && used.len() < wanted {
            return Err(format!(
                "partition {partition} has two copies in one zone: {members:?}"
            ));
        }
    }
    if is_plain(peers) && !peers.is_empty() {
        for (what, all, of) in [
            ("copies", assignment.partitions() * wanted, 0),
            ("owned partitions", assignment.partitions(), 1),
        ] {
            let fair = all as f64 / peers.len() as f64;
            let slack = (fair / 20.0).max(1.0) + 1e-3;
            for peer in peers {
                let (owned, backups) = assignment.counts(peer.id);
                let has = if of == 0 { owned + backups } else { owned } as f64;
                if (has - fair).abs() > slack {
                    return Err(format!("{} has {has} {what}; {fair:.1} are fair", peer.id));
                }
            }
        }
    }
    Ok(())
}

// Some member and its proposal.
fn anybody<'a>(scene: &'a Scene<'_>) -> Option<(HostId, &'a Assignment)> {
    scene.truth().running_hosts().find_map(|host| {
        let core = scene.world.core(host)?;
        is_member(scene, host).then(|| (host, core.assignment()))
    })
}

fn is_member(scene: &Scene<'_>, host: HostId) -> bool {
    let core = scene.world.core(host);
    core.is_some_and(|core| core.phase_name() == "active") && !is_excused(scene.world, host)
}

fn settings(scene: &Scene<'_>, host: HostId) -> Option<(u16, u8)> {
    let cluster = scene.world.core(host)?.cluster()?;
    Some((cluster.settings.partitions, cluster.settings.copies))
}

// Who really lives, as placement sees them.
fn peers(scene: &Scene<'_>) -> Vec<Peer> {
    let mut peers: Vec<Peer> = scene
        .truth()
        .running_hosts()
        .filter_map(|host| {
            let core = scene.world.core(host)?;
            let record = core.table().get(scene.world.id(host))?.record.clone()?;
            is_member(scene, host).then(|| Peer {
                id: record.id(),
                weight: record.weight,
                zone: record.zone,
            })
        })
        .collect();
    peers.sort_by_key(|peer| peer.id);
    peers
}
