//! Times in which nothing should happen: what they cost, and who is accused all the same.

use std::{
    fs, thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use kith_tests::{netns::Lossy, process::Signal};

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    lab::Lab,
    subject::Subject,
};

/// How long the starved are stopped, and how long they run in between.
const STOPPED: Duration = Duration::from_millis(8000);
const RUNNING: Duration = Duration::from_millis(60);

/// What a node of a quiet cluster costs; a value for each node.
pub(crate) fn idle(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let row = |what, unit| Row::new(what, subject, nodes, unit);
    let mut bytes = row("idle: sent by a node (IP level)", Unit::BytesPerSecond);
    let mut packets = row("idle: packets sent by a node", Unit::PacketsPerSecond);
    let mut cpu = row("idle: CPU of a node", Unit::CpuMillis);
    let mut rss = row("idle: RSS of a node", Unit::MiB);
    let mut pss = row("idle: PSS of a node", Unit::MiB);

    let lab = Lab::running(options, subject, nodes)?;
    // Joining leaves work behind that is not the quiet cluster's.
    thread::sleep(Duration::from_secs(10));
    let sent = |lab: &Lab| {
        options
            .loopback
            .then(Vec::new)
            .map_or_else(|| lab.lan()?.sent(), Ok)
    };
    let spent = |lab: &Lab| -> Result<Vec<f64>> {
        (0..nodes)
            .map(|i| cpu_seconds(lab.process(i)?.pid()))
            .collect()
    };
    let (sent_before, spent_before, begun) = (sent(&lab)?, spent(&lab)?, Instant::now());
    thread::sleep(options.observe());
    let (sent_after, spent_after) = (sent(&lab)?, spent(&lab)?);
    let lasted = begun.elapsed().as_secs_f64();

    let traffic = || sent_before.iter().zip(&sent_after);
    bytes.extend(traffic().map(|(a, b)| (b.bytes - a.bytes) as f64 / lasted));
    packets.extend(traffic().map(|(a, b)| (b.packets - a.packets) as f64 / lasted));
    let millis = spent_before.iter().zip(&spent_after);
    cpu.extend(millis.map(|(a, b)| (b - a) * 1000.0 / lasted));
    for index in 0..nodes {
        let memory = memory(lab.process(index)?.pid())?;
        rss.extend([memory.rss]);
        pss.extend([memory.pss]);
    }
    let mut rows = vec![cpu, rss, pss];
    if !options.loopback {
        rows.splice(0..0, [bytes, packets]);
    }
    Ok(rows)
}

/// Some nodes are stopped for 8 s of every 8.06 s: how many of the healthy are declared failed
/// by anybody.
pub(crate) fn starved(options: &Options, subject: &Subject, nodes: usize, count: usize) -> Rows {
    let what = format!(
        "{count} stopped 8 s of every 8.06 s, {} s: healthy ones declared failed",
        options.observe_seconds
    );
    let mut row = Row::new(what, subject, nodes, Unit::Count);
    for _ in 0..options.slow_trials {
        let mut lab = Lab::running(options, subject, nodes)?;
        // Spread over the cluster, and not the seed of the others.
        let starved: Vec<usize> = (0..count).map(|i| 1 + i * (nodes - 1) / count).collect();
        let begun = SystemTime::now();
        let end = Instant::now() + options.observe();
        while Instant::now() < end {
            signal_all(&lab, &starved, Signal::STOP)?;
            thread::sleep(STOPPED);
            signal_all(&lab, &starved, Signal::CONT)?;
            thread::sleep(RUNNING);
        }
        thread::sleep(options.settle());
        row.add(Ok(lab.falsely_failed(begun, &starved) as f64));
    }
    Ok(vec![row])
}

/// Three of ten packets are lost: how many are declared failed by anybody.
pub(crate) fn loss(options: &Options, subject: &Subject, nodes: usize, which: Lossy) -> Rows {
    let lossy = match which {
        Lossy::Udp => "UDP packets",
        Lossy::Everything => "packets",
    };
    let what = format!(
        "30 % of {lossy} lost, {} s: members declared failed",
        options.observe_seconds
    );
    let mut row = Row::new(what, subject, nodes, Unit::Count);
    for _ in 0..options.slow_trials {
        let mut lab = Lab::running(options, subject, nodes)?;
        let begun = SystemTime::now();
        lab.lan()?.lose(30, which)?;
        thread::sleep(options.observe());
        row.add(Ok(lab.falsely_failed(begun, &[]) as f64));
        lab.lan()?.lose(0, which)?;
    }
    Ok(vec![row])
}

fn signal_all(lab: &Lab, indices: &[usize], signal: Signal) -> Result<()> {
    for &index in indices {
        lab.signal(index, signal)?;
    }
    Ok(())
}

/// CPU time that a process has used so far, all its threads together (seconds).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name, in parentheses, may contain anything; after it, utime and stime are the 12th
    // and 13th field.
    let (_, fields) = text.rsplit_once(')').context("no name in stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(fields.next().context("a short stat")?.parse()?) };
    let used = ticks()? + ticks()?;
    Ok(used / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory of a process (MiB).
#[derive(Debug)]
pub(crate) struct Memory {
    /// All pages that are there.
    pub(crate) rss: f64,
    /// The same, with pages that are shared divided among those who share them.
    pub(crate) pss: f64,
}

/// What a process takes now.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        let kib: f64 = value.with_context(|| format!("{path}: {name}"))?.parse()?;
        Ok(kib / 1024.0)
    };
    Ok(Memory {
        rss: field("Rss:")?,
        pss: field("Pss:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() < 3600.0);
        let memory = memory(pid).unwrap();
        assert!(memory.rss >= memory.pss && memory.pss > 0.1, "{memory:?}");
    }
}
