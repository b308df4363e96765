//! What is measured: clocks, traffic, who sees whom.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kith_proto::{event::Event, time::Time};
use kith_sim::world::{HostId, World};

/// What a frame costs beside its bytes: length prefix, TLS record, TCP and IP headers, and
/// the acknowledgement that comes back (bytes).
const FRAME_COST: u64 = 4 + 22 + 52 + 52;
/// Headers of IP and UDP (bytes).
const DATAGRAM_COST: u64 = 28;
/// Whom each node sees alive, kept from what nodes say, since to ask a thousand tables about
/// a thousand members takes longer than to simulate them.
pub(crate) struct Views {
    read: usize,
    others: Vec<usize>,
    pub(crate) last_change: Time,
}

impl Views {
    pub(crate) fn new() -> Self {
        Self {
            read: 0,
            others: Vec::new(),
            last_change: Time::ZERO,
        }
    }

    pub(crate) fn read(&mut self, world: &World) {
        self.others.resize(world.len(), 0);
        for told in &world.told[self.read..] {
            let others = &mut self.others[told.host];
            let change: isize = match &told.event {
                Event::MemberJoined { .. } | Event::MemberRejoined { .. } => 1,
                Event::MemberRecovered { failed_ms, .. } if failed_ms.is_some() => 1,
                Event::MemberFailed { .. }
                | Event::MemberLeft { .. }
                | Event::MemberEvicted { .. } => -1,
                _ => 0,
            };
            if change != 0 {
                *others = others.saturating_add_signed(change);
                self.last_change = told.at;
            }
        }
        self.read = world.told.len();
    }

    /// Whether each of these sees as many others as it should.
    pub(crate) fn all_see(&mut self, world: &World, hosts: &[HostId], others: usize) -> bool {
        self.read(world);
        hosts.iter().all(|host| self.others[*host] == others)
    }
}

/// Both clocks of this machine, and the one of the world.
pub(crate) struct Watch {
    wall: Instant,
    cpu: Duration,
    pub(crate) at: Time,
}

impl Watch {
    pub(crate) fn start(world: &World) -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_time(),
            at: world.now(),
        }
    }

    pub(crate) fn tell(&self, world: &World, what: &str) {
        let simulated = world.now().saturating_since(self.at).as_secs_f64();
        let (wall, cpu) = (
            self.wall.elapsed().as_secs_f64(),
            (cpu_time() - self.cpu).as_secs_f64(),
        );
        println!(
            "speed: {what}: {simulated:.2} s simulated in {wall:.2} s of wall time ({:.0} per s), \
             {cpu:.2} s of CPU time ({:.0} per s)",
            simulated / wall,
            simulated / cpu
        );
    }
}

/// CPU time of this thread, where the kernel tells it; else zero.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Sums of the counters of all living nodes.
fn counters(world: &World) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for core in (0..world.len()).filter_map(|host| world.core(host)) {
        for (name, value) in core.counters() {
            *sums.entry(name).or_default() += value;
        }
    }
    sums
}

/// Datagrams, their bytes, frames and their bytes as they weigh on the wire.
pub(crate) fn traffic(world: &World) -> [u64; 4] {
    let sums = counters(world);
    let of = |name| sums.get(name).copied().unwrap_or(0);
    let (datagrams, frames) = (of("datagrams_sent"), of("frames_sent"));
    [
        datagrams,
        of("datagram_bytes_sent") + datagrams * DATAGRAM_COST,
        frames,
        of("frame_bytes_sent") + frames * FRAME_COST,
    ]
}

pub(crate) fn tell_traffic(world: &World, before: [u64; 4], since: Time, nodes: usize) {
    let seconds = world.now().saturating_since(since).as_secs_f64() * nodes as f64;
    let after = traffic(world);
    let rate = |which: usize| after[which].saturating_sub(before[which]) as f64 / seconds;
    println!(
        "  per node and second: {:.2} datagrams, {:.1} bytes; {:.3} frames, {:.1} bytes; together {:.1} bytes",
        rate(0),
        rate(1),
        rate(2),
        rate(3),
        rate(1) + rate(3)
    );
}

/// How much news waits at the survivors, and how far they are.
pub(crate) fn backlog(world: &World, hosts: &[HostId], since: Time, views: &mut Views) {
    views.read(world);
    let mut waiting: Vec<u64> = hosts
        .iter()
        .filter_map(|host| world.core(*host)?.counters().get("news_backlog").copied())
        .collect();
    waiting.sort_unstable();
    let mut others: Vec<usize> = hosts.iter().map(|host| views.others[*host]).collect();
    others.sort_unstable();
    let (Some(most), Some(fewest)) = (waiting.last(), others.first()) else {
        return;
    };
    println!(
        "  after {:5} ms: news waiting, median {} most {}; others seen alive, fewest {} median {} most {}",
        world.now().saturating_since(since).as_millis(),
        waiting[waiting.len() / 2],
        most,
        fewest,
        others[others.len() / 2],
        others[others.len() - 1],
    );
}

/// Failures declared of nodes that live, by nodes that live.
pub(crate) fn tell_wrong(world: &World, dead: &[HostId], since: Time) {
    let ids: Vec<_> = dead.iter().map(|host| world.id(*host)).collect();
    let wrong = world
        .told
        .iter()
        .filter(|told| told.at >= since && !dead.contains(&told.host))
        .filter(|told| match &told.event {
            Event::MemberFailed { who, .. } => !ids.contains(&who.member_id),
            _ => false,
        })
        .count();
    println!("  false alarms: {wrong}");
}
