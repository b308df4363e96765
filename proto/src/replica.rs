//! Partitions: the chain of configurations, and the work that follows from it.

pub mod digest;
