//! A cluster of machines: a namespace for each node and one for the clients, which this thread
//! is in as long as the cluster is there. So what nodes say to each other can be counted apart
//! from what they say to clients.

use std::sync::Arc;

use anyhow::Result;
use kith_tests::{
    cluster::{self, Cluster},
    netns::{Lan, Visit},
};

use crate::subject::Subject;

/// A running cluster on a network of its own.
///
/// The fields are dropped in this order: processes before the network that they use.
#[derive(Debug)]
pub(crate) struct Machines {
    /// The nodes.
    pub(crate) cluster: Cluster,
    _inside: Visit,
    lan: Arc<Lan>,
    clients: usize,
}

impl Machines {
    /// A cluster on disk with all copies made, and room for `spare` more nodes.
    pub(crate) fn start(
        subject: &Subject,
        nodes: usize,
        spare: usize,
        flags: &[&str],
    ) -> Result<Self> {
        let clients = nodes + spare;
        let lan = Arc::new(Lan::new(clients + 1)?);
        let inside = lan.visit(clients)?;
        let plan = cluster::of(nodes).durable().on(&lan).flags(flags);
        let mut cluster = plan.config(&subject.config()).prepare()?;
        cluster.start_all()?;
        cluster.wait_copies_on(&(0..nodes).collect::<Vec<_>>())?;
        Ok(Self {
            cluster,
            _inside: inside,
            lan,
            clients,
        })
    }

    /// The network.
    pub(crate) fn lan(&self) -> &Lan {
        &self.lan
    }

    /// Bytes that nodes have sent to each other so far, with the headers of IP and TCP.
    pub(crate) fn between_nodes(&self) -> Result<u64> {
        let sent = self.lan.sent()?;
        let nodes = sent.iter().enumerate().filter(|(i, _)| *i != self.clients);
        let to_clients = self.lan.received()?[self.clients].bytes;
        let all: u64 = nodes.map(|(_, traffic)| traffic.bytes).sum();
        Ok(all.saturating_sub(to_clients))
    }

    /// Bytes that a node has sent and received so far, those of its clients included.
    pub(crate) fn through(&self, index: usize) -> Result<u64> {
        Ok(self.lan.sent()?[index].bytes + self.lan.received()?[index].bytes)
    }
}
