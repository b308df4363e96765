//! Who joins a cluster knows everybody soon, and everybody knows it.
//!
//! Measured for each process that starts after the cluster has formed: from its start until it
//! sees all others alive (*complete*), and until all others see it alive (*known*). A bound holds
//! where the scenario sets one.

use std::time::Duration;

use kith_proto::{members::table::Status, time::Time};

use super::{Check, Finding, Scene};
use crate::{
    host::HostId,
    report::{Latencies, Report},
    truth::Occurrence,
};

/// Nodes that do not arrive within this are somebody else's problem.
const FORGET: Duration = Duration::from_secs(60);

struct Newcomer {
    host: HostId,
    generation: u64,
    started: Time,
    /// Where the last look found somebody missing.
    missing: HostId,
    unaware: HostId,
    complete: Option<Duration>,
    known: Option<Duration>,
}

/// See the module's text.
#[derive(Default)]
pub struct Arrival {
    newcomers: Vec<Newcomer>,
    complete: Vec<Duration>,
    known: Vec<Duration>,
}

impl Check for Arrival {
    fn name(&self) -> &'static str {
        "arrival"
    }

    fn occurred(&mut self, scene: &Scene<'_>, what: &Occurrence) -> Finding {
        if let Occurrence::Started(host) = what
            && scene.formed.is_some()
            && let Some(life) = scene.truth().current(*host)
        {
            self.newcomers.push(Newcomer {
                host: *host,
                generation: life.generation,
                started: scene.now(),
                missing: 0,
                unaware: 0,
                complete: None,
                known: None,
            });
        }
        Ok(())
    }

    fn look(&mut self, scene: &Scene<'_>) -> Finding {
        if self.newcomers.is_empty() {
            return Ok(());
        }
        let now = scene.now();
        self.newcomers.retain(|newcomer| {
            let lives = scene
                .truth()
                .current(newcomer.host)
                .is_some_and(|life| life.generation == newcomer.generation);
            lives && now < newcomer.started + FORGET
        });
        for newcomer in &mut self.newcomers {
            newcomer.look(scene);
            let Some((complete, known)) = scene.limits.arrival else {
                continue;
            };
            for (what, reached, limit) in [
                ("knows all others", newcomer.complete, complete),
                ("is known to all others", newcomer.known, known),
            ] {
                let after = now.saturating_since(newcomer.started);
                if reached.is_none() && after > limit {
                    return Err(format!(
                        "it is not so that n{} {what}, {after:.1?} after its start",
                        newcomer.host
                    ));
                }
            }
        }
        for newcomer in &self.newcomers {
            if let (Some(complete), Some(known)) = (newcomer.complete, newcomer.known) {
                self.complete.push(complete);
                self.known.push(known);
            }
        }
        self.newcomers
            .retain(|newcomer| newcomer.complete.is_none() || newcomer.known.is_none());
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        report.arrival.complete = Latencies::of(&self.complete);
        report.arrival.known = Latencies::of(&self.known);
    }
}

impl Newcomer {
    fn look(&mut self, scene: &Scene<'_>) {
        let after = scene.now().saturating_since(self.started);
        if self.complete.is_none() {
            let missing = others(scene, self.host, self.missing)
                .find(|other| !sees(scene, self.host, *other));
            match missing {
                Some(other) => self.missing = other,
                // Those before may have changed meanwhile: all of them once more.
                None if self.missing > 0 => self.missing = 0,
                None => self.complete = Some(after),
            }
        }
        if self.known.is_none() {
            let unaware = others(scene, self.host, self.unaware)
                .find(|other| !sees(scene, *other, self.host));
            match unaware {
                Some(other) => self.unaware = other,
                None if self.unaware > 0 => self.unaware = 0,
                None => self.known = Some(after),
            }
        }
    }
}

fn others<'a>(
    scene: &'a Scene<'_>,
    host: HostId,
    from: HostId,
) -> impl Iterator<Item = HostId> + 'a {
    scene
        .truth()
        .running_hosts()
        .skip_while(move |other| *other < from)
        .filter(move |other| *other != host)
}

fn sees(scene: &Scene<'_>, observer: HostId, other: HostId) -> bool {
    let Some(life) = scene.truth().current(other) else {
        return true;
    };
    scene
        .world
        .core(observer)
        .and_then(|core| core.table().get(life.id))
        .is_some_and(|entry| {
            entry.announced
                && entry.identity.generation == life.generation
                && matches!(entry.status(), Status::Alive | Status::Suspect)
        })
}
