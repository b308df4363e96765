//! Membership as an oracle tells it: early, late or wrongly, each node for itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use kith_proto::{
    input::StreamId,
    placement::{Assignment, Peer as Placed, Placer},
    replica::host::{Input, Peer, Standing, View},
};
use rand::RngExt;

use super::{Happening, Lab, NodeIndex, departure::Departure};

/// What a node has come to know of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It stands so.
    Is(Standing),
    /// It lives, and hands over what it owns before it stops.
    Stopping,
    /// It stands so, and its copies are to be made elsewhere.
    GivenUp(Standing),
}

impl Sight {
    fn shown(self) -> Standing {
        match self {
            Self::Is(standing) | Self::GivenUp(standing) => standing,
            Self::Stopping => Standing::Living,
        }
    }
}

/// How a node sees the others.
#[derive(Debug, Default)]
pub(super) struct Sights(BTreeMap<NodeIndex, Sight>);

impl Sights {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Lab {
    /// Others come to think that a node has failed, though it lives.
    pub fn accuse(&mut self, index: NodeIndex) {
        for other in 0..self.len() {
            if other != index && self.is_alive(other) {
                self.notice(other, index, Sight::Is(Standing::Failed), 20..300);
                self.notice(other, index, Sight::Is(Standing::Living), 1000..3000);
            }
        }
    }

    /// One node comes to see another so, right now.
    pub fn believe(&mut self, observer: NodeIndex, subject: NodeIndex, standing: Standing) {
        let sight = Sight::Is(standing);
        self.nodes[observer].sights.0.insert(subject, sight);
        self.show_view(observer);
    }

    /// The process of a node has ended, and others notice.
    pub(super) fn missed(&mut self, index: NodeIndex) {
        for other in 0..self.len() {
            if other != index && self.is_alive(other) {
                let within = self.noticed.end.clone();
                self.notice(other, index, Sight::Is(Standing::Failed), within);
            }
        }
    }

    /// A process has started, and others notice; and it them.
    pub(super) fn introduce(&mut self, index: NodeIndex) {
        for other in 0..self.len() {
            if other != index && self.is_alive(other) && self.network.reaches(index, other) {
                self.connect(index, other);
                self.notice(index, other, Sight::Is(Standing::Living), 1..40);
                self.notice(other, index, Sight::Is(Standing::Living), 1..40);
            }
        }
        self.notice(index, index, Sight::Is(Standing::Living), 1..2);
        for other in 0..self.len() {
            let departure = self.nodes[other].departure;
            if departure == Departure::Farewell && !self.is_alive(other) && !self.is_gone(other) {
                self.notice(index, other, Sight::Is(Standing::Returning), 1..40);
            }
        }
    }

    /// How a node sees another.
    pub(super) fn sight(&self, observer: NodeIndex, subject: NodeIndex) -> Option<Sight> {
        self.nodes[observer].sights.0.get(&subject).copied()
    }

    /// Two lose sight of each other.
    pub(super) fn lose_sight(&mut self, a: NodeIndex, b: NodeIndex) {
        if self.is_alive(a) && self.is_alive(b) {
            for (observer, subject) in [(a, b), (b, a)] {
                let within = self.noticed.cut.clone();
                self.notice(observer, subject, Sight::Is(Standing::Failed), within);
            }
        }
    }

    pub(super) fn see_again(&mut self, observer: NodeIndex, subject: NodeIndex) {
        self.notice(observer, subject, Sight::Is(Standing::Living), 10..400);
    }

    /// Whether a node thinks that another has failed, which lives and can be reached.
    pub fn somebody_is_mistaken(&self) -> bool {
        let living = self.living();
        let sees_failed = |observer: NodeIndex, subject: NodeIndex| {
            let sight = self.nodes[observer].sights.0.get(&subject);
            sight.is_some_and(|sight| sight.shown() == Standing::Failed)
        };
        living.iter().any(|observer| {
            living.iter().any(|subject| {
                sees_failed(*observer, *subject) && self.network.reaches(*observer, *subject)
            })
        })
    }

    pub(super) fn notice(
        &mut self,
        observer: NodeIndex,
        subject: NodeIndex,
        sight: Sight,
        millis: Range<u64>,
    ) {
        let after = Duration::from_millis(self.rng.random_range(millis));
        self.notice_after(observer, subject, sight, after);
    }

    fn notice_after(
        &mut self,
        observer: NodeIndex,
        subject: NodeIndex,
        sight: Sight,
        after: Duration,
    ) {
        let life = self.nodes[observer].life;
        let see = Happening::See {
            observer,
            life,
            subject,
            sight,
        };
        self.agenda.push(self.now + after, see);
    }

    pub(super) fn see(&mut self, observer: NodeIndex, life: u32, subject: NodeIndex, sight: Sight) {
        if self.nodes[observer].life != life {
            return;
        }
        let known = self.sight(observer, subject);
        let departure = self.nodes[subject].departure;
        let lives = self.is_alive(subject) && self.network.reaches(observer, subject);
        let is_true = match sight {
            // Who has gone in the meantime does not live.
            Sight::Is(Standing::Living) => lives,
            // Nor has whoever said before that it goes failed.
            Sight::Is(Standing::Failed) => !matches!(
                known.map(Sight::shown),
                Some(Standing::Gone | Standing::Returning)
            ),
            Sight::GivenUp(standing) => known == Some(Sight::Is(standing)),
            Sight::Stopping => matches!(departure, Departure::Stops(_)) && self.is_alive(subject),
            Sight::Is(Standing::Returning) => departure == Departure::Farewell,
            Sight::Is(_) => true,
        };
        if !is_true {
            return;
        }
        if let Sight::Is(standing @ (Standing::Failed | Standing::Returning)) = sight {
            let repair_delay = self.setup.repair_delay;
            self.notice_after(observer, subject, Sight::GivenUp(standing), repair_delay);
            if lives && standing == Standing::Failed {
                // It was declared failed wrongly; that is noticed too.
                self.notice(observer, subject, Sight::Is(Standing::Living), 500..3000);
            }
        }
        let sight = match sight {
            Sight::Is(Standing::Living) => departure.seen(),
            other => other,
        };
        self.nodes[observer].sights.0.insert(subject, sight);
        self.show_view(observer);
    }

    pub(super) fn show_view(&mut self, observer: NodeIndex) {
        let target = self.target(observer);
        let node = &self.nodes[observer];
        let mut peers = BTreeMap::new();
        for (subject, sight) in &node.sights.0 {
            let stream = if *subject == observer {
                Some(StreamId(0))
            } else {
                self.network.stream(observer, *subject)
            };
            let peer = Peer {
                name: format!("n{subject}"),
                standing: sight.shown(),
                stream,
            };
            peers.insert(self.nodes[*subject].id, peer);
        }
        let view = View {
            peers,
            target,
            settings: self.setup.settings,
            founder: node.founder && node.life == 1,
            leaving: node.departure.is_going(),
        };
        self.feed(observer, Input::View(Arc::new(view)));
    }

    /// Where placement wants partitions, as a node sees the others. Those that failed count until
    /// they are given up.
    pub fn target(&mut self, observer: NodeIndex) -> Arc<Assignment> {
        let mut placed = BTreeSet::new();
        let mut stopping = BTreeSet::new();
        for (subject, sight) in &self.nodes[observer].sights.0 {
            match sight {
                Sight::Stopping => {
                    placed.insert(*subject);
                    stopping.insert(self.nodes[*subject].id);
                }
                Sight::Is(Standing::Living | Standing::Failed | Standing::Returning) => {
                    placed.insert(*subject);
                }
                Sight::Is(Standing::Leaving | Standing::Gone) | Sight::GivenUp(_) => {}
            }
        }
        let target = self.placed_on(&placed);
        match stopping.is_empty() {
            true => target,
            false => Arc::new(target.owned_by_others(&stopping)),
        }
    }

    /// Where placement wants partitions, if just these nodes take part.
    pub(super) fn placed_on(&mut self, nodes: &BTreeSet<NodeIndex>) -> Arc<Assignment> {
        let peers: Vec<Placed> = nodes
            .iter()
            .map(|node| Placed {
                id: self.nodes[*node].id,
                weight: 100,
                zone: String::new(),
            })
            .collect();
        let settings = self.setup.settings;
        let placer: &mut Placer = &mut self.placer;
        placer.assign(peers, settings.partitions, settings.copies)
    }
}
