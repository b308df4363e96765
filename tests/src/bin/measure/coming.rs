//! Coming and going: join, leave, and finding each other again after a split.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    lab::Lab,
    seconds,
    subject::{Kind, Subject},
};

/// All start at once with one seed: until all see all.
pub(crate) fn join(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let mut row = Row::new(
        "started at once, all see all",
        subject,
        nodes,
        Unit::Seconds,
    );
    let mut lab = Lab::new(options, subject, nodes)?;
    for _ in 0..options.trials {
        let begun = lab.start_all()?;
        row.add(lab.wait_all().map(|last| seconds(begun, last)));
        lab.stop_all()?;
    }
    Ok(vec![row])
}

/// A graceful leave: until all others know; and how many saw a failure instead.
pub(crate) fn leave(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let mut known = Row::new("graceful leave, all know", subject, nodes, Unit::Seconds);
    let mut mistaken = Row::new("… that saw a failure instead", subject, nodes, Unit::Count);
    let mut lab = Lab::running(options, subject, nodes)?;
    for trial in 0..options.trials {
        let leaver = 1 + trial % (nodes - 1);
        let others = lab.others(leaver);
        let begun = lab.signal(leaver, subject.leave_signal())?;
        known.add(lab.wait_said(&others, begun, Kind::Left, leaver));
        lab.process(leaver)?.wait_end(crate::lab::PATIENCE)?;
        let mut failures = 0;
        for &other in &others {
            let news = lab.news_since(other, begun);
            failures += usize::from(news.iter().any(|n| n.kind == Kind::Failed));
        }
        mistaken.add(Ok(failures as f64));
        lab.start(leaver)?;
        if let Err(error) = lab.peace(options) {
            known.add(Err(error));
            break;
        }
    }
    Ok(vec![known, mistaken])
}

/// Two halves do not hear each other for a while: all alive for all, after the heal.
pub(crate) fn split(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let lasted = options.split_seconds;
    let what = format!("split in halves for {lasted} s, healed after");
    let mut row = Row::new(what, subject, nodes, Unit::Seconds);
    let mut lab = Lab::running(options, subject, nodes)?;
    let (one, other): (Vec<usize>, Vec<usize>) = (0..nodes).partition(|&i| i < nodes / 2);
    for _ in 0..options.slow_trials {
        lab.lan()?.split(&one, &other)?;
        thread::sleep(Duration::from_secs(lasted));
        let begun = SystemTime::now();
        lab.lan()?.heal()?;
        row.add(lab.wait_all().map(|last| seconds(begun, last)));
        thread::sleep(options.settle());
    }
    Ok(vec![row])
}
