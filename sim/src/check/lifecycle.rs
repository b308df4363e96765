//! What users are told of a member makes sense.
//!
//! At each node, of each member, and counting from the start of that node's process:
//!
//! ```text
//!            joined g            failed: why, and who says so
//!   nothing ---------> living <------------------------------> failed
//!                        |  ^       recovered (same life: a false alarm, or a healed split)
//!        left, evicted   |  |
//!                        v  |  rejoined g' > g
//!                      gone-+
//! ```
//!
//! - A life is told of once; a renewal of an identity is no new life.
//! - Who left, or was evicted, is not told to have failed; not even afterwards.
//! - A failure says who found it.
//! - A life that ended long ago does not come back (no zombies).
//! - Two living members never share a name once all is calm.
//! - Who is told to leave ends within its time limit, and says that all went well, unless it
//!   or its network was disturbed.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use kith_proto::{event::Event, id::NodeId, output::Stop};

use super::{Check, Finding, GRACE, Scene};
use crate::{
    host::{HostId, Process},
    report::Report,
    truth::{End, LifeTruth, Occurrence},
    world::Told,
};

/// How a node told its users of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Living,
    Failed,
    Left,
    Evicted,
}

/// See the module's text.
#[derive(Default)]
pub struct Lifecycle {
    states: BTreeMap<(HostId, NodeId), (u64, State)>,
    events: u64,
}

impl Check for Lifecycle {
    fn name(&self) -> &'static str {
        "lifecycle"
    }

    fn occurred(&mut self, scene: &Scene<'_>, what: &Occurrence) -> Finding {
        if let Occurrence::Started(host) = what {
            let range = (*host, NodeId(0))..=(*host, NodeId(u64::MAX));
            let keys: Vec<_> = self.states.range(range).map(|(key, _)| *key).collect();
            for key in keys {
                self.states.remove(&key);
            }
        }
        let Occurrence::Ended {
            host,
            id,
            generation,
            end: End::Stopped(Stop::LeftUncleanly(text)),
        } = what
        else {
            return Ok(());
        };
        let undisturbed = scene.truth().life(*id, *generation).is_some_and(|life| {
            let since = life.leaving.unwrap_or(scene.now()) - GRACE;
            let others = scene.truth().running_hosts();
            life.disturbed.is_none_or(|at| at <= since)
                && others
                    .filter(|other| *other != *host)
                    .all(|other| scene.world.steady_since(since, *host, other))
        });
        if undisturbed {
            return Err(format!("n{host} left, and not cleanly: {text}"));
        }
        Ok(())
    }

    fn told(&mut self, scene: &Scene<'_>, told: &Told) -> Finding {
        self.events += 1;
        let host = told.host;
        match &told.event {
            Event::MemberJoined {
                who, generation, ..
            } => {
                self.appears(host, who.member_id, *generation, false)?;
                no_zombie(scene, host, who.member_id, *generation)
            }
            Event::MemberRejoined {
                who, generation, ..
            } => {
                self.appears(host, who.member_id, *generation, true)?;
                no_zombie(scene, host, who.member_id, *generation)
            }
            Event::MemberRecovered { who, .. } => self.recovers(scene, host, who.member_id),
            Event::MemberFailed { who, accusers, .. } => {
                if accusers.is_empty() {
                    return Err(format!(
                        "n{host} says that {} has failed, and not who found it",
                        who.member
                    ));
                }
                self.fails(scene, host, who.member_id)
            }
            Event::MemberLeft { who, .. } => self.goes(host, who.member_id, State::Left),
            Event::MemberEvicted { who, .. } => self.goes(host, who.member_id, State::Evicted),
            _ => Ok(()),
        }
    }

    fn look(&mut self, scene: &Scene<'_>) -> Finding {
        // Looked at once a second: patience is measured in tens of seconds.
        if scene.now().as_nanos() % 1_000_000_000 > 10_000_000 {
            return Ok(());
        }
        for host in scene.truth().running_hosts() {
            let Some(life) = scene.truth().current(host) else {
                continue;
            };
            let Some(since) = life.leaving else { continue };
            let patience = scene.world.timing(host).leave + Duration::from_secs(5);
            let runs = scene.world.process(host) == Process::Running
                && scene
                    .truth()
                    .well_since(host)
                    .is_some_and(|well| scene.now() > well + patience);
            if runs && scene.now() > since + patience {
                return Err(format!(
                    "n{host} was told to leave {:?} ago, and still runs",
                    scene.now().saturating_since(since)
                ));
            }
        }
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Finding {
        let mut names: BTreeMap<&str, HostId> = BTreeMap::new();
        for host in scene.truth().running_hosts() {
            let Some(life) = scene.truth().current(host) else {
                continue;
            };
            let is_member = scene
                .world
                .core(host)
                .is_some_and(|core| core.phase_name() == "active");
            if !is_member {
                continue;
            }
            if let Some(other) = names.insert(&life.name, host) {
                return Err(format!(
                    "n{other} and n{host} are both members under the name {:?}",
                    life.name
                ));
            }
        }
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        report.events = self.events;
    }
}

impl Lifecycle {
    fn appears(&mut self, host: HostId, id: NodeId, generation: u64, again: bool) -> Finding {
        match self.states.entry((host, id)) {
            Entry::Vacant(entry) => {
                entry.insert((generation, State::Living));
                if again {
                    return Err(format!(
                        "n{host} says that {id} is back, and never told of it before"
                    ));
                }
            }
            Entry::Occupied(mut entry) => {
                let (before, state) = *entry.get();
                if before >= generation {
                    return Err(format!(
                        "n{host} tells of {id}@{generation} as of a new life, having told of \
                         generation {before} ({state:?}) already"
                    ));
                }
                if !again {
                    return Err(format!(
                        "n{host} says that {id} has joined, and told of it before"
                    ));
                }
                entry.insert((generation, State::Living));
            }
        }
        Ok(())
    }

    fn recovers(&mut self, scene: &Scene<'_>, host: HostId, id: NodeId) -> Finding {
        let Some((generation, state)) = self.states.get_mut(&(host, id)) else {
            return Err(format!(
                "n{host} says that {id} has recovered, and never told of it before"
            ));
        };
        match state {
            State::Living | State::Failed => *state = State::Living,
            State::Left | State::Evicted => {
                return Err(format!(
                    "n{host} says that {id} has recovered, which is gone ({state:?})"
                ));
            }
        }
        let generation = *generation;
        no_zombie(scene, host, id, generation)
    }

    fn fails(&mut self, scene: &Scene<'_>, host: HostId, id: NodeId) -> Finding {
        let Some((generation, state)) = self.states.get_mut(&(host, id)) else {
            return Err(format!(
                "n{host} says that {id} has failed, and never told of it before"
            ));
        };
        match state {
            State::Living => *state = State::Failed,
            State::Failed => {
                return Err(format!("n{host} says twice that {id} has failed"));
            }
            State::Left | State::Evicted => {
                return Err(format!(
                    "n{host} says that {id} has failed, which is gone ({state:?})"
                ));
            }
        }
        let generation = *generation;
        match scene.truth().life(id, generation) {
            Some(life) if left_in_peace(scene, host, life) => Err(format!(
                "n{host} says that {id} (n{}) has failed, which left, and could tell it so",
                life.host
            )),
            _ => Ok(()),
        }
    }

    fn goes(&mut self, host: HostId, id: NodeId, how: State) -> Finding {
        match self.states.get_mut(&(host, id)) {
            Some((_, state @ (State::Living | State::Failed))) => {
                *state = how;
                Ok(())
            }
            Some((_, state)) => Err(format!(
                "n{host} says that {id} is gone ({how:?}), and said so before ({state:?})"
            )),
            None => Err(format!(
                "n{host} says that {id} is gone ({how:?}), and never told of it before"
            )),
        }
    }
}

// A life that ended long ago is told to be there.
fn no_zombie(scene: &Scene<'_>, host: HostId, id: NodeId, generation: u64) -> Finding {
    let Some(life) = scene.truth().life(id, generation) else {
        return Err(format!(
            "n{host} tells of {id}@{generation}, a life that there never was"
        ));
    };
    let Some((ended, how)) = &life.ended else {
        return Ok(());
    };
    let since = (*ended).max(scene.world.links_changed());
    let well = scene.truth().well_since(host).unwrap_or(scene.now());
    if scene.now() > since.max(well) + scene.limits.detection {
        return Err(format!(
            "n{host} tells of {id}@{generation} (n{}) as living, which ended {:.1} s ago ({how:?})",
            life.host,
            scene.now().saturating_since(*ended).as_secs_f64()
        ));
    }
    Ok(())
}

// It left, or is just leaving, and nothing kept it from telling this observer.
fn left_in_peace(scene: &Scene<'_>, observer: HostId, life: &LifeTruth) -> bool {
    let Some(leaving) = life.leaving else {
        return false;
    };
    let gracefully = match &life.ended {
        None => true,
        Some((_, End::Stopped(Stop::Left { .. }))) => true,
        Some(_) => false,
    };
    let undisturbed = |host: HostId| {
        scene
            .truth()
            .well_since(host)
            .is_some_and(|since| since + GRACE <= leaving)
    };
    let stays = scene
        .world
        .core(observer)
        .is_some_and(|core| core.phase_name() == "active");
    gracefully
        && stays
        && undisturbed(observer)
        && (life.ended.is_some() || undisturbed(life.host))
        && scene
            .world
            .steady_since(leaving - GRACE, observer, life.host)
        && life.disturbed.is_none_or(|at| at + GRACE <= leaving)
}
