//! Who is gone is known to be gone, by everybody who can know it.
//!
//! SWIM calls it strong completeness (Das et al. 2002, section 2): every crash is detected by
//! every member that does not fail itself. Here with a bound: from the end of the life, or
//! from the moment since when the observer has run undisturbed in a network that nobody has
//! touched, whichever is later. It holds for every way in which a life can end. Who can reach
//! only a small part of those it knows is given more time: the few have to find the many one
//! after the other, and trust themselves little meanwhile. Who was disturbed or cut off when the
//! news of a failure spread may have to wait until it compares what it knows with somebody. Who
//! is far away from all others, on a slow link, is given no bound.
//!
//! Times are measured for those that were killed or lost power: from the end of the life to the
//! moment when a node tells its users of the failure.

use std::time::Duration;

use kith_proto::{event::Event, id::NodeId, time::Time};

use super::{Check, Finding, Scene, longest_comparison};
use crate::{
    host::HostId,
    report::{Latencies, Report},
    truth::{End, Occurrence},
    world::Told,
};

/// Tables are looked at this often.
const LOOK: Duration = Duration::from_millis(250);

/// A node probes one other in this time, when it trusts itself least: nine probe periods.
const SLOWEST_PROBE: Duration = Duration::from_secs(9);

/// A life that ended.
struct Gone {
    host: HostId,
    id: NodeId,
    generation: u64,
    at: Time,
    how: End,
    /// Hosts, with their own generation, that show it as living.
    waiting: Vec<(HostId, u64)>,
    /// How long each took to tell of it.
    told: Vec<Duration>,
}

/// See the module's text.
#[derive(Default)]
pub struct Detection {
    gone: Vec<Gone>,
    /// Of those before, all that was to be learnt is known.
    settled: usize,
    next: Time,
}

impl Check for Detection {
    fn name(&self) -> &'static str {
        "detection"
    }

    fn occurred(&mut self, scene: &Scene<'_>, what: &Occurrence) -> Finding {
        let Occurrence::Ended {
            host,
            id,
            generation,
            end,
        } = what
        else {
            return Ok(());
        };
        let waiting = scene
            .truth()
            .running_hosts()
            .filter(|observer| shows_as_living(scene, *observer, *id, *generation))
            .filter_map(|observer| Some((observer, scene.truth().current(observer)?.generation)))
            .collect();
        self.gone.push(Gone {
            host: *host,
            id: *id,
            generation: *generation,
            at: scene.now(),
            how: end.clone(),
            waiting,
            told: Vec::new(),
        });
        Ok(())
    }

    fn told(&mut self, scene: &Scene<'_>, told: &Told) -> Finding {
        let Event::MemberFailed { who, .. } = &told.event else {
            return Ok(());
        };
        let generation = scene.announced.generation(told.host, who.member_id);
        let gone = self.gone[self.settled..]
            .iter_mut()
            .find(|gone| gone.id == who.member_id && Some(gone.generation) == generation);
        if let Some(gone) = gone {
            let after = told.at.saturating_since(gone.at);
            let before = gone.waiting.len();
            gone.waiting.retain(|(host, _)| *host != told.host);
            if gone.waiting.len() < before {
                gone.told.push(after);
            }
        }
        Ok(())
    }

    fn look(&mut self, scene: &Scene<'_>) -> Finding {
        if scene.now() < self.next {
            return Ok(());
        }
        self.next = scene.now() + LOOK;
        let mut settled = self.settled;
        for index in self.settled..self.gone.len() {
            self.gone[index].look(scene)?;
            if index == settled && self.gone[index].waiting.is_empty() {
                settled += 1;
            }
        }
        self.settled = settled;
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        let mut latencies = Latencies::default();
        for gone in &self.gone {
            if matches!(gone.how, End::Killed | End::PoweredOff) && !gone.told.is_empty() {
                latencies.add(gone.told.clone());
            }
        }
        report.detection = latencies;
    }
}

impl Gone {
    fn look(&mut self, scene: &Scene<'_>) -> Finding {
        let (id, generation) = (self.id, self.generation);
        self.waiting.retain(|(observer, own)| {
            let same_life = scene
                .truth()
                .current(*observer)
                .is_some_and(|life| life.generation == *own);
            // Who leaves has other things to do.
            let stays = scene
                .world
                .core(*observer)
                .is_some_and(|core| core.phase_name() != "leaving");
            same_life && stays && shows_as_living(scene, *observer, id, generation)
        });
        let late = self.waiting.iter().find(|(observer, _)| {
            scene.truth().well_since(*observer).is_some_and(|well| {
                let since = self.at.max(well).max(scene.world.links_changed());
                scene.now() > since + scene.limits.detection
                    && !scene.world.is_far_away(*observer)
                    && scene.now()
                        > since + scene.limits.detection + excuse(scene, *observer, self.at, since)
            })
        });
        match late {
            Some((observer, _)) => Err(format!(
                "n{observer} still shows {}@{generation} of n{} as living, {:.1} s after its life \
                 ended ({:?})",
                self.id,
                self.host,
                scene.now().saturating_since(self.at).as_secs_f64(),
                self.how
            )),
            None => Ok(()),
        }
    }
}

// How much longer it may take an observer that can reach only some, or that has missed news.
fn excuse(scene: &Scene<'_>, observer: HostId, at: Time, since: Time) -> Duration {
    let reached = |host: &HostId| {
        let life = scene.truth().current(*host);
        let was_there = life.is_some_and(|life| life.started <= at);
        *host == observer || (was_there && scene.world.connected(observer, *host))
    };
    let together = scene.truth().running_hosts().filter(reached).count().max(1);
    let known = scene.world.core(observer).map_or(0, |c| c.table().len());
    let each = (known / together).saturating_sub(1);
    let search = SLOWEST_PROBE * u32::try_from(each).unwrap_or(u32::MAX);
    if since <= at {
        return search;
    }
    search + longest_comparison(scene.world.timing(observer), known)
}

fn shows_as_living(scene: &Scene<'_>, observer: HostId, id: NodeId, generation: u64) -> bool {
    scene
        .world
        .core(observer)
        .and_then(|core| core.table().get(id))
        .is_some_and(|entry| entry.is_living() && entry.identity.generation == generation)
}
