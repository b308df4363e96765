//! Requests whose owner moves while they are under way.

use std::time::Duration;

use bytes::Bytes;
use kith_proto::{
    config::Consistency,
    input::RequestId,
    kv::{
        op::Op,
        request::{Ack, Request, RequestError},
    },
    placement::partition_of,
    replica::{
        chain::ConfigId,
        host::{Input, Standing},
        message::{Message, Route},
        shard::Timing,
    },
};

use crate::cluster::{Cluster, PARTITIONS, id};

fn read(cluster: &mut Cluster, node: usize, number: u64, key: &str) {
    let key = Bytes::from(key.to_owned());
    let partition = partition_of(&key, PARTITIONS);
    let (op, ack) = (Op::Get, Ack::Quorum);
    let body = Request::Key { key, op, ack };
    let request = RequestId(number);
    cluster.feed(
        node,
        Input::Request {
            request,
            partition,
            body,
        },
    );
}

/// An older request comes to wait behind a younger one: both are answered when their time is over, and
/// the older one is not tried again for ever (found by the simulator).
#[test]
fn an_older_request_behind_a_younger_one_is_answered_in_time() {
    // Others are not asked meanwhile.
    let timing = Timing {
        retry: Duration::from_secs(10),
        ..Timing::default()
    };
    let mut cluster = Cluster::with_timing(5, Consistency::Available, timing);
    let members = cluster.members("key");
    let asker = (0..5).find(|node| !members.contains(node)).unwrap();
    let mut others = (0..5).filter(|node| *node != asker && *node != members[0]);
    let heir = others.next_back().unwrap();
    let partition = partition_of(b"key", PARTITIONS);
    // The owner is silent, and nobody has noticed.
    cluster.standing[members[0]] = Standing::Failed;
    read(&mut cluster, asker, 1001, "key");
    cluster.now += Duration::from_millis(500);
    // Another owns it now, and cannot be reached.
    let route = Route {
        partition,
        id: ConfigId {
            epoch: 1000,
            branch: 1,
        },
        members: vec![id(heir)],
    };
    let message = Message::Routes(vec![route]);
    let from = id(heir);
    cluster.feed(asker, Input::Message { from, message });
    cluster.standing[members[0]] = Standing::Living;
    cluster.standing[heir] = Standing::Failed;
    cluster.show_with_places_kept();
    read(&mut cluster, asker, 1002, "key");
    let asked = cluster
        .sent
        .iter()
        .rev()
        .find_map(|(from, to, message)| match message {
            Message::Ask { number, .. } if (*from, *to) == (id(asker), id(members[0])) => {
                Some(*number)
            }
            _ => None,
        });
    let number = asked.unwrap();
    let message = Message::NotOwner {
        number,
        route: None,
    };
    let from = id(members[0]);
    cluster.feed(asker, Input::Message { from, message });
    assert!(cluster.answers.is_empty(), "both wait");
    cluster.run(Duration::from_millis(2600));
    let answer = cluster.answers.remove(&RequestId(1001));
    assert!(matches!(answer, Some(Err(RequestError::Unavailable(_)))));
    assert!(cluster.answers.is_empty(), "the younger one still waits");
    cluster.run(Duration::from_millis(500));
    let answer = cluster.answers.remove(&RequestId(1002));
    assert!(matches!(answer, Some(Err(RequestError::Unavailable(_)))));
}

/// People know nodes by their names.
#[test]
fn who_cannot_be_asked_is_named() {
    let mut cluster = Cluster::new(4, Consistency::Strict);
    let members = cluster.members("key");
    let asker = (0..4).find(|node| !members.contains(node)).unwrap();
    let owner = members[0];
    cluster.standing[owner] = Standing::Failed;
    for member in &members[1..] {
        cluster.standing[*member] = Standing::Failed;
    }
    cluster.show_with_places_kept();
    let refused = cluster.ask(asker, "key", Op::Get);
    let Err(RequestError::Unavailable(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        text.contains(&format!("its owner n{owner} is gone")),
        "{text}"
    );
    assert!(!text.contains(&id(owner).to_string()), "{text}");
}

/// What a node knows of an owner may be out of date, though nobody tells it so.
#[test]
fn who_waits_for_one_that_is_gone_hears_of_another() {
    for told_all in [false, true] {
        let mut cluster = Cluster::new(5, Consistency::Available);
        cluster.set(0, "key", "value").unwrap();
        let members = cluster.members("key");
        let mut strangers = (0..5).filter(|node| !members.contains(node));
        let (asker, gone) = (strangers.next().unwrap(), strangers.next().unwrap());
        // As if that one had gone on alone in a branch of its own, of which nothing is left.
        let route = Route {
            partition: partition_of(b"key", PARTITIONS),
            id: ConfigId {
                epoch: 1000,
                branch: 1,
            },
            members: vec![id(gone)],
        };
        for node in (0..5).filter(|node| told_all || *node == asker) {
            let message = Message::Routes(vec![route.clone()]);
            let from = id(gone);
            cluster.feed(node, Input::Message { from, message });
        }
        cluster.standing[gone] = Standing::Failed;
        cluster.show_with_places_kept();
        let begun = cluster.now;
        cluster.set(asker, "key", "another").unwrap();
        let took = cluster.now.saturating_since(begun);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

/// An owner that took a node for failed told it nothing, and that node may not have noticed: when the owner asks
/// what it knows, it is told.
#[test]
fn whoever_tells_an_owner_what_is_out_of_date_is_told() {
    let mut cluster = Cluster::new(5, Consistency::Available);
    let members = cluster.members("key");
    let stranger = (0..5).find(|node| !members.contains(node)).unwrap();
    let partition = partition_of(b"key", PARTITIONS);
    let told_before = cluster.sent.len();
    let route = Route {
        partition,
        id: ConfigId::default(),
        members: vec![id(stranger)],
    };
    let message = Message::Routes(vec![route]);
    let (owner, from) = (members[0], id(stranger));
    cluster.feed(owner, Input::Message { from, message });
    let told = &cluster.sent[told_before..];
    let is_told = told.iter().any(|(by, to, message)| {
        let of = |route: &Route| route.partition == partition && route.members[0] == id(owner);
        let is_told = matches!(message, Message::Routes(routes) if routes.iter().any(of));
        is_told && (*by, *to) == (id(owner), from)
    });
    assert!(is_told, "{told:?}");
}
