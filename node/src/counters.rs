//! What the host counts about its sockets, for `/metrics` and for whoever asks why
//! something does not get through.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kith_proto::replica::message::Kind;

macro_rules! counters {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// Counters of one host, all from 0 at its start.
        #[derive(Debug, Default)]
        pub(crate) struct HostCounters {
            $($(#[doc = $text])+ pub(crate) $name: Counter,)+
            /// What went over peer streams.
            pub(crate) traffic: Traffic,
        }

        impl HostCounters {
            /// Every counter with its metric name, and its kind after a dot where there are several.
            pub(crate) fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> {
                let single = [$((stringify!($name), self.$name.get())),+];
                single.into_iter().chain(self.traffic.snapshot())
            }
        }
    };
}

counters! {
    /// Datagrams handed to the kernel.
    udp_sent_datagrams,
    /// Their bytes.
    udp_sent_bytes,
    /// Datagrams dropped because the kernel's buffer was full.
    udp_send_dropped,
    /// Datagrams that the kernel refused to send: no route, forbidden, too long.
    udp_send_errors,
    /// Datagrams received.
    udp_received_datagrams,
    /// Their bytes.
    udp_received_bytes,
    /// Datagrams longer than any that a peer may send, dropped.
    udp_oversized,
    /// Errors of the kernel while receiving.
    udp_receive_errors,
    /// Peer streams opened by us.
    streams_dialled,
    /// Peer streams opened by others.
    streams_accepted,
    /// Knocks.
    knocks,
    /// Connections to the peer port that did not get through the handshake: strangers,
    /// scanners, other keys. Knocks of peers are not counted here.
    handshakes_failed,
    /// The part of them that showed, or saw, a certificate of another key.
    handshakes_untrusted,
    /// Streams cut because their queue was full: the peer reads too slowly.
    streams_too_slow,
    /// Frames longer than any peer would take, not sent.
    frames_too_long,
    /// Streams that ended over a frame longer than allowed, or other broken framing.
    streams_garbled,
    /// Times that the node found itself late by more than 50 ms: it was paused or starved.
    late_wakeups,
    /// Times that the durable state was written.
    persisted,
    /// Pieces of copies that others have confirmed to have stored.
    copies_stored,
}

/// What the bytes on peer streams are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Partitions.
    Partitions(Kind),
    /// Membership.
    Membership,
}

/// Bytes that went over peer streams, by what they are about. What frames and TLS add is left out.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: [Counter; 5],
    received: [Counter; 5],
}

impl Traffic {
    const SENT: [&str; 5] = [
        "peer_sent_bytes.requests",
        "peer_sent_bytes.writes",
        "peer_sent_bytes.copies",
        "peer_sent_bytes.configurations",
        "peer_sent_bytes.membership",
    ];
    const RECEIVED: [&str; 5] = [
        "peer_received_bytes.requests",
        "peer_received_bytes.writes",
        "peer_received_bytes.copies",
        "peer_received_bytes.configurations",
        "peer_received_bytes.membership",
    ];

    /// Where each has its place.
    fn place(about: About) -> usize {
        match about {
            About::Partitions(Kind::Requests) => 0,
            About::Partitions(Kind::Writes) => 1,
            About::Partitions(Kind::Copies) => 2,
            About::Partitions(Kind::Configurations) => 3,
            About::Membership => 4,
        }
    }

    /// So many bytes more were given to a stream.
    pub(crate) fn sent(&self, about: About, bytes: usize) {
        self.sent[Self::place(about)].add(bytes);
    }

    /// So many bytes more came from one.
    pub(crate) fn received(&self, about: About, bytes: usize) {
        self.received[Self::place(about)].add(bytes);
    }

    fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let get = |(name, counter): (&&'static str, &Counter)| (*name, counter.get());
        let sent = Self::SENT.iter().zip(&self.sent).map(get);
        sent.chain(Self::RECEIVED.iter().zip(&self.received).map(get))
    }
}

/// One of them.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn up(&self) {
        self.add(1);
    }

    /// That many more.
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Relaxed);
    }

    /// How many so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_counted_under_its_own_name() {
        let counters = HostCounters::default();
        let kinds = [
            (About::Partitions(Kind::Requests), "requests"),
            (About::Partitions(Kind::Writes), "writes"),
            (About::Partitions(Kind::Copies), "copies"),
            (About::Partitions(Kind::Configurations), "configurations"),
            (About::Membership, "membership"),
        ];
        for (number, (about, _)) in (1..).zip(kinds) {
            counters.traffic.sent(about, number);
            counters.traffic.received(about, 10 * number);
        }
        let shown: std::collections::BTreeMap<_, _> = counters.snapshot().collect();
        for (number, (_, name)) in (1..).zip(kinds) {
            assert_eq!(shown[format!("peer_sent_bytes.{name}").as_str()], number);
            assert_eq!(
                shown[format!("peer_received_bytes.{name}").as_str()],
                10 * number
            );
        }
    }
}
