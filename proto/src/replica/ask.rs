//! Requests on their way: answered here, forwarded to the owner, or waiting for one.
//!
//! ```text
//!   client -> any node ->[Ask] owner ->[Answer] -> client
//!                      ->[Ask] not the owner (any more) ->[NotOwner] -> the right one, or wait
//! ```
//!
//! Only requests without a version are forwarded or tried again (rule 7): one that was handed
//! to an owner whose answer got lost is indeterminate, unless it only reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    host::{Output, SyncToken},
    message::{Message, Route},
    omit::Omit,
    shard::{Shard, Timer},
    write::broken,
};
use crate::{
    id::{NodeId, PartitionId},
    input::RequestId,
    kv::request::{Request, RequestError, Response},
    time::Time,
};

/// Requests that wait for an owner at a time; more are refused.
const MAX_WAITING: usize = 65_536;

fn too_many() -> RequestError {
    RequestError::Unavailable("too many requests wait for partitions to be served again".to_owned())
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this node.
    Local(RequestId),
    /// Another node, with its number for it.
    Peer(NodeId, u64),
}

/// A request that nothing was done about yet.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) body: Request,
    pub(super) deadline: Time,
}

#[derive(Debug)]
struct Asked {
    partition: PartitionId,
    to: NodeId,
    waiting: Waiting,
}

/// Requests that are not being done here.
#[derive(Debug, Default)]
pub(super) struct Asks {
    asked: BTreeMap<u64, Asked>,
    /// Of those, by time: one that was asked a second time is older than its number.
    deadlines: BTreeSet<(Time, u64)>,
    waiting: BTreeMap<PartitionId, VecDeque<Waiting>>,
    count: usize,
}

impl Asks {
    fn put(&mut self, number: u64, asked: Asked) {
        self.deadlines.insert((asked.waiting.deadline, number));
        self.asked.insert(number, asked);
    }

    fn take(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        self.deadlines.remove(&(asked.waiting.deadline, number));
        Some(asked)
    }

    /// Partitions that requests wait for.
    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.waiting.keys().copied()
    }

    /// Those of which the oldest request waits for what is due by then, or longer.
    fn waiting_until(&self, deadline: Time) -> impl Iterator<Item = PartitionId> {
        let oldest = |waiting: &VecDeque<Waiting>| waiting.iter().map(|one| one.deadline).min();
        let waiting = self.waiting.iter();
        let long = waiting.filter(move |(_, all)| oldest(all).is_some_and(|at| at <= deadline));
        long.map(|(p, _)| *p)
    }

    /// The number of one whose time is over.
    fn over(&self, now: Time) -> Option<u64> {
        let (at, number) = *self.deadlines.first()?;
        (at <= now).then_some(number)
    }
}

impl Shard {
    /// A client of this node asks.
    pub(super) fn request(&mut self, request: RequestId, p: PartitionId, body: Request) {
        let waiting = Waiting {
            origin: Origin::Local(request),
            body,
            deadline: self.now.time + self.config.timing.request,
        };
        self.route_request(p, waiting);
    }

    /// Another node asks.
    pub(super) fn asked(&mut self, from: NodeId, number: u64, p: PartitionId, body: Request) {
        if !self.is_mine(p) {
            return self.counters_up("rejected_message");
        }
        let waiting = Waiting {
            origin: Origin::Peer(from, number),
            body,
            deadline: self.now.time + self.config.timing.request,
        };
        self.route_request(p, waiting);
    }

    fn route_request(&mut self, p: PartitionId, waiting: Waiting) {
        if self.is_ready(p) {
            return self.execute(p, waiting);
        }
        // Who is to own it waits for that itself.
        let coming = self.replicas.get(&p).is_some_and(|replica| {
            let owns = |config: &super::chain::Configuration| {
                config.owner() == self.own && config.closed_into.is_none()
            };
            replica.proposal.is_some() || replica.chain.as_ref().is_some_and(|c| owns(&c.config))
        });
        let owner = self.routes.owner(p).filter(|owner| *owner != self.own);
        match (coming, owner, waiting.origin) {
            (true, _, _) => self.wait(p, waiting),
            (false, _, Origin::Peer(from, number)) => {
                let route = self.routes.get(p).cloned();
                self.send_route(from, Message::NotOwner { number, route });
            }
            (false, Some(owner), _) if self.view().is_some_and(|view| view.is_reachable(owner)) => {
                if self.asks.asked.len() >= MAX_WAITING {
                    return self.reply(waiting.origin, Err(too_many()), None);
                }
                let number = self.number();
                let message = Message::Ask {
                    number,
                    partition: p,
                    request: waiting.body.clone(),
                };
                self.timers.set_by(Timer::Requests, waiting.deadline);
                let asked = Asked {
                    partition: p,
                    to: owner,
                    waiting,
                };
                self.asks.put(number, asked);
                self.send(owner, message);
            }
            _ => self.wait(p, waiting),
        }
    }

    fn wait(&mut self, p: PartitionId, waiting: Waiting) {
        if self.asks.count >= MAX_WAITING {
            return self.reply(waiting.origin, Err(too_many()), None);
        }
        // Nothing that is over waits: it would be tried again without end.
        if waiting.deadline <= self.now.time {
            return self.is_over(p, waiting.origin);
        }
        self.timers.set_by(Timer::Requests, waiting.deadline);
        let long = self.now.time + self.config.timing.retry;
        self.timers.set_by(Timer::Owners, long);
        self.asks.count += 1;
        self.asks.waiting.entry(p).or_default().push_back(waiting);
    }

    /// Those that wait for a partition are tried again.
    pub(super) fn release(&mut self, p: PartitionId) {
        let Some(waiting) = self.asks.waiting.remove(&p) else {
            return;
        };
        self.asks.count -= waiting.len();
        for one in waiting {
            self.route_request(p, one);
        }
    }

    pub(super) fn release_all(&mut self) {
        let partitions: Vec<PartitionId> = self.asks.waiting.keys().copied().collect();
        for partition in partitions {
            self.release(partition);
        }
    }

    pub(super) fn answered(&mut self, number: u64, result: Result<Response, RequestError>) {
        if let Some(asked) = self.asks.take(number) {
            self.reply(asked.waiting.origin, result, None);
        }
    }

    pub(super) fn not_owner(&mut self, number: u64, route: Option<Route>) {
        let Some(asked) = self.asks.take(number) else {
            return;
        };
        let route = route.filter(|it| it.partition == asked.partition && !it.members.is_empty());
        let news = route.is_some_and(|route| self.take_route(route));
        if news {
            return self.route_request(asked.partition, asked.waiting);
        }
        self.wait(asked.partition, asked.waiting);
        // There will be an owner in a moment.
        let soon = self.now.time + self.config.timing.rank / 5;
        self.timers.set_by(Timer::Requests, soon);
    }

    /// What was handed to a peer that is gone.
    pub(super) fn asks_lost(&mut self, peer: NodeId) {
        let lost: Vec<u64> = self
            .asks
            .asked
            .iter()
            .filter(|(_, asked)| asked.to == peer)
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            let Some(asked) = self.asks.take(number) else {
                continue;
            };
            if asked.waiting.body.is_read() || self.omits(Omit::NoRetry) {
                self.wait(asked.partition, asked.waiting);
                continue;
            }
            let text =
                "the partition's owner was lost before it answered: it may have been kept, or not";
            let error = RequestError::Indeterminate(text.to_owned());
            self.reply(asked.waiting.origin, Err(error), None);
        }
    }

    /// Those whose time is over are told so; those that wait are tried again.
    pub(super) fn requests_over(&mut self) {
        let now = self.now.time;
        self.writes_over();
        while let Some(number) = self.asks.over(now)
            && let Some(asked) = self.asks.take(number)
        {
            let p = asked.partition;
            let error = if asked.waiting.body.is_read() {
                RequestError::Unavailable(format!("the owner of partition {p} has not answered"))
            } else {
                RequestError::Indeterminate(format!(
                    "the owner of partition {p} has not answered in time: it may have been kept, or not"
                ))
            };
            self.counters_up("requests_over");
            self.reply(asked.waiting.origin, Err(error), None);
        }
        let partitions: Vec<PartitionId> = self.asks.waiting.keys().copied().collect();
        for p in partitions {
            self.release(p);
        }
        // Those that wait are looked at again soon, see below.
        let asked = self.asks.deadlines.first().map(|(at, _)| *at);
        let next = asked.into_iter().chain(self.writes.next_deadline()).min();
        if let Some(at) = next {
            self.timers.set_by(Timer::Requests, at);
        }
        if self.asks.count > 0 {
            let soon = now + self.config.timing.rank / 2;
            self.timers.set_by(Timer::Requests, soon);
        }
    }

    /// A take-over takes a moment. If requests wait for longer, perhaps this node has not heard of an owner of
    /// whom others know: the members that are left are asked first of all.
    pub(super) fn inquire_for_owners(&mut self) {
        if self.asks.count == 0 {
            return;
        }
        let timing = self.config.timing;
        let now = self.now.time;
        self.timers.set_by(Timer::Owners, now + timing.retry);
        let since = (now + timing.request) - timing.retry;
        let long: Vec<PartitionId> = self.asks.waiting_until(since).collect();
        if long.is_empty() {
            return;
        }
        let reachable = self.reachable();
        let members = |p: &PartitionId| self.routes.get(*p).map(|route| route.members.clone());
        let mut asked: BTreeSet<NodeId> = long.iter().filter_map(members).flatten().collect();
        asked.retain(|node| reachable.contains(node));
        asked.extend(self.any_of(&reachable));
        for peer in asked {
            self.greet_with_routes(peer);
        }
        self.counters_up("owners_inquired");
    }

    fn is_over(&mut self, p: PartitionId, origin: Origin) {
        let text = format!("partition {p} is not served: {}", self.why_not(p));
        self.counters_up("requests_over");
        self.reply(origin, Err(RequestError::Unavailable(text)), None);
    }

    pub(super) fn reply(
        &mut self,
        origin: Origin,
        result: Result<Response, RequestError>,
        after: Option<SyncToken>,
    ) {
        self.emit(match origin {
            Origin::Local(request) => Output::Reply {
                request,
                result,
                after,
            },
            Origin::Peer(to, number) => Output::Send {
                to,
                message: Message::Answer { number, result },
                after,
            },
        });
    }

    /// The store has failed: nobody is answered from it.
    pub(super) fn refuse_all(&mut self, input: super::host::Input) {
        use super::host::Input;
        match input {
            Input::Request { request, .. } => {
                self.reply(Origin::Local(request), Err(broken()), None);
            }
            Input::Message {
                from,
                message: Message::Ask { number, .. },
            } => self.reply(Origin::Peer(from, number), Err(broken()), None),
            _ => {}
        }
    }
}
