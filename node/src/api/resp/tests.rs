//! The interface over real sockets: bytes in, bytes out.

mod clients;

use std::io::{Read as _, Write as _};

use kith_proto::{id::NodeId, output::Stop};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    api::token::Token,
    events::EventLog,
    handle::REQUEST_QUEUE,
    kv::{Topology, fake},
};

const TOKEN: &str = "0123456789abcdef";

/// A server over partitions in memory.
struct Fake {
    address: SocketAddr,
    stop: watch::Sender<Option<Stop>>,
    thread: Option<JoinHandle<()>>,
    operations: Arc<Operations>,
}

impl Fake {
    fn new() -> Self {
        Self::start(|address| fake::alone(Some(address)), RespOptions::default())
    }

    fn with_token() -> Self {
        let token = CurrentToken::new(Some(Token::parse(TOKEN).unwrap()));
        let options = RespOptions {
            token,
            ..RespOptions::default()
        };
        Self::start(|address| fake::alone(Some(address)), options)
    }

    fn start(topology: impl FnOnce(SocketAddr) -> Topology, options: RespOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self::on(listener, fake::in_thread(topology(address)), options)
    }

    /// Two nodes that own half of the slots each.
    fn pair() -> [Self; 2] {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ids = [NodeId(1), NodeId(2)];
        let nodes = ids.iter().zip(&listeners).map(|(id, listener)| {
            let address = listener.local_addr().unwrap();
            let mut topology = fake::alone(Some(address));
            (*id, topology.nodes.remove(&NodeId(1)).unwrap())
        });
        let topology = Topology {
            own: Some(ids[0]),
            partitions: (0..16).map(|p| vec![ids[usize::from(p > 7)]]).collect(),
            nodes: nodes.collect(),
        };
        let first = fake::in_thread(topology.clone());
        let own = Some(ids[1]);
        let second = fake::seen_otherwise(&first, Topology { own, ..topology });
        let mut kvs = [first, second].into_iter();
        listeners.map(|listener| Self::on(listener, kvs.next().unwrap(), RespOptions::default()))
    }

    fn on(listener: TcpListener, kv: Kv, options: RespOptions) -> Self {
        let address = listener.local_addr().unwrap();
        let (requests, _unused) = mpsc::channel(REQUEST_QUEUE);
        let (stop, stopped) = watch::channel(None);
        let events = Arc::new(EventLog::new("n1"));
        let handle = Handle::new(requests, events, stopped, Some(kv.clone()));
        let operations = Arc::clone(&options.operations);
        Self {
            address,
            stop,
            thread: Some(spawn(listener, handle, kv, options).unwrap()),
            operations,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        let deadline = Some(Duration::from_secs(60));
        stream.set_read_timeout(deadline).unwrap();
        stream
    }

    /// Everything that is answered until the connection is closed.
    fn whole(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        let mut reader = stream.try_clone().unwrap();
        std::thread::scope(|scope| {
            // Who sends much and takes nothing meanwhile is cut off.
            let reading = scope.spawn(move || {
                let mut answer = Vec::new();
                reader.read_to_end(&mut answer).unwrap();
                answer
            });
            stream.write_all(bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            reading.join().unwrap()
        })
    }

    /// Lines of commands with what is answered to each: a script on one connection.
    #[track_caller]
    fn says(&self, script: &[(&str, &str)]) {
        let mut stream = self.connect();
        for (line, expected) in script {
            write!(stream, "{line}\r\n").unwrap();
            let mut answer = vec![0; expected.len()];
            if let Err(error) = stream.read_exact(&mut answer) {
                panic!("{line}: {error}");
            }
            assert_eq!(String::from_utf8_lossy(&answer), *expected, "{line}");
        }
        // Nothing more than was expected has come.
        write!(stream, "QUIT\r\n").unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "+OK\r\n");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.send_replace(Some(Stop::Left { acknowledged: 0 }));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

const NOT_INTEGER: &str = "-ERR value is not an integer or out of range\r\n";
const SYNTAX: &str = "-ERR syntax error\r\n";

#[test]
fn strings_are_stored_and_read() {
    Fake::new().says(&[
        ("GET k", "$-1\r\n"),
        ("SET k v", "+OK\r\n"),
        ("get k", "$1\r\nv\r\n"),
        ("SET k w GET", "$1\r\nv\r\n"),
        ("SET k x NX", "$-1\r\n"),
        ("SET k x NX GET", "$1\r\nw\r\n"),
        ("SET n x XX", "$-1\r\n"),
        ("SET k x XX", "+OK\r\n"),
        ("SET k v FOO", SYNTAX),
        (
            "SET k v EX 0",
            "-ERR invalid expire time in 'set' command\r\n",
        ),
        ("SET k v EX x", NOT_INTEGER),
        ("SETNX k y", ":0\r\n"),
        ("SETNX m y", ":1\r\n"),
        ("GETSET k z", "$1\r\nx\r\n"),
        ("GETDEL k", "$1\r\nz\r\n"),
        ("GETDEL k", "$-1\r\n"),
        ("APPEND a 12", ":2\r\n"),
        ("APPEND a 345", ":5\r\n"),
        ("STRLEN a", ":5\r\n"),
        ("STRLEN none", ":0\r\n"),
        ("GETRANGE a 1 -2", "$3\r\n234\r\n"),
        ("GETRANGE none 0 -1", "$0\r\n\r\n"),
        ("SETRANGE a 1 xy", ":5\r\n"),
        ("SETRANGE a -1 xy", "-ERR offset is out of range\r\n"),
        (
            "SETRANGE a 99999999999 x",
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n",
        ),
        ("SETRANGE none 5 \"\"", ":0\r\n"),
        ("GET a", "$5\r\n1xy45\r\n"),
        ("TYPE a", "+string\r\n"),
        ("TYPE none", "+none\r\n"),
    ]);
}

#[test]
fn numbers_are_counted() {
    Fake::new().says(&[
        ("INCR n", ":1\r\n"),
        ("INCRBY n 41", ":42\r\n"),
        ("DECR n", ":41\r\n"),
        ("DECRBY n 51", ":-10\r\n"),
        (
            "DECRBY n -9223372036854775808",
            "-ERR decrement would overflow\r\n",
        ),
        ("INCRBY n x", NOT_INTEGER),
        ("INCRBYFLOAT n 0.5", "$4\r\n-9.5\r\n"),
        ("INCRBYFLOAT n x", "-ERR value is not a valid float\r\n"),
        ("INCR n", NOT_INTEGER),
        ("SET max 9223372036854775807", "+OK\r\n"),
        ("INCR max", "-ERR increment or decrement would overflow\r\n"),
    ]);
}

#[test]
fn keys_expire_and_persist() {
    Fake::new().says(&[
        ("SET k v EX 100", "+OK\r\n"),
        ("TTL k", ":100\r\n"),
        ("SET k w KEEPTTL", "+OK\r\n"),
        ("TTL k", ":100\r\n"),
        ("SET k w", "+OK\r\n"),
        ("TTL k", ":-1\r\n"),
        ("PTTL none", ":-2\r\n"),
        ("EXPIRE k 50", ":1\r\n"),
        ("EXPIRE k 10 NX", ":0\r\n"),
        ("EXPIRE k 10 GT", ":0\r\n"),
        ("EXPIRE k 60 GT", ":1\r\n"),
        ("EXPIRE k 20 LT", ":1\r\n"),
        (
            "EXPIRE k 20 NX XX",
            "-ERR NX and XX, GT or LT options at the same time are not compatible\r\n",
        ),
        ("PERSIST k", ":1\r\n"),
        ("PERSIST k", ":0\r\n"),
        ("EXPIREAT k 33177117420", ":1\r\n"),
        ("EXPIREAT k 33177117420", ":1\r\n"),
        ("PEXPIREAT k 33177117420000 XX", ":1\r\n"),
        ("EXPIRE none 10", ":0\r\n"),
        ("GETEX k PERSIST", "$1\r\nw\r\n"),
        ("TTL k", ":-1\r\n"),
        ("GETEX k EX 7", "$1\r\nw\r\n"),
        ("TTL k", ":7\r\n"),
        ("GETEX k FOO", SYNTAX),
        ("EXPIRE k -1", ":1\r\n"),
        ("EXISTS k", ":0\r\n"),
        ("SETEX k 10 v", "+OK\r\n"),
        ("PSETEX k 5000 v", "+OK\r\n"),
        ("TTL k", ":5\r\n"),
        (
            "SETEX k 0 v",
            "-ERR invalid expire time in 'setex' command\r\n",
        ),
        ("PEXPIRE k 1", ":1\r\n"),
    ]);
}

#[test]
fn several_keys_may_be_anywhere() {
    Fake::new().says(&[
        ("MSET a 1 b 2 c 3", "+OK\r\n"),
        (
            "MSET a 1 b",
            "-ERR wrong number of arguments for 'mset' command\r\n",
        ),
        ("MGET a none c", "*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n3\r\n"),
        ("EXISTS a b a none", ":3\r\n"),
        ("DEL a none", ":1\r\n"),
        ("UNLINK b c", ":2\r\n"),
        ("DBSIZE", ":0\r\n"),
        ("RANDOMKEY", "$-1\r\n"),
        ("SET only x", "+OK\r\n"),
        ("RANDOMKEY", "$4\r\nonly\r\n"),
        ("DBSIZE", ":1\r\n"),
    ]);
}

/// More keys than are under way at a time.
#[test]
fn a_request_may_have_many_keys() {
    let fake = Fake::new();
    let pairs: String = (0..500).map(|n| format!(" k{n} v{n}")).collect();
    let keys: String = (0..500).map(|n| format!(" k{n}")).collect();
    let values: String = (0..500)
        .map(|n| format!("${}\r\nv{n}\r\n", format!("v{n}").len()))
        .collect();
    fake.says(&[
        (&format!("MSET{pairs}"), "+OK\r\n"),
        (&format!("MGET{keys}"), &format!("*500\r\n{values}")),
        (&format!("DEL{keys}"), ":500\r\n"),
    ]);
}

#[test]
fn connections_and_their_protocol() {
    let fake = Fake::new();
    fake.says(&[
        ("PING", "+PONG\r\n"),
        ("PING hi", "$2\r\nhi\r\n"),
        ("ECHO hi", "$2\r\nhi\r\n"),
        ("SELECT 0", "+OK\r\n"),
        ("SELECT 1", "-ERR SELECT is not allowed in cluster mode\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CLIENT SETINFO LIB-NAME x", "+OK\r\n"),
        ("CLIENT ID", ":1\r\n"),
        ("CLIENT NO-EVICT on", "+OK\r\n"),
        ("RESET", "+RESET\r\n"),
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("CONFIG SET save x", "-ERR 'CONFIG SET' is not supported: settings are those of `kith agent`\r\n"),
        ("COMMAND COUNT", &format!(":{}\r\n", spec::COMMANDS.len())),
        ("COMMAND GETKEYS mset a 1 b 2", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("WAIT 1 100", ":0\r\n"),
        ("READONLY", "+OK\r\n"),
        ("READWRITE", "+OK\r\n"),
        ("ASKING", "+OK\r\n"),
        ("LPUSH l x", "-ERR unknown command 'LPUSH': Kith does not have it\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n"),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
    ]);
    fake.says(&[
        (
            "HELLO 3 SETNAME me",
            "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$5\r\nproto\r\n:3\r\n\
             $2\r\nid\r\n:2\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n$6\r\nmaster\r\n\
             $7\r\nmodules\r\n*0\r\n",
        ),
        ("GET none", "_\r\n"),
        ("CLIENT GETNAME", "$2\r\nme\r\n"),
        ("CONFIG GET appendonly", "%1\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n"),
    ]);
    let info = String::from_utf8(fake.whole(b"INFO\r\n")).unwrap();
    for part in [
        "redis_version:7.2.0\r\n",
        "cluster_enabled:1\r\n",
        "connected_clients:",
    ] {
        assert!(info.contains(part), "{info}");
    }
    let list = String::from_utf8(fake.whole(b"CLIENT LIST\r\n")).unwrap();
    assert!(list.contains("id=4 addr=127.0.0.1:"), "{list}");
}

#[test]
fn only_the_token_opens() {
    let fake = Fake::with_token();
    const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";
    const WRONG: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    fake.says(&[
        ("GET k", NOAUTH),
        ("PING", NOAUTH),
        ("AUTH wrong", WRONG),
        (&format!("AUTH other {TOKEN}"), WRONG),
        (&format!("AUTH {TOKEN}"), "+OK\r\n"),
        ("GET k", "$-1\r\n"),
        ("RESET", "+RESET\r\n"),
        ("GET k", NOAUTH),
        (&format!("AUTH default {TOKEN}"), "+OK\r\n"),
        ("PING", "+PONG\r\n"),
    ]);
    let hello = fake.whole(b"HELLO 3\r\n");
    assert!(hello.starts_with(b"-NOAUTH HELLO"), "{hello:?}");
    let hello = fake.whole(format!("HELLO 3 AUTH default {TOKEN}\r\n").as_bytes());
    assert!(hello.starts_with(b"%7\r\n"), "{hello:?}");
    // Who has not shown it cannot make the node hold much either.
    let large = fake.whole(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert_eq!(
        String::from_utf8_lossy(&large),
        "-ERR Protocol error: invalid bulk length: 16385 bytes are more than the 16384 allowed\r\n"
    );
}

#[test]
fn a_pipeline_is_answered_in_order_and_reads_its_own_writes() {
    let fake = Fake::new();
    let mut sent = String::new();
    let mut expected = String::new();
    for n in 0..5000 {
        let key = n % 7;
        sent.push_str(&format!("SET k{key} {n}\r\nGET k{key}\r\nECHO {n}\r\n"));
        let bulk = format!("${}\r\n{n}\r\n", n.to_string().len());
        expected.push_str(&format!("+OK\r\n{bulk}{bulk}"));
    }
    let answer = fake.whole(sent.as_bytes());
    assert!(answer == expected.as_bytes(), "{} bytes came", answer.len());
    assert!(fake.operations.commands() >= 15_000);
}

#[test]
fn large_values_go_both_ways_and_larger_ones_are_refused() {
    let fake = Fake::new();
    let most = 1 << 20;
    let value = vec![b'\n'; most];
    let set = |length: usize| format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n").into_bytes();
    // Many at once: requests and answers are more than are under way at a time.
    let one = [set(most), value.clone(), b"\r\nGET k\r\n".to_vec()].concat();
    let answer = fake.whole(&one.repeat(20));
    let expected = [
        b"+OK\r\n".to_vec(),
        format!("${most}\r\n").into_bytes(),
        value,
        b"\r\n".to_vec(),
    ]
    .concat()
    .repeat(20);
    assert!(answer == expected, "{} bytes came", answer.len());
    // Clients send all of it before they read, so that all of it has to be taken.
    let refused = fake.whole(&[set(most + 1), vec![b'\n'; 40 << 20]].concat());
    assert_eq!(
        String::from_utf8_lossy(&refused),
        "-ERR Protocol error: invalid bulk length: 1048577 bytes are more than the 1048576 allowed\r\n"
    );
}

#[test]
fn what_is_no_request_ends_the_connection_with_a_reason() {
    let fake = Fake::new();
    for (bytes, answer) in [
        (
            &b"PING\r\n*1\r\n:1\r\nPING\r\n"[..],
            "+PONG\r\n-ERR Protocol error: expected '$', got ':'\r\n",
        ),
        (
            b"*x\r\n",
            "-ERR Protocol error: invalid multibulk length\r\n",
        ),
        // A web page's attempt gets nothing at all.
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n", ""),
        (b"QUIT\r\nPING\r\n", "+OK\r\n"),
    ] {
        let got = fake.whole(bytes);
        assert_eq!(String::from_utf8_lossy(&got), answer);
    }
    fake.says(&[("GET k", "$-1\r\n")]);
}

#[test]
fn a_scan_tells_every_key_once() {
    let fake = Fake::new();
    let pairs: String = (0..1000).map(|n| format!(" key:{n} x")).collect();
    fake.says(&[(&format!("MSET{pairs}"), "+OK\r\n")]);
    for options in [
        "",
        " COUNT 1",
        " COUNT 100",
        " MATCH key:*5* COUNT 50",
        " TYPE list",
    ] {
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let page = fake.whole(format!("SCAN {cursor}{options}\r\n").as_bytes());
            let page = String::from_utf8(page).unwrap();
            let mut words = page
                .split("\r\n")
                .filter(|word| !word.starts_with(['$', '*']));
            cursor = words.next().unwrap().to_owned();
            found.extend(words.filter(|word| !word.is_empty()).map(str::to_owned));
            if cursor == "0" {
                break;
            }
        }
        let mut expected: Vec<String> = (0..1000)
            .map(|n| format!("key:{n}"))
            .filter(|key| !options.contains("MATCH") || key[4..].contains('5'))
            .filter(|_| !options.contains("list"))
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{options}");
    }
    fake.says(&[
        ("SCAN x", "-ERR invalid cursor\r\n"),
        ("SCAN 0 COUNT 0", SYNTAX),
        ("DBSIZE", ":1000\r\n"),
    ]);
}

#[test]
fn owners_elsewhere_are_told_to_those_who_know_what_that_means() {
    let topology = |_| cluster::tests::topology();
    let moved = "-MOVED 12182 127.0.0.1:7002\r\n";
    let auto = Fake::start(topology, RespOptions::default());
    auto.says(&[
        ("SET foo x", "+OK\r\n"),
        ("CLUSTER KEYSLOT foo", ":12182\r\n"),
        ("GET foo", "$1\r\nx\r\n"),
        ("READONLY", "+OK\r\n"),
        ("GET foo", moved),
        ("GET bar", "$-1\r\n"),
        ("MGET foo {foo}2", moved),
        ("MGET foo bar", "*2\r\n$1\r\nx\r\n$-1\r\n"),
    ]);
    for (setting, first, second) in [
        (RespMoved::Always, moved, moved),
        (RespMoved::Never, "$-1\r\n", "$-1\r\n"),
    ] {
        let options = RespOptions {
            moved: setting,
            ..RespOptions::default()
        };
        let fake = Fake::start(topology, options);
        fake.says(&[
            ("GET foo", first),
            ("READONLY", "+OK\r\n"),
            ("GET foo", second),
        ]);
    }
    let shards = auto.whole(b"HELLO 3\r\nCLUSTER SHARDS\r\nGET foo\r\n");
    let shards = String::from_utf8(shards).unwrap();
    assert!(
        shards.contains("*2\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:8191\r\n"),
        "{shards}"
    );
    assert!(shards.ends_with(moved), "{shards}");
}

#[test]
fn a_node_that_has_not_joined_says_so_and_one_that_stops_closes() {
    let fake = Fake::start(|_| Topology::default(), RespOptions::default());
    let text = "-CLUSTERDOWN this node has not joined a cluster yet\r\n";
    fake.says(&[
        ("GET k", text),
        ("MSET a 1 b 2", text),
        ("PING", "+PONG\r\n"),
        ("DBSIZE", ":0\r\n"),
        ("SCAN 0", "*2\r\n$1\r\n0\r\n*0\r\n"),
    ]);
    let mut stream = fake.connect();
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    drop(fake);
    assert_eq!(stream.read(&mut answer).unwrap(), 0);
}
