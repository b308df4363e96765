//! Rules left out on purpose: the simulator shows what happens then, and that its checkers notice.
//!
//! Nothing that a node is configured with leads here.

use super::shard::Shard;

/// A rule that is left out. The numbers are those of [`super`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Omit {
    /// Rule 1: strict reads are not confirmed by anybody.
    Confirmation,
    /// Rule 2: an owner does not fence itself for its own changes.
    OwnFence,
    /// Rule 3: who accepts has not promised for that.
    AcceptancePromises,
    /// Rule 4: transfers are taken in whatever effort they belong to, and drop anything.
    Attempts,
    /// Rule 5: a promise survives an installation. (So would what was accepted, but that is of no use any
    /// more: whoever is told of it sees that it does not follow the present configuration.)
    FreshVotes,
    /// Rule 5: installing the present configuration again clears promises and acceptances.
    InstalledOnce,
    /// Rule 6: a strict newcomer keeps what it had as a former member.
    FreshLearner,
    /// Rule 7: a write whose answer was lost is tried again.
    NoRetry,
    /// Rule 8: who may have forgotten what it acknowledged counts all the same.
    LearnerMark,
    /// Rule 9: a clock that is ahead stamps what it likes.
    ClockBound,
    /// Rule 10: writes and promises are taken from whoever is in an earlier configuration.
    ExactEpoch,
    /// Rule A1: a minority adopts what was accepted in the branch that it leaves.
    MajorityAdopts,
    /// Rule A1: who went on alone counts as if it had promised.
    ForkedIsMute,
    /// Rule A2: of a closed branch only what was written in it is taken over.
    JoinsAll,
    /// Rule A3: what is taken over from a closed branch keeps its version.
    WrittenAnew,
    /// Rule A4: an owner closes its branch without asking its members.
    ChosenClose,
    /// Rule A5: a former member that was away for long keeps what it had.
    StaleRebuilds,
    /// A promise does not fence.
    Fencing,
    /// A take-over does not merge what members have.
    Merge,
    /// Writes are acknowledged before enough members have them.
    Quorum,
    /// Promises and acceptances are not kept on the disk.
    DurableBallots,
    /// Newcomers that were found equal keep that over no restart, and not for long.
    HeldCopies,
    /// Who is no member any more drops what it has at once.
    KeptCopies,
    /// A strict take-over goes on with those that are not declared failed.
    StrictMajority,
    /// Tombstones go before every member has them.
    TombstoneGrace,
}

impl Omit {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Confirmation,
        Self::OwnFence,
        Self::AcceptancePromises,
        Self::Attempts,
        Self::FreshVotes,
        Self::InstalledOnce,
        Self::FreshLearner,
        Self::NoRetry,
        Self::LearnerMark,
        Self::ClockBound,
        Self::ExactEpoch,
        Self::MajorityAdopts,
        Self::ForkedIsMute,
        Self::JoinsAll,
        Self::WrittenAnew,
        Self::ChosenClose,
        Self::StaleRebuilds,
        Self::Fencing,
        Self::Merge,
        Self::Quorum,
        Self::DurableBallots,
        Self::HeldCopies,
        Self::KeptCopies,
        Self::StrictMajority,
        Self::TombstoneGrace,
    ];
}

impl Shard {
    pub(super) fn omits(&self, rule: Omit) -> bool {
        self.config.omit == Some(rule)
    }
}
