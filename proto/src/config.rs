//! Settings of the core. Each says its unit, its bounds, and what each direction costs.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

const DAY: u64 = 24 * 3600;

/// Versions of the protocol that this build speaks, oldest and newest.
pub const PROTOCOL: (u16, u16) = (1, 1);
/// The version after the newest. Nobody speaks it but nodes of the simulator, where rolling
/// upgrades are tried with it: every frame of a stream between two of them carries one more
/// field, its number.
pub const PROTOCOL_NEXT: u16 = PROTOCOL.1 + 1;

/// The most that all tags of a node may take together (bytes, keys and values).
pub const MAX_TAGS: usize = 2048;
/// The longest name of a node, a zone or a cluster (bytes).
pub const MAX_NAME: usize = 64;

/// What a node is, and how it shall behave.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's id, from its data directory.
    pub node: NodeId,
    /// Which of its lives this is; larger than any before.
    pub generation: u64,
    /// Its unique name: 1 to [`MAX_NAME`] bytes.
    pub name: String,
    /// The cluster's name: 1 to [`MAX_NAME`] bytes. Nodes of other clusters are refused.
    pub cluster: String,
    /// Where others reach it, with UDP and TCP alike.
    pub advertise: SocketAddr,
    /// Where its HTTP interface listens, told to others.
    pub http: Option<SocketAddr>,
    /// Where its RESP interface listens, told to others.
    pub resp: Option<SocketAddr>,
    /// Its failure zone (rack, hall); empty if there are none. Copies go to different ones.
    pub zone: String,
    /// Its share of the work relative to others: 1 to 10,000, 100 being ordinary.
    pub weight: u32,
    /// Free labels, at most [`MAX_TAGS`] bytes together.
    pub tags: BTreeMap<String, String>,
    /// Seeds as `host:port`; names are looked up again at every try.
    pub seeds: Vec<String>,
    /// Bootstrap a cluster together with others, as soon as this many nodes list each other:
    /// more than half of those intended, or two clusters could come to be.
    pub expect: Option<u32>,
    /// What is fixed when a cluster is bootstrapped; a joiner takes over the cluster's.
    pub settings: ClusterSettings,
    /// The software's version, shown to others.
    pub software: String,
    /// Versions of the protocol that it speaks, oldest and newest: [`PROTOCOL`], but for tests
    /// of upgrades.
    pub protocol: (u16, u16),
    /// Time limits and periods.
    pub timing: Timing,
    /// Which mechanisms are switched on.
    pub detection: Detection,
    /// The largest datagram sent (bytes of UDP payload): 576 to 8,192. Larger ones carry more
    /// news each, but those above the path's MTU are fragmented, and lost more often.
    pub max_datagram: usize,
}

/// What is fixed for a cluster when it is bootstrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// Number of partitions: a power of two up to 16,384. More spread finer, and cost memory
    /// and messages per partition.
    pub partitions: u16,
    /// Copies of each partition, the owner's included: 1 to 16.
    pub copies: u8,
    /// What is given up first when the network splits.
    pub consistency: Consistency,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            partitions: 256,
            copies: 3,
            consistency: Consistency::Available,
        }
    }
}

/// What is given up first when the network splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Both sides go on and are merged afterwards.
    #[default]
    Available,
    /// Only the side with the majority goes on.
    Strict,
}

/// Time limits and periods of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One member is probed this often: 50 ms to 60 s. Shorter finds silent failures sooner
    /// and costs packets in proportion.
    pub probe_period: Duration,
    /// The least time that a probe waits for its answer, however fast the network seems:
    /// 5 ms to 10 s. Shorter finds failures sooner, and mistakes a busy machine for a dead one.
    pub probe_timeout_min: Duration,
    /// The most that a probe waits for its answer, from `probe_timeout_min` to less than
    /// `probe_period`. Shorter finds failures of members whose round trip is not known sooner,
    /// longer forgives slow networks.
    pub probe_timeout_max: Duration,
    /// How long a member whose host is silent stays suspected after enough others have
    /// confirmed it, in a cluster of up to ten; grows with the logarithm of the size. 50 ms to
    /// 10 min: shorter finds vanished machines sooner, longer gives the living more time to
    /// refute.
    pub suspicion_min: Duration,
    /// The same without any confirmation, as a multiple of the least: 1 to 100.
    pub suspicion_max_factor: u32,
    /// How long a member may say nothing while its host's kernel still answers: 100 ms to 1 h.
    /// Shorter takes over sooner from stopped processes, longer waits for those that wake.
    pub unresponsive: Duration,
    /// State is compared with one other member this often (stretched with the logarithm of
    /// the cluster's size): 1 s to 1 h. Shorter mends sooner what gossip missed, and costs a
    /// small frame each time.
    pub push_pull: Duration,
    /// News waits at most this long to travel with other news: 1 ms to 1 s. Shorter is sooner
    /// known, in more packets.
    pub burst: Duration,
    /// A host gives up a dial after this: 10 ms to 10 min. Shorter is sooner done with the
    /// dead, longer reaches far and slow peers.
    pub dial_timeout: Duration,
    /// A host gives up a knock after this: 10 ms to 1 min. Shorter calls a silent host
    /// unreachable sooner, longer forgives lost packets.
    pub knock_timeout: Duration,
    /// The least pause between two dials to lost members and seeds: 100 ms to 10 min. Shorter
    /// heals splits sooner, and costs a connection attempt each time.
    pub redial: Duration,
    /// The same for members that have been lost for long: from `redial` to 24 h.
    pub redial_max: Duration,
    /// A joiner that reached no seed says so this often: 1 ms to 1 h.
    pub join_report: Duration,
    /// Leaving takes at most this long: 100 ms to 24 h.
    pub leave: Duration,
    /// Failed members are forgotten after this, and not dialled any more: 1 s to 10 years.
    pub forget_failed: Duration,
    /// Members that left or were evicted are forgotten after this: 1 s to 10 years. An eviction
    /// holds no longer.
    pub forget_left: Duration,
    /// Once members have not changed for this long, ownership is computed anew; in clusters of
    /// more than 64 in proportion longer. While changes go on, after 16 times that. 1 ms to
    /// 1 min: shorter moves sooner, longer moves less often.
    pub placement_delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_timeout_min: Duration::from_millis(50),
            probe_timeout_max: Duration::from_millis(500),
            suspicion_min: Duration::from_millis(600),
            suspicion_max_factor: 6,
            unresponsive: Duration::from_secs(6),
            push_pull: Duration::from_secs(30),
            burst: Duration::from_millis(20),
            dial_timeout: Duration::from_secs(3),
            knock_timeout: Duration::from_millis(400),
            redial: Duration::from_secs(2),
            redial_max: Duration::from_secs(20),
            join_report: Duration::from_secs(5),
            leave: Duration::from_secs(30),
            forget_failed: Duration::from_secs(72 * 3600),
            forget_left: Duration::from_secs(24 * 3600),
            placement_delay: Duration::from_millis(20),
        }
    }
}

/// Which mechanisms are switched on. All of them, unless somebody wants to see what one of
/// them is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detection {
    /// Lifeguard: local health, own stalls that are noticed, confirmations that shorten suspicion,
    /// the buddy.
    pub lifeguard: bool,
    /// What broken streams and refused connections tell.
    pub evidence: bool,
    /// News is gossiped when it is learnt, not at the next tick.
    pub bursts: bool,
}

impl Default for Detection {
    fn default() -> Self {
        Self {
            lifeguard: true,
            evidence: true,
            bursts: true,
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}; allowed: {allowed}")]
pub struct ConfigError {
    /// Which setting.
    pub setting: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    pub allowed: &'static str,
}

impl Config {
    /// An ordinary configuration for a node of that id, name and address.
    pub fn new(node: NodeId, name: &str, advertise: SocketAddr) -> Self {
        Self {
            node,
            generation: 1,
            name: name.to_owned(),
            cluster: "kith".to_owned(),
            advertise,
            http: None,
            resp: None,
            zone: String::new(),
            weight: 100,
            tags: BTreeMap::new(),
            seeds: Vec::new(),
            expect: None,
            settings: ClusterSettings::default(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            timing: Timing::default(),
            detection: Detection::default(),
            max_datagram: 1400,
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first setting that cannot be, with what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let name = |setting, text: &str, empty_is_fine: bool| {
            let fine = text.len() <= MAX_NAME
                && (empty_is_fine || !text.is_empty())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':'));
            check(
                fine,
                setting,
                format!("{text:?}"),
                "up to 64 of the characters A-Z a-z 0-9 - _ . :",
            )
        };
        name("name", &self.name, false)?;
        name("cluster", &self.cluster, false)?;
        name("zone", &self.zone, true)?;
        check(
            (1..=10_000).contains(&self.weight),
            "weight",
            self.weight.to_string(),
            "1 to 10000",
        )?;
        check(
            tags_size(&self.tags) <= MAX_TAGS,
            "tags",
            format!("{} bytes together", tags_size(&self.tags)),
            "at most 2048 bytes",
        )?;
        check(
            self.settings.partitions.is_power_of_two() && self.settings.partitions <= 16_384,
            "partitions",
            self.settings.partitions.to_string(),
            "a power of two up to 16384",
        )?;
        check(
            (1..=16).contains(&self.settings.copies),
            "copies",
            self.settings.copies.to_string(),
            "1 to 16",
        )?;
        check(
            (576..=8192).contains(&self.max_datagram),
            "max_datagram",
            self.max_datagram.to_string(),
            "576 to 8192 bytes",
        )?;
        check(
            self.expect.is_none_or(|n| (1..=1000).contains(&n)),
            "expect",
            self.expect.unwrap_or(0).to_string(),
            "1 to 1000",
        )?;
        self.timing.validate()
    }
}

impl Timing {
    fn validate(&self) -> Result<(), ConfigError> {
        let within = |setting, value: Duration, low_ms: u64, high_s: u64, allowed| {
            check(
                value >= Duration::from_millis(low_ms) && value <= Duration::from_secs(high_s),
                setting,
                format!("{value:?}"),
                allowed,
            )
        };
        within("probe_period", self.probe_period, 50, 60, "50ms to 60s")?;
        within(
            "probe_timeout_min",
            self.probe_timeout_min,
            5,
            10,
            "5ms to 10s",
        )?;
        check(
            self.probe_timeout_max >= self.probe_timeout_min
                && self.probe_timeout_max < self.probe_period,
            "probe_timeout_max",
            format!("{:?}", self.probe_timeout_max),
            "from probe_timeout_min to less than probe_period",
        )?;
        within("suspicion_min", self.suspicion_min, 50, 600, "50ms to 10m")?;
        within("unresponsive", self.unresponsive, 100, 3600, "100ms to 1h")?;
        within("push_pull", self.push_pull, 1000, 3600, "1s to 1h")?;
        within("burst", self.burst, 1, 1, "1ms to 1s")?;
        within("redial", self.redial, 100, 600, "100ms to 10m")?;
        within("leave", self.leave, 100, DAY, "100ms to 24h")?;
        within("dial_timeout", self.dial_timeout, 10, 600, "10ms to 10m")?;
        within("knock_timeout", self.knock_timeout, 10, 60, "10ms to 1m")?;
        within("join_report", self.join_report, 1, 3600, "1ms to 1h")?;
        within("placement_delay", self.placement_delay, 1, 60, "1ms to 1m")?;
        let years = 10 * 365 * DAY;
        let allowed = "1s to 10 years";
        within("forget_failed", self.forget_failed, 1000, years, allowed)?;
        within("forget_left", self.forget_left, 1000, years, allowed)?;
        check(
            self.redial_max >= self.redial && self.redial_max <= Duration::from_secs(DAY),
            "redial_max",
            format!("{:?}", self.redial_max),
            "from redial to 24h",
        )?;
        check(
            (1..=100).contains(&self.suspicion_max_factor),
            "suspicion_max_factor",
            self.suspicion_max_factor.to_string(),
            "1 to 100",
        )
    }
}

/// Bytes that tags take together, keys and values.
pub fn tags_size(tags: &BTreeMap<String, String>) -> usize {
    tags.iter().map(|(k, v)| k.len() + v.len()).sum()
}

fn check(
    fine: bool,
    setting: &'static str,
    problem: String,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    if fine {
        return Ok(());
    }
    Err(ConfigError {
        setting,
        problem: format!("{problem} is not possible"),
        allowed,
    })
}
