//! Many seeds at once, on all processors.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use crate::{options::Setup, progress::Progress, report::Report, run};

/// Runs `seeds` seeds, from the setup's on. The result does not depend on how many processors
/// there are: reports are merged in the order of seeds.
pub fn run_seeds(setup: &Setup, seeds: u64, progress: &Progress) -> Report {
    let next = AtomicU64::new(0);
    let done: Mutex<Vec<(u64, Report)>> = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= seeds {
                        return;
                    }
                    let setup = Setup {
                        seed: setup.seed.wrapping_add(number),
                        ..setup.clone()
                    };
                    let report = run::run(&setup, None).report;
                    progress.one_more(&report);
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((number, report));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    let mut all = Report::default();
    for (_, report) in &done {
        all.merge(report);
    }
    all
}
