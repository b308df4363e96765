//! A host: a kernel, a disk, a clock, and the process of one node.
//!
//! ```text
//!              start                 pause (SIGSTOP)
//!     dead  ----------->  running  <----------------> paused
//!      ^  \                 | |    resume: all input first, then the tick
//!      |   power on          kill, stop (its kernel answers "refused", its streams end)
//!      |        \            |
//!   switched off <--- power off (nothing answers, nothing ends)
//! ```
//!
//! The kernel is modelled beside the process, since what it says is evidence: it refuses and
//! accepts connections, acknowledges what arrives on streams, and keeps what a paused process
//! does not read, up to the size of its buffers.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use kith_proto::{
    config::Config,
    core::Core,
    id::NodeId,
    input::{Input, StreamId, Token},
    output::Stop,
    store::Durable,
    time::Time,
    wire::keyring::Keyring,
};

use crate::world::{Dialling, cpu::Order};

/// Number of a host, from 0.
pub type HostId = usize;

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// It runs.
    Running,
    /// It is stopped, and may go on: everything that arrives waits.
    Paused,
    /// There is none.
    Dead,
}

/// What a host sent and received; bytes as IP counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams sent.
    pub datagrams: u64,
    /// Bytes of these, with 28 bytes of IP and UDP headers each.
    pub datagram_bytes: u64,
    /// Frames sent on streams.
    pub frames: u64,
    /// Bytes of these, with length prefix, TLS record (22 bytes) and IP and TCP headers (52
    /// bytes a segment).
    pub frame_bytes: u64,
    /// Connections opened or tried.
    pub dials: u64,
}

impl Traffic {
    /// Everything sent (bytes).
    pub fn bytes(&self) -> u64 {
        self.datagram_bytes + self.frame_bytes
    }

    /// Packets sent: datagrams, and at least one segment for each frame.
    pub fn packets(&self) -> u64 {
        self.datagrams + self.frames
    }

    /// What was added since an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            datagram_bytes: self.datagram_bytes - earlier.datagram_bytes,
            frames: self.frames - earlier.frames,
            frame_bytes: self.frame_bytes - earlier.frame_bytes,
            dials: self.dials - earlier.dials,
        }
    }
}

/// How a host gets no CPU most of the time; see [`crate::world::cpu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// Nothing runs on it for so long,
    pub blocked: Duration,
    /// then for so long, and again.
    pub running: Duration,
    /// So many processes share the CPU then, its node among them: at least 1.
    pub crowd: u32,
}

/// A host that starves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starvation {
    pub(crate) turns: Turns,
    /// Which of several starvations of this host; leftovers of earlier ones mean nothing.
    pub(crate) number: u32,
}

pub(crate) struct Host {
    pub(crate) core: Option<Box<Core>>,
    pub(crate) process: Process,
    pub(crate) powered: bool,
    /// Nothing reaches it, while all that it sends gets through.
    pub(crate) deaf: bool,
    pub(crate) address: SocketAddr,
    pub(crate) config: Config,
    /// On its disk: what the core asked to keep, and the keys.
    pub(crate) durable: Option<Durable>,
    pub(crate) keys: Keyring,
    pub(crate) seeds: Vec<String>,
    pub(crate) waiting: VecDeque<Input>,
    /// Bytes of datagrams among those that wait, as the kernel accounts for them.
    pub(crate) buffered: usize,
    /// Connections that the kernel accepted for a paused process.
    pub(crate) backlog: Vec<Dialling>,
    /// Dials of this process that have not been answered.
    pub(crate) dials: BTreeSet<Token>,
    pub(crate) streams: BTreeSet<StreamId>,
    pub(crate) wake: Option<Time>,
    pub(crate) stopped: Option<Stop>,
    /// How often its process was started: what concerns an earlier one is not delivered.
    pub(crate) starts: u32,
    pub(crate) clock: Clock,
    /// The wall clock's error (milliseconds); generations come from it.
    pub(crate) wall_error: i64,
    pub(crate) starvation: Option<Starvation>,
    pub(crate) starvations: u32,
    pub(crate) order: Order,
    /// While it starves: its process has done what it took in hand.
    pub(crate) free_at: Time,
    /// While it starves: it goes on as soon as it has.
    pub(crate) at_work: bool,
    pub(crate) traffic: Traffic,
}

impl Host {
    /// Receive buffer of the gossip socket (bytes, as the kernel accounts for them). `node` asks
    /// for more, and Linux gives twice `net.core.rmem_max`, which is this unless it was raised.
    const SOCKET_BUFFER: usize = 2 * 212_992;
    /// What the kernel counts for a small datagram beside its bytes: its own record of it, and
    /// what is left of the memory that it was given.
    const BUFFER_OVERHEAD: usize = 700;

    pub(crate) fn new(address: SocketAddr, config: Config, keys: Keyring) -> Self {
        Self {
            core: None,
            process: Process::Dead,
            powered: true,
            deaf: false,
            address,
            config,
            durable: None,
            keys,
            seeds: Vec::new(),
            waiting: VecDeque::new(),
            buffered: 0,
            backlog: Vec::new(),
            dials: BTreeSet::new(),
            streams: BTreeSet::new(),
            wake: None,
            stopped: None,
            starts: 0,
            clock: Clock::default(),
            wall_error: 0,
            starvation: None,
            starvations: 0,
            order: Order::default(),
            free_at: Time::ZERO,
            at_work: false,
            traffic: Traffic::default(),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.node
    }

    /// Keeps an input for a process that cannot take it now; false if the kernel drops it.
    pub(crate) fn keep(&mut self, input: Input) -> bool {
        if let Input::Datagram { data, .. } = &input {
            let size = data.len() + Self::BUFFER_OVERHEAD;
            if self.buffered + size > Self::SOCKET_BUFFER {
                return false;
            }
            self.buffered += size;
        }
        self.waiting.push_back(input);
        true
    }

    /// Takes out what was kept first.
    pub(crate) fn next_waiting(&mut self) -> Option<Input> {
        let input = self.waiting.pop_front()?;
        if let Input::Datagram { data, .. } = &input {
            self.buffered -= data.len() + Self::BUFFER_OVERHEAD;
        }
        Some(input)
    }

    /// Drops all that was kept.
    pub(crate) fn forget_waiting(&mut self) {
        self.buffered = 0;
        self.waiting.clear();
    }

    /// The generation of a life that starts now: `max(stored + 1, milliseconds of the wall
    /// clock)`, and never 0.
    pub(crate) fn next_generation(&self, now: Time) -> u64 {
        let stored = self
            .durable
            .as_ref()
            .map_or(0, |durable| durable.generation);
        let millis = i64::try_from(now.since_origin().as_millis()).unwrap_or(i64::MAX);
        let wall = u64::try_from(millis.saturating_add(self.wall_error)).unwrap_or(0);
        wall.max(stored + 1)
    }
}

/// A host's monotonic clock: exact, unless it was made to drift or jump.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    from: Time,
    shown: Time,
    /// Parts per million too fast (positive) or too slow.
    drift: i32,
}

impl Clock {
    const MILLION: u128 = 1_000_000;

    /// What it shows at a moment of the world.
    pub(crate) fn local(&self, now: Time) -> Time {
        if self.drift == 0 {
            return self.shown + now.saturating_since(self.from);
        }
        let elapsed = now.saturating_since(self.from).as_nanos() * self.rate() / Self::MILLION;
        self.shown + nanos(elapsed)
    }

    /// The first moment of the world at which it shows at least `local`.
    pub(crate) fn world(&self, local: Time) -> Time {
        let wanted = local.saturating_since(self.shown);
        if self.drift == 0 {
            return self.from + wanted;
        }
        let elapsed = (wanted.as_nanos() * Self::MILLION).div_ceil(self.rate());
        self.from + nanos(elapsed)
    }

    /// From now on it drifts by so many parts per million.
    pub(crate) fn set_drift(&mut self, now: Time, drift: i32) {
        self.shown = self.local(now);
        self.from = now;
        self.drift = drift.clamp(-500_000, 1_000_000);
    }

    /// It jumps forward; a monotonic clock never goes back.
    pub(crate) fn jump(&mut self, now: Time, by: Duration) {
        self.shown = self.local(now) + by;
        self.from = now;
    }

    fn rate(&self) -> u128 {
        u128::from((1_000_000 + i64::from(self.drift)).unsigned_abs())
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_and_jumps_can_be_asked_both_ways() {
        let mut clock = Clock::default();
        let at = Time::from_millis;
        assert_eq!(clock.local(at(5)), at(5));
        clock.set_drift(at(1000), 100_000);
        assert_eq!(clock.local(at(2000)), at(2100));
        clock.jump(at(2000), Duration::from_millis(900));
        assert_eq!(clock.local(at(2000)), at(3000));
        for millis in [3000, 3001, 3333, 9999] {
            let world = clock.world(at(millis));
            assert!(clock.local(world) >= at(millis));
            assert!(clock.local(world - Duration::from_nanos(1)) < at(millis) || millis == 3000);
        }
    }
}
