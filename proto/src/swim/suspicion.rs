//! How long a suspected member has to refute.
//!
//! Lifeguard's dynamic suspicion (section IV.B): the window starts at its longest and falls
//! logarithmically with each independent confirmation to its shortest. What the accusers
//! found decides which window it is:
//!
//! | found | window |
//! |---|---|
//! | refused, by this node and enough others | none: that life is over |
//! | unreachable | the short one, from its longest to its shortest |
//! | unresponsive | the long one, counted from the message that was not answered |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{event::Reason, id::NodeId, time::Time};

/// The bounds of the windows, for the cluster as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// The shortest window of an unreachable member.
    pub min: Duration,
    /// Its longest.
    pub max: Duration,
    /// Window of an unresponsive member.
    pub unresponsive: Duration,
    /// So many confirmations, beside the first accuser's word, make the window shortest.
    pub confirmations: u32,
    /// So many others must have been refused, beside this node, to call a life over at once.
    pub refusals: usize,
}

/// A suspicion of one member at one incarnation.
#[derive(Clone, Debug)]
pub struct Suspicion {
    /// When this node began to suspect.
    pub started: Time,
    /// The renewal and incarnation under suspicion; anything larger refutes it.
    pub renewal: u32,
    /// See `renewal`.
    pub incarnation: u16,
    /// Who accuses, with what each found.
    accusers: BTreeMap<NodeId, Reason>,
    /// Accusers whose word counts.
    credible: BTreeSet<NodeId>,
    /// In the order in which they were heard.
    pub order: Vec<NodeId>,
    /// The target has not answered since about then.
    pub silent_since: Time,
    /// When the target last proved to this node itself that it lives, during the suspicion.
    pub proof: Option<Time>,
    /// Users were told.
    pub announced: bool,
}

impl Suspicion {
    /// A suspicion that begins now.
    pub fn new(now: Time, renewal: u32, incarnation: u16) -> Self {
        Self {
            started: now,
            renewal,
            incarnation,
            accusers: BTreeMap::new(),
            credible: BTreeSet::new(),
            order: Vec::new(),
            silent_since: now,
            proof: None,
            announced: false,
        }
    }

    /// Takes in what an accuser found; true if that is new.
    pub fn accuse(
        &mut self,
        accuser: NodeId,
        reason: Reason,
        silent_since: Time,
        credible: bool,
    ) -> bool {
        self.silent_since = self.silent_since.min(silent_since);
        if credible {
            self.credible.insert(accuser);
        }
        let before = self.accusers.insert(accuser, reason);
        if before.is_none() {
            self.order.push(accuser);
        }
        before != Some(reason)
    }

    /// Whether that accuser has said so before.
    pub fn has_heard(&self, accuser: NodeId, reason: Reason) -> bool {
        self.accusers.get(&accuser) == Some(&reason)
    }

    /// Whether that member accuses, for whatever reason.
    pub fn accused_by(&self, accuser: NodeId) -> bool {
        self.accusers.contains_key(&accuser)
    }

    /// How many accuse.
    pub fn accusers(&self) -> usize {
        self.accusers.len()
    }

    /// What it looks like, all in all: one whose kernel answers somebody lives, somehow; so
    /// that word weighs most.
    pub fn reason(&self) -> Reason {
        let found = |reason| self.accusers.values().any(|r| *r == reason);
        if found(Reason::Unresponsive) {
            Reason::Unresponsive
        } else if found(Reason::Refused) {
            Reason::Refused
        } else {
            Reason::Unreachable
        }
    }

    /// Whether this life is over beyond doubt: this node itself was refused, and so were
    /// enough others whose word counts.
    pub fn is_over(&self, own: NodeId, windows: &Windows) -> bool {
        let refused = |id: &NodeId| self.accusers.get(id) == Some(&Reason::Refused);
        let others = self
            .credible
            .iter()
            .filter(|id| **id != own && refused(id))
            .count();
        refused(&own) && others >= windows.refusals
    }

    /// Whether a verdict of that author may be followed: at least two are heard that count, and
    /// the target has proved nothing.
    pub fn is_confirmed_by(&self, author: NodeId) -> bool {
        let others = self.credible.iter().filter(|id| **id != author).count();
        self.proof.is_none() && others >= 1
    }

    /// When it is believed, if nothing refutes it before.
    pub fn deadline(&self, own: NodeId, windows: &Windows) -> Time {
        if self.is_over(own, windows) {
            return self.started;
        }
        let base = match self.reason() {
            Reason::Unresponsive => {
                let full = self.silent_since + windows.unresponsive;
                // However old the silence is, it gets a chance to refute.
                full.max(self.started + windows.min)
            }
            Reason::Unreachable | Reason::Refused => self.started + self.window(windows),
        };
        match self.proof {
            Some(proof) => base.max(proof + windows.max),
            None => base,
        }
    }

    // max − (max − min) · log(c + 1) / log(k + 1), in thousandths, without floating point.
    fn window(&self, windows: &Windows) -> Duration {
        let confirmed = u32::try_from(self.credible.len())
            .unwrap_or(u32::MAX)
            .saturating_sub(1);
        if windows.confirmations == 0 || confirmed >= windows.confirmations {
            return windows.min;
        }
        let fallen = (windows.max - windows.min) * thousandths_of_log(confirmed + 1)
            / thousandths_of_log(windows.confirmations + 1);
        windows.max - fallen
    }
}

/// log2(n) in thousandths, for the few small numbers that occur here.
fn thousandths_of_log(n: u32) -> u32 {
    const LOG2: [u32; 9] = [0, 0, 1000, 1585, 2000, 2322, 2585, 2807, 3000];
    let index = (n as usize).min(LOG2.len() - 1);
    LOG2[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows {
        min: Duration::from_millis(600),
        max: Duration::from_millis(3600),
        unresponsive: Duration::from_secs(6),
        confirmations: 3,
        refusals: 2,
    };
    const ME: NodeId = NodeId(1);

    fn start() -> (Suspicion, Time) {
        let now = Time::from_millis(10_000);
        (Suspicion::new(now, 0, 0), now)
    }

    #[test]
    fn confirmations_shorten_the_window_logarithmically() {
        let (mut suspicion, now) = start();
        let mut windows = Vec::new();
        for accuser in 1..=5 {
            suspicion.accuse(NodeId(accuser), Reason::Unreachable, now, true);
            windows.push(
                suspicion
                    .deadline(ME, &WINDOWS)
                    .saturating_since(now)
                    .as_millis(),
            );
        }
        assert_eq!(windows, [3600, 2100, 1222, 600, 600]);
    }

    #[test]
    fn the_same_word_twice_or_from_one_without_credit_confirms_nothing() {
        let (mut suspicion, now) = start();
        assert!(suspicion.accuse(NodeId(2), Reason::Unreachable, now, true));
        assert!(!suspicion.accuse(NodeId(2), Reason::Unreachable, now, true));
        suspicion.accuse(NodeId(3), Reason::Unreachable, now, false);
        assert_eq!(suspicion.deadline(ME, &WINDOWS), now + WINDOWS.max);
    }

    #[test]
    fn a_life_is_over_at_once_only_if_this_node_and_enough_others_were_refused() {
        let (mut suspicion, now) = start();
        for accuser in 2..=4 {
            suspicion.accuse(NodeId(accuser), Reason::Refused, now, true);
        }
        assert!(
            !suspicion.is_over(ME, &WINDOWS),
            "without this node's own word"
        );
        suspicion.accuse(ME, Reason::Refused, now, true);
        assert!(suspicion.is_over(ME, &WINDOWS));
        assert_eq!(suspicion.deadline(ME, &WINDOWS), now);
    }

    #[test]
    fn a_kernel_that_answers_anybody_earns_the_long_window() {
        let (mut suspicion, now) = start();
        let silent_since = now - Duration::from_millis(800);
        for accuser in 1..=4 {
            suspicion.accuse(NodeId(accuser), Reason::Unreachable, silent_since, true);
        }
        suspicion.accuse(NodeId(5), Reason::Unresponsive, silent_since, true);
        let deadline = suspicion.deadline(ME, &WINDOWS);
        assert_eq!(deadline, silent_since + WINDOWS.unresponsive);
    }

    #[test]
    fn nobody_confirms_his_own_verdict() {
        let (mut suspicion, now) = start();
        suspicion.accuse(NodeId(2), Reason::Unreachable, now, true);
        assert!(!suspicion.is_confirmed_by(NodeId(2)));
        assert!(suspicion.is_confirmed_by(NodeId(3)));
        suspicion.accuse(ME, Reason::Unreachable, now, true);
        assert!(suspicion.is_confirmed_by(NodeId(2)));
        suspicion.proof = Some(now);
        assert!(!suspicion.is_confirmed_by(NodeId(2)));
    }

    #[test]
    fn proof_of_life_prolongs_it() {
        let (mut suspicion, now) = start();
        for accuser in 1..=4 {
            suspicion.accuse(NodeId(accuser), Reason::Unreachable, now, true);
        }
        let proof = now + Duration::from_millis(500);
        suspicion.proof = Some(proof);
        assert_eq!(suspicion.deadline(ME, &WINDOWS), proof + WINDOWS.max);
    }
}
