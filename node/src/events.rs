//! The log of events: numbered, bounded, to be followed by any number of readers.
//!
//! ```text
//!   publish ──number──► changes    the last 4,096   members, keys, warnings: few, and kept long
//!                  └──► decisions  the last 2,048   a line for each partition: many at a time
//!   since(n) ◄──in the order of their numbers── both
//! ```
//!
//! Numbers are given in one sequence. A reader that was away so long that some are not kept any
//! more sees a gap in them where these were, and how many they are.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use kith_proto::event::{Event, Severity};
use tokio::sync::broadcast;

use crate::view::EventView;

/// How many past events can be asked for again (a resumed reader that was away longer is
/// told how many it missed): changes of state, and whatever matters more.
pub const KEPT: usize = 4096;
/// The same for decisions ([`Severity::Debug`]). One change of membership makes hundreds of
/// them, which must not push out what happened to members.
pub const KEPT_DECISIONS: usize = 2048;
/// How many events a slow reader may lag behind before it misses some.
const LAG: usize = 1024;

/// Numbered events of this life of the agent.
#[derive(Debug)]
pub struct EventLog {
    node: String,
    inner: Mutex<Inner>,
    live: broadcast::Sender<Arc<EventView>>,
}

#[derive(Debug, Default)]
struct Inner {
    last_seq: u64,
    changes: VecDeque<Arc<EventView>>,
    decisions: VecDeque<Arc<EventView>>,
}

impl EventLog {
    /// An empty log of the node with that name.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            inner: Mutex::default(),
            live: broadcast::channel(LAG).0,
        }
    }

    /// Numbers an event, keeps it and tells everybody who follows.
    pub fn publish(&self, event: Event) -> Arc<EventView> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last_seq += 1;
        let view = Arc::new(EventView {
            seq: inner.last_seq,
            timestamp: crate::clock::rfc3339(SystemTime::now()),
            level: event.severity(),
            node: self.node.clone(),
            event,
        });
        let (kept, most) = match view.level {
            Severity::Debug => (&mut inner.decisions, KEPT_DECISIONS),
            Severity::Info | Severity::Warn | Severity::Error => (&mut inner.changes, KEPT),
        };
        if kept.len() == most {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&view));
        // Fails only when nobody follows at the moment, which is no error.
        drop(self.live.send(Arc::clone(&view)));
        view
    }

    /// All kept events after `seq` in their order, and a receiver of everything that follows
    /// them; nothing is missed in between.
    pub fn since(&self, seq: u64) -> (Vec<Arc<EventView>>, broadcast::Receiver<Arc<EventView>>) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut past: Vec<_> = [&inner.changes, &inner.decisions]
            .into_iter()
            .flat_map(|kept| kept.range(kept.partition_point(|view| view.seq <= seq)..))
            .cloned()
            .collect();
        past.sort_unstable_by_key(|view| view.seq);
        (past, self.live.subscribe())
    }

    /// The number of the newest event; 0 if there was none.
    pub fn last_seq(&self) -> u64 {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last_seq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(text: &str) -> Event {
        Event::Warning {
            kind: "test".to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_reader_resumes_where_it_stopped_and_misses_nothing() {
        let log = EventLog::new("n1");
        for n in 0..5 {
            log.publish(warning(&n.to_string()));
        }
        let (past, mut live) = log.since(3);
        assert_eq!(past.iter().map(|e| e.seq).collect::<Vec<_>>(), [4, 5]);
        log.publish(warning("new"));
        assert_eq!(live.try_recv().unwrap().seq, 6);
        assert_eq!(log.last_seq(), 6);
    }

    fn decision() -> Event {
        Event::PartitionAssigned {
            partition: 7,
            owner: "n1".to_owned(),
            backups: Vec::new(),
            from: None,
        }
    }

    #[test]
    fn decisions_do_not_push_changes_out() {
        let log = EventLog::new("n1");
        let first = log.publish(warning("first"));
        for _ in 0..KEPT_DECISIONS + 10 {
            log.publish(decision());
        }
        let last = log.publish(warning("last"));
        let (past, _live) = log.since(0);
        assert_eq!(past.len(), KEPT_DECISIONS + 2);
        assert_eq!((past[0].seq, past[1].seq), (first.seq, first.seq + 11));
        assert!(past.is_sorted_by(|a, b| a.seq < b.seq));
        assert_eq!(past.last().unwrap().seq, last.seq);
        let (past, _live) = log.since(last.seq - 1);
        assert_eq!(past.len(), 1);
    }

    #[test]
    fn the_log_is_bounded() {
        let log = EventLog::new("n1");
        for n in 0..KEPT + 10 {
            log.publish(warning(&n.to_string()));
        }
        let (past, _live) = log.since(0);
        assert_eq!((past.len(), past[0].seq), (KEPT, 11));
    }
}
