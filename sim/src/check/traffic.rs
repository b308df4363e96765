//! What a node sends is bounded, and so is what waits in it.
//!
//! SWIM promises a load per member that does not depend on the number of members (Das et al.
//! 2002, section 3.1). Measured are: bytes and packets of an idle node, once all is calm; of any
//! node over the whole run; the most that one node sent in one second; the longest backlog of
//! news; the most inputs that waited for a paused process.

use std::time::Duration;

use kith_proto::{swim::detector::MAX_BACKLOG, time::Time};

use super::{Check, Finding, Scene};
use crate::{
    host,
    report::{Rate, Report},
    truth::Occurrence,
};

/// What is sent is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// Once calm, nodes are given so long until they count as idle.
const REST: Duration = Duration::from_secs(12);

/// See the module's text.
#[derive(Default)]
pub struct Traffic {
    next: Time,
    before: Vec<host::Traffic>,
    whole: Rate,
    idle: Rate,
    idle_from: Option<Time>,
    peak: u64,
    backlog: u64,
    waiting: u64,
}

impl Check for Traffic {
    fn name(&self) -> &'static str {
        "traffic"
    }

    fn occurred(&mut self, scene: &Scene<'_>, _what: &Occurrence) -> Finding {
        // Whatever happens, nodes are not idle for a while.
        if self.idle_from.is_some() {
            self.idle_from = Some(scene.now() + REST);
        }
        Ok(())
    }

    fn calm(&mut self, scene: &Scene<'_>) {
        self.idle_from = Some(scene.now() + REST);
    }

    fn look(&mut self, scene: &Scene<'_>) -> Finding {
        if scene.now() < self.next {
            return Ok(());
        }
        let first = self.before.is_empty();
        self.next = scene.now() + LOOK;
        self.before
            .resize(scene.world.len(), host::Traffic::default());
        for host in 0..scene.world.len() {
            let sent = scene.world.traffic(host);
            let since = sent.since(&self.before[host]);
            self.before[host] = sent;
            self.waiting = self.waiting.max(scene.world.waiting(host) as u64);
            let Some(core) = scene.world.core(host) else {
                continue;
            };
            let backlog = core.backlog();
            self.backlog = self.backlog.max(backlog as u64);
            if backlog > 2 * MAX_BACKLOG {
                return Err(format!("{backlog} pieces of news wait at n{host}"));
            }
            if first || scene.formed.is_none() {
                continue;
            }
            self.whole.add(&since, LOOK);
            self.peak = self.peak.max(since.bytes());
            if since.bytes() > scene.limits.peak_bytes {
                return Err(format!(
                    "n{host} sent {} bytes in a second; {} are allowed",
                    since.bytes(),
                    scene.limits.peak_bytes
                ));
            }
            if self.idle_from.is_some_and(|from| scene.now() > from + LOOK) {
                self.idle.add(&since, LOOK);
            }
        }
        Ok(())
    }

    fn end(&mut self, scene: &Scene<'_>) -> Finding {
        let idle = self.idle.bytes_per_second();
        if idle > scene.limits.idle_bytes {
            return Err(format!(
                "an idle node sends {idle} bytes a second; {} are allowed",
                scene.limits.idle_bytes
            ));
        }
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        report.traffic.whole = self.whole;
        report.traffic.idle = self.idle;
        report.traffic.peak_bytes = self.peak;
        report.traffic.backlog = self.backlog;
        report.traffic.waiting = self.waiting;
    }
}
