//! The handle: all that client-facing servers and embedding programs see of a running node.
//!
//! It sends requests to the driver, which alone touches the core, and gives back views.
//! Cloning is cheap; every clone speaks to the same node.

use std::{collections::BTreeMap, sync::Arc};

use kith_proto::{
    id::PartitionId,
    input::Command,
    output::{Answer, Stop},
    replica::recover::Recovery,
    wire::keyring::{Key, KeyId},
};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    events::EventLog,
    kv::Kv,
    stopping::{self, Stopping},
    tls::{Certificates, TlsError},
    view::{AgentView, KeyView, MemberView, PartitionView, SafeToStopView, StatusView},
};

/// How many requests may wait for the driver before callers wait themselves.
pub(crate) const REQUEST_QUEUE: usize = 1024;

/// Speaks to a running node.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    events: Arc<EventLog>,
    stopped: watch::Receiver<Option<Stop>>,
    kv: Option<Kv>,
}

/// The node has stopped, so there is nobody to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has stopped")]
pub struct Stopped;

/// What the driver is asked. Each carries where its answer goes.
#[derive(Debug)]
pub(crate) enum Request {
    /// The node itself.
    Agent(oneshot::Sender<AgentView>),
    /// Everybody it knows, by name.
    Members(oneshot::Sender<Vec<MemberView>>),
    /// All partitions, or the one that holds a key.
    Partitions(Option<Vec<u8>>, oneshot::Sender<Vec<PartitionView>>),
    /// Is the cluster well?
    Status(oneshot::Sender<StatusView>),
    /// May that member stop now? `None` if nobody has that name or id.
    SafeToStop(String, oneshot::Sender<Option<Stopping>>),
    /// Blocked partitions are to go on, all of them or one. Which are about to?
    Recover(Option<PartitionId>, oneshot::Sender<Recovery>),
    /// The keys held.
    Keys(oneshot::Sender<Vec<KeyView>>),
    /// Counters by metric name, for `/metrics`.
    Counters(oneshot::Sender<BTreeMap<&'static str, u64>>),
    /// Settings that [`Self::Agent`] shows from now on.
    Settings(BTreeMap<String, Value>, oneshot::Sender<()>),
    /// The operator gives that key now. The answer is why it could not be remembered.
    KeyGiven(KeyId, oneshot::Sender<Result<(), String>>),
    /// Certificates for streams from now on.
    Certificates(Option<Certificates>, oneshot::Sender<Result<(), TlsError>>),
    /// Something for the core.
    Command(Command, oneshot::Sender<Answer>),
}

impl Handle {
    pub(crate) fn new(
        requests: mpsc::Sender<Request>,
        events: Arc<EventLog>,
        stopped: watch::Receiver<Option<Stop>>,
        kv: Option<Kv>,
    ) -> Self {
        Self {
            requests,
            events,
            stopped,
            kv,
        }
    }

    /// The node itself: its name, addresses, settings.
    ///
    /// # Errors
    /// [`Stopped`] if the node is no more; so with every method below.
    pub async fn agent(&self) -> Result<AgentView, Stopped> {
        self.ask(Request::Agent).await
    }

    /// Every member this node knows, itself included, ordered by name.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn members(&self) -> Result<Vec<MemberView>, Stopped> {
        self.ask(Request::Members).await
    }

    /// Every partition, or only the one that holds `key`.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn partitions(&self, key: Option<Vec<u8>>) -> Result<Vec<PartitionView>, Stopped> {
        self.ask(|reply| Request::Partitions(key, reply)).await
    }

    /// Whether the cluster is well, as this node sees it.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn status(&self) -> Result<StatusView, Stopped> {
        self.ask(Request::Status).await
    }

    /// Whether a member could stop now, as the owners of the partitions say of which it has copies;
    /// `None` if nobody has that name or id.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn safe_to_stop(&self, member: String) -> Result<Option<SafeToStopView>, Stopped> {
        let stopping = self.ask(|reply| Request::SafeToStop(member, reply)).await?;
        let (Some(stopping), Some(kv)) = (stopping, &self.kv) else {
            return Ok(None);
        };
        Ok(Some(stopping::judge(&stopping, kv).await))
    }

    /// Strict clusters: goes on with partitions that are blocked because most of their members are gone
    /// or may have forgotten what they acknowledged; all of them, or one. What only the others had is
    /// missing until they are back, and is joined then. Those that are about to go on are partitions
    /// that this node is a member of, and that have been blocked for some seconds; others are left alone.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn recover(&self, only: Option<PartitionId>) -> Result<Recovery, Stopped> {
        self.ask(|reply| Request::Recover(only, reply)).await
    }

    /// The ids of the keys this node holds.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn keys(&self) -> Result<Vec<KeyView>, Stopped> {
        self.ask(Request::Keys).await
    }

    /// Counters and gauges by metric name (without the `kith_` prefix); of several of the same name
    /// each has its kind behind a dot.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn counters(&self) -> Result<BTreeMap<&'static str, u64>, Stopped> {
        self.ask(Request::Counters).await
    }

    /// Leaves the cluster: `returning` if the node will be back. Returns once it is under
    /// way; [`Self::stopped`] tells when it is over.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn leave(&self, returning: bool) -> Result<Answer, Stopped> {
        self.command(Command::Leave { returning }).await
    }

    /// Removes a member by name or id.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn evict(&self, member: String) -> Result<Answer, Stopped> {
        self.command(Command::Evict { member }).await
    }

    /// Gives every living member a new key, without using it yet.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn key_add(&self, key: Key) -> Result<Answer, Stopped> {
        self.command(Command::KeyAdd { key }).await
    }

    /// Makes every living member seal with a key that all of them hold.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn key_use(&self, key: KeyId) -> Result<Answer, Stopped> {
        self.command(Command::KeyUse { key }).await
    }

    /// Makes every living member forget a key that nobody seals with.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn key_remove(&self, key: KeyId) -> Result<Answer, Stopped> {
        self.command(Command::KeyRemove { key }).await
    }

    /// Changes tags and weight while the node runs.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn reload(
        &self,
        tags: Option<BTreeMap<String, String>>,
        weight: Option<u32>,
    ) -> Result<Answer, Stopped> {
        self.command(Command::Reload { tags, weight }).await
    }

    /// Shows other settings in [`Self::agent`] from now on; changes nothing else.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn show_settings(&self, settings: BTreeMap<String, Value>) -> Result<(), Stopped> {
        self.ask(|reply| Request::Settings(settings, reply)).await
    }

    /// Remembers across restarts that this is the key that the operator gives now. Once the
    /// cluster has removed it, a node that is started with it knows that it is an old one.
    /// What keys the node holds is not changed: that is [`Self::key_add`].
    ///
    /// # Errors
    /// [`Stopped`]; the inner one is why it could not be written down.
    pub async fn key_given(&self, key: KeyId) -> Result<Result<(), String>, Stopped> {
        self.ask(|reply| Request::KeyGiven(key, reply)).await
    }

    /// Shows and accepts other certificates on peer streams that are opened from now on;
    /// `None` mints them from the cluster key. Streams that are open stay.
    ///
    /// # Errors
    /// [`Stopped`]; the inner one is why they cannot be used, and nothing has changed.
    pub async fn use_certificates(
        &self,
        certificates: Option<Certificates>,
    ) -> Result<Result<(), TlsError>, Stopped> {
        self.ask(|reply| Request::Certificates(certificates, reply))
            .await
    }

    /// The keys and values of the cluster; `None` if this node has no partitions.
    pub fn kv(&self) -> Option<&Kv> {
        self.kv.as_ref()
    }

    /// What has happened, and what will: see [`EventLog`].
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Waits until the node has stopped, and tells why.
    pub async fn stopped(&self) -> Stop {
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(stop) => stop
                .clone()
                .unwrap_or(Stop::LeftUncleanly("no reason was given".to_owned())),
            Err(_) => Stop::LeftUncleanly("the driver ended".to_owned()),
        }
    }

    async fn command(&self, command: Command) -> Result<Answer, Stopped> {
        self.ask(|reply| Request::Command(command, reply)).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_full_or_closed| Stopped)?;
        answer.await.map_err(|_dropped| Stopped)
    }
}
