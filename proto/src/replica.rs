//! Partitions: who owns what, and how nothing is lost.
//!
//! A partition is a range of slots. Its **configuration** names the members that keep it; the first
//! one is the owner, which alone decides what a write does. The next configuration is chosen by
//! the members of the present one, so that no two nodes ever own the same epoch of a branch. What
//! membership says is only a hint when to begin: a wrong hint costs time, never safety.
//!
//! ```text
//!   client ── request ──> any node ──[Ask]──> owner            reads the entry, decides, stamps a version,
//!                                               |              stores it
//!                                            [Write]
//!                                               v
//!                                            backups ──[Written]──> owner: enough have it ──> answer
//!
//!   the owner is gone:   a backup ──[Prepare]──> members    they promise, and take no more writes
//!                                 <──[Promise]──             with what they had accepted before
//!                        digests, then what differs          whatever was acknowledged is there
//!                                 ──[Accept]───> members     the next configuration is chosen
//!                                 ──[Install]──> its members, and it serves
//! ```
//!
//! | file | subject | rules kept there |
//! |---|---|---|
//! | [`chain`] | configurations, ballots, what a member keeps durably | 3, 5, 6, 10 |
//! | [`message`] | everything that is said, with the exchanges drawn | |
//! | [`host`] | the seam to whoever runs a shard; what must be durable before what | |
//! | [`shard`] | the core: restores, routes inputs, genesis, merges entries by version | 8 |
//! | `member` | what a member answers | 3, 4, 6, 8, 10 |
//! | `owner` | from installation to serving; repair of copies; when to propose | 1, 8 |
//! | `write` | writes and reads at the owner | 1, 7 |
//! | `copies` | how many members have what was written | |
//! | `ask` | requests on their way to an owner | 7 |
//! | `proposal` | choosing the next configuration: take-over, resuming, closing | 3, A1 |
//! | `change` | changes by the sitting owner: newcomers, hand-over | 2, 3, 4 |
//! | `recover` | strict: going on by an operator's word | |
//! | `session`, [`digest`] | one way to make copies equal | 4 |
//! | `audit` | copies thought to be equal, all of a peer's at once | 4 |
//! | `care` | what operators are told when something is amiss | |
//! | [`clocks`] | clocks that run ahead | 9 |
//! | `join` | branches that come together again | A2, A3, A4 |
//! | `route` | the table of owners, which may be out of date | |
//! | `pace` | how fast copies are made | |
//! | `sweep` | what is deleted or expired goes in the end | A5 |
//! | [`spread`] | how a node's shards divide the partitions | |
//! | [`show`] | states and their reasons, for people | |
//! | [`omit`] | rules left out on purpose by the simulator | |
//!
//! # The rules, and where they stand
//!
//! 1. A strict read answers only with what a majority of the present configuration confirms, in this
//!    epoch (`write`: `confirm`). An owner that starts again first proposes (`owner`: `drive`).
//! 2. The owner fences itself for every change that it makes (`change`: `fence`).
//! 3. Accepting implies the promise; a proposer promises and accepts durably before it asks others
//!    (`chain`, `proposal`); counter 0 is the owner's, once in its epoch (`change`).
//! 4. Transfers carry configuration and attempt, and are refused by whoever does not expect them
//!    (`session`: `takes_transfer`).
//! 5. Installing clears promised and accepted with one record; the record stays when the data goes
//!    (`chain`: `install`, `member`: `clear`).
//! 6. Only members decide; a strict learner drops what it had before it is filled (`chain`:
//!    `may_decide`, `member`: `hear_fill`).
//! 7. What was given a version is never tried again; without an answer it is indeterminate (`ask`,
//!    `write`).
//! 8. A strict member that may have forgotten what it acknowledged counts in nothing until the owner
//!    has found it equal (`shard`: `restore`, `owner`: `found_equal`).
//! 9. A clock that is more than a minute ahead of most others' stamps nothing and takes no copies, and is
//!    reported; what is stored is merged whatever it says ([`clocks`]).
//! 10. Work within a configuration needs exact equality (`chain`: `matches`).
//!
//! A1 a fork is not recorded in `accepted` (`proposal`: `ask_to_accept`). A2 and A3 every
//! difference is exchanged and written anew (`join`). A4 the losing side's members choose to be
//! joined, then the keeper's members choose the joined configuration (`join`). A5 what a former
//! member has is dropped before it is filled, if deletions may have been forgotten since (`sweep`:
//! `is_stale`).
//!
//! # What differs from other systems of this kind
//!
//! A joined configuration is chosen first and *then* settled by its owner, which serves nothing until
//! a majority has every decision. So a crash in the middle leaves no entry behind that carries an
//! epoch which was never installed.
//!
//! Sources: Lamport, Malkhi and Zhou, "Vertical Paxos and Primary-Backup Replication" (2009);
//! Liskov and Cowling, "Viewstamped Replication Revisited" (2012); DeCandia et al., "Dynamo" (2007).

mod ask;
mod audit;
mod care;
pub mod chain;
mod change;
pub mod clocks;
mod copies;
pub mod digest;
pub mod host;
mod join;
mod member;
pub mod message;
pub mod omit;
mod owner;
mod pace;
mod proposal;
mod recover;
mod route;
mod session;
pub mod shard;
pub mod show;
pub mod spread;
mod sweep;
mod write;
