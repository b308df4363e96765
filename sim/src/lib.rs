//! Deterministic simulator of Kith clusters: the real protocol cores on a virtual clock.
//!
//! One seed decides everything: the size of the cluster, every delay, every lost packet, every
//! fault. The same seed gives the same trace, on every machine. Models: TigerBeetle's VOPR,
//! FoundationDB's simulation, openraft's turmoil tests.
//!
//! Reading order:
//!
//! - [`world`]: the event heap, and what cores ask of it; with [`host`] (processes, kernels,
//!   clocks), [`network`] (delays, loss, cuts) and [`truth`] (what really happened).
//! - [`fault`]: what can be done to a cluster; [`scenario`]: plans of that, drawn from a seed.
//! - [`check`]: the promises, one file each.
//! - [`run`]: one run, from start to rest; [`report`]: what it has shown; [`trace`] and
//!   [`view`]: for whoever looks at a failure.
//! - [`lab`]: partition cores without the rest, thousands of runs in seconds.
//! - [`options`], [`many`], [`compare`], [`progress`]: the command line around it.

pub mod agenda;
pub mod check;
pub mod command;
pub mod compare;
pub mod fault;
pub mod host;
pub mod lab;
pub mod many;
pub mod network;
pub mod options;
pub mod progress;
pub mod report;
pub mod run;
pub mod scenario;
pub mod trace;
pub mod truth;
pub mod view;
pub mod world;
