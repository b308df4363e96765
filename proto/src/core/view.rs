//! What a core shows of itself, to its host and to its own files.

use std::time::Duration;

use super::{Core, Counters, Phase};
use crate::{
    config::Config,
    id::NodeId,
    members::{
        record::Record,
        table::{Status, Table},
    },
    placement::Assignment,
    store::Cluster,
    wire::keyring::Keyring,
};

impl Core {
    /// Everybody known.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The settings it was started with, as changed since.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cluster, once it belongs to one.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The keys it accepts.
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    /// Whose is what in this node's view.
    pub fn assignment(&self) -> &Assignment {
        self.ring.assignment()
    }

    /// Lifeguard's score of this node: 0 (well) to 8.
    pub fn health_score(&self) -> u8 {
        self.detector.health().score()
    }

    /// The smoothed round-trip time to a member, once measured.
    pub fn rtt(&self, id: NodeId) -> Option<Duration> {
        self.detector.rtt(id)
    }

    /// `joining`, `active`, `leaving` or `left`.
    pub fn phase_name(&self) -> &'static str {
        match self.phase {
            Phase::Joining(_) => "joining",
            Phase::Active => "active",
            Phase::Leaving(_) => "leaving",
            Phase::Stopped => "left",
        }
    }

    /// Pieces of news that wait to be sent.
    pub fn backlog(&self) -> usize {
        self.detector.backlog()
    }

    /// Numbers for operators.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        for (kind, count) in &self.detector.errors {
            *counters.entry(kind).or_default() += count;
        }
        counters.insert("probes", self.detector.probes.1);
        counters.insert("probes_failed", self.detector.probes.0);
        counters.insert("health_score", u64::from(self.health_score()));
        counters.insert("loss_ppm", u64::from(self.detector.loss().ppm()));
        counters.insert("news_backlog", self.detector.backlog() as u64);
        counters.insert("peer_streams", self.streams.len() as u64);
        counters
    }

    /// Members that take part, this node included.
    pub fn living(&self) -> usize {
        self.table.living() + 1
    }

    pub(super) fn own_record(&self) -> Record {
        match self
            .table
            .get(self.table.own_id())
            .and_then(|own| own.record.clone())
        {
            Some(record) => record,
            // Never: the table is made with it. A fresh one says the same.
            None => Record::of(&self.config),
        }
    }

    pub(super) fn is_member(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Leaving(_))
    }

    pub(super) fn is_failed(&self, id: NodeId) -> bool {
        self.table
            .get(id)
            .is_some_and(|entry| entry.status() == Status::Failed)
    }
}
