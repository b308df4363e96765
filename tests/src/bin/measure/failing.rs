//! Failing: processes that die, machines that vanish, processes that only sleep.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use kith_tests::process::Signal;

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    lab::{Lab, PATIENCE},
    subject::{Kind, Subject},
};

/// SIGKILL until the last survivor knows; then a new start until all see it.
pub(crate) fn kill_and_restart(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let mut killed = Row::new(
        "kill -9, last survivor knows",
        subject,
        nodes,
        Unit::Seconds,
    );
    let mut back = Row::new("restart, alive for all", subject, nodes, Unit::Seconds);
    let mut lab = Lab::running(options, subject, nodes)?;
    for trial in 0..options.trials {
        let victim = victim(trial, nodes);
        let others = lab.others(victim);
        let begun = lab.signal(victim, Signal::KILL)?;
        killed.add(lab.wait_said(&others, begun, Kind::Failed, victim));
        lab.process(victim)?.wait_end(PATIENCE)?;
        thread::sleep(options.settle());

        let begun = SystemTime::now();
        lab.start(victim)?;
        back.add(lab.wait_said(&others, begun, Kind::Alive, victim));
        if let Err(error) = lab.peace(options) {
            back.add(Err(error));
            break;
        }
    }
    Ok(vec![killed, back])
}

/// All packets of one machine are dropped, until the last of the others knows.
pub(crate) fn vanish(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let what = "machine vanishes, last survivor knows";
    let mut row = Row::new(what, subject, nodes, Unit::Seconds);
    let mut lab = Lab::running(options, subject, nodes)?;
    for trial in 0..options.trials {
        let victim = victim(trial, nodes);
        let others = lab.others(victim);
        let begun = SystemTime::now();
        lab.lan()?.isolate(victim)?;
        row.add(lab.wait_said(&others, begun, Kind::Failed, victim));
        lab.lan()?.heal()?;
        if let Err(error) = lab.peace(options) {
            row.add(Err(error));
            break;
        }
    }
    Ok(vec![row])
}

/// Stopped for 5 s: how many mark it failed, and whom the sleeper accuses.
pub(crate) fn short_pause(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let what = "stopped for 5 s: others that mark it failed";
    let mut marked = Row::new(what, subject, nodes, Unit::Count);
    let mut lab = Lab::running(options, subject, nodes)?;
    for trial in 0..options.slow_trials {
        let sleeper = victim(trial, nodes);
        let begun = lab.signal(sleeper, Signal::STOP)?;
        thread::sleep(Duration::from_secs(5));
        lab.signal(sleeper, Signal::CONT)?;
        thread::sleep(options.settle());
        lab.wait_all()?;
        let mut failures = 0;
        for other in lab.others(sleeper) {
            let news = lab.news_since(other, begun);
            failures += usize::from(news.iter().any(|n| n.kind == Kind::Failed));
        }
        marked.add(Ok(failures as f64));
    }
    Ok(vec![marked])
}

/// Stopped for 20 s: marked failed after, back after waking, others accused by the sleeper.
pub(crate) fn long_pause(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let row = |what, unit| Row::new(what, subject, nodes, unit);
    let mut failed = row("stopped for 20 s: failed for all after", Unit::Seconds);
    let mut back = row("… alive for all after waking", Unit::Seconds);
    let mut accused = row("… members that the sleeper declares failed", Unit::Count);
    let mut lab = Lab::running(options, subject, nodes)?;
    for trial in 0..options.slow_trials {
        let sleeper = victim(trial, nodes);
        let others = lab.others(sleeper);
        let begun = lab.signal(sleeper, Signal::STOP)?;
        let twenty = begun + Duration::from_secs(20);
        thread::sleep(twenty.duration_since(SystemTime::now()).unwrap_or_default());
        // What was said by now counts; who has not said it by now was too late.
        let outcome = all_said(&mut lab, &others, begun, sleeper);
        let noticed = outcome.is_ok();
        failed.add(outcome);

        let woken = lab.signal(sleeper, Signal::CONT)?;
        if noticed {
            back.add(lab.wait_said(&others, woken, Kind::Alive, sleeper));
        }
        thread::sleep(options.settle());
        let news = lab.news_since(sleeper, woken);
        let accusations = news.iter().filter(|n| n.kind == Kind::Failed).count();
        accused.add(Ok(accusations as f64));
        if let Err(error) = lab.peace(options) {
            back.add(Err(error));
            break;
        }
    }
    Ok(vec![failed, back, accused])
}

/// The seconds until the last said that the member failed, of those that have by now.
fn all_said(lab: &mut Lab, others: &[usize], begun: SystemTime, member: usize) -> Result<f64> {
    for &other in others {
        let news = lab.news_since(other, begun);
        if !news.iter().any(|n| n.kind == Kind::Failed) {
            anyhow::bail!("n{} does not mark it failed", other + 1);
        }
    }
    lab.wait_said(others, begun, Kind::Failed, member)
}

/// A different node each time, never the seed of the others.
fn victim(trial: usize, nodes: usize) -> usize {
    1 + trial % (nodes - 1)
}
