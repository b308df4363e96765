//! What membership tells the partitions: who is there, who can be talked to, where placement wants
//! copies.
//!
//! Placement for partitions has patience: who failed, or stopped and will be back, keeps its
//! places for a while, since a quick restart only has to catch up on differences. While it hands
//! over before it stops, a backup is wanted as the owner, or it would be given back what it gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Core, Phase};
use crate::{
    id::{Life, NodeId},
    input::StreamId,
    members::{
        record::Phase as RecordPhase,
        table::{Entry, Status},
    },
    placement::Peer as Placed,
    replica::host::{Peer, Standing, View},
    time::Time,
};

/// No stream leads to this node itself, which can always be talked to.
const OWN: Option<StreamId> = Some(StreamId(0));

/// What was told last.
#[derive(Debug, Default)]
pub(super) struct Last {
    told: BTreeMap<NodeId, (Standing, Option<StreamId>)>,
    placed: Vec<Placed>,
    stopping: BTreeSet<NodeId>,
    leaving: bool,
    pub(super) departing: bool,
}

impl Core {
    /// What partitions have to know, if it has changed since the last time that this was asked.
    /// Copies of a member that failed are made elsewhere after `repair_delay`, of one that stopped and
    /// will be back after `return_grace`.
    pub fn partition_view(
        &mut self,
        now: Time,
        repair_delay: Duration,
        return_grace: Duration,
    ) -> Option<Arc<View>> {
        let settings = self.cluster.as_ref()?.settings;
        if !matches!(self.phase, Phase::Active | Phase::Leaving(_)) {
            return None;
        }
        let own = self.table.own_id();
        let leaving = self.partition_view.departing || matches!(self.phase, Phase::Leaving(_));
        let mut told = BTreeMap::new();
        let mut placed = Vec::new();
        let mut stopping = BTreeSet::new();
        for entry in self.table.iter() {
            let Some(standing) = standing(entry) else {
                continue;
            };
            let id = entry.identity.id;
            let stream = if id == own { OWN } else { entry.stream };
            told.insert(id, (standing, stream));
            if standing == Standing::Living && entry.is_stopping() {
                stopping.insert(id);
            }
            let keeps_place = match standing {
                Standing::Living => true,
                Standing::Failed => now < entry.since + repair_delay,
                Standing::Returning => now < entry.since + return_grace,
                Standing::Leaving | Standing::Gone => false,
            };
            if let Some(record) = entry.current_record().filter(|_| keeps_place) {
                placed.push(Placed {
                    id,
                    weight: record.weight,
                    zone: record.zone.clone(),
                });
            }
        }
        let last = &mut self.partition_view;
        let same = last.told == told && last.placed == placed && last.stopping == stopping;
        if same && last.leaving == leaving {
            return None;
        }
        last.told.clone_from(&told);
        last.placed.clone_from(&placed);
        last.stopping.clone_from(&stopping);
        last.leaving = leaving;
        let target = self
            .ring
            .placer()
            .assign(placed, settings.partitions, settings.copies);
        let target = match stopping.is_empty() {
            true => target,
            false => Arc::new(target.owned_by_others(&stopping)),
        };
        let peers = told.into_iter().map(|(id, (standing, stream))| {
            let name = self.table.name_of(id);
            (
                id,
                Peer {
                    name,
                    standing,
                    stream,
                },
            )
        });
        Some(Arc::new(View {
            peers: peers.collect(),
            target,
            settings,
            founder: self.restored.founder,
            leaving,
        }))
    }

    /// Who is at the other end of a stream, once the handshake is done and while it is the one that
    /// is held.
    pub fn peer_of(&self, stream: StreamId) -> Option<Life> {
        self.streams.get(&stream)?.peer
    }

    /// The stream that is held to a member.
    pub fn stream_to(&self, member: NodeId) -> Option<StreamId> {
        self.table.get(member)?.stream
    }
}

fn standing(entry: &Entry) -> Option<Standing> {
    let record = entry.current_record()?;
    Some(match entry.status() {
        Status::Alive | Status::Suspect => Standing::Living,
        Status::Leaving => Standing::Leaving,
        Status::Failed => Standing::Failed,
        Status::Left if record.phase == (RecordPhase::Left { returning: true }) => {
            Standing::Returning
        }
        Status::Left | Status::Evicted => Standing::Gone,
    })
}
