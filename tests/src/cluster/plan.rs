//! What kind of cluster a test wants.

use std::{fs, sync::Arc};

use anyhow::{Context, Result};

use super::{Cluster, test_key};
use crate::{netns::Lan, proxy::Network};

/// What kind of cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    nodes: usize,
    durable: bool,
    config: Option<String>,
    more: Vec<String>,
    proxied: bool,
    lan: Option<Arc<Lan>>,
}

/// A plan for so many nodes: with a key, without data directories, all settings as they come.
pub fn of(nodes: usize) -> Plan {
    Plan {
        nodes,
        durable: false,
        config: None,
        more: Vec::new(),
        proxied: false,
        lan: None,
    }
}

impl Plan {
    /// Each node gets a data directory, so that it can be started again as the same node.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// A configuration file for each node.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// More flags for each node.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.more.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// All traffic between nodes goes through a [`Network`] that can be cut.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Each node on a machine of its own: that with its index on this network. Whoever asks them
    /// has to be on one too (see [`Lan::visit`]), so there should be one more than nodes.
    #[must_use]
    pub fn on(mut self, lan: &Arc<Lan>) -> Self {
        self.lan = Some(Arc::clone(lan));
        self
    }

    /// Prepares the nodes without starting any.
    ///
    /// # Errors
    /// If there are no addresses or files to be had.
    pub fn prepare(self) -> Result<Cluster> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let key = folder.path().join("key");
        fs::write(&key, test_key(1))?;
        let config = match &self.config {
            Some(toml) => {
                let path = folder.path().join("kith.toml");
                fs::write(&path, toml)?;
                Some(path)
            }
            None => None,
        };
        let mut cluster = Cluster {
            agents: Vec::new(),
            specs: Vec::new(),
            network: self.proxied.then(Network::new).transpose()?.map(Arc::new),
            lan: self.lan,
            hosts: Vec::new(),
            durable: self.durable,
            config,
            more: self.more,
            key,
            folder,
        };
        for _ in 0..self.nodes {
            cluster.add_spec()?;
        }
        Ok(cluster)
    }

    /// Starts all nodes at once and waits until all see all.
    ///
    /// # Panics
    /// If that does not come about.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let started = self.prepare().and_then(|mut cluster| {
            cluster.start_all()?;
            Ok(cluster)
        });
        match started {
            Ok(cluster) => {
                cluster.expect_all_alive();
                cluster
            }
            Err(error) => panic!("{error:#}"),
        }
    }
}
