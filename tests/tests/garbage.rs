//! Garbage on the gossip port: counted, and otherwise without consequence.

#![expect(
    clippy::unwrap_used,
    reason = "what a test may do, its helpers may do too"
)]

use std::{
    io::Write,
    net::{SocketAddr, TcpStream, UdpSocket},
};

use kith_tests::{
    agent::Agent,
    cluster::{self, Cluster},
    wait,
};

/// Parts of the names of counters that say that something was not accepted.
const REJECTIONS: [&str; 3] = ["rejected", "oversized", "handshakes_failed"];

#[test]
fn random_datagrams_are_counted_and_ignored() {
    let mut cluster = cluster::of(3).start();
    let target = cluster.spec(0).listen;
    let before = rejections(cluster.node(0));
    let socket = UdpSocket::bind(SocketAddr::new(cluster.host(0).ip(), 0)).unwrap();
    let mut noise = Noise(1);
    let lengths = [0, 1, 2, 7, 16, 31, 64, 100, 576, 1400, 1401, 9000, 65_000];
    for length in lengths.into_iter().cycle().take(300) {
        let mut data = noise.bytes(length);
        // Some look like a packet at the beginning.
        if let Some(first) = data.first_mut() {
            *first %= 4;
        }
        socket.send_to(&data, target).unwrap();
    }
    expect_more_rejections(cluster.node(0), before, 10.0);
    expect_unharmed(&mut cluster);
}

#[test]
fn real_datagrams_that_are_cut_changed_or_repeated_are_ignored() {
    let mut cluster = cluster::of(3).proxied().start();
    let samples = wait::until("some datagrams to n1", || {
        let recent = cluster.network().recent("n1");
        if recent.len() >= 8 {
            Ok(recent)
        } else {
            Err(format!("{} of them", recent.len()))
        }
    });
    let target = cluster.spec(0).listen;
    let before = rejections(cluster.node(0));
    let socket = UdpSocket::bind(SocketAddr::new(cluster.host(0).ip(), 0)).unwrap();
    for sample in &samples {
        for length in [sample.len() / 4, sample.len() / 2, sample.len() - 1] {
            socket.send_to(&sample[..length], target).unwrap();
        }
        for place in [0, 1, sample.len() / 2, sample.len() - 1] {
            let mut changed = sample.clone();
            changed[place] ^= 1;
            socket.send_to(&changed, target).unwrap();
        }
        // As it was: a replay.
        socket.send_to(sample, target).unwrap();
    }
    expect_more_rejections(cluster.node(0), before, samples.len() as f64);
    expect_unharmed(&mut cluster);
}

#[test]
fn strangers_on_the_stream_port_are_turned_away() {
    let mut cluster = cluster::of(3).start();
    let target = cluster.spec(0).listen;
    let before = rejections(cluster.node(0));
    let mut noise = Noise(2);
    // Some that say nothing and stay, as a scanner or a slow loris would.
    let silent: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(target).unwrap())
        .collect();
    let beginnings: [Vec<u8>; 5] = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(),
        // The header of a TLS record of 65,535 bytes, with none of them.
        vec![0x16, 0x03, 0x01, 0xff, 0xff],
        // A length prefix of 4 GiB, for whom frames are read without TLS.
        vec![0xff; 4],
        noise.bytes(20_000),
        Vec::new(),
    ];
    for beginning in beginnings.iter().cycle().take(25) {
        let mut stream = TcpStream::connect(target).unwrap();
        // It may hang up in the middle, and should.
        stream.write_all(beginning).unwrap_or_default();
    }
    expect_more_rejections(cluster.node(0), before, 3.0);
    expect_unharmed(&mut cluster);
    drop(silent);
}

fn rejections(node: &Agent) -> f64 {
    let count = |part: &&str| node.metric(part).unwrap();
    REJECTIONS.iter().map(count).sum()
}

fn expect_more_rejections(node: &Agent, before: f64, more: f64) {
    wait::until(&format!("{more} more rejections counted"), || {
        let now = rejections(node);
        if now >= before + more {
            Ok(())
        } else {
            Err(format!("from {before} to {now}"))
        }
    });
}

/// All live, nobody was accused, no errors were logged, and newcomers are welcome.
fn expect_unharmed(cluster: &mut Cluster) {
    cluster.grow().unwrap();
    cluster.expect_all_alive();
    let marks = vec![0; cluster.nodes().len()];
    cluster.forbid_everywhere(&marks, &["member_failed", "member_left"]);
    for node in cluster.nodes() {
        let lines = node.process().log().since(0);
        let mut objects = lines.iter().filter_map(|line| line.json.as_ref());
        let error = objects.find(|json| json["level"] == "ERROR");
        assert!(error.is_none(), "{}: {error:?}", node.name());
        assert!(
            lines.len() < 200,
            "{} logged {} lines",
            node.name(),
            lines.len()
        );
    }
}

/// Bytes without meaning, the same in every run.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }
}
