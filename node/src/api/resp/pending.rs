//! A request under way: what it waits for, and the answer that comes of it.

use std::{collections::VecDeque, time::Instant};

use kith_proto::kv::{op::Outcome, request::RequestError, version::Version};

use super::{
    reply::{Protocol, Reply},
    spec::Kind,
    strings::{Join, Shape, joined, told},
    wait::Wait,
};
use crate::kv::Begun;

/// A request without an answer yet, or with one that waits for those before it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) since: Instant,
    pub(super) kind: Kind,
    pub(super) protocol: Protocol,
    /// What it carried (bytes).
    pub(super) cost: usize,
    /// The number of the last thing written by then.
    pub(super) wrote: Option<u64>,
    /// The version that it wrote, once that is known and if it is one.
    pub(super) version: Option<Version>,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
    Ready(Reply),
    One(Begun, Shape),
    /// How many have what was written before.
    Wait(Wait),
    Many {
        /// Those that have no outcome yet, in order.
        waiting: VecDeque<Begun>,
        outcomes: Vec<Result<Outcome, RequestError>>,
        join: Join,
    },
}

impl Pending {
    /// Waits until it is ready. May be given up, and begun again.
    pub(super) async fn wait(&mut self) {
        match &mut self.state {
            State::Ready(_) => {}
            State::One(begun, shape) => {
                let outcome = begun.outcome().await;
                self.version = version_of(&outcome);
                self.state = State::Ready(told(*shape, outcome));
            }
            State::Wait(wait) => wait.wait().await,
            State::Many {
                waiting,
                outcomes,
                join,
            } => {
                while let Some(first) = waiting.front_mut() {
                    outcomes.push(first.outcome().await);
                    waiting.pop_front();
                }
                self.state = State::Ready(joined(*join, std::mem::take(outcomes)));
            }
        }
    }

    /// Whether it is ready, without waiting.
    pub(super) fn is_ready(&mut self) -> bool {
        match &mut self.state {
            State::Ready(_) => {}
            State::One(begun, shape) => match begun.try_outcome() {
                None => return false,
                Some(outcome) => {
                    self.version = version_of(&outcome);
                    self.state = State::Ready(told(*shape, outcome));
                }
            },
            State::Wait(_) => return false,
            State::Many {
                waiting,
                outcomes,
                join,
            } => {
                while let Some(first) = waiting.front_mut() {
                    match first.try_outcome() {
                        None => return false,
                        Some(outcome) => outcomes.push(outcome),
                    }
                    waiting.pop_front();
                }
                self.state = State::Ready(joined(*join, std::mem::take(outcomes)));
            }
        }
        true
    }
}

fn version_of(outcome: &Result<Outcome, RequestError>) -> Option<Version> {
    let outcome = outcome.as_ref().ok()?;
    let after = outcome.after.as_ref().filter(|_| outcome.applied)?;
    Some(after.version)
}
