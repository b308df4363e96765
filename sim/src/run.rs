//! One run: a cluster comes together, things happen to it, it comes to rest.
//!
//! ```text
//!   all start at once --> together --> settled --> plan ---> faults are over --> together --> rest --> end
//!                    (forming)     (10 s)     safety checks      (convergence)        (idle traffic)
//!                                             at every step       liveness
//! ```

use std::time::Duration;

use kith_proto::time::Time;

use crate::{
    check::{Checks, Violation, convergence::Together, millis},
    host::HostId,
    options::{Mechanisms, Options, Setup},
    report::{Failed, Report},
    trace::Trace,
    view,
    world::{Defaults, World},
};

/// After all have come together: round trips get measured, streams opened.
const SETTLE: Duration = Duration::from_secs(10);
/// After all agree again: digests are compared at least twice, and idle traffic is measured.
const REST: Duration = Duration::from_secs(90);
/// Whether all are together is looked at this often.
const LOOK: Duration = Duration::from_millis(10);
/// How long a cluster may take to agree where nothing is enforced.
const PATIENCE: Duration = Duration::from_secs(300);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// What it was made of.
    pub options: Options,
    /// What it has shown.
    pub report: Report,
    /// How the nodes saw each other when a promise was broken.
    pub views: Vec<String>,
}

/// Changes a world in the middle of a run; for tests that break the protocol.
pub type Meddle<'a> = &'a mut dyn FnMut(&mut World);

/// Runs what was asked for.
pub fn run(setup: &Setup, trace: Option<Trace>) -> Outcome {
    run_with(setup, setup.draw(), trace, &mut |_| {})
}

/// Runs with options that may have been changed; `meddle` is called when all have come together.
pub fn run_with(
    setup: &Setup,
    options: Options,
    trace: Option<Trace>,
    meddle: Meddle<'_>,
) -> Outcome {
    let mut world = World::new(options.seed);
    world.trace = trace.map(Box::new);
    world.network = options.network;
    world.defaults = Defaults {
        timing: options.timing.clone(),
        detection: options.detection,
        settings: options.settings,
        places: options.places,
        zones: options.zones,
        order: options.order,
    };
    let mut checks = Checks::new(options.limits.clone());
    checks.enforced = options.mechanisms == Mechanisms::All;
    let mut run = Run {
        world,
        checks,
        formed: Duration::ZERO,
    };
    let violation = run.go(&options, meddle).err();
    run.finish(setup, options, violation)
}

struct Run {
    world: World,
    checks: Checks,
    formed: Duration,
}

impl Run {
    fn go(&mut self, options: &Options, meddle: Meddle<'_>) -> Result<(), Violation> {
        self.form(options)?;
        meddle(&mut self.world);
        self.pass(SETTLE)?;
        let start = self.world.now();
        for step in &options.plan {
            self.pass_until(start + step.after)?;
            step.action.apply(&mut self.world);
            self.checks.after_step(&mut self.world)?;
        }
        self.pass_until(start + options.end)?;
        self.end_faults(options);
        self.checks.calm(&self.world);
        self.agree()?;
        self.pass(REST)?;
        self.checks.end(&self.world)
    }

    fn form(&mut self, options: &Options) -> Result<(), Violation> {
        let first = self.world.add(&[], |_| {});
        for _ in 1..options.nodes {
            self.world.add(&[first], |_| {});
        }
        let limit = options.limits.forming;
        let mut together = Together::strict();
        while let Some(problem) = together.problem(&self.world) {
            let passed = self.world.now().since_origin();
            if passed > limit && self.checks.enforced {
                return Err(Violation {
                    check: "forming",
                    at_ms: millis(passed),
                    text: format!("after {limit:?} {problem}"),
                });
            }
            if passed > PATIENCE {
                break;
            }
            self.pass(LOOK)?;
        }
        self.formed = self.world.now().since_origin();
        self.checks.formed(&self.world);
        // From now on nobody may found a cluster of its own, whatever it loses.
        let others: Vec<HostId> = (0..options.nodes.min(4)).collect();
        for host in 0..options.nodes {
            let seeds: Vec<HostId> = others.iter().copied().filter(|o| *o != host).collect();
            if !seeds.is_empty() {
                self.world.set_seeds(host, &seeds);
            }
        }
        Ok(())
    }

    // Whoever died stays dead; all else is as it was.
    fn end_faults(&mut self, options: &Options) {
        self.world.heal_links();
        self.world.set_network(options.network);
        for host in 0..self.world.len() {
            self.world.nourish(host);
            self.world.resume(host);
        }
    }

    fn agree(&mut self) -> Result<(), Violation> {
        let deadline = self.world.now() + PATIENCE;
        while !self.has_converged() && self.world.now() < deadline {
            self.pass(LOOK * 10)?;
        }
        Ok(())
    }

    fn has_converged(&self) -> bool {
        let mut report = Report::default();
        self.checks.report(&mut report);
        report.converged_ms.is_some()
    }

    fn pass(&mut self, duration: Duration) -> Result<(), Violation> {
        self.pass_until(self.world.now() + duration)
    }

    fn pass_until(&mut self, until: Time) -> Result<(), Violation> {
        while self.world.step(until) {
            self.checks.after_step(&mut self.world)?;
        }
        self.checks.after_step(&mut self.world)
    }

    fn finish(mut self, setup: &Setup, options: Options, violation: Option<Violation>) -> Outcome {
        let mut report = Report {
            runs: 1,
            simulated_ms: millis(self.world.now().since_origin()),
            formed_ms: millis(self.formed),
            happened: self.world.happened(),
            digest: self.world.digest(),
            ..Report::default()
        };
        self.checks.report(&mut report);
        let views = match &violation {
            Some(_) => view::side_by_side(&self.world),
            None => Vec::new(),
        };
        report.violations.extend(violation.map(|violation| Failed {
            seed: options.seed,
            violation,
            replay: setup.replay(),
        }));
        if let Some(trace) = self.world.trace.take()
            && let Err(error) = trace.finish()
        {
            eprintln!("the trace could not be written: {error}");
        }
        Outcome {
            options,
            report,
            views,
        }
    }
}
