//! Kith as a library: start a node, watch the cluster, and the client of a running agent.

pub mod clock;
pub mod events;
pub mod handle;
mod tls;
pub mod view;
