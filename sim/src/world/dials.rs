//! Connections and knocks, with what kernels and processes say to them.
//!
//! ```text
//!   SYN ------------->          refused: a SYN to a host without the process
//!       <------------- SYN-ACK  silent: no host, no power, no way there and back
//!   TLS ------------->          a paused process: the kernel has accepted, TLS waits
//!       <------------- TLS      untrusted: no key in common
//!   TLS ------------->  open at the accepting side
//!       <------------- greeting
//!   open at the dialling side
//! ```
//!
//! A SYN that got no answer is sent again after 1, 3 and 7 seconds (RFC 6298, section 2.1), as
//! long as the dialler has patience.

use std::{net::SocketAddr, time::Duration};

use kith_proto::{
    input::{DialError, Input, Knock, Token},
    time::Time,
};

use super::{Happening, HostId, World};
use crate::{host::Process, network::Transport};

/// Bytes of a connection attempt: one segment without content.
const SYN_BYTES: u64 = 60;
/// Segments and bytes that a dialler sends after that until TLS is done: an acknowledgement, a
/// client hello, its certificate.
const TLS_SEGMENTS: u64 = 3;
const TLS_BYTES: u64 = 1300;
/// The first pause before a SYN is sent again; it doubles.
const SYN_AGAIN: Duration = Duration::from_secs(1);

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialling {
    from: HostId,
    /// Which of the dialling host's processes.
    starts: u32,
    to: SocketAddr,
    token: Token,
    /// Patience ends here.
    deadline: Time,
    attempt: u32,
}

impl World {
    pub(super) fn dial(&mut self, from: HostId, token: Token, to: SocketAddr) {
        let it = &mut self.hosts[from];
        it.traffic.dials += 1;
        it.dials.insert(token);
        let dialling = Dialling {
            from,
            starts: it.starts,
            to,
            token,
            deadline: self.now + it.config.timing.dial_timeout,
            attempt: 0,
        };
        let after = self.delay_to(from, to);
        self.send_segments(from, 1, SYN_BYTES);
        self.later(after, Happening::Syn(dialling));
        self.at(dialling.deadline, Happening::DialEnds(dialling));
    }

    pub(super) fn knock(&mut self, from: HostId, knock: Token, to: SocketAddr) {
        self.send_segments(from, 1, SYN_BYTES);
        let patience = self.hosts[from].config.timing.knock_timeout;
        let there = self.delay_to(from, to);
        // The answer is fixed now: a knock is over within a moment, or it is silent.
        let target = self
            .by_address
            .get(&to)
            .copied()
            .filter(|target| self.both_ways(from, *target));
        let back = self.delay_to(from, to);
        let answer = match target {
            Some(target) if there + back < patience => match self.hosts[target].process {
                Process::Dead => Knock::Refused,
                Process::Running | Process::Paused => Knock::Accepted,
            },
            _ => Knock::Silent,
        };
        let after = match answer {
            Knock::Silent => patience,
            Knock::Refused | Knock::Accepted => there + back,
        };
        if let Some(trace) = &mut self.trace {
            trace.note(
                self.now,
                &format!("n{from} knocks at {to}: {answer:?} after {after:?}"),
            );
        }
        self.local(from, after, Input::Knocked { knock, answer });
    }

    /// The SYN reaches the other host, or nothing.
    pub(super) fn syn(&mut self, dialling: Dialling) {
        if !self.is_waited_for(&dialling) {
            return;
        }
        let Dialling { from, to, .. } = dialling;
        let target = self
            .by_address
            .get(&to)
            .copied()
            .filter(|target| self.both_ways(from, *target));
        let Some(target) = target else {
            let again = SYN_AGAIN * (1 << dialling.attempt.min(6));
            let attempt = dialling.attempt + 1;
            self.send_segments(from, 1, SYN_BYTES);
            self.later(
                again,
                Happening::Syn(Dialling {
                    attempt,
                    ..dialling
                }),
            );
            return;
        };
        if self.hosts[target].process == Process::Dead {
            let back = self.delay(target, from);
            self.answer_dial(dialling, back, DialError::Refused);
            return;
        }
        self.send_segments(from, TLS_SEGMENTS, TLS_BYTES);
        // SYN-ACK, then TLS: three more ways until the accepting side has it open.
        let ways = [
            self.delay(target, from),
            self.delay(from, target),
            self.delay(target, from),
            self.delay(from, target),
        ];
        let lost = self.retransmission(from, target, 3);
        let after = ways.iter().sum::<Duration>() + lost;
        self.later(after, Happening::Handshake(dialling));
    }

    pub(super) fn handshake(&mut self, dialling: Dialling) {
        let from = dialling.from;
        if !self.is_waited_for(&dialling) {
            return;
        }
        let target = self.by_address.get(&dialling.to).copied().filter(|target| {
            self.reaches(from, *target, Transport::Streams)
                && self.reaches(*target, from, Transport::Streams)
        });
        let Some(target) = target else {
            // Cut off in the middle: TCP goes on trying.
            self.later(SYN_AGAIN, Happening::Handshake(dialling));
            return;
        };
        match self.hosts[target].process {
            Process::Dead => {
                let back = self.delay(target, from);
                let error = DialError::Broken("connection reset".to_owned());
                self.answer_dial(dialling, back, error);
            }
            Process::Paused => self.hosts[target].backlog.push(dialling),
            Process::Running if self.hosts[target].starvation.is_some() => {
                self.hosts[target].backlog.push(dialling);
                self.go_to_work(target);
            }
            Process::Running => self.accept(target, dialling),
        }
    }

    /// A process does its part of the handshake.
    pub(super) fn accept(&mut self, host: HostId, dialling: Dialling) {
        let from = dialling.from;
        if !self.is_waited_for(&dialling) {
            return;
        }
        if self.trust_each_other(from, host) {
            if self.hosts[from].dials.remove(&dialling.token) {
                self.open(from, host, dialling.token);
            }
        } else {
            let back = self.delay(host, from);
            self.answer_dial(dialling, back, DialError::Untrusted);
        }
    }

    /// Those who waited for a process that was paused are served, unless they have given up.
    pub(super) fn serve_backlog(&mut self, host: HostId) {
        for dialling in std::mem::take(&mut self.hosts[host].backlog) {
            let round_trip = self.delay(host, dialling.from) + self.delay(dialling.from, host);
            self.later(round_trip, Happening::Handshake(dialling));
        }
    }

    pub(super) fn dial_ends(&mut self, dialling: &Dialling) {
        let it = &mut self.hosts[dialling.from];
        if it.starts == dialling.starts && it.dials.remove(&dialling.token) {
            let input = Input::DialFailed {
                dial: dialling.token,
                error: DialError::Silent,
            };
            self.deliver(dialling.from, input);
        }
    }

    fn answer_dial(&mut self, dialling: Dialling, after: Duration, error: DialError) {
        if self.is_waited_for(&dialling) && self.now + after < dialling.deadline {
            self.hosts[dialling.from].dials.remove(&dialling.token);
            let dial = dialling.token;
            self.local(dialling.from, after, Input::DialFailed { dial, error });
        }
    }

    pub(super) fn is_waited_for(&self, dialling: &Dialling) -> bool {
        let it = &self.hosts[dialling.from];
        it.starts == dialling.starts && it.dials.contains(&dialling.token)
    }

    // Each shows a certificate of its primary key and accepts those of all keys in its ring.
    fn trust_each_other(&self, a: HostId, b: HostId) -> bool {
        let (a, b) = (&self.hosts[a].keys, &self.hosts[b].keys);
        b.get(a.primary().id()).is_some() && a.get(b.primary().id()).is_some()
    }

    // A packet gets there, and its answer back.
    fn both_ways(&mut self, a: HostId, b: HostId) -> bool {
        let loss = self.network.loss_on_streams();
        let lost = self.draw(loss) | self.draw(loss);
        !lost
            && self.hosts[a].powered
            && self.reaches(a, b, Transport::Streams)
            && self.reaches(b, a, Transport::Streams)
    }

    fn send_segments(&mut self, host: HostId, segments: u64, bytes: u64) {
        let traffic = &mut self.hosts[host].traffic;
        traffic.frames += segments;
        traffic.frame_bytes += bytes;
    }

    fn delay_to(&mut self, from: HostId, to: SocketAddr) -> Duration {
        let target = self.by_address.get(&to).copied().unwrap_or(from);
        self.delay(from, target)
    }
}
