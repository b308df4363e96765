//! The interface over real sockets, with a task in the place of the driver.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, thread};

use kith_proto::{
    config::ClusterSettings,
    event::Event,
    id::NodeId,
    input::Command,
    output::{Answer, Stop},
    wire::keyring::Key,
};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    client::{Client, ClientError, Followed},
    events::{EventLog, KEPT},
    handle::{REQUEST_QUEUE, Request},
    view::{AgentView, KeyView, MemberView, PartitionView, SafeToStopView, Status, StatusView},
};

/// An agent of which only the interface is real. It knows the commands it was given.
pub(crate) struct Fake {
    address: SocketAddr,
    events: Arc<EventLog>,
    stop: watch::Sender<Option<Stop>>,
    commands: mpsc::UnboundedReceiver<Command>,
    server: JoinHandle<io::Result<()>>,
}

const TOKEN: &str = "0123456789abcdef";

impl Fake {
    fn start(options: ApiOptions) -> Self {
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let events = Arc::new(EventLog::new("n1"));
        let (stop, stopped) = watch::channel(None);
        let (told, commands) = mpsc::unbounded_channel();
        thread::spawn(move || drive(queue, &told));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handle = Handle::new(requests, Arc::clone(&events), stopped);
        let server = spawn(listener, handle, options).unwrap();
        Self {
            address,
            events,
            stop,
            commands,
            server,
        }
    }

    fn with_token() -> Self {
        Self::start(ApiOptions {
            token: Some(Token::parse(TOKEN).unwrap()),
        })
    }

    fn client(&self) -> Client {
        Client::new(&self.address.to_string(), None).unwrap()
    }

    /// A request as bytes on the wire, and the answer as text.
    fn raw(&self, head: &str, body: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        let length = body.len();
        // A body that will not be read is not sent: the server would reset the connection.
        let body = if length > MAX_BODY { "" } else { body };
        write!(
            stream,
            "{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn warn(&self, text: &str) {
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
                let known = (name == "n1").then(|| SafeToStopView {
                    member: name,
                    safe: false,
                    reason: "alone".to_owned(),
                });
                drop(reply.send(known));
            }
            Request::Keys(reply) => drop(reply.send(vec![KeyView {
                id: "000000ab".to_owned(),
                primary: true,
            }])),
            Request::Counters(reply) => {
                drop(reply.send(BTreeMap::from([("datagrams_sent", 7), ("peer_streams", 3)])));
            }
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

fn member() -> MemberView {
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
        state: "proposed".to_owned(),
        reason,
    }
}

fn status() -> StatusView {
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

#[test]
fn views_arrive_as_they_were_given() {
    let fake = Fake::plain();
    let client = fake.client();
    assert_eq!(client.members().unwrap(), [member()]);
    assert_eq!(client.status().unwrap(), status());
    assert_eq!(client.keys().unwrap()[0].id, "000000ab");
    assert_eq!(client.agent().unwrap().config["weight"], 100);
    assert_eq!(client.partitions(None).unwrap()[0].reason, "None");
    let by_key = client.partitions(Some("ü&")).unwrap();
    assert_eq!(by_key[0].reason, format!("{:?}", Some("ü&".as_bytes())));
    assert!(!client.safe_to_stop("n1").unwrap().safe);
}

#[test]
fn commands_reach_the_node_and_refusals_come_back() {
    let mut fake = Fake::start(ApiOptions::default());
    let client = fake.client();
    client.leave(true).unwrap();
    let command = fake.commands.blocking_recv().unwrap();
    assert!(matches!(command, Command::Leave { returning: true }));
    let head = format!("POST /v1/leave HTTP/1.1\r\nHost: {}", fake.address);
    assert!(fake.raw(&head, "").starts_with("HTTP/1.1 202"));
    let command = fake.commands.blocking_recv().unwrap();
    assert!(matches!(command, Command::Leave { returning: false }));

    let key = Key::from_bytes([7; 32]);
    let change = client.key_add(&key).unwrap();
    assert_eq!(change.id, key.id().to_string());
    assert_eq!((change.confirmed.len(), change.missing.len()), (1, 1));
    for refused in [client.evict("n2"), client.key_use("000000ab").map(drop)] {
        match refused.unwrap_err() {
            ClientError::Problem(problem) => {
                assert_eq!(
                    (problem.status, problem.detail.as_str()),
                    (409, "not today")
                );
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn errors_are_problem_details() {
    let fake = Fake::start(ApiOptions::default());
    let host = format!("HTTP/1.1\r\nHost: {}", fake.address);
    let large = "x".repeat(MAX_BODY + 1);
    for (request, body, status, part) in [
        ("GET /nothing", "", 404, "/nothing"),
        ("GET /v1/leave", "", 405, "GET"),
        ("GET /v1/partitions?kee=1", "", 400, "kee"),
        ("GET /v1/status?safe_to_stop=n9", "", 404, "n9"),
        ("GET /readyz", "", 503, "joining"),
        ("POST /v1/leave", "{\"returning\":3}", 400, "boolean"),
        (
            "POST /v1/keys",
            "{\"action\":\"add\",\"key\":\"c2VjcmV0\"}",
            400,
            "keygen",
        ),
        ("POST /v1/keys", "{\"action\":\"burn\"}", 400, "burn"),
        ("POST /v1/keys", large.as_str(), 413, "65536"),
        ("DELETE /v1/keys/xyz", "", 400, "xyz"),
    ] {
        let answer = fake.raw(&format!("{request} {host}"), body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
        assert!(
            answer.contains("application/problem+json"),
            "{request}: {answer}"
        );
        assert!(answer.contains(part), "{request}: {answer}");
        assert!(!answer.contains("c2VjcmV0"), "a key is shown: {answer}");
    }
    let health = fake.raw(&format!("GET /healthz {host}"), "");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
}

#[test]
fn only_the_token_opens_all_but_healthz() {
    let fake = Fake::with_token();
    let refused = |client: Client| {
        let error = client.members().unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    };
    refused(fake.client());
    let url = fake.address.to_string();
    refused(Client::new(&url, Some(Token::parse("0123456789abcdeX").unwrap())).unwrap());
    let client = Client::new(&url, Some(Token::parse(TOKEN).unwrap())).unwrap();
    assert_eq!(client.members().unwrap().len(), 1);
    let host = format!("HTTP/1.1\r\nHost: {}", fake.address);
    assert!(
        fake.raw(&format!("GET /healthz {host}"), "")
            .starts_with("HTTP/1.1 200")
    );
    let answer = fake.raw(&format!("GET /metrics {host}"), "");
    assert!(
        answer.to_lowercase().contains("www-authenticate: bearer"),
        "{answer}"
    );
}

#[test]
fn web_pages_cannot_command_an_agent() {
    let fake = Fake::start(ApiOptions::default());
    let own = fake.address;
    for (head, status) in [
        (
            format!("POST /v1/leave HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example"),
            403,
        ),
        (
            format!("POST /v1/leave HTTP/1.1\r\nHost: {own}\r\nOrigin: null"),
            403,
        ),
        (
            format!("POST /v1/leave HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}"),
            202,
        ),
        (
            "GET /v1/members HTTP/1.1\r\nHost: evil.example".to_owned(),
            403,
        ),
        (
            "GET /v1/members HTTP/1.1\r\nHost: localhost:7402".to_owned(),
            200,
        ),
    ] {
        let answer = fake.raw(&head, "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{head}: {answer}"
        );
    }
}

#[test]
fn a_follower_resumes_where_it_stopped() {
    let fake = Fake::start(ApiOptions::default());
    for n in 1..=3 {
        fake.warn(&n.to_string());
    }
    let mut events = fake.client().events(Some(1)).unwrap();
    for seq in [2, 3] {
        let event = events.receive().unwrap().unwrap();
        assert_eq!((event.seq, event.name.as_str()), (Some(seq), "warning"));
        assert_eq!(event.view().unwrap().seq, seq);
    }
    fake.warn("live");
    assert_eq!(events.receive().unwrap().unwrap().data["text"], "live");
    // A number of an earlier life, larger than any of this one.
    let mut events = fake.client().events(Some(1000)).unwrap();
    assert_eq!(events.receive().unwrap().unwrap().seq, Some(1));
}

#[test]
fn what_a_follower_missed_is_told() {
    let fake = Fake::start(ApiOptions::default());
    for n in 0..KEPT + 10 {
        fake.warn(&n.to_string());
    }
    let mut follow = fake.client().follow(Some(0));
    match follow.next().unwrap().unwrap() {
        Followed::Missed(missed) => assert_eq!(missed, 10),
        other => panic!("{other:?}"),
    }
    match follow.next().unwrap().unwrap() {
        Followed::Event(event) => assert_eq!(event.seq, Some(11)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_number_of_followers_is_bounded() {
    let fake = Fake::start(ApiOptions::default());
    let client = fake.client();
    let followers: Vec<_> = (0..MAX_FOLLOWERS)
        .map(|_| client.events(None).unwrap())
        .collect();
    match client.events(None).err().unwrap() {
        ClientError::Problem(problem) => assert_eq!(problem.status, 503),
        other => panic!("{other}"),
    }
    drop(followers);
}

#[test]
fn the_end_of_the_node_ends_streams_and_the_server() {
    let fake = Fake::start(ApiOptions::default());
    let mut events = fake.client().events(None).unwrap();
    fake.warn("last words");
    fake.stop.send_replace(Some(Stop::Left { acknowledged: 0 }));
    assert_eq!(
        events.receive().unwrap().unwrap().data["text"],
        "last words"
    );
    assert!(matches!(events.receive(), Ok(None)));
    fake.server.join().unwrap().unwrap();
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let fake = Fake::start(ApiOptions::default());
    fake.warn("counted");
    let head = format!("GET /metrics HTTP/1.1\r\nHost: {}", fake.address);
    // The counting task need not have seen the event yet.
    let text = loop {
        let text = fake.raw(&head, "");
        if text.contains("kith_events_total{event=\"warning\"} 1") {
            break text;
        }
        thread::yield_now();
    };
    for line in [
        "application/openmetrics-text",
        "# TYPE kith_datagrams_sent counter",
        "kith_datagrams_sent_total 7",
        "kith_peer_streams 3",
        "kith_members{status=\"alive\"} 1",
        "kith_members{status=\"failed\"} 0",
        "kith_build_info{version=\"1.2.3\"} 1",
        "kith_partitions_owned 2",
        "kith_healthy 0",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line} is not in: {text}");
    }
}

impl Fake {
    /// What commands are given.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// One that asks for no token.
    pub(crate) fn plain() -> Self {
        Self::start(ApiOptions::default())
    }
}
