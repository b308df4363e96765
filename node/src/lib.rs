//! Kith as a library: start a node, watch the cluster, and the client of a running agent.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config_file;
mod counters;
mod disk;
mod driver;
pub mod events;
pub mod handle;
pub mod kv;
mod limited;
pub mod log_event;
pub mod logging;
pub mod node;
mod own_address;
pub mod partitions;
mod peer;
mod stopping;
pub mod storage;
mod tls;
mod udp;
pub mod view;
mod views;
mod workers;
