//! What a process does with the CPU that it gets.
//!
//! One that gets all the CPU that it wants does everything at the moment when it can. One that
//! starves is blocked most of the time, and in its short turns each thing that it does takes
//! time, one after the other:
//!
//! ```text
//!   blocked                turn                    blocked                turn
//!   |--------------------->|-x-x-x-x-x-x-x-x-x-x-->|--------------------->|-x-x-x- - -
//!     all that arrives      one input, timer or      what was not done
//!     waits; UDP beyond     handshake after the      waits on
//!     the buffer is lost    other
//! ```
//!
//! | what it does | takes |
//! |---|---|
//! | an input or a timer, with all that comes of it | 100 µs, and 10 µs for each KiB |
//! | its part of a TLS handshake | 1 ms |
//!
//! Each time varies by half, drawn from the seed. All of it takes as many times longer as there are
//! processes that share the turn: what starves is a machine, and others there have waited as long.
//! 100 µs is what a node was measured to use when
//! it is at rest: 0.5 to 0.7 ms a second, in which it sends and reads four packets and looks at a
//! few timers, each time with cold caches. A busy process is faster; one that starves is not busy.
//!
//! What waits is taken in the order in which it arrived. Whether timers that are due meanwhile come
//! before that is up to the process: see [`Order`].

use std::time::Duration;

use kith_proto::input::Input;
use rand::RngExt;

use super::{Dialling, Happening, HostId, World};
use crate::host::Process;

/// An input or a timer, with all that comes of it.
const THING: Duration = Duration::from_micros(100);
/// What each KiB of an input adds.
const PER_KIB: Duration = Duration::from_micros(10);
/// One side of a TLS handshake: a signature, and two to verify.
const TLS: Duration = Duration::from_millis(1);

/// In which order a process takes what waits for it when it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// All that has arrived, then the timers that are due, as `node` does.
    #[default]
    InputFirst,
    /// Whichever of the two is ready, by chance, as ordinary event loops do.
    AsItComes,
}

/// Something that a process has to do.
enum Task {
    Input(Input),
    Accept(Dialling),
}

impl World {
    /// There may be something to do for a process: all of it is done now, or, if it starves, as
    /// soon as it has the time.
    pub(super) fn go_to_work(&mut self, host: HostId) {
        if self.hosts[host].starvation.is_none() {
            while let Some(task) = self.next_task(host) {
                self.do_task(host, task);
            }
            return;
        }
        let has_work = self.has_input(host) || self.has_timer(host) || self.has_caller(host);
        let it = &mut self.hosts[host];
        if it.process != Process::Running || it.at_work || !has_work {
            return;
        }
        it.at_work = true;
        let (at, starts) = (it.free_at.max(self.now), it.starts);
        self.at(at, Happening::Work { host, starts });
    }

    /// A starved process has the time to do the next thing, if it was not blocked meanwhile.
    pub(super) fn work(&mut self, host: HostId, starts: u32) {
        if self.hosts[host].starts != starts {
            return;
        }
        self.hosts[host].at_work = false;
        if self.hosts[host].starvation.is_some()
            && let Some(task) = self.next_task(host)
        {
            let takes = self.takes(host, &task);
            self.hosts[host].free_at = self.now + takes;
            self.do_task(host, task);
        }
        self.go_to_work(host);
    }

    fn do_task(&mut self, host: HostId, task: Task) {
        match task {
            Task::Input(input) => {
                self.handle(host, input);
                self.drain(host);
            }
            Task::Accept(dialling) => self.accept(host, dialling),
        }
    }

    fn next_task(&mut self, host: HostId) -> Option<Task> {
        if self.hosts[host].process != Process::Running {
            return None;
        }
        let (has_input, has_timer) = (self.has_input(host), self.has_timer(host));
        let timer_first = match self.hosts[host].order {
            Order::InputFirst => !has_input,
            Order::AsItComes => !has_input || (has_timer && self.rng.random()),
        };
        if has_timer && timer_first {
            return Some(Task::Input(Input::Tick));
        }
        let it = &mut self.hosts[host];
        if let Some(input) = it.next_waiting() {
            return Some(Task::Input(input));
        }
        // Those who called while it was paused are served by `serve_backlog`.
        it.starvation?;
        (!it.backlog.is_empty()).then(|| Task::Accept(it.backlog.remove(0)))
    }

    fn has_input(&self, host: HostId) -> bool {
        !self.hosts[host].waiting.is_empty()
    }

    fn has_caller(&self, host: HostId) -> bool {
        !self.hosts[host].backlog.is_empty()
    }

    fn has_timer(&self, host: HostId) -> bool {
        let it = &self.hosts[host];
        let due = it.core.as_ref().and_then(|core| core.poll_timeout());
        it.wake.is_none_or(|at| at <= self.now)
            && due.is_some_and(|due| due <= it.clock.local(self.now))
    }

    // How long it takes a starved process to do something.
    fn takes(&mut self, host: HostId, task: &Task) -> Duration {
        let whole = match task {
            Task::Input(Input::Datagram { data: bytes, .. })
            | Task::Input(Input::StreamFrame { frame: bytes, .. }) => {
                let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX);
                THING + PER_KIB * kib
            }
            Task::Input(Input::StreamOpened { dial: Some(_), .. }) => THING + TLS,
            Task::Input(_) => THING,
            Task::Accept(dialling) if self.is_waited_for(dialling) => THING + TLS,
            Task::Accept(_) => THING,
        };
        let turns = self.hosts[host]
            .starvation
            .map(|starvation| starvation.turns);
        let crowd = turns.map_or(1, |turns| turns.crowd);
        whole * crowd * self.rng.random_range(50..=150u32) / 100
    }
}
