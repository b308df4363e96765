//! A cluster of the subject, and what its nodes have said about each other.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use kith_tests::{
    cluster::test_key,
    host::Host,
    netns::Lan,
    process::{Process, Signal},
};
use tempfile::TempDir;

use crate::{
    Options, seconds,
    subject::{Kind, News, Place, Subject},
};

/// For all to see all: a cluster that has not come together by then is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// For all to say one thing: who has not said it by then has missed it.
const NEWS_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the logs. Times are taken from the lines, not from the looks.
const PAUSE: Duration = Duration::from_millis(20);

/// N places, and the processes that run there.
///
/// The fields are dropped in this order: processes before the network that they use.
#[derive(Debug)]
pub(crate) struct Lab {
    nodes: Vec<Node>,
    subject: Subject,
    lan: Option<Lan>,
    _hosts: Vec<Host>,
    folder: TempDir,
}

#[derive(Debug)]
struct Node {
    place: Place,
    process: Option<Process>,
    /// What this life has said about others so far.
    news: Vec<News>,
    /// How far its log has been read.
    read: usize,
    /// Whom it counts as alive, itself left out.
    alive: BTreeSet<String>,
}

impl Lab {
    /// Prepares so many places; nothing runs yet.
    pub(crate) fn new(options: &Options, subject: &Subject, nodes: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("key"), test_key(1))?;
        fs::write(folder.path().join("kith.toml"), subject.config())?;
        let lan = (!options.loopback).then(|| Lan::new(nodes)).transpose()?;
        let mut hosts = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        for index in 0..nodes {
            let (listen, client) = match &lan {
                Some(lan) => (lan.address(index, 7400), "127.0.0.1:7402".parse()?),
                None => {
                    let host = Host::claim()?;
                    let addresses = (host.free()?, host.free()?);
                    hosts.push(host);
                    addresses
                }
            };
            places.push(Place {
                name: name(index),
                listen,
                client,
                namespace: lan.as_ref().map(|lan| lan.namespace(index).to_owned()),
                seed: places.first().map(|first: &Place| first.listen),
            });
        }
        let nodes = places.into_iter().map(Node::new).collect();
        Ok(Self {
            nodes,
            subject: subject.clone(),
            lan,
            _hosts: hosts,
            folder,
        })
    }

    /// A cluster that runs, in which all have seen all, and that was left in peace for a while.
    pub(crate) fn running(options: &Options, subject: &Subject, nodes: usize) -> Result<Self> {
        let mut lab = Self::new(options, subject, nodes)?;
        lab.start_all()?;
        lab.peace(options)?;
        Ok(lab)
    }

    /// Waits until all count all as alive, and then for a while: the end of a trial.
    pub(crate) fn peace(&mut self, options: &Options) -> Result<()> {
        self.wait_all()?;
        thread::sleep(options.settle());
        Ok(())
    }

    /// Starts all; when the first was about to be.
    pub(crate) fn start_all(&mut self) -> Result<SystemTime> {
        let begun = SystemTime::now();
        for index in 0..self.nodes.len() {
            self.start(index)?;
        }
        Ok(begun)
    }

    /// Starts a node (again).
    pub(crate) fn start(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let mut command = self.subject.command(&node.place, self.folder.path())?;
        // What an earlier life of it has seen is of no use to this one.
        *node = Node::new(node.place.clone());
        node.process = Some(Process::start(&node.place.name, &mut command)?.unexplained());
        Ok(())
    }

    /// Ends all processes and forgets what they kept, so that the places can be used again.
    pub(crate) fn stop_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.process = None;
            let kept = self.folder.path().join(&node.place.name);
            if kept.exists() {
                fs::remove_dir_all(kept)?;
            }
        }
        Ok(())
    }

    /// The network between them.
    pub(crate) fn lan(&self) -> Result<&Lan> {
        self.lan.as_ref().context("this needs namespaces")
    }

    /// How many nodes it has.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The process of a node.
    pub(crate) fn process(&self, index: usize) -> Result<&Process> {
        let process = self.nodes[index].process.as_ref();
        process.with_context(|| format!("{} does not run", name(index)))
    }

    /// Sends a signal; when it was about to be sent.
    pub(crate) fn signal(&self, index: usize, signal: Signal) -> Result<SystemTime> {
        let process = self.process(index)?;
        let now = SystemTime::now();
        process.signal(signal)?;
        Ok(now)
    }

    /// Everybody but that one.
    pub(crate) fn others(&self, index: usize) -> Vec<usize> {
        (0..self.len()).filter(|&i| i != index).collect()
    }

    /// What a node has said since a moment.
    pub(crate) fn news_since(&mut self, index: usize, since: SystemTime) -> Vec<News> {
        self.read_logs();
        let news = self.nodes[index].news.iter();
        news.filter(|n| n.at >= since).cloned().collect()
    }

    /// Waits until all of `observers` have said that about a member, each at its first time
    /// since a moment; gives the seconds from that moment to the last of them.
    pub(crate) fn wait_said(
        &mut self,
        observers: &[usize],
        since: SystemTime,
        kind: Kind,
        member: usize,
    ) -> Result<f64> {
        let about = name(member);
        let begun = Instant::now();
        loop {
            self.read_logs();
            let moments: Vec<Option<SystemTime>> = observers
                .iter()
                .map(|&i| self.nodes[i].first(since, kind, &about))
                .collect();
            if let Some(last) = last_of(&moments) {
                return Ok(seconds(since, last));
            }
            if begun.elapsed() > NEWS_PATIENCE {
                let silent: Vec<String> = observers
                    .iter()
                    .zip(&moments)
                    .filter(|(_, moment)| moment.is_none())
                    .map(|(&i, _)| name(i))
                    .collect();
                bail!("{kind:?} {about}: nothing from {}", silent.join(" "));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until all count all as alive; when the last of them did.
    pub(crate) fn wait_all(&mut self) -> Result<SystemTime> {
        let begun = Instant::now();
        loop {
            self.read_logs();
            let wanted = self.len() - 1;
            let incomplete: Vec<&Node> = self
                .nodes
                .iter()
                .filter(|node| node.alive.len() != wanted)
                .collect();
            if incomplete.is_empty() {
                let last = self.nodes.iter().filter_map(|n| n.news.last());
                return last
                    .map(|news| news.at)
                    .max()
                    .context("nobody has said anything");
            }
            if begun.elapsed() > PATIENCE {
                let each: Vec<String> = incomplete
                    .iter()
                    .map(|node| format!("{}: {} of {wanted}", node.place.name, node.alive.len()))
                    .collect();
                bail!("not all see all: {}", each.join(", "));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Members, other than `except`, that anybody has declared failed since a moment.
    pub(crate) fn falsely_failed(&mut self, since: SystemTime, except: &[usize]) -> usize {
        self.read_logs();
        let except: BTreeSet<String> = except.iter().map(|&i| name(i)).collect();
        let all = self.nodes.iter().flat_map(|node| &node.news);
        let failed = all.filter(|n| n.at >= since && n.kind == Kind::Failed);
        let members: BTreeSet<&str> = failed
            .map(|n| n.member.as_str())
            .filter(|member| !except.contains(*member))
            .collect();
        members.len()
    }

    fn read_logs(&mut self) {
        for node in &mut self.nodes {
            node.read_log(&self.subject);
        }
    }
}

impl Node {
    fn new(place: Place) -> Self {
        Self {
            place,
            process: None,
            news: Vec::new(),
            read: 0,
            alive: BTreeSet::new(),
        }
    }

    fn read_log(&mut self, subject: &Subject) {
        let Some(process) = &self.process else {
            return;
        };
        let lines = process.log().since(self.read);
        self.read += lines.len();
        for news in lines.iter().filter_map(|line| subject.news(line)) {
            // Serf tells of itself too.
            if news.member == self.place.name {
                continue;
            }
            match news.kind {
                Kind::Alive => self.alive.insert(news.member.clone()),
                Kind::Failed | Kind::Left => self.alive.remove(&news.member),
            };
            self.news.push(news);
        }
    }

    fn first(&self, since: SystemTime, kind: Kind, member: &str) -> Option<SystemTime> {
        let mut news = self.news.iter();
        let found = news.find(|n| n.at >= since && n.kind == kind && n.member == member);
        found.map(|n| n.at)
    }
}

/// The latest, if there are all.
fn last_of(moments: &[Option<SystemTime>]) -> Option<SystemTime> {
    let all: Option<Vec<SystemTime>> = moments.iter().copied().collect();
    all?.into_iter().max()
}

fn name(index: usize) -> String {
    format!("n{}", index + 1)
}
