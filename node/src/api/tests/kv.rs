//! Keys and values over HTTP.

use kith_proto::kv::request::Ack;

use super::*;
use crate::client::kv::Precondition;

#[test]
fn any_bytes_are_stored_and_come_back() {
    let fake = Fake::plain();
    let client = fake.client();
    let key = b"a/b ?#%\0\xff\xc3\xbc";
    let value: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    assert_eq!(client.read(key).unwrap(), None);
    let only = Precondition::default();
    let first = client
        .write(key, &value, Some("1h"), &only, Ack::Quorum)
        .unwrap();
    assert!(first.created);
    let read = client.read(key).unwrap().unwrap();
    assert!(read.bytes == value && read.version == first.version);
    assert!(read.expires.unwrap().ends_with('Z'));
    let second = client.write(key, b"", None, &only, Ack::All).unwrap();
    assert!(!second.created && second.version != first.version);
    let read = client.read(key).unwrap().unwrap();
    assert_eq!((read.bytes.as_slice(), read.expires), (&b""[..], None));

    let refused = |only: Precondition| {
        let error = client.write(key, b"x", None, &only, Ack::Quorum);
        match error.unwrap_err() {
            ClientError::Problem(problem) => (problem.status, problem.detail),
            other => panic!("{other}"),
        }
    };
    let unmet = (412, format!("the key has version {}", second.version));
    assert_eq!(refused(Precondition::Absent), unmet);
    assert_eq!(refused(Precondition::Version(first.version)), unmet);
    let present = client.write(key, b"x", None, &Precondition::Present, Ack::Quorum);
    let third = Precondition::Version(present.unwrap().version);
    assert!(client.delete(key, &third, Ack::Quorum).unwrap());
    assert!(!client.delete(key, &only, Ack::Quorum).unwrap());
}

#[test]
fn integers_are_counted() {
    let fake = Fake::plain();
    let client = fake.client();
    assert_eq!(client.increment(b"n", 5, Ack::Quorum).unwrap().value, 5);
    let counted = client.increment(b"n", -7, Ack::Quorum).unwrap();
    assert_eq!(counted.value, -2);
    let read = client.read(b"n").unwrap().unwrap();
    assert_eq!(
        (read.bytes, read.version),
        (b"-2".to_vec(), counted.version)
    );
}

#[test]
fn a_scan_goes_over_all_partitions_and_tells_each_key_once() {
    let fake = Fake::plain();
    let client = fake.client();
    let only = Precondition::default();
    for n in 0..100 {
        let key = [b"key:", n.to_string().as_bytes()].concat();
        client.write(&key, b"x", None, &only, Ack::Quorum).unwrap();
    }
    client
        .write(b"\xff", b"x", None, &only, Ack::Quorum)
        .unwrap();
    for (prefix, limit, count) in [("", 7, 101), ("", 1000, 101), ("key:1", 3, 11), ("x", 5, 0)] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = client.scan(prefix, limit, after.as_deref()).unwrap();
            assert!(page.keys.len() <= limit as usize);
            found.extend(page.keys.iter().map(|key| key.bytes().unwrap()));
            after = match page.next {
                Some(next) => Some(next),
                None => break,
            };
        }
        found.sort();
        let told = found.len();
        found.dedup();
        assert_eq!((told, found.len()), (count, count), "{prefix} {limit}");
        assert!(found.iter().all(|key| key.starts_with(prefix.as_bytes())));
    }
}

#[test]
fn requests_that_cannot_be_are_problems() {
    let fake = Fake::plain();
    let host = format!("HTTP/1.1\r\nHost: {}", fake.address);
    let set = fake.raw(&format!("PUT /v1/kv/k {host}"), "text");
    assert!(set.starts_with("HTTP/1.1 201"), "{set}");
    assert!(set.to_lowercase().contains("\r\netag: \"1-"), "{set}");
    for (request, status, part) in [
        ("GET /v1/kv/none", 404, "none"),
        ("GET /v1/kv/", 400, "this one 0"),
        ("DELETE /v1/kv/none", 404, "none"),
        ("GET /v1/kv/a%2", 400, "percent"),
        ("GET /v1/kv/k?ttl=1s", 400, "PUT"),
        ("GET /v1/kv/k?ack=some", 400, "some"),
        ("PUT /v1/kv/k?ttl=soon", 400, "30s"),
        ("PUT /v1/kv/k?ttl=0s", 400, "30s"),
        ("POST /v1/kv/k", 400, "incr"),
        ("POST /v1/kv/k?incr=1", 409, "not an integer"),
        ("PATCH /v1/kv/k", 405, "PATCH"),
        ("GET /v1/kv?limit=0", 400, "1 to 1000"),
        ("GET /v1/kv?after=x", 400, "after"),
    ] {
        let answer = fake.raw(&format!("{request} {host}"), "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
        assert!(
            answer.contains("application/problem+json"),
            "{request}: {answer}"
        );
        assert!(answer.contains(part), "{request}: {answer}");
    }
    for (header, status) in [
        ("If-Match: \"1-2-3\"", 412),
        ("If-Match: nonsense", 400),
        ("If-None-Match: \"1-2-3\"", 400),
        ("If-None-Match: *\r\nIf-Match: *", 400),
    ] {
        let answer = fake.raw(&format!("PUT /v1/kv/k {host}\r\n{header}"), "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{header}: {answer}"
        );
    }
    // All of it is sent before the answer is looked at, or none of it.
    let put = format!("PUT /v1/kv/k {host}");
    let large = "x".repeat((1 << 20) + 1);
    let asks = format!("{put}\r\nContent-Length: 1048577\r\nExpect: 100-continue");
    for answer in [fake.raw(&put, &large), fake.raw_without_body(&asks)] {
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    let known = fake.raw(&format!("GET /v1/kv/k {host}\r\nIf-None-Match: *"), "");
    assert!(known.starts_with("HTTP/1.1 304"), "{known}");
    let metrics = fake.raw(&format!("GET /metrics {host}"), "");
    let line = "kith_operations_total{interface=\"http\",class=\"write\",result=\"done\"} ";
    assert!(metrics.contains(line), "{metrics}");
}
