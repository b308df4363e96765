//! One layer of settings: what a file, the environment or the flags say, and no more.
//!
//! All three have the same shape and the same words, so there is one type: `serde` reads it
//! from TOML, `clap` from flags, and the environment is read as if each `KITH_X_Y=v` were
//! the flag `--x-y=v`. The comments here are what `kith agent --help` shows.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use clap::{ArgAction, Args, FromArgMatches, ValueEnum};
use kith_proto::{config::Consistency, kv::request::Ack};
use serde::{Deserialize, Serialize};

use super::{
    SettingsError,
    values::{
        Secret, Size, Span, Tag, address_in_file, parse_address, parse_seed, parse_switch,
        parse_whole,
    },
};
use crate::api::resp::RespMoved;

/// Variables that mean something, and are no flags of this layer: the file of settings, the
/// key, and the agent that client commands ask.
const OTHER_VARIABLES: [&str; 3] = ["KITH_CONFIG", "KITH_KEY", "KITH_AGENT"];

/// Settings that one source gives; those it does not give are `None`.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Layer {
    /// Unique name in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Name of the cluster; nodes of other clusters are refused [default: kith]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Gossip (UDP) and peer streams (TCP); port 0 takes a free one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    #[serde(deserialize_with = "address_in_file")]
    pub listen: Option<SocketAddr>,
    /// Where others reach this node, if that is not where it listens
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    #[serde(deserialize_with = "address_in_file")]
    pub advertise: Option<SocketAddr>,
    /// HTTP interface [default: 127.0.0.1:7402]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    #[serde(deserialize_with = "address_in_file")]
    pub http: Option<SocketAddr>,
    /// Interface for Redis clients [default: 127.0.0.1:7401]
    #[arg(long, value_name = "IP:PORT", value_parser = parse_address)]
    #[serde(deserialize_with = "address_in_file")]
    pub resp: Option<SocketAddr>,
    /// Which Redis clients are sent to the owner of a key: those that asked who owns what, all,
    /// or none; the others are answered through this node [default: auto]
    #[arg(
        long,
        value_name = "auto|always|never",
        value_enum,
        hide_possible_values = true
    )]
    pub resp_moved: Option<RespMoved>,
    /// When writes of Redis clients are acknowledged: once the owner has them (not in strict
    /// clusters), a majority, or all members; sooner can be lost with the owner, later waits for
    /// the slowest. WAIT asks for more afterwards [default: quorum]
    #[arg(long, value_name = "one|quorum|all")]
    pub resp_ack: Option<Ack>,
    /// A member to join through; repeatable. Names are looked up again at every try
    #[arg(long = "seed", value_name = "HOST:PORT", value_parser = parse_seed)]
    #[serde(alias = "seed")]
    pub seeds: Option<Vec<String>>,
    /// Bootstrap once this many nodes list each other: more than half of those intended,
    /// or two clusters could come to be (1 to 1000)
    #[arg(long, value_name = "N", value_parser = parse_whole)]
    pub expect: Option<u32>,
    /// Where the node keeps its id, what it knows, and its copies of keys and values
    /// [default: $XDG_DATA_HOME/kith/NAME, that is ~/.local/share/kith/NAME]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Keep nothing on disk: every start is a new node
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = parse_switch)]
    pub ephemeral: Option<bool>,
    /// File with the cluster key in base64 (`kith keygen` makes one); KITH_KEY gives it directly
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The cluster key itself. Never a flag: other users of the machine can read those.
    #[arg(skip)]
    #[serde(skip_serializing)]
    pub key: Option<Secret>,
    /// File with this node's own certificate for peer streams, and those between it and the
    /// authority (PEM) [default: one minted from the cluster key]
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// File with its private key (PEM, not encrypted)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// File with the authorities of which peers' certificates are accepted (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// File with the token that clients must show (HTTP `Authorization: Bearer`, RESP `AUTH`)
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Do not refuse to start without a key, or without a token, on other addresses than loopback
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", value_parser = parse_switch)]
    pub insecure: Option<bool>,
    /// Failure zone (rack, hall): copies go to different ones
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// Share of the work relative to others, 1 to 10000 [default: 100]
    #[arg(long, value_name = "W", value_parser = parse_whole)]
    pub weight: Option<u32>,
    /// A label others see; repeatable, 2 KiB in all
    #[arg(long = "tag", value_name = "KEY=VALUE", action = ArgAction::Append)]
    #[serde(skip)]
    pub tag: Option<Vec<Tag>>,
    /// The same in a file: a table.
    #[arg(skip)]
    pub tags: Option<BTreeMap<String, String>>,
    /// Bootstrap only: what is given up first when the network splits [default: available]
    #[arg(long, value_name = "available|strict", value_parser = parse_consistency)]
    pub consistency: Option<Consistency>,
    /// Bootstrap only: number of partitions, a power of two up to 16384; more spread finer and
    /// cost memory [default: 256]
    #[arg(long, value_name = "P", value_parser = parse_whole)]
    pub partitions: Option<u32>,
    /// Bootstrap only: copies of each partition, the owner's included, 1 to 16 [default: 3]
    #[arg(long, value_name = "R", value_parser = parse_whole)]
    pub copies: Option<u32>,
    /// The longest value taken, 1KiB to 16MiB; larger ones make others wait longer
    /// [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_value: Option<Size>,
    /// Threads that run partitions, Redis clients and peer streams, 1 to 16: more use more
    /// processors, and make each request pass more threads where those are few
    /// [default: half the processors, at most 8]
    #[arg(long, value_name = "N", value_parser = parse_whole)]
    pub shards: Option<u32>,
    /// When data reaches the disk: before it is acknowledged, every 100 ms, or when the system
    /// likes; what is later can be lost when the machine (not the process) stops. With "never" a
    /// strict cluster does not keep what it promises then, and says so at its start
    /// [default: interval; always in strict clusters]
    #[arg(
        long,
        value_name = "always|interval|never",
        value_enum,
        hide_possible_values = true
    )]
    pub sync: Option<Sync>,
    /// Leaving for good is given up when nothing was handed over for so long, stopping after so long
    /// in all; 100ms to 24h [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub leave_timeout: Option<Span>,
    /// Largest datagram sent, 576 to 8192 bytes; those above the path's MTU get lost more
    /// often [default: 1400B]
    #[arg(long, value_name = "SIZE")]
    pub max_datagram: Option<Size>,
    /// Lines for people, or JSON objects for programs [default: text]
    #[arg(
        long,
        value_name = "text|json",
        value_enum,
        hide_possible_values = true
    )]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or `kith::api=debug,info`; RUST_LOG
    /// works too [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Time limits and periods of membership: only in a file.
    #[arg(skip)]
    pub timing: Option<TimingLayer>,
    /// Which mechanisms of detection are on: only in a file.
    #[arg(skip)]
    pub detection: Option<DetectionLayer>,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// When data reaches the disk. What the protocol itself promises always does at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// Before it is acknowledged, many writes at once.
    Always,
    /// Every 100 ms.
    #[default]
    Interval,
    /// When the system likes.
    Never,
}

/// `[timing]`: see [`kith_proto::config::Timing`] for what each means and costs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "documented once, at the type that they are made into"
)]
pub struct TimingLayer {
    pub probe_period: Option<Span>,
    pub probe_timeout_min: Option<Span>,
    pub probe_timeout_max: Option<Span>,
    pub suspicion_min: Option<Span>,
    pub suspicion_max_factor: Option<u32>,
    pub unresponsive: Option<Span>,
    pub push_pull: Option<Span>,
    pub burst: Option<Span>,
    pub dial_timeout: Option<Span>,
    pub knock_timeout: Option<Span>,
    pub redial: Option<Span>,
    pub redial_max: Option<Span>,
    pub join_report: Option<Span>,
    pub forget_failed: Option<Span>,
    pub forget_left: Option<Span>,
    pub placement_delay: Option<Span>,
}

/// `[detection]`: see [`kith_proto::config::Detection`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "documented once, at the type that they are made into"
)]
pub struct DetectionLayer {
    pub lifeguard: Option<bool>,
    pub evidence: Option<bool>,
    pub bursts: Option<bool>,
}

/// Where a setting was given, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In a file: its path and text, from which the line is found when it is needed.
    File {
        path: PathBuf,
        text: String,
    },
    Environment,
    Flags,
}

/// Which settings came from where, by their name in a file. `timing` and `detection` only
/// ever come from a file.
pub(crate) type Origins = BTreeMap<&'static str, Origin>;

impl Layer {
    /// Reads a file's text.
    pub(crate) fn from_toml(text: &str, path: &std::path::Path) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|e| SettingsError::File {
            path: path.to_owned(),
            problem: e
                .to_string()
                .trim_end()
                // The words of the language that this is written in.
                .replace("expected u32", "expected a whole number")
                .replace("expected a sequence", "expected a list, such as [\"...\"]"),
        })
    }

    /// Reads `KITH_...` variables. Those that no setting has are let be: see
    /// [`unknown_variables`].
    pub(crate) fn from_env(env: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        let mut command = environment();
        let mut argv = Vec::new();
        for flag in flags_of(&command) {
            let variable = variable_of(&flag);
            let Some(value) = env.get(&variable) else {
                continue;
            };
            let several = matches!(flag.as_str(), "seed" | "tag");
            let values = value.split(',').filter(|v| several && !v.is_empty());
            let words: Vec<String> = if several {
                values.map(|v| format!("--{flag}={v}")).collect()
            } else {
                vec![format!("--{flag}={value}")]
            };
            command
                .try_get_matches_from_mut(&words)
                .map_err(|e| SettingsError::Environment {
                    variable,
                    problem: first_line(&e.to_string()),
                })?;
            argv.extend(words);
        }
        let all = command.try_get_matches_from_mut(argv);
        let mut layer = all
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|e| SettingsError::Environment {
                variable: "KITH_...".to_owned(),
                problem: first_line(&e.to_string()),
            })?;
        layer.key = env.get("KITH_KEY").cloned().map(Secret);
        // What Rust programs generally obey, unless this one was told something of its own.
        layer.log = layer.log.or_else(|| env.get("RUST_LOG").cloned());
        Ok(layer.with_tags_folded())
    }

    /// Turns repeated `--tag K=V` into the table.
    pub(crate) fn with_tags_folded(mut self) -> Self {
        if let Some(tags) = self.tag.take() {
            self.tags = Some(tags.into_iter().map(|t| (t.key, t.value)).collect());
        }
        self
    }

    /// Puts a later layer on top of this one, and notes where each of its settings is from.
    pub(crate) fn overlay(&mut self, over: Self, origin: &Origin, origins: &mut Origins) {
        // These come in pairs of which a later layer replaces both.
        if over.data_dir.is_some() || over.ephemeral.is_some() {
            self.data_dir = None;
            self.ephemeral = None;
        }
        if over.key.is_some() || over.key_file.is_some() {
            self.key = None;
            self.key_file = None;
        }
        macro_rules! each {
            ($($field:ident $name:literal),* $(,)?) => {$(
                if over.$field.is_some() {
                    self.$field = over.$field;
                    origins.insert($name, origin.clone());
                }
            )*};
        }
        each!(
            name "name", cluster "cluster", listen "listen", advertise "advertise", http "http",
            resp "resp", resp_moved "resp-moved",
            resp_ack "resp-ack", max_value "max-value", shards "shards", sync "sync",
            seeds "seeds", expect "expect", data_dir "data-dir", ephemeral "ephemeral",
            key_file "key-file", key "key", tls_cert "tls-cert", tls_key "tls-key",
            tls_ca "tls-ca", token_file "token-file", insecure "insecure",
            zone "zone", weight "weight", tags "tags", consistency "consistency",
            partitions "partitions", copies "copies", leave_timeout "leave-timeout",
            max_datagram "max-datagram", log_format "log-format", log "log", timing "timing",
            detection "detection",
        );
    }
}

impl Origin {
    /// Where a setting stands, in words: `kith.toml line 7`, `KITH_WEIGHT`, `--weight`.
    pub(crate) fn place(&self, setting: &str) -> String {
        let flag = match setting {
            "seeds" => "seed",
            "tags" => "tag",
            other => other,
        };
        match self {
            Self::Flags => format!("--{flag}"),
            Self::Environment if setting == "log" => "KITH_LOG or RUST_LOG".to_owned(),
            Self::Environment => variable_of(flag),
            Self::File { path, text } => {
                let starts = |line: &str| {
                    let key = line.split('=').next().unwrap_or("").trim();
                    key.trim_matches('"') == setting || key == format!("[{setting}]") || key == flag
                };
                match text.lines().position(starts) {
                    Some(at) => format!("{} line {}: {setting}", path.display(), at + 1),
                    None => format!("{}: {setting}", path.display()),
                }
            }
        }
    }
}

/// Warnings about `KITH_...` variables that are none of ours: probably mistyped. That is no
/// reason to refuse, because container platforms add their own for a service of this name
/// (`KITH_PORT`, `KITH_SERVICE_HOST`), of which nothing is said.
pub(super) fn unknown_variables(env: &BTreeMap<String, String>) -> Vec<String> {
    let settings: Vec<String> = flags_of(&environment())
        .iter()
        .map(|flag| variable_of(flag))
        .collect();
    env.keys()
        .filter(|name| name.starts_with("KITH_"))
        .filter(|name| !settings.contains(name) && !OTHER_VARIABLES.contains(&name.as_str()))
        .filter(|name| !name.contains("_PORT") && !name.contains("_SERVICE_"))
        .map(|name| format!("{name} is no setting, and is not used: see `kith agent --help`"))
        .collect()
}

/// The flags of this layer as a command of their own.
fn environment() -> clap::Command {
    Layer::augment_args(clap::Command::new("environment").no_binary_name(true))
}

fn flags_of(command: &clap::Command) -> Vec<String> {
    let flags = command.get_arguments();
    flags
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect()
}

fn variable_of(flag: &str) -> String {
    format!("KITH_{}", flag.replace('-', "_").to_uppercase())
}

fn parse_consistency(text: &str) -> Result<Consistency, String> {
    match text {
        "available" => Ok(Consistency::Available),
        "strict" => Ok(Consistency::Strict),
        _ => Err("expected available or strict".to_owned()),
    }
}

/// The first line of an error of `clap`, without its "error: ".
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
