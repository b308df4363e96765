//! An agent of which only the HTTP interface is real: a task answers in place of the driver.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    thread,
};

use kith_proto::{
    config::ClusterSettings,
    event::Event,
    id::NodeId,
    input::Command,
    output::{Answer, Stop},
    replica::recover::Recovery,
};
use tokio::sync::{mpsc, watch};

use crate::{
    api::{
        token::{CurrentToken, Token},
        *,
    },
    client::Client,
    events::EventLog,
    handle::{REQUEST_QUEUE, Request},
    kv,
    stopping::Stopping,
    view::{AgentView, KeyView, MemberView, PartitionView, Status, StatusView},
};

/// An agent of which only the interface is real. It knows the commands it was given.
pub(crate) struct Fake {
    pub(super) address: SocketAddr,
    pub(super) events: Arc<EventLog>,
    pub(super) stop: watch::Sender<Option<Stop>>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) server: JoinHandle<io::Result<()>>,
}

pub(super) const TOKEN: &str = "0123456789abcdef";

impl Fake {
    pub(super) fn start(options: ApiOptions) -> Self {
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let events = Arc::new(EventLog::new("n1"));
        let (stop, stopped) = watch::channel(None);
        let (told, commands) = mpsc::unbounded_channel();
        thread::spawn(move || drive(queue, &told));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kv = kv::fake::in_thread(kv::fake::alone(None));
        let handle = Handle::new(requests, Arc::clone(&events), stopped, Some(kv));
        let server = spawn(listener, handle, options).unwrap();
        Self {
            address,
            events,
            stop,
            commands,
            server,
        }
    }

    /// What commands are given.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// One that asks for no token.
    pub(crate) fn plain() -> Self {
        Self::start(ApiOptions::default())
    }

    pub(super) fn with_token() -> Self {
        Self::start(ApiOptions {
            token: CurrentToken::new(Some(Token::parse(TOKEN).unwrap())),
            ..ApiOptions::default()
        })
    }

    pub(super) fn client(&self) -> Client {
        Client::new(&self.address.to_string(), None).unwrap()
    }

    /// A request as bytes on the wire, and the answer as text.
    pub(super) fn raw(&self, head: &str, body: &str) -> String {
        let length = body.len();
        self.sent(&format!(
            "{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// The same of a request that says itself how long its body would be.
    pub(super) fn raw_without_body(&self, head: &str) -> String {
        self.sent(&format!("{head}\r\nConnection: close\r\n\r\n"))
    }

    fn sent(&self, request: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(super) fn warn(&self, text: &str) {
        self.events.publish(Event::Warning {
            kind: "test".to_owned(),
            text: text.to_owned(),
        });
    }
}

fn drive(mut queue: mpsc::Receiver<Request>, told: &mpsc::UnboundedSender<Command>) {
    // An asker that went away is none of the driver's business.
    while let Some(request) = queue.blocking_recv() {
        match request {
            Request::Agent(reply) => drop(reply.send(agent())),
            Request::Members(reply) => drop(reply.send(vec![member()])),
            Request::Partitions(key, reply) => {
                let reason = format!("{key:?}");
                drop(reply.send(vec![partition(reason)]));
            }
            Request::Status(reply) => drop(reply.send(status())),
            Request::SafeToStop(name, reply) => {
                let known = (name == "n1").then(|| Stopping {
                    member: name,
                    id: NodeId(1),
                    living: BTreeSet::from([NodeId(1)]),
                    strict: false,
                });
                drop(reply.send(known));
            }
            Request::Recover(only, reply) => drop(reply.send(Recovery {
                begun: only.into_iter().collect(),
                waiting: vec![5],
                unneeded: 254,
            })),
            Request::Keys(reply) => drop(reply.send(vec![KeyView {
                id: "000000ab".to_owned(),
                primary: true,
            }])),
            Request::Counters(reply) => {
                drop(reply.send(BTreeMap::from([
                    ("datagrams_sent", 7),
                    ("held_bytes", 9),
                    ("loss_ppm", 12_500),
                    ("peer_sent_bytes.copies", 12),
                    ("peer_sent_bytes.writes", 11),
                    ("peer_streams", 3),
                ])));
            }
            Request::Settings(_, reply) => drop(reply.send(())),
            Request::KeyGiven(_, reply) => drop(reply.send(Ok(()))),
            Request::Certificates(_, reply) => drop(reply.send(Ok(()))),
            Request::Command(command, reply) => {
                let answer = match &command {
                    Command::Leave { .. } => Answer::Done,
                    Command::KeyAdd { key } => Answer::Keys {
                        key: key.id(),
                        confirmed: vec!["n1".to_owned()],
                        missing: vec![("n2".to_owned(), "away".to_owned())],
                    },
                    _ => Answer::Refused("not today".to_owned()),
                };
                drop(reply.send(answer));
                drop(told.send(command));
            }
        }
    }
}

fn agent() -> AgentView {
    AgentView {
        leaving: None,
        name: "n1".to_owned(),
        id: NodeId(1),
        generation: 1,
        version: "1.2.3".to_owned(),
        pid: 1,
        phase: "joining".to_owned(),
        cluster: "kith".to_owned(),
        cluster_id: None,
        settings: ClusterSettings::default(),
        gossip: ([127, 0, 0, 1], 7400).into(),
        http: None,
        resp: None,
        config: BTreeMap::from([("weight".to_owned(), 100.into())]),
    }
}

pub(super) fn member() -> MemberView {
    MemberView {
        name: "n1".to_owned(),
        id: NodeId(1),
        status: Status::Alive,
        generation: 1,
        address: ([127, 0, 0, 1], 7400).into(),
        http: None,
        resp: None,
        zone: String::new(),
        weight: 100,
        tags: BTreeMap::new(),
        rtt_ms: Some(0.25),
        owned: 2,
        backups: 1,
        since: "2026-01-01T00:00:00Z".to_owned(),
        software: "1.2.3".to_owned(),
        is_self: true,
    }
}

fn partition(reason: String) -> PartitionView {
    PartitionView {
        id: 3,
        slots: [192, 255],
        owner: Some("n1".to_owned()),
        backups: Vec::new(),
        epoch: 3,
        branch: "00000000000000ab".to_owned(),
        keys: 7,
        bytes: 700,
        transfers: 0,
        state: "backup".to_owned(),
        reason,
    }
}

pub(super) fn status() -> StatusView {
    StatusView {
        healthy: false,
        problems: vec!["alone".to_owned()],
        cluster: "kith".to_owned(),
        cluster_id: None,
        members: BTreeMap::from([("alive".to_owned(), 1)]),
        partitions: 256,
        copies: 3,
        under_replicated: 256,
        health_score: 0,
    }
}
