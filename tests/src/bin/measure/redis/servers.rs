//! A Redis Cluster of three masters and their replicas, and what processes cost.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use kith_tests::{
    host::Host,
    process::Process,
    resp::{Reply, Resp},
    wait,
};
use tempfile::TempDir;

use super::Servers;

const MASTERS: usize = 3;
const PORT: u16 = 6379;
/// Where nodes speak to each other.
const BUS: &str = "16379";
const PATIENCE: Duration = Duration::from_secs(60);

/// Three masters and their replicas, each at a loopback address of its own.
///
/// The fields are dropped in this order: processes before what they use.
#[derive(Debug)]
pub(super) struct RedisCluster {
    processes: Vec<Process>,
    addresses: Vec<SocketAddr>,
    /// Of each master.
    replicas: usize,
    _hosts: Vec<Host>,
    _folder: TempDir,
}

/// Whether Redis is here, 7 or newer; else why not.
pub(super) fn available() -> Result<()> {
    for program in ["redis-server", "redis-cli", "redis-benchmark"] {
        let output = Command::new(program).arg("--version").output();
        let output = output.with_context(|| format!("{program} is not installed"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // `Redis server v=7.0.15 …`, `redis-cli 7.0.15`
        let version = text.split([' ', '=']).find_map(|word| {
            let major = word.split_once('.')?.0;
            major.parse::<u32>().ok()
        });
        ensure!(
            version.is_some_and(|major| major >= 7),
            "{program} 7 or newer is wanted, and this is {text:?}"
        );
    }
    Ok(())
}

impl RedisCluster {
    /// Starts it; every master has its replicas when this returns.
    pub(super) fn start(replicas: usize, flags: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut cluster = Self {
            processes: Vec::new(),
            addresses: Vec::new(),
            replicas,
            _hosts: Vec::new(),
            _folder: folder,
        };
        for number in 0..(1 + replicas) * MASTERS {
            let host = Host::claim()?;
            let own = cluster._folder.path().join(number.to_string());
            fs::create_dir(&own)?;
            let mut command = Command::new("redis-server");
            let ip = host.ip().to_string();
            // Without being told, others take the address that a connection comes from, which is
            // another one.
            command.args(["--bind", &ip, "--cluster-announce-ip", &ip]);
            command.args(["--port", &PORT.to_string(), "--cluster-port", BUS]);
            command.args(["--cluster-enabled", "yes", "--protected-mode", "no"]);
            command.arg("--dir").arg(&own).args(flags);
            let name = format!("redis-{number}");
            cluster.processes.push(Process::start(&name, &mut command)?);
            cluster.addresses.push(SocketAddr::new(host.ip(), PORT));
            cluster._hosts.push(host);
        }
        for address in &cluster.addresses {
            let up = || ask(*address, &[b"PING"]).map_err(|error| format!("{error:#}"));
            wait::poll("a Redis node", PATIENCE, up)?;
        }
        // By itself it waits without an end for nodes that do not find each other.
        let mut create = Command::new("timeout");
        create.args(["60", "redis-cli", "--cluster", "create"]);
        create.args(cluster.addresses.iter().map(ToString::to_string));
        create.args(["--cluster-replicas", &replicas.to_string(), "--cluster-yes"]);
        let output = create.output().context("redis-cli")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "redis-cli --cluster create: {text}"
        );
        wait::poll("replicas of all masters", PATIENCE, || {
            cluster.complete().map_err(|error| format!("{error:#}"))
        })?;
        Ok(cluster)
    }

    fn complete(&self) -> Result<()> {
        let mut masters = 0;
        for address in &self.addresses {
            let state = info(*address, &[b"CLUSTER", b"INFO"])?;
            ensure!(state.contains("cluster_state:ok"), "{address}: {state}");
            let state = info(*address, &[b"INFO", b"replication"])?;
            let online = state.matches("state=online").count();
            let copied = online == self.replicas;
            masters += usize::from(state.contains("role:master") && copied);
        }
        ensure!(
            masters == MASTERS,
            "{masters} masters have {} replicas",
            self.replicas
        );
        Ok(())
    }

    /// As what is measured.
    pub(super) fn servers(&self, name: &'static str) -> Servers {
        Servers {
            name,
            addresses: self.addresses.clone(),
            processes: self.processes.iter().map(Process::pid).collect(),
            waits: &[false, true],
            any: false,
        }
    }
}

fn ask(address: SocketAddr, words: &[&[u8]]) -> Result<Reply> {
    Resp::connect(address)?.ask(words)
}

fn info(address: SocketAddr, words: &[&[u8]]) -> Result<String> {
    match ask(address, words)? {
        Reply::Value(Some(text)) => Ok(String::from_utf8(text)?),
        other => bail!("{address} answers with {other:?}"),
    }
}

/// Processor time that these processes have had, together (seconds).
pub(super) fn processor_time(processes: &[u32]) -> Result<f64> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut all = 0.0;
    for process in processes {
        let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name in brackets may have spaces; user and system time are 12 and 13 after it.
        let behind = text.rsplit_once(')').context("no stat of a process")?.1;
        for field in behind.split_whitespace().skip(11).take(2) {
            all += field.parse::<f64>()?;
        }
    }
    Ok(all / ticks)
}
