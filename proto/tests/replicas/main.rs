//! Partition cores, one rule at a time.

mod audit;
mod care;
mod clocks;
mod cluster;
mod deletes;
