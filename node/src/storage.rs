//! What a node keeps of its partitions on the disk: a
//! [`Store`](kith_proto::store::partitions::Store) for each shard, on one engine.
//!
//! ```text
//!   shard 1 ── Gathering ────┐                    ┌── fjall/N.jnl      journal: batches, in order
//!   shard 2 ── Gathering ────┼── Engine ── fjall ─┤
//!        │                   │      │             └── fjall/keyspaces  tables, merged in the
//!        └──── tokens ──> Syncer    │                                  background
//!                                   ├── mark      how far was written and flushed, in which
//!                                   │             boot; locked while it is open
//!                                   └── FORMAT    "kith partitions, format 4"
//! ```
//!
//! # What is promised
//!
//! - A batch is there as a whole or not at all, and never without the ones before it.
//! - When `write` returns, the batch can be read; when `commit` has returned, the operating
//!   system has it: `kill -9` does not lose it. When a flush that began later has succeeded, a power cut does not either.
//! - What is read is what was written there: each value has a checksum over itself and its key.
//! - Whatever fails (a full disk, an I/O error, a wrong checksum) breaks the engine for good:
//!   every later call, reads included, gets the first reason. Nothing is repaired by guessing.
//! - Clearing a partition is one small record, however much was in it (see `sweep`); what was
//!   in it takes room until it has been swept.
//!
//! # What opening finds out
//!
//! The journal is checked before the engine reads it (see `journal`), and its end against the
//! mark. Found are, with an error that says what is missing: anything lost that had been flushed,
//! and, within one boot of the machine, anything lost that had been written, up to what the
//! mark had not been told (it is brought up to date at each flush and every 64 batches) and
//! which lay at the very end of the journal. A batch that a crash cut short at the end is
//! dropped without an error, as are those after a power cut that were not flushed. Not found at
//! opening, but when it is read: damage within tables (checksums of the engine's blocks,
//! then ours). Not found at all: a whole directory put back from an older copy.
//!
//! # Why fjall
//!
//! It is pure Rust, and an LSM tree writes a batch with one append. Measured alone on a machine
//! with two cores, values of 100 bytes, a cache of 64 MiB, durable puts a second at 1, 16 and 256 in
//! a batch; then what is readable after `kill -9` only; random reads of a million keys;
//! opening with a million keys:
//!
//! ```text
//!              flushed               not flushed             read      open
//!   fjall 3.1  8.8 k   88 k  378 k   300 k   582 k   679 k   4.2 µs    90 ms
//!   redb 4.6   4.6 k   32 k   75 k   not promised            3.7 µs    1 ms
//!   LMDB       4.8 k   34 k   91 k   135 k   215 k   265 k   1.2 µs    1 ms
//! ```
//!
//! (redb keeps what was not flushed in the process.)
//!
//! A batch is what a shard wrote while it handled all that had arrived (see `gather`), and most
//! reads end in memory before the engine (see `recent`): with a hundred thousand keys on five nodes
//! that doubled reads in pipelines of 16 (105 k to 215 k a second), and made writes 1.4 times
//! as fast (30.7 k to 42.1 k).
//!
//! fjall flushes while it holds the lock that writers need; so the `Syncer` flushes through a
//! descriptor of its own, and writers go on.
//!
//! Reading order: `layout`, `mark`, `journal`, `open`, `engine`, `store`, `gather`, `places`,
//! `recent`, `sweep`, `syncer`.

mod engine;
mod gather;
mod journal;
mod layout;
mod mark;
mod open;
mod places;
mod recent;
mod store;
mod sweep;
mod syncer;
#[cfg(test)]
mod tests;

pub use self::{
    engine::{Engine, Stats},
    gather::Gathering,
    open::{OpenError, Opened, Options, boot_id},
    store::EngineStore,
    syncer::{SyncRequests, Synced, Syncer},
};
