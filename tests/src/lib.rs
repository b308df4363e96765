//! End-to-end tests of Kith: real processes, real sockets, real signals.
//!
//! The harness knows nothing of the inside of Kith. It starts the binary that users start, reads
//! the JSON log lines that users read, and asks over the HTTP interface that users ask.
//!
//! Reading order:
//!
//! - [`wait`]: the only way to wait, for a condition and with a deadline;
//! - [`log`]: what a process has printed so far, each line with the moment it arrived;
//! - [`process`]: one child process, its log, its signals, its end;
//! - [`reaper`]: what kills the children if this process dies without having done so;
//! - [`binary`]: where the `kith` binary comes from;
//! - [`host`]: loopback addresses that stand for machines;
//! - [`agent`]: one `kith agent`, with the questions that can be put to it;
//! - [`http`]: the small HTTP client behind those questions;
//! - [`resp`]: the same for RESP;
//! - [`authority`]: certificates as an operator would have them;
//! - [`cluster`]: several agents that find each other;
//! - [`checker`]: clients that write all the time, and know what must be there;
//! - [`sides`]: the same on both sides of a split;
//! - [`small_disk`]: a file system that is soon full;
//! - [`proxy`]: a network between agents that can be cut, without privileges;
//! - [`netns`]: the same with network namespaces, faithful down to the kernel, for root only.
//!
//! The command `measure` in `src/bin/measure` is built on the same parts.

pub mod agent;
pub mod authority;
pub mod binary;
pub mod checker;
pub mod cluster;
pub mod host;
pub mod http;
pub mod log;
pub mod netns;
pub mod process;
pub mod proxy;
pub mod reaper;
pub mod resp;
pub mod sides;
pub mod small_disk;
pub mod wait;
