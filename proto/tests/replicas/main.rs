//! Partition cores, one rule at a time.

mod alone;
mod asks;
mod audit;
mod care;
mod clocks;
mod cluster;
mod deletes;
mod newcomers;
mod pace;
mod recover;
mod rivals;
