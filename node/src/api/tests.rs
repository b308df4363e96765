//! The interface over real sockets, with a task in the place of the driver.

mod fake;
mod kv;

use std::thread;

use kith_proto::{event::Event, input::Command, output::Stop, wire::keyring::Key};

pub(crate) use self::fake::Fake;
use self::fake::{TOKEN, member, status};
use super::{token::Token, *};
use crate::{
    client::{Client, ClientError, Followed},
    events::{KEPT, KEPT_DECISIONS},
};

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

    let recovery = client.recover(Some(3)).unwrap();
    assert_eq!(recovery.partitions, [3]);
    assert_eq!((recovery.waiting, recovery.unneeded), (vec![5], 254));

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
        (
            "POST /v1/partitions/recover",
            "{\"partition\":3}",
            400,
            "?partition=17",
        ),
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
fn another_token_counts_from_the_next_request_on() {
    let token = CurrentToken::default();
    let fake = Fake::start(ApiOptions {
        token: token.clone(),
        ..ApiOptions::default()
    });
    let old = fake.client();
    let mut events = old.events(None).unwrap();
    token.set(Some(Token::parse(TOKEN).unwrap()));
    let error = old.members().unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    let shown = Some(Token::parse(TOKEN).unwrap());
    let new = Client::new(&fake.address.to_string(), shown).unwrap();
    assert_eq!(new.members().unwrap().len(), 1);
    fake.warn("still followed");
    let event = events.receive().unwrap().unwrap();
    assert_eq!(event.data["text"], "still followed");
    token.set(None);
    assert_eq!(old.members().unwrap().len(), 1);
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
fn what_a_follower_missed_in_between_is_told_there() {
    let fake = Fake::plain();
    fake.warn("before");
    for _ in 0..KEPT_DECISIONS + 10 {
        fake.events.publish(Event::PartitionAssigned {
            partition: 7,
            owner: "n1".to_owned(),
            backups: Vec::new(),
            from: None,
        });
    }
    fake.warn("after");
    let mut follow = fake.client().follow(Some(0));
    let mut next = || follow.next().unwrap().unwrap();
    assert!(matches!(next(), Followed::Event(event) if event.seq == Some(1)));
    assert!(matches!(next(), Followed::Missed(10)));
    for seq in 12..12 + KEPT_DECISIONS as u64 {
        assert!(matches!(next(), Followed::Event(event) if event.seq == Some(seq)));
    }
    assert!(matches!(next(), Followed::Event(event) if event.data["text"] == "after"));
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
        "# HELP kith_datagrams_sent Gossip datagrams that the protocol sent.",
        "kith_datagrams_sent_total 7",
        "# TYPE kith_peer_sent_bytes counter",
        "kith_peer_sent_bytes_total{kind=\"copies\"} 12",
        "kith_peer_sent_bytes_total{kind=\"writes\"} 11",
        "# TYPE kith_held_bytes gauge",
        "kith_held_bytes 9",
        "# TYPE kith_loss_ratio gauge",
        "kith_loss_ratio 0.0125",
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
