//! A node in this process: the order in which it starts and stops.
//!
//! | step | fails with | because |
//! |---|---|---|
//! | check the settings | [`StartError::Config`] | nothing has been touched yet |
//! | bind the gossip socket and the peer listener | [`StartError::Bind`] | a mistyped address must not cost a generation |
//! | open the data directory | [`StartError::Disk`] | id, generation and keys come from it |
//! | choose the keys | [`StartError::NoKey`] | outside this machine, a cluster without a key is open to all |
//! | make the core, start the driver | | from here on the node speaks |
//!
//! It stops when the core says so (it left, or may not be a member) or the disk fails. Then
//! what is queued on its streams is sent, the streams are closed, the data directory is
//! unlocked, and [`Handle::stopped`] tells why. Dropping handles does not stop a node.

use std::{collections::BTreeMap, io, net::SocketAddr, path::PathBuf, sync::Arc};

use kith_proto::{
    config::{Config, ConfigError},
    core::Core,
    output::Stop,
    wire::keyring::{Key, Keyring},
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{mpsc, watch};

use crate::{
    clock::Clock,
    counters::HostCounters,
    disk::{Disk, Opened, StoredKeys, choose_ring},
    driver::{Driver, Replies},
    events::EventLog,
    handle::{Handle, REQUEST_QUEUE},
    own_address::own_address,
    partitions::{Inboxes, PartitionOptions, Partitions},
    peer::{self, Limits, Peers, REPORT_QUEUE},
    tls::TlsSetup,
    udp::{GossipSocket, bind_gossip},
    views, workers,
};
pub use crate::{
    disk::DiskError,
    tls::{CertificateFiles, Certificates, CertificatesError, TlsError},
    udp::BindError,
};

/// What to start.
#[derive(Debug)]
pub struct NodeOptions {
    /// Settings of the core. Its `node` and `generation` come from the data directory; in
    /// `advertise`, an unspecified address and port 0 are replaced by those that were bound.
    /// `http` and `resp` are told to others as they are: bind these ports first.
    pub config: Config,
    /// Where to listen, with UDP and TCP alike; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// Where to keep state; `None` keeps nothing, and the node is a new one each time.
    pub data_dir: Option<PathBuf>,
    /// The cluster key.
    pub key: Option<Key>,
    /// An operator's own certificates for peer streams; `None` mints them from the key.
    pub certificates: Option<Certificates>,
    /// Go without a key on addresses other than loopback.
    pub insecure: bool,
    /// Effective settings by name, for `GET /v1/agent`; without secrets.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// How it keeps partitions.
    pub partitions: PartitionOptions,
}

/// A node could not be started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address could not be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data directory could not be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no key, and others could reach the node.
    #[error(
        "no cluster key: a node that listens on {listen} can be reached by others, and without a key \
         anybody could join. Make one with `kith keygen`, and give it to every node (--key-file or \
         KITH_KEY); --insecure goes without"
    )]
    NoKey {
        /// Where it would listen.
        listen: SocketAddr,
    },
    /// It listens everywhere, and no address for others was found.
    #[error(
        "this node listens on all addresses, and none was found that others could reach it at: give \
         one with --advertise"
    )]
    NoAdvertise,
    /// The certificate could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system refused something basic.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    /// The exit code of a process that ends for it: 2 if the command line is to be mended,
    /// else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoKey { .. } | Self::NoAdvertise => 2,
            Self::Bind(_) | Self::Disk(_) | Self::Tls(_) | Self::System(_) => 1,
        }
    }
}

/// The exit code of a process whose node stopped so.
pub fn stop_exit_code(stop: &Stop) -> u8 {
    match stop {
        Stop::Left { .. } => 0,
        Stop::LeftUncleanly(_) => 1,
        Stop::Refused(_) => 4,
    }
}

/// Starts nodes.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Whether nodes have partitions, so that [`Handle::kv`] gives something.
    pub(crate) const HAS_KEYS: bool = true;

    /// Starts a node on the current tokio runtime, and returns once it speaks; it joins in the
    /// background ([`Handle::events`] tells how that goes).
    ///
    /// # Errors
    /// See [`StartError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn start(options: NodeOptions) -> Result<Handle, StartError> {
        let NodeOptions {
            mut config,
            listen,
            data_dir,
            key,
            certificates,
            insecure,
            settings,
            partitions,
        } = options;
        config.validate()?;
        let (udp, listener) = bind_gossip(listen)?;
        let bound = udp.local_addr()?;
        config.advertise = advertised(config.advertise, bound)?;
        let opened = match &data_dir {
            Some(directory) => Disk::open(directory)?,
            None => Disk::ephemeral()?,
        };
        let Opened {
            mut disk,
            node,
            generation,
            restored,
            keys: stored,
        } = opened;
        config.node = node;
        config.generation = generation;
        let keys = keys(&mut disk, &config, bound, key, stored, insecure)?;

        let counters = Arc::new(HostCounters::default());
        let events = Arc::new(EventLog::new(&config.name));
        let (reporter, reports) = mpsc::channel(REPORT_QUEUE);
        let (requester, requests) = mpsc::channel(REQUEST_QUEUE);
        let (stopped, stop) = watch::channel(None);
        let limits = Limits {
            dial: config.timing.dial_timeout,
            knock: config.timing.knock_timeout,
        };
        let tls = TlsSetup::new(&keys, certificates.as_ref())?;
        let gossip = GossipSocket::new(udp, Arc::clone(&counters)).await?;
        let seed = random_seed()?;
        let clock = Clock::start();
        tracing::debug!(target: "kith", %bound, advertise = %config.advertise, %node, generation, "starting");
        let core = Core::new(config, keys.clone(), seed, restored, clock.now());
        let inboxes = Inboxes::new(partitions.shards, Arc::clone(&counters));
        let workers = workers::start("data", inboxes.shards())?;
        let peers = Peers::start(peer::Setup {
            listener,
            listen: bound.ip(),
            tls,
            reports: reporter,
            take_frame: inboxes.taker(),
            workers: workers.clone(),
            limits,
            counters: Arc::clone(&counters),
        });
        let lanes = peers.lanes();
        let (partitions, kv, from_shards) =
            Partitions::new(node, data_dir, partitions, clock, inboxes, lanes, workers);
        let driver = Driver {
            core,
            clock,
            gossip,
            peers,
            reports,
            requests,
            replies: Replies::default(),
            disk,
            keys,
            certificates,
            events: Arc::clone(&events),
            host: views::Host { clock, settings },
            counters,
            partitions,
            from_shards,
            departure: None,
            stopped,
        };
        tokio::spawn(driver.run());
        Ok(Handle::new(requester, events, stop, Some(kv)))
    }
}

/// What others are told: what was asked for, with the gaps filled from what was bound.
fn advertised(wanted: SocketAddr, bound: SocketAddr) -> Result<SocketAddr, StartError> {
    let port = match wanted.port() {
        0 => bound.port(),
        port => port,
    };
    let ip = match (wanted.ip(), bound.ip()) {
        (ip, _) if !ip.is_unspecified() => ip,
        (_, ip) if !ip.is_unspecified() => ip,
        (_, all) => own_address(None, all.is_ipv6()).ok_or(StartError::NoAdvertise)?,
    };
    Ok(SocketAddr::new(ip, port))
}

/// The keys to start with, kept on the disk for the next time.
fn keys(
    disk: &mut Disk,
    config: &Config,
    bound: SocketAddr,
    given: Option<Key>,
    stored: Option<StoredKeys>,
    insecure: bool,
) -> Result<Keyring, StartError> {
    let keyless = Key::derived_from_name(&config.cluster);
    disk.set_given(given.as_ref().map(Key::id));
    let chosen = choose_ring(given, stored, keyless.id());
    if let Some((ring, notice)) = chosen {
        if let Some(notice) = notice {
            tracing::warn!(target: "kith", "{notice}");
        }
        disk.store_keys(&ring)?;
        return Ok(ring);
    }
    if !bound.ip().is_loopback() && !insecure {
        return Err(StartError::NoKey { listen: bound });
    }
    tracing::warn!(
        target: "kith",
        "no cluster key: anybody who reaches {bound} can join this cluster and read its traffic"
    );
    // Not kept: a key that is given at the next start shall stand alone.
    Ok(Keyring::new(keyless))
}

fn random_seed() -> Result<[u8; 32], DiskError> {
    let mut seed = [0; 32];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_says_nothing_more| DiskError::NoRandomness)?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use kith_proto::id::NodeId;

    use super::*;

    fn options(listen: &str) -> NodeOptions {
        let listen = listen.parse().unwrap();
        NodeOptions {
            config: Config::new(NodeId(0), "n1", listen),
            listen,
            data_dir: None,
            key: None,
            certificates: None,
            insecure: false,
            settings: BTreeMap::new(),
            partitions: PartitionOptions::default(),
        }
    }

    #[tokio::test]
    async fn a_node_starts_answers_and_stops() {
        let directory = tempfile::tempdir().unwrap();
        let start = || {
            Node::start(NodeOptions {
                data_dir: Some(directory.path().to_owned()),
                ..options("127.0.0.1:0")
            })
        };
        let handle = start().await.unwrap();
        let first = handle.agent().await.unwrap();
        assert_ne!(first.gossip.port(), 0);
        assert!(handle.keys().await.unwrap()[0].primary);
        assert!(
            handle
                .counters()
                .await
                .unwrap()
                .contains_key("udp_sent_datagrams")
        );
        let second = start().await.unwrap_err();
        assert!(matches!(second, StartError::Disk(DiskError::InUse { .. })));

        handle.leave(true).await.unwrap();
        assert_eq!(stop_exit_code(&handle.stopped().await), 0);
        assert!(handle.agent().await.is_err());
        let again = start().await.unwrap().agent().await.unwrap();
        assert_eq!(again.id, first.id);
        assert!(again.generation > first.generation);
    }

    #[tokio::test]
    async fn without_a_key_a_node_stays_on_this_machine() {
        let error = Node::start(options("0.0.0.0:0")).await.unwrap_err();
        let (text, code) = (error.to_string(), error.exit_code());
        match error {
            // A machine without any network.
            StartError::NoAdvertise => {}
            StartError::NoKey { .. } => assert!(text.contains("--key-file"), "{text}"),
            other => panic!("{other}"),
        }
        assert_eq!(code, 2);
        let insecure = NodeOptions {
            insecure: true,
            config: Config::new(NodeId(0), "n1", "127.0.0.1:0".parse().unwrap()),
            ..options("0.0.0.0:0")
        };
        Node::start(insecure).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_told() {
        let handle = Node::start(options("127.0.0.1:0")).await.unwrap();
        let address = handle.agent().await.unwrap().gossip;
        let error = Node::start(options(&address.to_string()))
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Bind(BindError::InUse { .. })));
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn gaps_in_the_advertised_address_are_filled() {
        let case = |wanted: &str, bound: &str| {
            advertised(wanted.parse().unwrap(), bound.parse().unwrap())
                .unwrap()
                .to_string()
        };
        assert_eq!(case("0.0.0.0:0", "127.0.0.1:7400"), "127.0.0.1:7400");
        assert_eq!(case("10.0.0.1:0", "0.0.0.0:7400"), "10.0.0.1:7400");
        assert_eq!(case("10.0.0.1:80", "127.0.0.1:7400"), "10.0.0.1:80");
    }
}
