//! Kith as a library: start a node, watch the cluster, and the client of a running agent.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config_file;
pub mod events;
pub mod handle;
pub mod logging;
pub mod node;
pub mod view;
