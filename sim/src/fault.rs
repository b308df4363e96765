//! What can be done to a cluster, as data: a plan is a list of actions with their moments, so
//! that it can be printed before it is carried out, and carried out again.

use std::{fmt, time::Duration};

use kith_proto::input::Command;

use crate::{
    host::{HostId, Process, Turns},
    network::Network,
    world::World,
};

/// Something that an operator, or fate, does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process is killed.
    Kill(HostId),
    /// The machine loses power, or its network card dies: nothing answers.
    PowerOff(HostId),
    /// The process is started, with what its disk remembers.
    Start(HostId),
    /// The process is started on an empty disk: a new node of the same name.
    StartWiped(HostId),
    /// The process is stopped (SIGSTOP).
    Pause(HostId),
    /// It goes on.
    Resume(HostId),
    /// The host gets CPU only for moments.
    Starve {
        /// Which host.
        host: HostId,
        /// When, and how much.
        turns: Turns,
        /// The first turn comes so much later.
        after: Duration,
    },
    /// It gets CPU again.
    Nourish(HostId),
    /// The hosts are on a side of a split of their own; `None` ends that.
    Cut(Vec<HostId>, Option<u8>),
    /// Nothing gets from the one to the other, in this direction.
    OneWay(HostId, HostId, bool),
    /// UDP between the two is dropped.
    NoDatagrams(HostId, HostId, bool),
    /// TCP between the two is dropped.
    NoStreams(HostId, HostId, bool),
    /// The ways between the host and all others are slow, both ways.
    Slow {
        /// Which host.
        host: HostId,
        /// Added to each delay.
        by: Duration,
        /// Bytes in a second, each way.
        rate: Option<u32>,
    },
    /// The streams between the two break.
    BreakStreams(HostId, HostId),
    /// The streams between the two carry nothing for a while.
    StallStreams(HostId, HostId, Duration),
    /// The network as a whole behaves like this from now on.
    Network(Network),
    /// The host's clock jumps forward.
    JumpClock(HostId, Duration),
    /// The host's clock drifts, in parts per million.
    DriftClock(HostId, i32),
    /// The host's wall clock is wrong, in milliseconds.
    WallClock(HostId, i64),
    /// A new host is added and its node started; it gets the next free number.
    Join {
        /// Its seeds.
        seeds: Vec<HostId>,
        /// Claims the name of that host's node instead of one of its own.
        name_of: Option<HostId>,
    },
    /// An operator stops the node (it will be back), or takes it out for good.
    Leave {
        /// Which.
        host: HostId,
        /// It will be back.
        returning: bool,
    },
    /// An operator evicts a member.
    Evict {
        /// Through this node.
        by: HostId,
        /// That one.
        host: HostId,
    },
    /// An operator changes a node's weight.
    Weight(HostId, u32),
    /// The node will speak these versions of the protocol from its next start on.
    Upgrade(HostId, (u16, u16)),
    /// An operator adds the key with that number, through that node.
    KeyAdd(HostId, u8),
    /// All seal with it; not done while there is a running node that does not hold it.
    KeyUse(HostId, u8),
    /// All forget it; number 0 is the key that the cluster began with.
    KeyRemove(HostId, u8),
}

impl Action {
    /// Does it. What makes no sense any more (a dead process cannot be paused) does nothing.
    pub fn apply(&self, world: &mut World) {
        match self {
            Self::Kill(host) => {
                if world.process(*host) != Process::Dead {
                    world.kill(*host);
                }
            }
            Self::PowerOff(host) => world.power_off(*host),
            Self::Start(host) => start(world, *host),
            Self::StartWiped(host) => {
                if world.process(*host) == Process::Dead {
                    world.wipe(*host);
                    start(world, *host);
                }
            }
            Self::Pause(host) => world.pause(*host),
            Self::Resume(host) => world.resume(*host),
            Self::Starve { host, turns, after } => {
                if world.process(*host) != Process::Dead {
                    world.starve(*host, *turns, *after);
                }
            }
            Self::Nourish(host) => world.nourish(*host),
            Self::Cut(hosts, side) => world.cut(hosts, *side),
            Self::OneWay(from, to, blocked) => world.block_one_way(*from, *to, *blocked),
            Self::NoDatagrams(a, b, blocked) => world.block_datagrams(*a, *b, *blocked),
            Self::NoStreams(a, b, blocked) => world.block_streams(*a, *b, *blocked),
            Self::Slow { host, by, rate } => {
                for other in (0..world.len()).filter(|other| other != host) {
                    for (from, to) in [(*host, other), (other, *host)] {
                        world.change_link(from, to, |link| {
                            link.slower = *by;
                            link.rate = *rate;
                        });
                    }
                }
            }
            Self::BreakStreams(a, b) => world.break_streams(*a, *b),
            Self::StallStreams(a, b, duration) => world.stall_streams(*a, *b, *duration),
            Self::Network(network) => world.set_network(*network),
            Self::JumpClock(host, by) => world.jump_clock(*host, *by),
            Self::DriftClock(host, drift) => world.drift_clock(*host, *drift),
            Self::WallClock(host, millis) => world.set_wall_clock_error(*host, *millis),
            Self::Join { seeds, name_of } => {
                let name = name_of.map(|host| world.name(host));
                let host = world.place(seeds, |config| {
                    if let Some(name) = name {
                        config.name = name;
                    }
                });
                start(world, host);
            }
            Self::Leave { host, returning } => {
                let returning = *returning;
                command(world, *host, Command::Leave { returning });
            }
            Self::Evict { by, host } => {
                let member = world.id(*host).to_string();
                command(world, *by, Command::Evict { member });
            }
            Self::Weight(host, weight) => {
                world.configure(*host, |config| config.weight = *weight);
                let weight = Some(*weight);
                command(world, *host, Command::Reload { tags: None, weight });
            }
            Self::Upgrade(host, versions) => {
                world.configure(*host, |config| config.protocol = *versions);
            }
            Self::KeyAdd(host, number) => {
                let key = world.key(*number);
                command(world, *host, Command::KeyAdd { key });
            }
            Self::KeyUse(host, number) => {
                // A careful operator: whoever is only cut off, and does not hold the key, could
                // never be let in again.
                let key = world.key(*number).id();
                let held = world
                    .truth
                    .running_hosts()
                    .all(|other| world.keys(other).get(key).is_some());
                if held {
                    command(world, *host, Command::KeyUse { key });
                }
            }
            Self::KeyRemove(host, number) => {
                let key = world.key(*number).id();
                command(world, *host, Command::KeyRemove { key });
            }
        }
    }
}

fn start(world: &mut World, host: HostId) {
    if world.process(host) == Process::Dead {
        world.power_on(host);
        world.give_key(host);
        world.start(host);
    }
}

fn command(world: &mut World, host: HostId, command: Command) {
    if world.process(host) != Process::Dead {
        world.command(host, command);
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = |blocked: &bool| if *blocked { "blocked" } else { "free" };
        match self {
            Self::Kill(host) => write!(f, "kill n{host}"),
            Self::PowerOff(host) => write!(f, "power off n{host}"),
            Self::Start(host) => write!(f, "start n{host}"),
            Self::StartWiped(host) => write!(f, "start n{host} on an empty disk"),
            Self::Pause(host) => write!(f, "pause n{host}"),
            Self::Resume(host) => write!(f, "resume n{host}"),
            Self::Starve { host, turns, .. } => write!(
                f,
                "starve n{host}: {:?} of every {:?}, for {} processes",
                turns.running,
                turns.blocked + turns.running,
                turns.crowd
            ),
            Self::Nourish(host) => write!(f, "n{host} starves no more"),
            Self::Cut(hosts, Some(side)) => write!(f, "cut off {} as side {side}", list(hosts)),
            Self::Cut(hosts, None) => write!(f, "{} cut off no more", list(hosts)),
            Self::OneWay(from, to, b) => write!(f, "n{from} to n{to}: {}", open(b)),
            Self::NoDatagrams(a, b, c) => write!(f, "UDP between n{a} and n{b}: {}", open(c)),
            Self::NoStreams(a, b, c) => write!(f, "TCP between n{a} and n{b}: {}", open(c)),
            Self::Slow { host, by, rate } => {
                write!(f, "n{host} is {by:?} further away from all others")?;
                match rate {
                    Some(rate) => write!(f, ", {rate} B/s"),
                    None => Ok(()),
                }
            }
            Self::BreakStreams(a, b) => write!(f, "streams between n{a} and n{b} break"),
            Self::StallStreams(a, b, time) => {
                write!(f, "streams between n{a} and n{b} stall for {time:?}")
            }
            Self::Network(network) => write!(f, "network: {network}"),
            Self::JumpClock(host, by) => write!(f, "n{host}'s clock jumps by {by:?}"),
            Self::DriftClock(host, drift) => write!(f, "n{host}'s clock drifts by {drift} ppm"),
            Self::WallClock(host, by) => write!(f, "n{host}'s wall clock is {by} ms off"),
            Self::Join { seeds, name_of } => {
                write!(f, "a node joins through {}", list(seeds))?;
                match name_of {
                    Some(host) => write!(f, " under the name of n{host}"),
                    None => Ok(()),
                }
            }
            Self::Leave { host, returning } => {
                let how = if *returning { "stop" } else { "leave" };
                write!(f, "n{host} is told to {how}")
            }
            Self::Evict { by, host } => write!(f, "n{by} evicts n{host}"),
            Self::Weight(host, weight) => write!(f, "n{host} weighs {weight}"),
            Self::Upgrade(host, (oldest, newest)) => {
                write!(f, "n{host} will speak versions {oldest} to {newest}")
            }
            Self::KeyAdd(host, key) => write!(f, "n{host} adds key {key}"),
            Self::KeyUse(host, key) => write!(f, "n{host} lets all use key {key}"),
            Self::KeyRemove(host, key) => write!(f, "n{host} removes key {key}"),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |thousandths: u32| f64::from(thousandths) / 10.0;
        write!(
            f,
            "{:?} to {:?} near, {:?} to {:?} far, loss {}%",
            self.delay_min,
            self.delay_max,
            self.far_min,
            self.far_max,
            percent(self.loss),
        )?;
        if let Some(loss) = self.stream_loss {
            write!(f, " (streams {}%)", percent(loss))?;
        }
        if self.duplicated > 0 {
            write!(f, ", {}% twice", percent(self.duplicated))?;
        }
        if self.reordered > 0 {
            let by = self.held_back;
            write!(
                f,
                ", {}% held back by up to {by:?}",
                percent(self.reordered)
            )?;
        }
        if self.mtu < 1500 {
            write!(f, ", MTU {}", self.mtu)?;
        }
        Ok(())
    }
}

fn list(hosts: &[HostId]) -> String {
    let names: Vec<String> = hosts.iter().map(|host| format!("n{host}")).collect();
    names.join(" ")
}
