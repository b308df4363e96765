//! TCP as far as the protocol can notice it: order, retransmission, resets, silence.
//!
//! - A segment that is lost comes late: it is sent again after the retransmission time-out,
//!   200 ms or twice the round trip, doubling (RFC 6298 with Linux's lower bound); one that
//!   others follow is sent again after one round trip. What follows waits for it.
//! - Over a way that is cut nothing arrives. What was given to the kernel waits and is tried
//!   again with doubling pauses, so that it may arrive long after the cut has ended, or the
//!   stream breaks after a quarter of an hour (`tcp_retries2`).
//! - A process that ends ends its streams. A host without power says nothing; a kernel that does
//!   not know a connection (any more) answers with a reset.
//! - Nobody who is silent notices anything: there are no keep-alives.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use kith_proto::{
    input::{Input, StreamId, Token},
    time::Time,
};

use super::{Happening, HostId, World};
use crate::network::Transport;

/// The least retransmission time-out of Linux.
const RETRANSMISSION_MIN: Duration = Duration::from_millis(200);
const RETRANSMISSION_MAX: Duration = Duration::from_secs(120);
/// TCP gives up after this (Linux: `tcp_retries2` = 15).
const GIVE_UP: Duration = Duration::from_secs(924);
/// Content of a segment (bytes).
const SEGMENT: usize = 1400;
/// IP and TCP headers of a segment (bytes).
const SEGMENT_HEADERS: usize = 52;
/// Length prefix and TLS record around a frame (bytes).
const FRAME_OVERHEAD: usize = 4 + 22;
/// Bytes queued for a peer, at most; beyond that the stream is cut, as `node` does.
const MAX_QUEUED: usize = 8 << 20;

/// What is sent over a stream.
#[derive(Debug)]
pub(super) enum Item {
    /// The stream is open now, for that dial if this side dialled.
    Opened(Option<Token>),
    Frame(Vec<u8>),
    /// The other side has ended it.
    End,
    /// The other side's kernel does not know it.
    Reset,
}

/// One end, and the way from it to the other one.
#[derive(Debug)]
struct EndPoint {
    host: HostId,
    open: bool,
    /// When the last item that was sent from here arrives there.
    arrives: Time,
    stuck: VecDeque<Item>,
    stuck_bytes: usize,
    /// How often the first stuck item was tried, and since when.
    attempt: u32,
    since: Time,
    /// Nothing is sent before this.
    stalled_until: Time,
}

/// The way from an end to the other one, as it is now.
struct Way {
    from: HostId,
    to: HostId,
    passes: bool,
    /// The longest.
    round_trip: Duration,
}

/// All streams there are. The ends of the stream `n` have the ids `2n` and `2n + 1`.
#[derive(Debug, Default)]
pub(super) struct Connections {
    ends: BTreeMap<u64, [EndPoint; 2]>,
    last: u64,
}

impl EndPoint {
    fn new(host: HostId) -> Self {
        Self {
            host,
            open: true,
            arrives: Time::ZERO,
            stuck: VecDeque::new(),
            stuck_bytes: 0,
            attempt: 0,
            since: Time::ZERO,
            stalled_until: Time::ZERO,
        }
    }
}

fn index(stream: StreamId) -> usize {
    usize::from(stream.0 % 2 == 1)
}

fn other(stream: StreamId) -> StreamId {
    StreamId(stream.0 ^ 1)
}

impl Connections {
    fn end(&mut self, stream: StreamId) -> Option<&mut EndPoint> {
        let ends = self.ends.get_mut(&(stream.0 / 2))?;
        Some(&mut ends[index(stream)])
    }

    fn hosts(&self, stream: StreamId) -> Option<(HostId, HostId)> {
        let ends = self.ends.get(&(stream.0 / 2))?;
        let here = index(stream);
        Some((ends[here].host, ends[1 - here].host))
    }

    fn forget_if_over(&mut self, stream: StreamId) {
        let over = self
            .ends
            .get(&(stream.0 / 2))
            .is_some_and(|ends| ends.iter().all(|end| !end.open && end.stuck.is_empty()));
        if over {
            self.ends.remove(&(stream.0 / 2));
        }
    }

    /// Streams between two hosts, as the first one's ends.
    fn between(&self, a: HostId, b: HostId) -> Vec<StreamId> {
        let mut found = Vec::new();
        for (number, ends) in &self.ends {
            for here in 0..2 {
                if ends[here].host == a && ends[1 - here].host == b {
                    found.push(StreamId(number * 2 + here as u64));
                }
            }
        }
        found
    }
}

impl World {
    /// A connection is made: open at the accepting side now, at the dialler's after a greeting.
    pub(super) fn open(&mut self, from: HostId, to: HostId, dial: Token) {
        self.connections.last += 1;
        let number = self.connections.last;
        let ends = [EndPoint::new(from), EndPoint::new(to)];
        self.connections.ends.insert(number, ends);
        let (ours, theirs) = (StreamId(number * 2), StreamId(number * 2 + 1));
        self.hosts[from].streams.insert(ours);
        self.hosts[to].streams.insert(theirs);
        self.transmit(theirs, Item::Opened(Some(dial)));
        self.arrives(theirs, Item::Opened(None));
    }

    pub(super) fn send_frame(&mut self, host: HostId, stream: StreamId, frame: Vec<u8>) {
        let Some(end) = self.connections.end(stream) else {
            return;
        };
        if !end.open || end.host != host {
            return;
        }
        if end.stuck_bytes + frame.len() > MAX_QUEUED {
            self.break_end(stream);
            return;
        }
        let size = frame.len() + FRAME_OVERHEAD;
        let segments = size.div_ceil(SEGMENT);
        let traffic = &mut self.hosts[host].traffic;
        traffic.frames += segments as u64;
        traffic.frame_bytes += (size + segments * SEGMENT_HEADERS) as u64;
        if let Some(trace) = &mut self.trace
            && let Some((from, to)) = self.connections.hosts(stream)
        {
            trace.frame(self.now, from, to, &frame);
        }
        self.transmit(stream, Item::Frame(frame));
    }

    pub(super) fn close(&mut self, host: HostId, stream: StreamId) {
        let Some(end) = self.connections.end(stream) else {
            return;
        };
        if !std::mem::replace(&mut end.open, false) {
            return;
        }
        self.hosts[host].streams.remove(&stream);
        self.transmit(stream, Item::End);
        let after = self.delay(host, host);
        self.local(host, after, Input::StreamClosed { stream });
        self.connections.forget_if_over(stream);
    }

    /// A process is over: its kernel ends its streams, or, without power, does nothing.
    pub(super) fn end_streams(&mut self, host: HostId, silently: bool) {
        for stream in std::mem::take(&mut self.hosts[host].streams) {
            if let Some(end) = self.connections.end(stream) {
                end.open = false;
                if silently {
                    end.stuck.clear();
                } else {
                    self.transmit(stream, Item::End);
                }
            }
            self.connections.forget_if_over(stream);
        }
    }

    /// The streams between two hosts break, at both ends.
    pub fn break_streams(&mut self, a: HostId, b: HostId) {
        self.links.disturbed_until(self.now, a, b);
        for stream in self.connections.between(a, b) {
            self.break_end(stream);
            self.break_end(other(stream));
        }
    }

    /// The streams between two hosts carry nothing for a while, and do not break.
    pub fn stall_streams(&mut self, a: HostId, b: HostId, duration: Duration) {
        let until = self.now + duration;
        self.links.disturbed_until(until, a, b);
        for stream in self.connections.between(a, b) {
            for end in [stream, other(stream)] {
                if let Some(end) = self.connections.end(end) {
                    end.stalled_until = until;
                }
            }
        }
    }

    fn way(&self, stream: StreamId) -> Option<Way> {
        let (from, to) = self.connections.hosts(stream)?;
        Some(Way {
            from,
            to,
            passes: self.reaches(from, to, Transport::Streams) && self.hosts[from].powered,
            round_trip: self.links.delay(&self.network, from, to).1 * 2,
        })
    }

    // Sends from that end to the other one.
    fn transmit(&mut self, stream: StreamId, item: Item) {
        let Some(Way {
            from,
            to,
            passes,
            round_trip,
        }) = self.way(stream)
        else {
            return;
        };
        let now = self.now;
        let Some(end) = self.connections.end(stream) else {
            return;
        };
        if !passes || !end.stuck.is_empty() || end.stalled_until > now {
            if let Item::Frame(frame) = &item {
                end.stuck_bytes += frame.len();
            }
            end.stuck.push_back(item);
            if end.stuck.len() == 1 {
                (end.attempt, end.since) = (0, now);
                let at = (now + time_out(round_trip, 0)).max(end.stalled_until);
                self.at(at, Happening::Again { stream });
            }
            return;
        }
        let size = match &item {
            Item::Frame(frame) => frame.len() + FRAME_OVERHEAD,
            Item::Opened(_) | Item::End | Item::Reset => 1,
        };
        let late = self.retransmission(from, to, size.div_ceil(SEGMENT));
        let queued = self
            .links
            .queue(now, (from, to), size, Transport::Streams)
            .unwrap_or_default();
        let at = now + self.delay(from, to) + late + queued;
        if let Some(end) = self.connections.end(stream) {
            end.arrives = (end.arrives + Duration::from_nanos(1)).max(at);
            let at = end.arrives;
            let stream = other(stream);
            self.at(at, Happening::Arrives { stream, item });
        }
    }

    /// By how much losses make so many segments late.
    pub(super) fn retransmission(&mut self, from: HostId, to: HostId, segments: usize) -> Duration {
        let loss = self.network.loss_on_streams();
        if loss == 0 {
            return Duration::ZERO;
        }
        let round_trip = self.links.delay(&self.network, from, to).1 * 2;
        let mut late = Duration::ZERO;
        for left in (0..segments).rev() {
            // Three segments after it tell the sender at once that one is missing.
            let mut attempt = 0;
            while self.draw(loss) {
                late += if left >= 3 && attempt == 0 {
                    round_trip
                } else {
                    time_out(round_trip, attempt)
                };
                attempt += 1;
            }
        }
        late
    }

    /// The retransmission timer of an end with stuck items.
    pub(super) fn send_again(&mut self, stream: StreamId) {
        let Some(Way {
            passes, round_trip, ..
        }) = self.way(stream)
        else {
            return;
        };
        let now = self.now;
        let Some(end) = self.connections.end(stream) else {
            return;
        };
        if end.stuck.is_empty() {
            return;
        }
        if passes && end.stalled_until <= now {
            end.stuck_bytes = 0;
            for item in std::mem::take(&mut end.stuck) {
                self.transmit(stream, item);
            }
            self.connections.forget_if_over(stream);
        } else if now >= end.since + GIVE_UP {
            self.break_end(stream);
        } else {
            end.attempt += 1;
            let at = (now + time_out(round_trip, end.attempt)).max(end.stalled_until);
            self.at(at, Happening::Again { stream });
        }
    }

    /// Something arrives at that end.
    pub(super) fn arrives(&mut self, stream: StreamId, item: Item) {
        let Some(end) = self.connections.end(stream) else {
            return;
        };
        let (host, open) = (end.host, end.open);
        if !open {
            let powered = self.hosts[host].powered;
            if powered && matches!(item, Item::Frame(_) | Item::Opened(_)) {
                self.transmit(stream, Item::Reset);
            }
            return;
        }
        let input = match item {
            Item::Opened(dial) => {
                let Some((_, there)) = self.connections.hosts(stream) else {
                    return;
                };
                let remote = self.hosts[there].address;
                Input::StreamOpened {
                    stream,
                    remote,
                    dial,
                }
            }
            Item::Frame(frame) => Input::StreamFrame { stream, frame },
            Item::End | Item::Reset => {
                end.open = false;
                self.hosts[host].streams.remove(&stream);
                self.connections.forget_if_over(stream);
                Input::StreamClosed { stream }
            }
        };
        self.deliver(host, input);
    }

    // That end is over, and nothing is sent about it.
    fn break_end(&mut self, stream: StreamId) {
        let Some(end) = self.connections.end(stream) else {
            return;
        };
        end.stuck.clear();
        let host = end.host;
        if std::mem::replace(&mut end.open, false) {
            self.hosts[host].streams.remove(&stream);
            let after = self.delay(host, host);
            self.local(host, after, Input::StreamClosed { stream });
        }
        self.connections.forget_if_over(stream);
    }
}

fn time_out(round_trip: Duration, attempt: u32) -> Duration {
    (RETRANSMISSION_MIN.max(round_trip * 2) * (1 << attempt.min(10))).min(RETRANSMISSION_MAX)
}
