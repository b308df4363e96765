//! From what was given to what is in force: defaults filled in, every bound checked, what is
//! not safe refused.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use kith_proto::{
    config::{Config, Detection, Timing},
    id::NodeId,
    kv::MAX_VALUE,
    wire::keyring::Key,
};

use super::{
    Founding, GOSSIP_PORT, HTTP_PORT, RESP_PORT, Settings, SettingsError, effective,
    layer::{Layer, Origin, Origins, TimingLayer},
    read,
    values::parse_seed,
    warn_if_others_can_read,
};
use crate::{
    api::token::Token,
    own_address::own_address,
    partitions::{MAX_SHARDS, default_shards},
    tls::{CertificateFiles, Certificates},
};

/// The layers on top of each other, and where each setting is from.
pub(super) struct Resolver {
    pub(super) all: Layer,
    pub(super) origins: Origins,
    pub(super) warnings: Vec<String>,
}

impl Resolver {
    pub(super) fn resolve(mut self) -> Result<Settings, SettingsError> {
        let insecure = self.all.insecure.unwrap_or(false);
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listen = self.all.listen.unwrap_or(local(GOSSIP_PORT));
        let http = self.all.http.unwrap_or(local(HTTP_PORT));
        let resp = self.all.resp.unwrap_or(local(RESP_PORT));
        let max_value = self.max_value()?;
        let shards = self.shards()?;
        let advertise = self.advertise(listen)?;
        let name = match self.all.name.take() {
            Some(name) => name,
            None => default_name(listen.port())?,
        };
        let core = self.core(&name, advertise)?;
        let key = self.key()?;
        let certificates = self.certificates()?;
        let token = self.token()?;
        for (address, by) in [(http, "over HTTP"), (resp, "with a Redis client")] {
            self.refuse_open(address, by, token.is_some(), insecure)?;
        }
        if listen.ip().is_loopback() {
            let elsewhere = |seed: &&String| host_ip(seed).is_some_and(|ip| !ip.is_loopback());
            if let Some(seed) = core.seeds.iter().find(elsewhere) {
                self.warnings.push(format!(
                    "this node listens on {listen} only, where {seed} cannot reach it; give it \
                     --listen with an address of the network"
                ));
            }
        }
        let data_dir = self.data_dir(&name)?;
        let mut settings = Settings {
            core,
            listen,
            http,
            resp,
            resp_moved: self.all.resp_moved.unwrap_or_default(),
            resp_ack: self.all.resp_ack.unwrap_or_default(),
            max_value,
            shards,
            sync: self.all.sync,
            data_dir,
            key,
            certificates,
            token,
            insecure,
            log_format: self.all.log_format.unwrap_or_default(),
            log: self.all.log.clone().unwrap_or_else(|| "info".to_owned()),
            effective: Layer::default(),
            founding: Founding {
                cluster: self.all.cluster.clone(),
                consistency: self.all.consistency,
                partitions: self.all.partitions,
                copies: self.all.copies,
            },
            warnings: self.warnings,
        };
        settings.effective = effective::layer(&settings, &self.all);
        Ok(settings)
    }

    /// The settings of the core, every bound checked.
    fn core(&self, name: &str, advertise: SocketAddr) -> Result<Config, SettingsError> {
        let all = &self.all;
        let mut core = Config::new(NodeId(0), name, advertise);
        if let Some(cluster) = &all.cluster {
            core.cluster.clone_from(cluster);
        }
        core.zone = all.zone.clone().unwrap_or_default();
        core.weight = all.weight.unwrap_or(core.weight);
        core.tags = all.tags.clone().unwrap_or_default();
        core.seeds = all.seeds.clone().unwrap_or_default();
        for seed in &core.seeds {
            parse_seed(seed).map_err(|problem| self.wrong("seeds", problem, "HOST:PORT"))?;
        }
        core.expect = all.expect;
        if let Some(consistency) = all.consistency {
            core.settings.consistency = consistency;
        }
        if let Some(partitions) = all.partitions {
            core.settings.partitions = u16::try_from(partitions).map_err(|_too_large| {
                let problem = format!("{partitions} is not possible");
                self.wrong("partitions", problem, "a power of two up to 16384")
            })?;
        }
        if let Some(copies) = all.copies {
            core.settings.copies = u8::try_from(copies).map_err(|_too_large| {
                self.wrong("copies", format!("{copies} is not possible"), "1 to 16")
            })?;
        }
        core.max_datagram = all.max_datagram.map_or(core.max_datagram, |size| size.0);
        if let Some(timing) = &all.timing {
            core.timing = Self::timing(timing);
        }
        core.timing.leave = all.leave_timeout.map_or(core.timing.leave, |t| t.0);
        let on = all.detection.unwrap_or_default();
        core.detection = Detection {
            lifeguard: on.lifeguard.unwrap_or(core.detection.lifeguard),
            evidence: on.evidence.unwrap_or(core.detection.evidence),
            bursts: on.bursts.unwrap_or(core.detection.bursts),
        };
        core.validate().map_err(|e| {
            let setting = match e.setting {
                "leave" => "leave-timeout".to_owned(),
                other => other.replace('_', "-"),
            };
            self.wrong(&setting, e.problem, e.allowed)
        })?;
        Ok(core)
    }

    fn timing(given: &TimingLayer) -> Timing {
        let mut timing = Timing::default();
        macro_rules! each {
            ($($field:ident)*) => {$(
                if let Some(span) = given.$field {
                    timing.$field = span.0;
                }
            )*};
        }
        each!(probe_period probe_timeout_min probe_timeout_max suspicion_min unresponsive push_pull
            burst dial_timeout knock_timeout redial redial_max join_report forget_failed forget_left
            placement_delay);
        timing.suspicion_max_factor = given
            .suspicion_max_factor
            .unwrap_or(timing.suspicion_max_factor);
        timing
    }

    /// Where others reach this node. Listening on every address says nothing about that, so
    /// that the machine is asked from which address it would speak to the others.
    fn advertise(&self, listen: SocketAddr) -> Result<SocketAddr, SettingsError> {
        if let Some(given) = self.all.advertise {
            if given.ip().is_unspecified() {
                let problem = format!("nobody can reach a node at {given}");
                return Err(self.wrong("advertise", problem, "an address of this machine"));
            }
            return Ok(given);
        }
        if !listen.ip().is_unspecified() {
            return Ok(listen);
        }
        let seeds = self.all.seeds.iter().flatten();
        let towards = seeds.filter_map(|seed| host_ip(seed)).find(|ip| {
            // An IPv6 socket reaches both kinds, an IPv4 one only its own.
            listen.is_ipv6() || ip.is_ipv4()
        });
        match own_address(towards, listen.is_ipv6()) {
            Some(ip) => Ok(SocketAddr::new(ip, listen.port())),
            None => Err(SettingsError::Unfit(format!(
                "{listen} means every address of this machine, and which of them others can \
                 reach is not plain; say it with --advertise IP:PORT"
            ))),
        }
    }

    fn key(&mut self) -> Result<Option<Key>, SettingsError> {
        let (text, place) = if let Some(path) = &self.all.key_file {
            let place = self.place("key-file");
            if self.all.key.is_some() {
                return Err(SettingsError::Unfit(format!(
                    "{} and {place} both give a key; leave one out",
                    self.place("key"),
                )));
            }
            let text = read("the key file", path)?;
            warn_if_others_can_read(path, &mut self.warnings);
            (text, format!("{} ({place})", path.display()))
        } else if let Some(secret) = &self.all.key {
            if let Some(Origin::File { path, .. }) = self.origins.get("key") {
                warn_if_others_can_read(path, &mut self.warnings);
            }
            (secret.0.clone(), self.place("key"))
        } else {
            return Ok(None);
        };
        match Key::parse(text.trim()) {
            Ok(key) => Ok(Some(key)),
            // Which says what is allowed, too.
            Err(e) => Err(SettingsError::Unfit(format!("{place}: {e}"))),
        }
    }

    fn certificates(&mut self) -> Result<Option<Certificates>, SettingsError> {
        let all = &self.all;
        let files = match (&all.tls_cert, &all.tls_key, &all.tls_ca) {
            (None, None, None) => return Ok(None),
            (Some(cert), Some(key), Some(ca)) => CertificateFiles {
                cert: cert.clone(),
                key: key.clone(),
                ca: ca.clone(),
            },
            (cert, key, ca) => {
                let each = [
                    ("tls-cert", cert.is_some()),
                    ("tls-key", key.is_some()),
                    ("tls-ca", ca.is_some()),
                ];
                let (given, missing): (Vec<_>, Vec<_>) = each.into_iter().partition(|(_, on)| *on);
                let given: Vec<String> = given.iter().map(|(name, _)| self.place(name)).collect();
                let missing: Vec<String> = missing
                    .iter()
                    .map(|(name, _)| format!("--{name}"))
                    .collect();
                return Err(SettingsError::Unfit(format!(
                    "{} without {}: certificates of one's own take all three of --tls-cert, --tls-key \
                     and --tls-ca; with none of them they are minted from the cluster key",
                    given.join(" and "),
                    missing.join(" and ")
                )));
            }
        };
        let certificates = Certificates::load(&files)?;
        warn_if_others_can_read(&files.key, &mut self.warnings);
        if let Some(when) = certificates.expires_soon() {
            self.warnings.push(format!(
                "the certificate in {} expires on {when}: peers refuse it from then on. Replace the file \
                 and send SIGHUP",
                files.cert.display()
            ));
        }
        Ok(Some(certificates))
    }

    fn token(&mut self) -> Result<Option<Token>, SettingsError> {
        let Some(path) = &self.all.token_file else {
            return Ok(None);
        };
        let text = read("the token file", path)?;
        warn_if_others_can_read(path, &mut self.warnings);
        match Token::parse(&text) {
            Ok(token) => Ok(Some(token)),
            Err(e) => {
                let problem = format!("{}: {e}", path.display());
                Err(self.wrong("token-file", problem, Token::ALLOWED))
            }
        }
    }

    /// That gossip needs a key is the node's to say: its data directory may have one.
    fn refuse_open(
        &mut self,
        address: SocketAddr,
        by: &str,
        token: bool,
        insecure: bool,
    ) -> Result<(), SettingsError> {
        if token || address.ip().is_loopback() {
            return Ok(());
        }
        if !insecure {
            return Err(SettingsError::Unfit(format!(
                "no token: on {address} anybody could command this node {by}. Give it a secret \
                 with --token-file, or accept the risk with --insecure"
            )));
        }
        self.warnings.push(format!(
            "anybody who reaches {address} can command this node: no token is asked for"
        ));
        Ok(())
    }

    fn max_value(&self) -> Result<usize, SettingsError> {
        let Some(given) = self.all.max_value else {
            return Ok(MAX_VALUE);
        };
        if !(1 << 10..=MAX_VALUE).contains(&given.0) {
            let problem = format!("{given} is not possible");
            return Err(self.wrong("max-value", problem, "1KiB to 16MiB"));
        }
        Ok(given.0)
    }

    fn shards(&self) -> Result<u16, SettingsError> {
        let Some(given) = self.all.shards else {
            return Ok(default_shards());
        };
        let shards = u16::try_from(given).ok();
        let shards = shards.filter(|shards| (1..=MAX_SHARDS).contains(shards));
        shards.ok_or_else(|| {
            let problem = format!("{given} is not possible");
            self.wrong("shards", problem, &format!("1 to {MAX_SHARDS}"))
        })
    }

    fn data_dir(&self, name: &str) -> Result<Option<PathBuf>, SettingsError> {
        let ephemeral = self.all.ephemeral.unwrap_or(false);
        match (&self.all.data_dir, ephemeral) {
            (Some(_), true) => Err(SettingsError::Unfit(format!(
                "{} and {} exclude each other",
                self.place("data-dir"),
                self.place("ephemeral")
            ))),
            (Some(dir), false) => Ok(Some(dir.clone())),
            (None, true) => Ok(None),
            (None, false) => match default_data_home() {
                Some(home) => Ok(Some(home.join("kith").join(name))),
                None => Err(SettingsError::Unfit(
                    "no home directory to keep the node's state in; say where with --data-dir, \
                     or keep nothing with --ephemeral"
                        .to_owned(),
                )),
            },
        }
    }

    fn place(&self, setting: &str) -> String {
        self.origins
            .get(setting)
            .or_else(|| self.origins.get("timing"))
            .map_or_else(|| setting.to_owned(), |origin| origin.place(setting))
    }

    fn wrong(&self, setting: &str, problem: String, allowed: &str) -> SettingsError {
        SettingsError::Value {
            place: self.place(setting),
            problem,
            allowed: allowed.to_owned(),
        }
    }
}

/// `$XDG_DATA_HOME`, or what the specification of the XDG base directories says it stands for.
fn default_data_home() -> Option<PathBuf> {
    let absolute = |variable| {
        let path = PathBuf::from(std::env::var_os(variable)?);
        path.is_absolute().then_some(path)
    };
    absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))
}

/// The host's name, if a node may be called that; otherwise one from its port.
fn default_name(port: u16) -> Result<String, SettingsError> {
    let from_kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = from_kernel
        .or_else(|| std::env::var("HOSTNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| {
            let mut config = Config::new(NodeId(0), name, ([127, 0, 0, 1], 1).into());
            config.name.clone_from(name);
            config.validate().is_ok()
        });
    match (name, port) {
        (Some(name), _) => Ok(name),
        (None, 0) => Err(SettingsError::Unfit(
            "this machine's name cannot be a node's; say one with --name".to_owned(),
        )),
        (None, port) => Ok(format!("node-{port}")),
    }
}

/// The address in a seed that is given by number.
fn host_ip(seed: &str) -> Option<IpAddr> {
    seed.parse::<SocketAddr>().ok().map(|addr| addr.ip())
}
