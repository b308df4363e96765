//! What cores ask for, done.

use std::{
    net::{AddrParseError, SocketAddr},
    time::Duration,
};

use kith_proto::{
    event::Event,
    input::Input,
    output::{Output, Stop},
};
use rand::RngExt;

use super::{Happening, HostId, Told, World};
use crate::{network::Transport, truth::End};

/// Headers of IP and UDP (bytes).
const DATAGRAM_HEADERS: usize = 28;

impl World {
    pub(super) fn carry_out(&mut self, host: HostId, output: Output) {
        match output {
            Output::Datagram { to, data } => self.send_datagram(host, to, data),
            Output::Dial { dial, to } => self.dial(host, dial, to),
            Output::Knock { knock, to } => self.knock(host, knock, to),
            Output::Frame { stream, frame } => self.send_frame(host, stream, frame),
            Output::Close { stream } => self.close(host, stream),
            Output::Resolve { seeds } => self.resolve(host, seeds),
            Output::Persist(durable) => self.hosts[host].durable = Some(*durable),
            Output::Event(event) => self.tell(host, event),
            Output::Keys(keys) => self.hosts[host].keys = *keys,
            Output::Reply { answer, .. } => self.answers.push((host, answer)),
            Output::Stop(stop) => self.stop(host, stop),
        }
    }

    fn tell(&mut self, host: HostId, event: Event) {
        if matches!(event, Event::PartitionAssigned { .. }) {
            return;
        }
        self.digest.event(self.now, host, &event);
        if let Some(trace) = &mut self.trace {
            trace.event(self.now, host, &event);
        }
        self.told.push(Told {
            at: self.now,
            host,
            event,
        });
    }

    // Everything before it was done; what is queued on its streams is still sent.
    fn stop(&mut self, host: HostId, stop: Stop) {
        if let Some(trace) = &mut self.trace {
            trace.note(self.now, &format!("n{host} stops: {stop:?}"));
        }
        self.end_process(host, End::Stopped(stop.clone()));
        self.hosts[host].stopped = Some(stop);
    }

    fn send_datagram(&mut self, from: HostId, to: SocketAddr, data: Vec<u8>) {
        let size = data.len() + DATAGRAM_HEADERS;
        let traffic = &mut self.hosts[from].traffic;
        traffic.datagrams += 1;
        traffic.datagram_bytes += size as u64;
        let lost = self.draw(self.network.loss);
        let Some(target) = self.by_address.get(&to).copied() else {
            return;
        };
        let passes = self.reaches(from, target, Transport::Datagrams);
        if let Some(trace) = &mut self.trace {
            let fate = if passes && !lost { "" } else { " (lost)" };
            trace.datagram(self.now, from, target, &data, &self.hosts[from].keys, fate);
        }
        if lost || !passes || size > self.network.mtu {
            return;
        }
        let way = (from, target);
        let Some(queued) = self.links.queue(self.now, way, size, Transport::Datagrams) else {
            return;
        };
        let mut after = queued + self.delay(from, target);
        if self.draw(self.network.reordered) {
            let most = u64::try_from(self.network.held_back.as_nanos()).unwrap_or(u64::MAX);
            after += Duration::from_nanos(self.rng.random_range(0..=most));
        }
        let source = self.hosts[from].address;
        if self.draw(self.network.duplicated) {
            let again = after + self.delay(from, target);
            let data = data.clone();
            self.later(
                again,
                Happening::Datagram {
                    to: target,
                    from: source,
                    data,
                },
            );
        }
        self.later(
            after,
            Happening::Datagram {
                to: target,
                from: source,
                data,
            },
        );
    }

    // Addresses resolve to themselves.
    fn resolve(&mut self, host: HostId, seeds: Vec<String>) {
        let seeds = seeds
            .into_iter()
            .map(|seed| {
                let address = seed.parse().map(|address| vec![address]);
                (
                    seed,
                    address.map_err(|error: AddrParseError| error.to_string()),
                )
            })
            .collect();
        let after = self.delay(host, host);
        self.local(host, after, Input::Resolved { seeds });
    }

    /// What the kernel will tell the process that runs now.
    pub(super) fn local(&mut self, host: HostId, after: Duration, input: Input) {
        let starts = self.hosts[host].starts;
        self.later(
            after,
            Happening::Local {
                host,
                starts,
                input,
            },
        );
    }
}
