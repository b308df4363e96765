//! Partitions: the chain of configurations, and the work that follows from it.

mod ask;
pub mod chain;
mod change;
pub mod digest;
pub mod host;
mod join;
mod member;
pub mod message;
mod owner;
mod proposal;
mod route;
mod session;
pub mod shard;
pub mod show;
mod write;
