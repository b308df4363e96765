//! The promises, one file each, checked while a run goes on.
//!
//! ```text
//!   world.step() --> what really happened (truth)  --> occurred
//!                --> what nodes told their users   --> told          each checker, in order
//!                --> every 10 ms of virtual time   --> look          the first word against a
//!                    the faults are over           --> calm          node ends the run
//!                    the run is over               --> end
//! ```
//!
//! | checker | says | source |
//! |---|---|---|
//! | [`detection`] | a life that ended is not shown as living any more, within a bound | SWIM: strong completeness |
//! | [`false_alarm`] | those who run undisturbed and can be reached are not declared failed | Lifeguard: FP and FP⁻ |
//! | [`convergence`] | after the faults all living nodes see the same, and what is true | Rapid: consistent views |
//! | [`lifecycle`] | what users are told of a member makes sense, and every failure says why | membership.md: lives and renewals |
//! | [`traffic`] | bytes and packets of a node, and its queues, are bounded | SWIM: constant load per member |
//! | [`placement`] | equal views place alike, on distinct nodes and zones, and move little | `proto/src/placement.rs` |
//! | [`arrival`] | who joins knows all, and is known to all, within a bound | membership.md: joining |
//!
//! Each of them is tried on a protocol that was broken on purpose (`tests/broken.rs`).

pub mod arrival;
pub mod convergence;
pub mod detection;
pub mod false_alarm;
pub mod lifecycle;
pub mod placement;
pub mod traffic;

use std::{collections::BTreeMap, time::Duration};

use kith_proto::{config::Timing, event::Event, id::NodeId, time::Time};

use crate::{
    host::HostId,
    report::Report,
    truth::{Occurrence, Truth},
    world::{Told, World},
};

/// Checkers look at nodes this often.
const LOOK: Duration = Duration::from_millis(10);
/// For so long after a disturbance nobody is blamed for what it left behind.
pub const GRACE: Duration = Duration::from_secs(10);

/// What a run may cost, and how long things may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All must be together this long after they were started.
    pub forming: Duration,
    /// Who is gone must be known to be gone after this.
    pub detection: Duration,
    /// So many times may nodes declare failed who is not.
    pub false_alarms: u64,
    /// All views must be right this long after the faults ended.
    pub convergence: Duration,
    /// A joiner knows all after this, and all know it after that, if it is asked for.
    pub arrival: Option<(Duration, Duration)>,
    /// What an idle node may send (bytes in a second, as IP counts them) in a good network.
    pub idle_bytes: u64,
    /// What a node may send in any one second (bytes).
    pub peak_bytes: u64,
}

impl Limits {
    /// For a cluster of that size.
    pub fn for_nodes(nodes: usize) -> Self {
        let nodes = nodes as u64;
        Self {
            forming: Duration::from_secs(30),
            detection: detection_bound(nodes),
            false_alarms: 0,
            convergence: Duration::from_secs(30),
            arrival: None,
            idle_bytes: 450,
            // A member may have to tell everything it knows to a few others at once.
            peak_bytes: 400_000 + nodes * 8_000,
        }
    }
}

/// How long it may take until everybody knows that somebody is gone, in a network that is not
/// cut, at nodes that run undisturbed.
///
/// Somebody probes it within about five periods (each of the others at a random moment of
/// each); the probe is decided within 1.5 s by a node that trusts itself, and within 13.5 s by
/// one with the worst local health; then the longest window of suspicion, 3.6 s up to ten
/// members and growing with the logarithm; or 6 s where the host's kernel still answers; then
/// gossip. That is 15 s for the healthy, and as much again for those that have been through
/// something.
fn detection_bound(nodes: u64) -> Duration {
    let digits = u64::from(nodes.max(10).ilog10());
    Duration::from_secs(26 + 4 * digits)
}

/// How long it may take until a node compares what it knows with somebody: the pause between
/// comparisons grows with the logarithm of the number of members, and varies by a fifth.
pub fn longest_comparison(timing: &Timing, nodes: usize) -> Duration {
    let digits = (nodes.max(10) as f64).log10();
    timing.push_pull.mul_f64(digits * 1.2)
}

/// What a checker sees.
pub struct Scene<'a> {
    /// Everything.
    pub world: &'a World,
    /// What is allowed.
    pub limits: &'a Limits,
    /// Which lives nodes told their users of.
    pub announced: &'a Announced,
    /// Since when all have been together, first of all.
    pub formed: Option<Time>,
    /// Since when there are no faults any more.
    pub calm: Option<Time>,
}

impl Scene<'_> {
    /// Now.
    pub fn now(&self) -> Time {
        self.world.now()
    }

    /// What really happened.
    pub fn truth(&self) -> &Truth {
        &self.world.truth
    }

    /// Whether a host's process has run undisturbed for longer than [`GRACE`].
    pub fn is_well(&self, host: HostId) -> bool {
        self.truth()
            .well_since(host)
            .is_some_and(|since| self.now() >= since + GRACE)
    }
}

/// Nothing to object, or what is wrong.
pub type Finding = Result<(), String>;

/// A promise that is watched.
pub trait Check {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Something really happened.
    fn occurred(&mut self, _scene: &Scene<'_>, _what: &Occurrence) -> Finding {
        Ok(())
    }

    /// A node told its users something.
    fn told(&mut self, _scene: &Scene<'_>, _told: &Told) -> Finding {
        Ok(())
    }

    /// A moment has passed.
    fn look(&mut self, _scene: &Scene<'_>) -> Finding {
        Ok(())
    }

    /// The faults are over.
    fn calm(&mut self, _scene: &Scene<'_>) {}

    /// The run is over.
    fn end(&mut self, _scene: &Scene<'_>) -> Finding {
        Ok(())
    }

    /// What it measured.
    fn report(&self, report: &mut Report);
}

/// A promise was broken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Which checker says so.
    pub check: &'static str,
    /// When (virtual milliseconds since the run began).
    pub at_ms: u64,
    /// What is wrong.
    pub text: String,
}

/// Which generation of each member each node told its users of last.
#[derive(Debug, Default)]
pub struct Announced(BTreeMap<(HostId, NodeId), u64>);

impl Announced {
    /// The generation of `member` that the node of `host` last told of.
    pub fn generation(&self, host: HostId, member: NodeId) -> Option<u64> {
        self.0.get(&(host, member)).copied()
    }

    fn started(&mut self, host: HostId) {
        let range = (host, NodeId(0))..=(host, NodeId(u64::MAX));
        let keys: Vec<_> = self.0.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            self.0.remove(&key);
        }
    }

    fn told(&mut self, told: &Told) {
        if let Event::MemberJoined {
            who, generation, ..
        }
        | Event::MemberRejoined {
            who, generation, ..
        } = &told.event
        {
            self.0.insert((told.host, who.member_id), *generation);
        }
    }
}

/// All checkers of a run.
pub struct Checks {
    checks: Vec<Box<dyn Check>>,
    limits: Limits,
    announced: Announced,
    formed: Option<Time>,
    calm: Option<Time>,
    next_look: Time,
    /// Without it violations are not reported: somebody wants to see how bad it gets.
    pub enforced: bool,
}

impl Checks {
    /// Every checker there is.
    pub fn new(limits: Limits) -> Self {
        Self {
            checks: vec![
                Box::new(lifecycle::Lifecycle::default()),
                Box::new(false_alarm::FalseAlarm::default()),
                Box::new(detection::Detection::default()),
                Box::new(convergence::Convergence::default()),
                Box::new(arrival::Arrival::default()),
                Box::new(placement::Placement::default()),
                Box::new(traffic::Traffic::default()),
            ],
            limits,
            announced: Announced::default(),
            formed: None,
            calm: None,
            next_look: Time::ZERO,
            enforced: true,
        }
    }

    /// What is allowed.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All have been together, first of all.
    pub fn formed(&mut self, world: &World) {
        self.formed = Some(world.now());
    }

    /// The faults are over.
    pub fn calm(&mut self, world: &World) {
        self.calm = Some(world.now());
        for index in 0..self.checks.len() {
            let (check, scene) = self.split(index, world);
            check.calm(&scene);
        }
    }

    /// Something happened in the world.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn after_step(&mut self, world: &mut World) -> Result<(), Violation> {
        if world.truth.has_news() {
            for (_, what) in world.truth.take_occurrences() {
                if let Occurrence::Started(host) = what {
                    self.announced.started(host);
                }
                self.each(world, |check, scene| check.occurred(scene, &what))?;
            }
        }
        if !world.told.is_empty() {
            for told in std::mem::take(&mut world.told) {
                self.each(world, |check, scene| check.told(scene, &told))?;
                self.announced.told(&told);
            }
        }
        if world.now() >= self.next_look {
            self.next_look = world.now() + LOOK;
            self.each(world, |check, scene| check.look(scene))?;
        }
        Ok(())
    }

    /// The run is over.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn end(&mut self, world: &World) -> Result<(), Violation> {
        self.each(world, |check, scene| check.end(scene))
    }

    /// What was measured.
    pub fn report(&self, report: &mut Report) {
        for check in &self.checks {
            check.report(report);
        }
    }

    fn each(
        &mut self,
        world: &World,
        mut ask: impl FnMut(&mut dyn Check, &Scene<'_>) -> Finding,
    ) -> Result<(), Violation> {
        for index in 0..self.checks.len() {
            let (check, scene) = self.split(index, world);
            let finding = ask(check, &scene);
            if let Err(text) = finding
                && self.enforced
            {
                return Err(Violation {
                    check: self.checks[index].name(),
                    at_ms: millis(world.now().since_origin()),
                    text,
                });
            }
        }
        Ok(())
    }

    fn split<'a>(&'a mut self, index: usize, world: &'a World) -> (&'a mut dyn Check, Scene<'a>) {
        let scene = Scene {
            world,
            limits: &self.limits,
            announced: &self.announced,
            formed: self.formed,
            calm: self.calm,
        };
        (self.checks[index].as_mut(), scene)
    }
}

/// Whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
