//! Local stand-in for the node host, so that this part compiles; the other one takes its place.

use std::{net::SocketAddr, path::PathBuf};

use kith_proto::{config::Config, wire::keyring::Key};

use crate::handle::Handle;

/// What to start.
#[derive(Debug)]
pub struct NodeOptions {
    /// Settings of the core.
    pub config: Config,
    /// Where to listen, UDP and TCP.
    pub listen: SocketAddr,
    /// Where to keep state; `None` keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// The cluster key.
    pub key: Option<Key>,
}

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// A running node.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Starts it.
    ///
    /// # Errors
    /// Always, here.
    pub async fn start(options: NodeOptions) -> Result<Handle, StartError> {
        drop(options);
        Err(StartError("no node in this build".to_owned()))
    }
}
