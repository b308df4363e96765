//! Settings of an agent: `kith.toml` (`--config`), then the environment (`KITH_...`), then
//! flags; the later wins.
//!
//! ```text
//!   file ──┐
//!   env  ──┼─► Layer, Layer, Layer ──overlay──► one Layer ──resolve──► Settings ──► the agent
//!   flags ─┘   (what each source says)         + where each is from   (nothing left to ask)
//! ```
//!
//! [`layer`] has the words, [`values`] how they are written, [`effective`] shows the result
//! again as a file. Whatever is refused names its place and what is allowed.

pub mod effective;
pub mod layer;
mod resolve;
pub mod values;

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use kith_proto::{
    config::{ClusterSettings, Config, Consistency},
    kv::request::Ack,
    replica::host::SyncMode,
    wire::keyring::Key,
};

use crate::{
    api::{resp::RespMoved, token::Token},
    partitions::PartitionOptions,
    tls::{Certificates, CertificatesError},
};
use layer::{Layer, LogFormat, Origin, Origins, Sync};
use resolve::Resolver;

/// The gossip and peer port, unless another is given.
pub const GOSSIP_PORT: u16 = 7400;
/// The port for Redis clients, unless another is given.
pub const RESP_PORT: u16 = 7401;
/// The HTTP port, unless another is given.
pub const HTTP_PORT: u16 = 7402;

/// Everything an agent needs to know to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the core is told. The node's id and generation are not here: they are in its
    /// data directory.
    pub core: Config,
    /// Where it listens for datagrams and streams.
    pub listen: SocketAddr,
    /// Where its HTTP interface listens.
    pub http: SocketAddr,
    /// Where its interface for Redis clients listens.
    pub resp: SocketAddr,
    /// Which of those clients are sent to the owner of a key.
    pub resp_moved: RespMoved,
    /// The longest value taken (bytes).
    pub max_value: usize,
    /// When writes over RESP are acknowledged.
    pub resp_ack: Ack,
    /// How many threads run partitions.
    pub shards: u16,
    /// When data reaches the disk; `None` leaves it to the cluster's consistency, which only its
    /// founder is told.
    pub sync: Option<Sync>,
    /// Where it keeps its state; `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// The cluster key.
    pub key: Option<Key>,
    /// The operator's own certificates for peer streams.
    pub certificates: Option<Certificates>,
    /// What clients must show.
    pub token: Option<Token>,
    /// Starts without key or token where that is refused otherwise.
    pub insecure: bool,
    /// How the log looks.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
    /// All settings with their values in force, secrets left out.
    pub effective: Layer,
    /// What was given of what only a cluster's first node decides.
    pub founding: Founding,
    /// What an operator should be told once there is a log.
    pub warnings: Vec<String>,
}

/// What is fixed when a cluster is founded, as far as it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Founding {
    /// `--cluster`.
    pub cluster: Option<String>,
    /// `--consistency`.
    pub consistency: Option<Consistency>,
    /// `--partitions`.
    pub partitions: Option<u32>,
    /// `--copies`.
    pub copies: Option<u32>,
}

impl Founding {
    /// What was given and is not so in the cluster that the node is in: it has no effect.
    #[must_use]
    pub fn without_effect(&self, cluster: &str, settings: &ClusterSettings) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |setting: &str, given: Option<String>, fixed: String| {
            if let Some(given) = given.filter(|given| *given != fixed) {
                found.push(format!(
                    "{setting} {given} has no effect: this cluster was founded with {fixed}"
                ));
            }
        };
        let word = |consistency| match consistency {
            Consistency::Available => "available".to_owned(),
            Consistency::Strict => "strict".to_owned(),
        };
        compare("cluster", self.cluster.clone(), cluster.to_owned());
        let consistency = self.consistency.map(word);
        compare("consistency", consistency, word(settings.consistency));
        let partitions = self.partitions.map(|partitions| partitions.to_string());
        compare("partitions", partitions, settings.partitions.to_string());
        let copies = self.copies.map(|copies| copies.to_string());
        compare("copies", copies, settings.copies.to_string());
        found
    }
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Flags.
    pub flags: Layer,
}

/// Settings that cannot be; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Unreadable {
        /// What it was to be.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not right; the text tells line and column.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What, with an excerpt.
        problem: String,
    },
    /// A variable of the environment is not right.
    #[error("{variable}: {problem}")]
    Environment {
        /// Which.
        variable: String,
        /// What is wrong.
        problem: String,
    },
    /// A value is out of its bounds.
    #[error("{place}: {problem}; allowed: {allowed}")]
    Value {
        /// Where it was given.
        place: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        allowed: String,
    },
    /// The operator's certificates cannot be used.
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    /// The settings do not fit together, or are not safe; the text says what to do.
    #[error("{0}")]
    Unfit(String),
}

impl Sources {
    /// The process's environment and the given file and flags.
    pub fn of_process(file: Option<PathBuf>, flags: Layer) -> Self {
        // Values that are not UTF-8 cannot be ours.
        let env = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .filter(|(k, _)| k.starts_with("KITH_") || k == "RUST_LOG")
            .collect();
        Self {
            file,
            env,
            flags: flags.with_tags_folded(),
        }
    }

    /// Reads them all.
    ///
    /// # Errors
    /// The first thing that is not right, with its place.
    pub fn load(&self) -> Result<Settings, SettingsError> {
        let mut all = Layer::default();
        let mut origins = Origins::new();
        if let Some(path) = &self.file {
            let text = read("the configuration", path)?;
            let file = Layer::from_toml(&text, path)?;
            let path = path.clone();
            all.overlay(file, &Origin::File { path, text }, &mut origins);
        }
        let env = Layer::from_env(&self.env)?;
        all.overlay(env, &Origin::Environment, &mut origins);
        all.overlay(self.flags.clone(), &Origin::Flags, &mut origins);
        Resolver {
            all,
            origins,
            warnings: layer::unknown_variables(&self.env),
        }
        .resolve()
    }
}

impl Settings {
    /// How the node keeps partitions.
    pub fn partitions(&self) -> PartitionOptions {
        PartitionOptions {
            sync: self.sync.map(|sync| match sync {
                Sync::Always => SyncMode::Always,
                Sync::Interval => SyncMode::Interval,
                Sync::Never => SyncMode::Never,
            }),
            max_value: self.max_value,
            shards: self.shards,
            ..PartitionOptions::default()
        }
    }

    /// Where others reach an interface that was bound to `bound`.
    pub fn told(&self, bound: SocketAddr) -> SocketAddr {
        if bound.ip().is_unspecified() {
            SocketAddr::new(self.core.advertise.ip(), bound.port())
        } else {
            bound
        }
    }
}

fn read(what: &'static str, path: &Path) -> Result<String, SettingsError> {
    fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    })
}

/// Secrets mounted by container platforms are often readable by all, so that this is no
/// reason to refuse.
fn warn_if_others_can_read(path: &Path, warnings: &mut Vec<String>) {
    if others_can_read(path) {
        let path = path.display();
        warnings.push(format!(
            "{path} holds a secret and other users of this machine can read it; mend it with \
             `chmod 600 {path}`"
        ));
    }
}

/// Whether a file's mode lets its group or everybody read it.
pub(crate) fn others_can_read(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o044 != 0)
    }
    #[cfg(not(unix))]
    {
        let _unused = path;
        false
    }
}

#[cfg(test)]
mod tests;
