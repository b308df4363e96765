//! Several agents that find each other, named `n1`, `n2`, … in the order of their index.
//!
//! Each has a loopback address, or a machine, of its own. The first is the seed of the others.

mod plan;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kith::view::KeyView;
use tempfile::TempDir;

use crate::{
    agent::{Agent, Spec},
    host::Host,
    log::Event,
    netns::Lan,
    process,
    proxy::Network,
    wait::{self, Timeout},
};
pub use plan::{Plan, of};

/// Agents that make one cluster, and the folder with what they keep.
///
/// The fields are dropped in this order: agents before the folder that they write to.
#[derive(Debug)]
pub struct Cluster {
    agents: Vec<Agent>,
    specs: Vec<Spec>,
    network: Option<Arc<Network>>,
    lan: Option<Arc<Lan>>,
    hosts: Vec<Host>,
    durable: bool,
    config: Option<PathBuf>,
    more: Vec<String>,
    key: PathBuf,
    folder: TempDir,
}

impl Cluster {
    /// Starts every node that is prepared and not yet started.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        for index in self.agents.len()..self.specs.len() {
            let agent = self.launch(index)?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// Prepares one more node and returns its index; [`Self::start_all`] starts it.
    ///
    /// # Errors
    /// If there is no address to be had.
    pub fn add_spec(&mut self) -> Result<usize> {
        let index = self.specs.len();
        let name = format!("n{}", index + 1);
        let mut spec = match &self.lan {
            Some(lan) => {
                let mut spec = Spec::new(&name, lan.address(index, 7400));
                spec.http = lan.address(index, 7402);
                spec.namespace = Some(lan.namespace(index).to_owned());
                spec
            }
            None => {
                let host = Host::claim()?;
                let spec = Spec::new(&name, host.free()?);
                self.hosts.push(host);
                spec
            }
        };
        spec.key = Some(self.key.clone());
        spec.config = self.config.clone();
        spec.more = self.more.clone();
        if self.lan.is_some() {
            // Clients are elsewhere; and nobody else can come near.
            spec.more.push("--insecure".to_owned());
        }
        if self.durable {
            spec.data = Some(self.folder.path().join(&spec.name));
        }
        if let Some(network) = &self.network {
            spec.advertise = Some(network.add(&spec.name, spec.listen)?);
        }
        if let Some(first) = self.specs.first() {
            spec.seeds = vec![first.address().to_string()];
        }
        self.specs.push(spec);
        Ok(index)
    }

    /// One more node, started; its index.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn grow(&mut self) -> Result<usize> {
        let index = self.add_spec()?;
        self.start_all()?;
        Ok(index)
    }

    /// Starts a node again, after its process has ended, as its spec says now.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn restart(&mut self, index: usize) -> &Agent {
        match self.launch(index) {
            Ok(agent) => self.agents[index] = agent,
            Err(error) => panic!("{error:#}"),
        }
        &self.agents[index]
    }

    fn launch(&self, index: usize) -> Result<Agent> {
        let agent = self.specs[index].start()?;
        if let Some(network) = &self.network {
            network.process_of(agent.name(), agent.process().pid());
        }
        Ok(agent)
    }

    /// The node with that index.
    pub fn node(&self, index: usize) -> &Agent {
        &self.agents[index]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Agent] {
        &self.agents
    }

    /// All nodes but that one.
    pub fn others(&self, index: usize) -> impl Iterator<Item = &Agent> {
        let all = self.agents.iter().enumerate();
        all.filter(move |(i, _)| *i != index).map(|(_, a)| a)
    }

    /// How that node is started, to be changed before it is started again.
    pub fn spec(&mut self, index: usize) -> &mut Spec {
        &mut self.specs[index]
    }

    /// The address of the machine that node runs on, of a cluster on loopback addresses.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The network between the nodes, of a cluster that is [`Plan::proxied`].
    ///
    /// # Panics
    /// If it is not.
    pub fn network(&self) -> &Network {
        match &self.network {
            Some(network) => network,
            None => panic!("this cluster was planned without a proxy"),
        }
    }

    /// The folder of this cluster, removed when it is dropped.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Names of all nodes.
    pub fn names(&self) -> Vec<&str> {
        self.agents.iter().map(Agent::name).collect()
    }

    /// The positions in the logs of all nodes.
    pub fn marks(&self) -> Vec<usize> {
        self.agents.iter().map(Agent::mark).collect()
    }

    /// Waits until every node sees exactly all nodes alive.
    ///
    /// # Panics
    /// If that does not come about.
    #[track_caller]
    pub fn expect_all_alive(&self) {
        self.expect_alive_on(&(0..self.agents.len()).collect::<Vec<_>>());
    }

    /// Waits until each of these nodes sees exactly these nodes alive.
    ///
    /// # Panics
    /// If that does not come about.
    #[track_caller]
    pub fn expect_alive_on(&self, indices: &[usize]) {
        let names: Vec<&str> = indices.iter().map(|&i| self.agents[i].name()).collect();
        for &index in indices {
            self.agents[index].expect_alive(&names);
        }
    }

    /// Waits until each of these nodes knows of each partition that it has all copies wanted,
    /// every one of them on one of these nodes.
    ///
    /// # Panics
    /// If that does not come about.
    #[track_caller]
    pub fn expect_copies_on(&self, indices: &[usize]) {
        if let Err(timeout) = self.wait_copies_on(indices) {
            panic!("{timeout}");
        }
    }

    /// [`Self::expect_copies_on`] for what is no test.
    ///
    /// # Errors
    /// [`Timeout`] if that does not come about.
    pub fn wait_copies_on(&self, indices: &[usize]) -> Result<(), Timeout> {
        let names: Vec<&str> = indices.iter().map(|&i| self.agents[i].name()).collect();
        for &index in indices {
            let agent = &self.agents[index];
            let what = format!("{} to see all copies on {names:?}", agent.name());
            // Copies of what has failed are made again only after a while.
            wait::poll(&what, wait::PATIENCE * 3, || {
                copies_on(agent, &names).map_err(|error| format!("{error:#}"))
            })?;
        }
        Ok(())
    }

    /// Waits until no node sees anything amiss in the cluster, with all copies. That a node is slow itself says
    /// something about the machine that the test runs on, which may be busy for long.
    ///
    /// # Panics
    /// If that does not come about.
    #[track_caller]
    pub fn expect_healthy(&self) {
        self.expect_copies_on(&(0..self.agents.len()).collect::<Vec<_>>());
        for agent in &self.agents {
            wait::until(
                &format!("{} to see a healthy cluster", agent.name()),
                || {
                    let mut status = agent.status().map_err(|error| format!("{error:#}"))?;
                    status
                        .problems
                        .retain(|problem| !problem.starts_with("this node is slow"));
                    match status.problems.is_empty() {
                        true => Ok(()),
                        false => Err(status.problems.join("; ")),
                    }
                },
            );
        }
    }

    /// The index of the node that owns a key, as `asked` knows it.
    ///
    /// # Panics
    /// If nobody is known to.
    #[track_caller]
    pub fn owner_of(&self, key: &str, asked: usize) -> usize {
        let client = self.agents[asked].library();
        wait::until(&format!("an owner of {key}"), || {
            let found = client.partitions(Some(key)).map_err(|e| e.to_string())?;
            let owner = found.first().and_then(|view| view.owner.as_deref());
            let index = self.agents.iter().position(|a| Some(a.name()) == owner);
            index.ok_or_else(|| format!("{found:?}"))
        })
    }

    /// Waits until every other node has logged that event about a node, after the marks.
    ///
    /// # Panics
    /// If one does not.
    #[track_caller]
    pub fn expect_on_others(&self, index: usize, marks: &[usize], event: &str) -> Vec<Event> {
        let member = self.agents[index].name();
        let all = self.agents.iter().zip(marks).enumerate();
        let others = all.filter(|(i, _)| *i != index);
        others
            .map(|(_, (agent, &mark))| agent.expect_event(mark, event, member))
            .collect()
    }

    /// Runs a `kith keys` command at that node, which all members have followed when it returns.
    ///
    /// # Panics
    /// If not all have followed, or the command cannot be run.
    #[track_caller]
    pub fn change_keys(&self, index: usize, arguments: &[&str]) {
        let arguments = [&["keys"], arguments].concat();
        let told = self.agents[index]
            .client(&arguments)
            .and_then(|mut command| process::run(&mut command));
        match told {
            Ok((0, _)) => {}
            Ok((code, text)) => panic!("{arguments:?}: code {code}: {text}"),
            Err(error) => panic!("{arguments:?}: {error:#}"),
        }
    }

    /// Waits until the keys of every node are such; gives back the first node's.
    ///
    /// # Panics
    /// If they do not become so.
    #[track_caller]
    pub fn expect_keys(&self, wanted: impl Fn(&[KeyView]) -> bool) -> Vec<KeyView> {
        for node in &self.agents {
            wait::until(&format!("the keys of {}", node.name()), || {
                let keys = node.expect_keys();
                if wanted(&keys) {
                    Ok(())
                } else {
                    Err(format!("{keys:?}"))
                }
            });
        }
        self.agents[0].expect_keys()
    }

    /// Checks that no node has logged any of these events, about anybody, after the marks.
    ///
    /// # Panics
    /// If one has.
    #[track_caller]
    pub fn forbid_everywhere(&self, marks: &[usize], events: &[&str]) {
        for (agent, &mark) in self.agents.iter().zip(marks) {
            agent.forbid(mark, &events.join(" or "), |e| events.contains(&e.name()));
        }
    }
}

/// Whether that agent knows of each partition that all copies wanted are on these nodes.
fn copies_on(agent: &Agent, names: &[&str]) -> Result<()> {
    let status = agent.status()?;
    let partitions = agent.partitions()?;
    if partitions.is_empty() {
        bail!("no partitions");
    }
    for view in partitions {
        let members = view.owner.iter().chain(&view.backups);
        let there = members.filter(|m| names.contains(&m.as_str())).count();
        if there != status.copies || view.backups.len() + 1 != there {
            bail!("{view:?}");
        }
    }
    Ok(())
}

/// A key as the text of a key file; each number gives another.
pub fn test_key(number: u8) -> String {
    STANDARD.encode([number; 32]) + "\n"
}
