//! Deterministic simulator of Kith clusters: the real protocol cores on a virtual clock.
//!
//! One seed decides everything: every delay, every lost packet, every fault. The same seed
//! gives the same trace, on every machine. This is its first part: membership, with loss,
//! crashes, restarts, pauses and cuts.
//!
//! - [`world`]: hosts, the network between them, the event heap.
//! - [`report`]: what the nodes said, and when.

pub mod report;
pub mod world;
