//! How an agent is started.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use anyhow::Result;

use super::Agent;
use crate::{binary, netns, process::Process};

/// How to start an agent. Kept, so that the same one can be started again.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its unique name.
    pub name: String,
    /// Where it listens for gossip and peers.
    pub listen: SocketAddr,
    /// What it tells others instead, if that is another address.
    pub advertise: Option<SocketAddr>,
    /// Where its HTTP interface listens; port 0 is any free one.
    pub http: SocketAddr,
    /// Seeds, each `host:port`.
    pub seeds: Vec<String>,
    /// Its data directory; an ephemeral node without.
    pub data: Option<PathBuf>,
    /// The file with the cluster's key; none for a cluster without.
    pub key: Option<PathBuf>,
    /// A configuration file.
    pub config: Option<PathBuf>,
    /// More flags.
    pub more: Vec<String>,
    /// The network namespace to run in; this process's without.
    pub namespace: Option<String>,
    /// A command that runs it in another place; it is put before.
    pub through: Vec<String>,
}

impl Spec {
    /// An ephemeral node without key or seeds.
    pub fn new(name: &str, listen: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            listen,
            advertise: None,
            http: SocketAddr::new(listen.ip(), 0),
            seeds: Vec::new(),
            data: None,
            key: None,
            config: None,
            more: Vec::new(),
            namespace: None,
            through: Vec::new(),
        }
    }

    /// The address that others reach it at.
    pub fn address(&self) -> SocketAddr {
        self.advertise.unwrap_or(self.listen)
    }

    /// The command that starts it.
    ///
    /// # Errors
    /// If there is no `kith` binary.
    pub fn command(&self) -> Result<Command> {
        let kith = binary::kith()?;
        let mut command = match (&self.namespace, self.through.split_first()) {
            (Some(namespace), _) => netns::enter(namespace, kith),
            (None, None) => Command::new(kith),
            (None, Some((program, arguments))) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(kith);
                command
            }
        };
        binary::clean_environment(&mut command);
        command.args(["agent", "--log-format", "json", "--name", &self.name]);
        command.args(["--listen", &self.listen.to_string()]);
        command.args(["--http", &self.http.to_string()]);
        let resp = SocketAddr::new(self.http.ip(), 0);
        command.args(["--resp", &resp.to_string()]);
        if let Some(advertise) = self.advertise {
            command.args(["--advertise", &advertise.to_string()]);
        }
        for seed in &self.seeds {
            command.args(["--seed", seed]);
        }
        match &self.data {
            Some(folder) => command.arg("--data-dir").arg(folder),
            None => command.arg("--ephemeral"),
        };
        if let Some(key) = &self.key {
            command.arg("--key-file").arg(key);
        }
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        if let Some(shards) = self.shards() {
            command.args(["--shards", &shards]);
        }
        command.args(&self.more);
        Ok(command)
    }

    /// `KITH_TEST_SHARDS=1,2,3`: nodes of tests have these numbers of shards, each the one that
    /// its name falls upon.
    fn shards(&self) -> Option<String> {
        let own = |word: &String| word == "--shards";
        if self.more.iter().any(own) {
            return None;
        }
        let numbers = std::env::var("KITH_TEST_SHARDS").ok()?;
        let numbers: Vec<&str> = numbers.split(',').collect();
        let sum: usize = self.name.bytes().map(usize::from).sum();
        Some(numbers[sum % numbers.len()].to_owned())
    }

    /// Starts it. Does not wait until it is a member: see [`Agent::wait_ready`].
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(&self) -> Result<Agent> {
        let process = Process::start(&self.name, &mut self.command()?)?;
        Ok(Agent {
            spec: self.clone(),
            process,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_what_the_spec_says() {
        let mut spec = Spec::new("n1", "127.0.0.1:0".parse().unwrap());
        spec.seeds = vec!["a:1".into(), "b:2".into()];
        spec.data = Some("/d".into());
        // Does not need the binary itself: only that the flags are in order.
        let Ok(command) = spec.command() else { return };
        let flags: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        let flags = flags.join(" ");
        assert!(
            flags.starts_with("agent --log-format json --name n1"),
            "{flags}"
        );
        assert!(
            flags.contains("--seed a:1 --seed b:2 --data-dir /d"),
            "{flags}"
        );
    }
}
