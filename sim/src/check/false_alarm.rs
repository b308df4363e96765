//! The living are never accused: failures told of nodes that run undisturbed and can be
//! reached, against a budget.
//!
//! Lifeguard (Dadgar et al. 2017, section V) counts them twice, and so does this: all of them
//! (its FP), and those told by members that were themselves well (its FP⁻). The budget is for
//! all. Nodes that are paused, starved, cut off or whose clock was moved, and those that were so
//! a moment ago, may be accused; and those that have not joined yet, which answer nobody. What
//! members say that are leaving does not count: for the others they are gone, and get no answer.

use std::collections::BTreeSet;

use kith_proto::{event::Event, id::NodeId};

use super::{Check, Finding, GRACE, Scene};
use crate::{host::HostId, report::Report, world::Told};

/// See the module's text.
#[derive(Default)]
pub struct FalseAlarm {
    by_the_well: u64,
    by_the_troubled: u64,
    suspicions: u64,
    accused: BTreeSet<(NodeId, u64)>,
}

impl Check for FalseAlarm {
    fn name(&self) -> &'static str {
        "false_alarm"
    }

    fn told(&mut self, scene: &Scene<'_>, told: &Told) -> Finding {
        let (who, failed) = match &told.event {
            Event::MemberFailed { who, .. } => (who, true),
            Event::MemberSuspected { who, .. } => (who, false),
            _ => return Ok(()),
        };
        let id = who.member_id;
        let Some(generation) = scene.announced.generation(told.host, id) else {
            return Ok(());
        };
        let Some(accused) = blameless(scene, told.host, id, generation) else {
            return Ok(());
        };
        if !failed {
            self.suspicions += 1;
            return Ok(());
        }
        self.accused.insert((id, generation));
        if scene.is_well(told.host) {
            self.by_the_well += 1;
        } else {
            self.by_the_troubled += 1;
        }
        let all = self.by_the_well + self.by_the_troubled;
        if all > scene.limits.false_alarms {
            return Err(format!(
                "n{} says that n{accused} ({id}@{generation}) has failed, which runs undisturbed and \
                 can be reached; {} such alarms are allowed: {:?}",
                told.host, scene.limits.false_alarms, told.event
            ));
        }
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        report.false_alarms.all = self.by_the_well + self.by_the_troubled;
        report.false_alarms.by_the_well = self.by_the_well;
        report.false_alarms.accused = self.accused.len() as u64;
        report.false_alarms.suspicions = self.suspicions;
    }
}

/// The host of a life that nobody has a reason to accuse, least of all `observer`.
fn blameless(scene: &Scene<'_>, observer: HostId, id: NodeId, generation: u64) -> Option<HostId> {
    let life = scene.truth().life(id, generation)?;
    let is_member = scene
        .world
        .core(life.host)
        .is_some_and(|core| core.phase_name() == "active");
    let stays = scene
        .truth()
        .current(observer)
        .is_some_and(|life| life.leaving.is_none());
    let fine = is_member
        && stays
        && life.ended.is_none()
        && life.leaving.is_none()
        && scene.is_well(life.host)
        && scene
            .world
            .steady_since(scene.now() - GRACE, observer, life.host);
    fine.then_some(life.host)
}
