//! Partition cores, one rule at a time.

mod audit;
mod cluster;
