//! Follows the log of events from a number on, and knows what it missed.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{handle::Handle, view::EventView};

/// One reader's place in the log.
#[derive(Debug)]
pub(super) struct Follower {
    handle: Handle,
    past: VecDeque<Arc<EventView>>,
    live: Receiver<Arc<EventView>>,
    last: u64,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Followed {
    /// The next event.
    Event(Arc<EventView>),
    /// So many events are not kept any more.
    Missed(u64),
}

impl Follower {
    /// After the event with that number; only new ones if `None`. A number that this life of
    /// the agent has not reached is one of an earlier life: everything is new then.
    pub(super) fn new(handle: Handle, after: Option<u64>) -> Self {
        let newest = handle.events().last_seq();
        let last = after.map_or(newest, |seq| if seq > newest { 0 } else { seq });
        let (past, live) = handle.events().since(last);
        Self {
            handle,
            past: past.into(),
            live,
            last,
        }
    }

    /// The number of the last event handed out or counted as missed.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Waits for what comes next. `None` at the end of the log.
    pub(super) async fn next(&mut self) -> Option<Followed> {
        loop {
            if let Some(first) = self.past.front() {
                let missed = first.seq.saturating_sub(self.last + 1);
                if missed > 0 {
                    self.last += missed;
                    return Some(Followed::Missed(missed));
                }
                self.last = first.seq;
                return self.past.pop_front().map(Followed::Event);
            }
            match self.live.recv().await {
                Ok(event) if event.seq <= self.last => {}
                Ok(event) => self.past.push_back(event),
                // The log keeps more than a receiver does.
                Err(RecvError::Lagged(_)) => {
                    let (past, live) = self.handle.events().since(self.last);
                    self.past = past.into();
                    self.live = live;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
