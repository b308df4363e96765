//! What the host counts about its sockets, for `/metrics` and for whoever asks why
//! something does not get through.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// Counters of one host, all from 0 at its start.
        #[derive(Debug, Default)]
        pub(crate) struct HostCounters {
            $($(#[doc = $text])+ pub(crate) $name: Counter,)+
        }

        impl HostCounters {
            /// Every counter with its metric name.
            pub(crate) fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get())),+].into_iter()
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
    /// Dials that led to no stream.
    dials_failed,
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
    streams_broken,
    /// Times that the node found itself late by more than 50 ms: it was paused or starved.
    late_wakeups,
    /// Times that the durable state was written.
    persisted,
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
