//! A whole run: nodes come together, clients begin, faults happen and end, and all comes to rest.

use std::time::Duration;

use super::{
    Lab,
    check::{self, Objection},
    client::{self, Ended},
    plan::Plan,
};

/// How long all may take to come to rest after the faults.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was wrong.
    pub objections: Vec<Objection>,
    /// One number for everything that happened.
    pub digest: u64,
    /// Answers by kind: done, not done, nobody knows.
    pub answers: [u64; 3],
    /// How long it took to come to rest; `None`: it did not.
    pub settled: Option<Duration>,
    /// Simulated time.
    pub simulated: Duration,
}

/// Runs a plan.
pub fn run(plan: &Plan) -> Outcome {
    outcome(run_lab(plan, false))
}

/// The same, prints everything that happens if it shall, and gives the lab back as it is then.
pub fn run_lab(plan: &Plan, verbose: bool) -> (Lab, Option<Duration>) {
    let mut lab = Lab::new(plan.setup.clone());
    lab.verbose = verbose;
    client::begin(&mut lab, 6, 12);
    plan.schedule(&mut lab);
    lab.run(plan.rest + Duration::from_secs(1));
    client::stop(&mut lab);
    let settled = check::at_rest(&mut lab, PATIENCE);
    (lab, settled)
}

fn outcome((lab, settled): (Lab, Option<Duration>)) -> Outcome {
    let mut answers = [0; 3];
    for operation in &lab.clients.history {
        let kind = match operation.result {
            Ended::Done(_) => 0,
            Ended::Refused(_) => 1,
            Ended::Unknown(_) | Ended::Open => 2,
        };
        answers[kind] += 1;
    }
    Outcome {
        objections: lab.objections().to_vec(),
        digest: lab.digest(),
        answers,
        settled,
        simulated: lab.now().since_origin(),
    }
}
