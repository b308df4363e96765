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
//! | [`chain`], `configuration` | configurations, ballots, what a member keeps durably | 3, 5, 6, 10 |
//! | [`message`] | everything that is said, with the exchanges drawn | |
//! | [`host`], `settings` | the seam to whoever runs a shard; what must be durable before what | |
//! | [`shard`], `open`, `keep` | the core: begins with what is stored or with genesis, routes inputs, merges entries by version | 8 |
//! | `member` | what a member answers | 3, 4, 6, 8, 10 |
//! | `learner` | who is no member yet, or not any more | 6, 8 |
//! | [`held`] | copies of newcomers that may be members by now | 8 |
//! | `owner` | from installation to serving; when to propose | 1, 8 |
//! | `repair` | members that are not equal | 8 |
//! | `write`, `written` | writes and reads at the owner; what members answer | 1, 7 |
//! | `copies` | how many members have what was written | |
//! | `ask` | requests on their way to an owner | 7 |
//! | `proposal`, `prepared`, `decide` | choosing the next configuration: take-over, resuming, closing | 3, A1 |
//! | `plan`, `fill`, `change` | changes by the sitting owner: newcomers, hand-over | 2, 3, 4 |
//! | [`depart`] | what a node that will be back waits for before it stops | |
//! | `recover` | strict: going on by an operator's word | |
//! | `session`, `compared`, `difference`, [`digest`] | one way to make copies equal, from both sides | 4, 6, A3 |
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
//!    (`chain`, `proposal`, `decide`); counter 0 is the owner's, once in its epoch (`change`).
//! 4. Transfers carry configuration and attempt, and are refused by whoever does not expect them
//!    (`compared`: `takes_transfer`).
//! 5. Installing clears promised and accepted with one record; the record stays when the data goes
//!    (`chain`: `install`, `learner`: `clear`).
//! 6. Only members decide (`chain`: `may_decide`). What a learner had is not merged: in strict clusters it
//!    is overwritten, or dropped before that if it may be of the present epoch (`difference`: `ways`, `learner`:
//!    `hear_fill`); what is of another branch is taken over by the clock and written anew (`difference`: `take_in`).
//! 7. What was given a version is never tried again; without an answer it is indeterminate (`ask`,
//!    `write`).
//! 8. A strict member that may have forgotten what it acknowledged counts in nothing until the owner
//!    has found it equal (`open`: `restore`, `repair`: `found_equal`).
//! 9. A clock that is more than a minute ahead of most others' stamps nothing and takes no copies, and is
//!    reported; what is stored is merged whatever it says ([`clocks`]).
//! 10. Work within a configuration needs exact equality (`chain`: `matches`).
//!
//! A1 a fork is not recorded in `accepted` (`decide`: `ask_to_accept`). A2 and A3 every
//! difference is exchanged and written anew (`join`). A4 the losing side's members choose to be
//! joined, then the keeper's members choose the joined configuration, which none of the closed branch follows
//! before it is settled (`join`, `chain`: `takes`). A5 what a former
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
mod compared;
mod configuration;
mod copies;
mod decide;
pub mod depart;
mod difference;
pub mod digest;
mod fill;
pub mod held;
pub mod host;
mod join;
mod keep;
mod learner;
mod member;
pub mod message;
pub mod omit;
mod open;
mod owner;
mod pace;
mod plan;
mod prepared;
mod proposal;
pub mod recover;
mod repair;
mod route;
mod session;
mod settings;
pub mod shard;
pub mod show;
pub mod spread;
mod sweep;
mod write;
mod written;
