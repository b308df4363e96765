//! Any node answers for any key: on the command line, over HTTP, over RESP.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use kith::client::kv::{Ack, MAX_VALUE};
use kith::client::{Client, ClientError, kv::Precondition};
use kith_tests::{
    agent::Agent,
    checker,
    cluster::{self, Cluster},
    process, wait,
};

#[test]
fn what_is_set_at_one_is_told_by_all_on_every_interface() {
    let cluster = started(3);
    for (index, node) in cluster.nodes().iter().enumerate() {
        // Enough keys that each node owns some and not others.
        for number in 0..8 {
            let key = format!("key {index}/{number}");
            let value = format!("value {index} {number}");
            match number % 3 {
                0 => {
                    let (code, text) = kith(node, &["set", &key, &value]);
                    assert_eq!(code, 0, "{text}");
                }
                1 => {
                    let written = set(&node.library(), &key, value.as_bytes()).unwrap();
                    assert!(written.created);
                }
                _ => assert_eq!(resp(node, &["SET", &key, &value]), "+OK\r\n"),
            }
            for other in cluster.nodes() {
                assert_eq!(kith(other, &["get", &key]), (0, value.clone()));
                let found = other.library().read(key.as_bytes()).unwrap().unwrap();
                assert_eq!(found.bytes, value.as_bytes());
                let bulk = format!("${}\r\n{value}\r\n", value.len());
                assert_eq!(resp(other, &["GET", &key]), bulk);
            }
        }
    }

    assert_eq!(kith(cluster.node(0), &["del", "key 1/0"]).0, 0);
    assert!(delete(&cluster.node(1).library(), "key 1/1", &Precondition::None).unwrap());
    assert_eq!(
        resp(cluster.node(2), &["DEL", "key 1/2", "key 2/2"]),
        ":2\r\n"
    );
    for node in cluster.nodes() {
        for gone in ["key 1/0", "key 1/1", "key 1/2", "key 2/2"] {
            let (code, text) = kith(node, &["get", gone]);
            assert_eq!(code, 1, "{text}");
            assert!(text.contains(gone), "{text}");
            assert_eq!(node.library().read(gone.as_bytes()).unwrap(), None);
            assert_eq!(resp(node, &["GET", gone]), "$-1\r\n");
        }
    }
}

#[test]
fn conditions_hold_at_whichever_node_they_are_set() {
    let cluster = started(3);
    let clients: Vec<Client> = cluster.nodes().iter().map(Agent::library).collect();
    for key in checker::keys("key-", 6) {
        let write = |at: usize, value: &str, only: &Precondition| {
            clients[at].write(key.as_bytes(), value.as_bytes(), None, only, Ack::All)
        };
        expect_unmet(write(0, "a", &Precondition::Present).unwrap_err());
        let first = write(0, "a", &Precondition::Absent).unwrap();
        assert!(first.created);
        expect_unmet(write(1, "b", &Precondition::Absent).unwrap_err());
        let second = write(2, "b", &Precondition::Version(first.version.clone())).unwrap();
        assert!(!second.created);
        let stale = Precondition::Version(first.version);
        expect_unmet(write(1, "c", &stale).unwrap_err());
        expect_unmet(delete(&clients[1], &key, &stale).unwrap_err());
        let found = clients[1].read(key.as_bytes()).unwrap().unwrap();
        assert_eq!(
            (found.bytes.as_slice(), &found.version),
            (&b"b"[..], &second.version)
        );
        assert!(delete(&clients[0], &key, &Precondition::Version(second.version)).unwrap());
        assert!(!delete(&clients[1], &key, &Precondition::None).unwrap());
    }
    // The words of the command line for the same.
    assert_eq!(
        kith(cluster.node(0), &["set", "one", "1", "--if-absent"]).0,
        0
    );
    let (code, text) = kith(cluster.node(1), &["set", "one", "2", "--if-absent"]);
    assert_eq!(code, 1);
    assert!(text.contains("version"), "{text}");
}

#[test]
fn values_expire_everywhere() {
    let cluster = started(3);
    let client = cluster.node(0).library();
    let keys = checker::keys("short-", 6);
    for key in &keys {
        let only = Precondition::None;
        let written = client.write(
            key.as_bytes(),
            b"soon gone",
            Some("300ms"),
            &only,
            Ack::Quorum,
        );
        written.unwrap();
    }
    let (code, text) = kith(cluster.node(1), &["set", "long", "stays", "--ttl", "1h"]);
    assert_eq!(code, 0, "{text}");
    for node in cluster.nodes() {
        let client = node.library();
        for key in &keys {
            wait::until(
                &format!("{key} to expire at {}", node.name()),
                || match client.read(key.as_bytes()) {
                    Ok(None) => Ok(()),
                    other => Err(format!("{other:?}")),
                },
            );
        }
        let long = client.read(b"long").unwrap().unwrap();
        assert_eq!(long.bytes, b"stays");
        assert!(long.expires.is_some());
    }
}

#[test]
fn sums_are_right_when_all_nodes_count_at_once() {
    const EACH: i64 = 25;
    let cluster = started(3);
    let keys = checker::keys("sum-", 3);
    std::thread::scope(|scope| {
        for node in cluster.nodes() {
            let keys = &keys;
            scope.spawn(move || {
                let client = node.library();
                for _ in 0..EACH {
                    for key in keys {
                        client.increment(key.as_bytes(), 2, Ack::Quorum).unwrap();
                    }
                }
            });
        }
    });
    for (node, key) in cluster.nodes().iter().zip(&keys) {
        assert_eq!(
            kith(node, &["incr", key, "-1"]),
            (0, format!("{}\n", 3 * 2 * EACH - 1))
        );
    }
    set(&cluster.node(0).library(), "word", b"no number").unwrap();
    let (code, text) = kith(cluster.node(1), &["incr", "word"]);
    assert_eq!(code, 1);
    assert!(text.contains("integer"), "{text}");
}

#[test]
fn a_scan_tells_every_key_of_the_cluster_once() {
    let cluster = started(3);
    let wanted: BTreeSet<String> = checker::keys("user:", 120).into_iter().collect();
    let clients: Vec<Client> = cluster.nodes().iter().map(Agent::library).collect();
    for (number, key) in wanted.iter().enumerate() {
        set(&clients[number % 3], key, b"somebody").unwrap();
        set(
            &clients[number % 3],
            &format!("other:{number}"),
            b"something",
        )
        .unwrap();
    }
    assert!(delete(&clients[1], "other:7", &Precondition::None).unwrap());
    for node in cluster.nodes() {
        let (code, text) = kith(node, &["scan", "user:"]);
        assert_eq!(code, 0, "{text}");
        let told: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(told.len(), wanted.len(), "{text}");
        assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), wanted);
        let (_, text) = kith(node, &["scan"]);
        assert_eq!(text.lines().count(), 239, "{text}");
        let (_, text) = kith(node, &["scan", "--limit", "10"]);
        assert_eq!(text.lines().count(), 10, "{text}");
    }
}

#[test]
fn the_largest_value_goes_through_any_node_and_a_larger_one_does_not() {
    let cluster = started(3);
    let clients: Vec<Client> = cluster.nodes().iter().map(Agent::library).collect();
    let owner = cluster.owner_of("large", 0);
    let (stranger, reader) = ((owner + 1) % 3, (owner + 2) % 3);
    let large: Vec<u8> = (0..MAX_VALUE as u64)
        .map(|i| ((i * 31) >> 7) as u8)
        .collect();
    let only = Precondition::None;
    let written = clients[stranger].write(b"large", &large, None, &only, Ack::All);
    written.unwrap();
    // A slow machine may need more than one attempt.
    let found = wait::until("the large value", || {
        let found = clients[reader].read(b"large").map_err(|e| e.to_string())?;
        found.ok_or_else(|| "nothing".to_owned())
    });
    assert!(
        found.bytes == large,
        "another value of {} bytes",
        found.bytes.len()
    );

    // The length alone is enough to refuse it: the value need not come at all.
    for node in cluster.nodes() {
        let mut stream = connect(node.expect_ready().http);
        let length = MAX_VALUE + 1;
        let head = format!(
            "PUT /v1/kv/larger HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains(&MAX_VALUE.to_string()), "{answer}");
        assert_eq!(node.library().read(b"larger").unwrap(), None);
    }
}

#[test]
fn what_is_not_possible_is_refused_with_the_reason() {
    let cluster = started(2);
    let node = cluster.node(1);
    let ask = |method: &str, path: &str| {
        let answer = node.ask(method, path, None).unwrap();
        let detail = answer.json().unwrap()["detail"]
            .as_str()
            .unwrap()
            .to_owned();
        (answer.status, detail)
    };
    for (method, path, part) in [
        ("GET", "/v1/kv/a%2", "percent-encoded"),
        ("GET", "/v1/kv/a?ttl=1s", "ttl"),
        ("POST", "/v1/kv/a", "incr"),
        ("POST", "/v1/kv/a?incr=much", "incr"),
        ("GET", "/v1/kv?limit=0", "limit"),
        ("GET", "/v1/kv?after=nonsense", "after"),
        ("GET", "/v1/kv/a?ack=some", "ack"),
    ] {
        let (status, detail) = ask(method, path);
        assert_eq!(status, 400, "{method} {path}: {detail}");
        assert!(detail.contains(part), "{method} {path}: {detail}");
    }
    let long = "k".repeat(kith::client::kv::MAX_KEY + 1);
    let told = resp(node, &["SET", &long, "value"]);
    assert!(told.starts_with("-ERR"), "{told}");
    assert!(
        told.contains(&kith::client::kv::MAX_KEY.to_string()),
        "{told}"
    );
    let told = resp(node, &["SET", "key"]);
    assert!(
        told.starts_with("-ERR") && told.contains("arguments"),
        "{told}"
    );
    let told = resp(node, &["ZADD", "key", "1", "a"]);
    assert!(told.starts_with("-ERR") && told.contains("ZADD"), "{told}");
    let (code, text) = kith(node, &["set", "key", "value", "--ttl", "soon"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("soon"), "{text}");
}

fn started(nodes: usize) -> Cluster {
    let copies = nodes.to_string();
    let flags = ["--partitions", "64", "--copies", &copies];
    let cluster = cluster::of(nodes).flags(&flags).start();
    cluster.expect_healthy();
    cluster
}

/// A `kith` command that asks that node: its code, and what it printed.
fn kith(node: &Agent, arguments: &[&str]) -> (i32, String) {
    process::run(&mut node.client(arguments).unwrap()).unwrap()
}

fn set(client: &Client, key: &str, value: &[u8]) -> Result<kith::client::kv::Written, ClientError> {
    client.write(
        key.as_bytes(),
        value,
        None,
        &Precondition::None,
        Ack::Quorum,
    )
}

fn delete(client: &Client, key: &str, only: &Precondition) -> Result<bool, ClientError> {
    client.delete(key.as_bytes(), only, Ack::Quorum)
}

fn expect_unmet(error: ClientError) {
    match error {
        ClientError::Problem(problem) => assert_eq!(problem.status, 412, "{problem:?}"),
        other => panic!("{other}"),
    }
}

/// One command over RESP, byte by byte as clients write it; the whole answer, a single string.
fn resp(node: &Agent, words: &[&str]) -> String {
    let mut stream = connect(node.expect_ready().resp);
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    // Its own end of the stream ends the answer.
    command.push_str("*1\r\n$4\r\nQUIT\r\n");
    stream.write_all(command.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    match answer.strip_suffix("+OK\r\n") {
        Some(answer) => answer.to_owned(),
        None => panic!("QUIT was not answered: {answer:?}"),
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}
