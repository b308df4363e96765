//! How fast clusters are simulated, and how they behave when they are large.
//!
//! ```text
//! cargo run --release -p kith-sim --example speed -- idle --nodes 100 --seconds 600
//! cargo run --release -p kith-sim --example speed -- join joiner crash split --nodes 1000
//! ```
//!
//! Each scenario builds a cluster of its own from `--seed`, so that figures do not depend on
//! what ran before. All but the lines that begin with `speed:` are the same on every machine;
//! those tell simulated seconds per second of wall time and of CPU time of this one thread.
//!
//! | scenario | what it does, what it tells |
//! |---|---|
//! | `idle` | all join through one seed at once, then nothing happens for `--seconds` (120): speed, bytes |
//! | `join` | as above, until all see all; with `--over` milliseconds, and `--seeds` |
//! | `joiner` | one more joins a cluster at rest: when it knows all, when all know it |
//! | `single` | one is killed, one vanishes, one pauses for 5 s and one for 20 s: when the first and the last survivor know |
//! | `loss` | three in ten datagrams are lost for `--seconds`: false alarms |
//! | `crash` | three in ten are killed at once: when all survivors agree, how much news waits |
//! | `vanish` | the same, but their machines are cut off instead |
//! | `split` | halves are cut from each other for `--cut` seconds (600), then healed |

mod measure;
mod options;

use std::time::{Duration, Instant};

use kith_proto::{members::table::Status, time::Time};
use kith_sim::{
    report::failed_at,
    world::{HostId, World},
};

use measure::{Views, Watch, backlog, tell_traffic, tell_wrong, traffic};
use options::Options;

/// No scenario waits longer for a condition (simulated).
const PATIENCE: Duration = Duration::from_secs(120);

struct Lab {
    world: World,
    hosts: Vec<HostId>,
    views: Views,
}

impl Lab {
    /// Everybody starts at once, or one by one over some time; the first ones are the seeds of
    /// all others.
    fn join(options: &Options) -> Self {
        let mut world = World::new(options.seed);
        let first = world.add(&[], |_| {});
        let mut hosts = vec![first];
        let watch = Watch::start(&world);
        for number in 1..options.nodes {
            let due = options.over * number as u64 / options.nodes as u64;
            let passed = world.now().saturating_since(watch.at);
            world.run(Duration::from_millis(due).saturating_sub(passed));
            let seeds: Vec<HostId> = (0..number.min(options.seeds)).collect();
            hosts.push(world.add(&seeds, |_| {}));
        }
        let mut lab = Self {
            world,
            hosts,
            views: Views::new(),
        };
        let others = options.nodes - 1;
        let together = lab.wait(|lab| lab.views.all_see(&lab.world, &lab.hosts, others));
        let after = lab.views.last_change.saturating_since(watch.at);
        println!(
            "  {} nodes join over {} ms: {}",
            options.nodes,
            options.over,
            said(together, after, "all see all")
        );
        watch.tell(&lab.world, "joining");
        lab
    }

    /// A cluster at rest.
    fn rest(options: &Options) -> Self {
        let mut lab = Self::join(options);
        lab.world.run(Duration::from_secs(30));
        lab
    }

    fn wait(&mut self, mut holds: impl FnMut(&mut Self) -> bool) -> bool {
        let until = self.world.now() + PATIENCE;
        while self.world.now() < until {
            if holds(self) {
                return true;
            }
            self.world.run(Duration::from_millis(1));
        }
        false
    }
}

fn said(came: bool, after: Duration, what: &str) -> String {
    if came {
        format!("{what} after {} ms", after.as_millis())
    } else {
        format!("not {what} after {} s", PATIENCE.as_secs())
    }
}

fn idle(options: &Options) {
    let wall = Instant::now();
    let mut lab = Lab::join(options);
    let joining = lab.world.now().since_origin();
    // What joining leaves behind (streams, measurements) is not counted as rest.
    let settle = Duration::from_secs(options.seconds / 2);
    let watch = Watch::start(&lab.world);
    lab.world.run(settle);
    watch.tell(&lab.world, "settling");
    let (before, since) = (traffic(&lab.world), lab.world.now());
    let watch = Watch::start(&lab.world);
    lab.world.run(Duration::from_secs(options.seconds) - settle);
    watch.tell(&lab.world, "rest");
    tell_traffic(&lab.world, before, since, options.nodes);
    println!(
        "speed: {} nodes for {:.1} s, joining included, in {:.1} s of wall time",
        options.nodes,
        joining.as_secs_f64() + options.seconds as f64,
        wall.elapsed().as_secs_f64()
    );
}

fn joiner(options: &Options) {
    let mut lab = Lab::rest(options);
    let watch = Watch::start(&lab.world);
    let seed = lab.hosts[options.nodes / 2];
    let new = lab.world.add(&[seed], |_| {});
    let nodes = options.nodes;
    let complete = lab.wait(|lab| lab.views.all_see(&lab.world, &[new], nodes));
    let after = lab.world.now().saturating_since(watch.at);
    println!("  the joiner: {}", said(complete, after, "knows all"));
    let known = lab.wait(|lab| lab.views.all_see(&lab.world, &lab.hosts, nodes));
    let after = lab.world.now().saturating_since(watch.at);
    println!("  the others: {}", said(known, after, "all know it"));
    watch.tell(&lab.world, "joiner");
}

/// When the survivors declare one node failed, after what happened to it at `since`.
fn tell_detection(lab: &Lab, of: HostId, since: Time, what: &str) {
    let mut found: Vec<Duration> = failed_at(&lab.world, of, since)
        .into_iter()
        .filter(|(host, _)| *host != of)
        .map(|(_, after)| after)
        .collect();
    found.sort_unstable();
    let ms = |index: usize| found.get(index).map_or(0, Duration::as_millis);
    println!(
        "  {what}: {} of {} say that it failed, first {} median {} last {} ms",
        found.len(),
        lab.hosts.len() - 1,
        ms(0),
        ms(found.len() / 2),
        ms(found.len().saturating_sub(1))
    );
}

fn single(options: &Options) {
    let mut lab = Lab::rest(options);
    let watch = Watch::start(&lab.world);
    let [killed, vanished, short, long] = [1, 2, 3, 4].map(|n| n * options.nodes / 5);
    let settle = Duration::from_secs(15);
    let since = lab.world.now();
    lab.world.kill(killed);
    lab.world.run(settle);
    tell_detection(&lab, killed, since, "killed");
    let since = lab.world.now();
    lab.world.cut(&[vanished], Some(1));
    lab.world.run(settle);
    tell_detection(&lab, vanished, since, "vanished");
    lab.world.cut(&[vanished], None);
    lab.world.run(Duration::from_secs(60));
    let seen = |lab: &Lab, host: HostId| {
        let id = lab.world.id(host);
        let alive = |by: &&HostId| {
            let entry = lab.world.core(**by).and_then(|core| core.table().get(id));
            entry.is_some_and(|entry| entry.status() == Status::Alive)
        };
        lab.hosts.iter().filter(alive).count()
    };
    println!("  a minute later it is alive for {}", seen(&lab, vanished));
    for (host, seconds) in [(short, 5), (long, 20)] {
        let since = lab.world.now();
        lab.world.pause(host);
        lab.world.run(Duration::from_secs(seconds));
        lab.world.resume(host);
        lab.world.run(settle);
        tell_detection(&lab, host, since, &format!("paused for {seconds} s"));
        println!("  afterwards it is alive for {}", seen(&lab, host));
    }
    tell_wrong(&lab.world, &[killed, vanished, long], watch.at);
    watch.tell(&lab.world, "single");
}

fn loss(options: &Options) {
    let mut lab = Lab::rest(options);
    let watch = Watch::start(&lab.world);
    lab.world.network.loss = 300;
    lab.world.run(Duration::from_secs(options.seconds));
    tell_wrong(&lab.world, &[], watch.at);
    watch.tell(&lab.world, "loss of 30 %");
}

fn crash(options: &Options, vanish: bool) {
    let mut lab = Lab::rest(options);
    let watch = Watch::start(&lab.world);
    let dead: Vec<HostId> = (0..options.nodes * 3 / 10).map(|n| n * 3 + 1).collect();
    let survivors: Vec<HostId> = (0..options.nodes).filter(|h| !dead.contains(h)).collect();
    for host in &dead {
        if vanish {
            lab.world.cut(&[*host], Some((*host % 250) as u8 + 1));
        }
        lab.world.kill(*host);
    }
    let before = traffic(&lab.world);
    let others = survivors.len() - 1;
    let mut look = lab.world.now();
    let agreed = lab.wait(|lab| {
        if lab.world.now() >= look {
            look = lab.world.now() + Duration::from_millis(500);
            backlog(&lab.world, &survivors, watch.at, &mut lab.views);
        }
        lab.views.all_see(&lab.world, &survivors, others)
    });
    let after = lab.views.last_change.saturating_since(watch.at);
    println!(
        "  {} of {} {} at once: {}",
        dead.len(),
        options.nodes,
        if vanish { "vanish" } else { "are killed" },
        said(agreed, after, "all survivors agree")
    );
    tell_traffic(&lab.world, before, watch.at, survivors.len());
    tell_wrong(&lab.world, &dead, watch.at);
    watch.tell(&lab.world, "crash");
    let watch = Watch::start(&lab.world);
    lab.world.run(Duration::from_secs(60));
    backlog(&lab.world, &survivors, watch.at, &mut lab.views);
    tell_wrong(&lab.world, &dead, watch.at);
    watch.tell(&lab.world, "afterwards");
}

fn split(options: &Options) {
    let mut lab = Lab::rest(options);
    let (left, right) = lab.hosts.split_at(options.nodes / 2);
    let (left, right) = (left.to_vec(), right.to_vec());
    lab.world.cut(&left, Some(1));
    let watch = Watch::start(&lab.world);
    let apart = lab.wait(|lab| {
        lab.views.all_see(&lab.world, &left, left.len() - 1)
            && lab.views.all_see(&lab.world, &right, right.len() - 1)
    });
    let after = lab.views.last_change.saturating_since(watch.at);
    println!(
        "  {} and {} are cut from each other: {}",
        left.len(),
        right.len(),
        said(apart, after, "both sides agree")
    );
    watch.tell(&lab.world, "splitting");
    let watch = Watch::start(&lab.world);
    let cut = Duration::from_secs(options.cut);
    lab.world.run(cut.saturating_sub(after));
    watch.tell(&lab.world, "apart");
    let (before, watch) = (traffic(&lab.world), Watch::start(&lab.world));
    lab.world.cut(&left, None);
    let others = options.nodes - 1;
    let healed = lab.wait(|lab| lab.views.all_see(&lab.world, &lab.hosts, others));
    let after = lab.views.last_change.saturating_since(watch.at);
    println!("  healed: {}", said(healed, after, "all see all"));
    tell_traffic(&lab.world, before, watch.at, options.nodes);
    watch.tell(&lab.world, "healing");
}

fn main() -> Result<(), String> {
    let options = Options::from_arguments()?;
    for scenario in &options.scenarios {
        println!("{scenario}: {} nodes, seed {}", options.nodes, options.seed);
        match scenario.as_str() {
            "idle" => idle(&options),
            "join" => drop(Lab::join(&options)),
            "joiner" => joiner(&options),
            "single" => single(&options),
            "loss" => loss(&options),
            "crash" => crash(&options, false),
            "vanish" => crash(&options, true),
            "split" => split(&options),
            other => {
                return Err(format!(
                    "{other}: there are idle, join, joiner, single, loss, crash, vanish and split"
                ));
            }
        }
    }
    Ok(())
}
