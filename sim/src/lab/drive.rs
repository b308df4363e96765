//! Time: what happens next, and blows between any two steps.

use std::time::Duration;

use kith_proto::{
    replica::{host::SyncToken, message::Message},
    time::Time,
};

use super::{Lab, NodeIndex, client, oracle::Sight, plan};

#[derive(Debug)]
pub(super) enum Happening {
    /// A message arrives.
    Deliver {
        from: NodeIndex,
        to: NodeIndex,
        stream: u64,
        message: Box<Message>,
    },
    /// A core's timer is due.
    Wake(NodeIndex),
    /// A disk has synced.
    Synced {
        node: NodeIndex,
        life: u32,
        token: SyncToken,
    },
    /// The system syncs what was written a while ago.
    Flush(NodeIndex),
    /// A node comes to see another so.
    See {
        observer: NodeIndex,
        life: u32,
        subject: NodeIndex,
        sight: Sight,
    },
    /// Who leaves may be able to go.
    Goes(NodeIndex, u32),
    /// A machine that vanished is missed.
    Missed(NodeIndex),
    /// Those who hear nothing from each other notice it, if nothing has changed since.
    Unheard(u64, Vec<NodeIndex>),
    /// It is a client's turn.
    Client(usize),
    /// The plan wants something.
    Act(plan::Action),
}

impl Happening {
    // Whether it is a message between these two.
    pub(super) fn is_between(&self, pair: (NodeIndex, NodeIndex)) -> bool {
        matches!(self, Self::Deliver { from, to, .. } if (*from.min(to), *from.max(to)) == pair)
    }
}

/// Something happens to a node right after a step: see [`Lab::count_points`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    /// After which one, counted from 1.
    pub point: u64,
    /// Whose.
    pub node: NodeIndex,
    /// What happens to it.
    pub how: How,
}

/// What happens to a node between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It ends.
    Killed,
    /// Its machine stops too, and nothing survives that was not synced.
    PowerCut,
    /// It stands still for so long, and others come to think that it has failed.
    Paused(Duration),
    /// What it sends, and is sent, waits for so long.
    Stalled(Duration),
    /// Nothing reaches it, or leaves it; after so long each side thinks that the other has failed.
    CutOff(Duration),
}

impl Lab {
    /// From now on (or not any more) every step counts after which something may happen to a node: each message
    /// taken in, each effect of a core (a message, an answer, a sync that begins), each sync that ends.
    /// With `blow` it does.
    pub fn count_points(&mut self, counting: bool, blow: Option<Blow>) {
        self.counting = counting;
        self.blow = blow;
    }

    /// Steps that were counted.
    pub fn points(&self) -> u64 {
        self.points
    }

    pub(super) fn point(&mut self) {
        if !self.counting {
            return;
        }
        self.points += 1;
        if let Some(blow) = self.blow.filter(|blow| blow.point == self.points) {
            self.blow = None;
            match blow.how {
                How::Killed => self.kill(blow.node, false),
                How::PowerCut => self.stop_machine(blow.node, 0),
                How::Paused(during) => {
                    self.pause(blow.node);
                    self.accuse(blow.node);
                    self.schedule(during, plan::Action::Resume(blow.node));
                }
                How::Stalled(during) => {
                    for other in (0..self.len()).filter(|other| *other != blow.node) {
                        self.stall(blow.node, other);
                        self.schedule(during, plan::Action::Restore(blow.node, other));
                    }
                }
                How::CutOff(noticed_after) => self.silence(&[blow.node], noticed_after),
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.step(until) {}
    }

    /// Lets time pass until a condition holds; false if it did not within `limit`.
    pub fn run_while(&mut self, limit: Duration, mut holds: impl FnMut(&Self) -> bool) -> bool {
        self.run_until(limit, Duration::from_millis(20), |lab| holds(lab))
    }

    /// The same; the condition is looked at so often.
    pub fn run_until(
        &mut self,
        limit: Duration,
        look_every: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let until = self.now + limit;
        let mut look = self.now;
        loop {
            if self.now >= look {
                if holds(self) {
                    return true;
                }
                look = self.now + look_every;
            }
            if !self.step(until) {
                return holds(self);
            }
        }
    }

    fn step(&mut self, until: Time) -> bool {
        match self.agenda.pop(until) {
            Some((at, what)) => {
                self.now = at;
                self.happen(what);
                true
            }
            None => {
                self.now = self.now.max(until);
                false
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver {
                from,
                to,
                stream,
                message,
            } => {
                self.deliver(from, to, stream, message);
                self.point();
            }
            Happening::Wake(index) => self.wake(index),
            Happening::Synced { node, life, token } => self.synced(node, life, token),
            Happening::Flush(node) => self.flush(node),
            Happening::See {
                observer,
                life,
                subject,
                sight,
            } => self.see(observer, life, subject, sight),
            Happening::Goes(node, life) => self.goes(node, life),
            Happening::Missed(node) => self.is_missed(node),
            Happening::Unheard(silence, side) => self.unheard(silence, &side),
            Happening::Client(client) => client::turn(self, client),
            Happening::Act(action) => plan::act(self, &action),
        }
    }
}
