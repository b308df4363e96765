//! The network: how long packets take, which are lost, and who cannot reach whom.
//!
//! | what | datagrams | streams |
//! |---|---|---|
//! | loss | gone | sent again after a retransmission time-out (RFC 6298: at least 200 ms, doubling), in order |
//! | duplication, reordering | twice; held back | hidden by TCP |
//! | cut, blocked | gone | waits, and is sent again with growing pauses once the way is free |
//! | slow link | queues, and is dropped behind half a second of others | queues |
//! | MTU | larger ones are gone | hidden by TCP |
//!
//! Delays are drawn evenly between two bounds: one pair of bounds within a place, another one
//! between places, where each pair of places has its own base. A *place* is what shares a fast
//! network: a machine room, or a single host somewhere on the internet.

use std::{collections::BTreeMap, time::Duration};

use kith_proto::time::Time;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::host::HostId;

/// Whoever is further away than this beyond the usual, or has less than this to send with, may
/// be taken for dead: no probe waits longer than half a second.
const TOLERABLE_DELAY: Duration = Duration::from_millis(50);
/// See [`TOLERABLE_DELAY`] (bytes in a second).
const TOLERABLE_RATE: u32 = 50_000;
/// A datagram that would wait longer than this for a slow link is dropped.
const LINK_QUEUE: Duration = Duration::from_millis(500);

/// How the network behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The least delay of a packet within a place.
    pub delay_min: Duration,
    /// The most.
    pub delay_max: Duration,
    /// The least delay between two places; each pair has its own, drawn once, to which up to
    /// a tenth is added packet by packet.
    pub far_min: Duration,
    /// The most.
    pub far_max: Duration,
    /// Packets lost, in thousandths.
    pub loss: u32,
    /// The same for the packets of streams, if it is another: they are sent again.
    pub stream_loss: Option<u32>,
    /// Datagrams that arrive twice, in thousandths.
    pub duplicated: u32,
    /// Datagrams held back by up to [`Self::held_back`], so that later ones overtake them, in
    /// thousandths.
    pub reordered: u32,
    /// See [`Self::reordered`].
    pub held_back: Duration,
    /// Larger datagrams vanish (bytes, with IP and UDP headers).
    pub mtu: usize,
}

impl Default for Network {
    fn default() -> Self {
        Self::lan()
    }
}

impl Network {
    /// One switch: 100 to 600 µs one way.
    pub fn lan() -> Self {
        Self {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_micros(600),
            far_min: Duration::from_micros(100),
            far_max: Duration::from_micros(600),
            loss: 0,
            stream_loss: None,
            duplicated: 0,
            reordered: 0,
            held_back: Duration::from_millis(20),
            mtu: 1500,
        }
    }

    /// Halls of one region: 1 to 5 ms between them.
    pub fn zones() -> Self {
        Self {
            far_min: Duration::from_millis(1),
            far_max: Duration::from_millis(5),
            ..Self::lan()
        }
    }

    /// Machines around the world: 10 to 120 ms one way.
    pub fn wan() -> Self {
        Self {
            far_min: Duration::from_millis(10),
            far_max: Duration::from_millis(120),
            ..Self::lan()
        }
    }

    pub(crate) fn loss_on_streams(&self) -> u32 {
        self.stream_loss.unwrap_or(self.loss)
    }
}

/// What is wrong with the way from one host to another, one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Datagrams vanish.
    pub no_datagrams: bool,
    /// Packets of streams vanish.
    pub no_streams: bool,
    /// Added to each delay.
    pub slower: Duration,
    /// Bytes in a second, if there is a limit.
    pub rate: Option<u32>,
    /// When what was sent before has passed.
    free_at: Time,
}

impl Link {
    fn is_tolerable(&self) -> bool {
        !self.no_datagrams && !self.no_streams && !self.is_slow()
    }

    fn is_slow(&self) -> bool {
        self.slower > TOLERABLE_DELAY || self.rate.is_some_and(|rate| rate < TOLERABLE_RATE)
    }

    fn is_ordinary(&self) -> bool {
        !self.no_datagrams && !self.no_streams && self.slower.is_zero() && self.rate.is_none()
    }
}

/// Which of the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Datagrams,
    Streams,
}

/// Who can reach whom, how, and since when.
#[derive(Debug, Default)]
pub(crate) struct Links {
    places: Vec<u16>,
    sides: Vec<Option<u8>>,
    /// On which side each host was before, and until when; oldest first.
    earlier_sides: Vec<Vec<(Time, Option<u8>)>>,
    links: BTreeMap<(HostId, HostId), Link>,
    /// When each way last changed, also if it is an ordinary one again.
    link_changed: BTreeMap<(HostId, HostId), Time>,
    /// When the network as a whole last changed.
    network_changed: Time,
    /// When anything about it last changed.
    changed: Time,
    seed: u64,
}

impl Links {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    pub(crate) fn add_host(&mut self, place: u16) {
        self.places.push(place);
        self.sides.push(None);
        self.earlier_sides.push(Vec::new());
    }

    pub(crate) fn move_to(&mut self, host: HostId, place: u16) {
        self.places[host] = place;
    }

    /// The network as a whole behaves otherwise from now on.
    pub(crate) fn has_changed(&mut self, now: Time) {
        self.network_changed = now;
        self.changed = now;
    }

    pub(crate) fn set_side(&mut self, now: Time, host: HostId, side: Option<u8>) {
        if self.sides[host] != side {
            self.earlier_sides[host].push((now, self.sides[host]));
            self.sides[host] = side;
            self.changed = now;
        }
    }

    /// Changes one direction of a way.
    pub(crate) fn change(
        &mut self,
        now: Time,
        way: (HostId, HostId),
        change: impl FnOnce(&mut Link),
    ) {
        let link = self.links.entry(way).or_default();
        change(link);
        if link.is_ordinary() {
            self.links.remove(&way);
        }
        self.link_changed.insert(way, now);
        self.changed = now;
    }

    /// Something is wrong between two hosts until that moment, though packets pass.
    pub(crate) fn disturbed_until(&mut self, until: Time, a: HostId, b: HostId) {
        for way in [(a, b), (b, a)] {
            let changed = self.link_changed.entry(way).or_default();
            *changed = until.max(*changed);
        }
    }

    /// All is as it should be again.
    pub(crate) fn heal(&mut self, now: Time) {
        for host in 0..self.sides.len() {
            self.set_side(now, host, None);
        }
        for (way, _) in std::mem::take(&mut self.links) {
            self.link_changed.insert(way, now);
            self.changed = now;
        }
    }

    /// Whether a way from or to a host is so slow that whoever is there may be taken for dead.
    pub(crate) fn is_far_away(&self, host: HostId) -> bool {
        let touches = |way: &(HostId, HostId)| way.0 == host || way.1 == host;
        let mut links = self.links.iter();
        links.any(|(way, link)| touches(way) && link.is_slow())
    }

    /// Whether nothing is wrong anywhere.
    pub(crate) fn is_whole(&self) -> bool {
        self.links.is_empty() && self.sides.iter().all(Option::is_none)
    }

    /// When a cut, a block or the like was last made or mended.
    pub(crate) fn changed(&self) -> Time {
        self.changed
    }

    /// Whether packets pass, one way.
    pub(crate) fn passes(&self, from: HostId, to: HostId, transport: Transport) -> bool {
        if self.sides[from] != self.sides[to] {
            return false;
        }
        if self.links.is_empty() {
            return true;
        }
        self.links
            .get(&(from, to))
            .is_none_or(|link| match transport {
                Transport::Datagrams => !link.no_datagrams,
                Transport::Streams => !link.no_streams,
            })
    }

    /// Whether the two reach each other both ways with both protocols.
    pub(crate) fn connected(&self, a: HostId, b: HostId) -> bool {
        [Transport::Datagrams, Transport::Streams]
            .into_iter()
            .all(|transport| self.passes(a, b, transport) && self.passes(b, a, transport))
    }

    /// Whether two hosts could talk to each other, both ways and not too slowly, all the time
    /// since that moment.
    pub(crate) fn steady_since(&self, since: Time, a: HostId, b: HostId) -> bool {
        if !self.connected(a, b) || self.network_changed > since {
            return false;
        }
        let fine = |way| {
            let changed = self.link_changed.get(&way).is_some_and(|at| *at > since);
            !changed && self.links.get(&way).is_none_or(Link::is_tolerable)
        };
        fine((a, b)) && fine((b, a)) && self.same_side_since(since, a, b)
    }

    // Walks back through the sides of both, change by change.
    fn same_side_since(&self, since: Time, a: HostId, b: HostId) -> bool {
        let recent = |host: HostId| {
            self.earlier_sides[host]
                .iter()
                .rev()
                .take_while(move |(until, _)| *until > since)
        };
        let side_at = |host: HostId, at: Time| {
            recent(host)
                .filter(|(until, _)| *until >= at)
                .last()
                .map_or(self.sides[host], |(_, side)| *side)
        };
        recent(a)
            .chain(recent(b))
            .all(|(until, _)| side_at(a, *until) == side_at(b, *until))
    }

    /// Bounds between which delays of a way are drawn.
    pub(crate) fn delay(
        &self,
        network: &Network,
        from: HostId,
        to: HostId,
    ) -> (Duration, Duration) {
        let (a, b) = (self.places[from], self.places[to]);
        let (mut min, mut max) = (network.delay_min, network.delay_max);
        if a != b {
            let pair = [a.min(b), a.max(b)].map(u16::to_be_bytes).concat();
            let draw = u128::from(xxh3_64_with_seed(&pair, self.seed) % 1_000_000);
            let spread = network.far_max.saturating_sub(network.far_min).as_nanos();
            let drawn = u64::try_from(spread * draw / 1_000_000).unwrap_or(0);
            min = network.far_min + Duration::from_nanos(drawn);
            max = min + min / 10;
        }
        match self.links.get(&(from, to)) {
            Some(link) => (min + link.slower, max + link.slower),
            None => (min, max),
        }
    }

    /// How long a packet of that size waits for a slow link; `None` if it is dropped.
    pub(crate) fn queue(
        &mut self,
        now: Time,
        way: (HostId, HostId),
        size: usize,
        transport: Transport,
    ) -> Option<Duration> {
        let Some(link) = self.links.get_mut(&way) else {
            return Some(Duration::ZERO);
        };
        let Some(rate) = link.rate else {
            return Some(Duration::ZERO);
        };
        let start = link.free_at.max(now);
        let wait = start.saturating_since(now);
        if transport == Transport::Datagrams && wait > LINK_QUEUE {
            return None;
        }
        let takes = Duration::from_nanos(size as u64 * 1_000_000_000 / u64::from(rate.max(1)));
        link.free_at = start + takes;
        Some(wait + takes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_makes_packets_wait_and_drops_what_would_wait_too_long() {
        let mut links = Links::new(1);
        links.add_host(0);
        links.add_host(0);
        let now = Time::from_millis(1);
        links.change(now, (0, 1), |link| link.rate = Some(10_000));
        let mut queue = |transport| links.queue(now, (0, 1), 1000, transport);
        for n in 1..=6 {
            let wait = queue(Transport::Datagrams);
            assert_eq!(wait, Some(Duration::from_millis(100 * n)));
        }
        assert_eq!(queue(Transport::Datagrams), None);
        assert_eq!(queue(Transport::Streams), Some(Duration::from_millis(700)));
        assert_eq!(
            links.queue(now, (1, 0), 1000, Transport::Datagrams),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn each_pair_of_places_has_its_own_distance_the_same_both_ways() {
        let mut links = Links::new(7);
        for place in [0, 0, 1, 2] {
            links.add_host(place);
        }
        let wan = Network::wan();
        let delay = |a, b| links.delay(&wan, a, b);
        assert_eq!(delay(0, 1), (wan.delay_min, wan.delay_max));
        assert_eq!(delay(0, 2), delay(2, 1));
        assert_ne!(delay(0, 2), delay(0, 3));
        assert!(delay(0, 2).0 >= wan.far_min && delay(0, 2).0 <= wan.far_max);
    }

    #[test]
    fn what_is_cut_or_blocked_does_not_pass_until_it_is_healed() {
        let mut links = Links::new(1);
        (0..3).for_each(|_| links.add_host(0));
        let now = Time::from_millis(5);
        links.change(now, (0, 1), |link| link.no_streams = true);
        assert!(links.passes(0, 1, Transport::Datagrams));
        assert!(!links.passes(0, 1, Transport::Streams));
        assert!(links.passes(1, 0, Transport::Streams));
        assert!(!links.connected(1, 0));
        links.set_side(now, 2, Some(1));
        assert!(!links.passes(0, 2, Transport::Datagrams));
        links.heal(now);
        assert!(links.is_whole() && links.connected(0, 1) && links.connected(0, 2));
    }

    #[test]
    fn who_was_on_another_side_for_a_moment_is_remembered() {
        let mut links = Links::new(1);
        (0..3).for_each(|_| links.add_host(0));
        let at = Time::from_millis;
        for host in [0, 1] {
            links.set_side(at(100), host, Some(1));
        }
        links.set_side(at(200), 1, None);
        links.set_side(at(210), 1, Some(1));
        for host in [0, 1] {
            links.set_side(at(300), host, None);
        }
        let steady = |since, a, b| links.steady_since(at(since), a, b);
        assert!(steady(300, 0, 2), "healed at that moment");
        assert!(!steady(299, 0, 2));
        assert!(steady(250, 0, 1), "moved together");
        assert!(!steady(205, 0, 1), "apart until 210");
        assert!(!steady(150, 0, 1));
    }
}
