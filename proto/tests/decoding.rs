//! Everything that reads bytes from strangers: no panic, no unbounded memory, and what was
//! encoded comes back.

use std::{net::SocketAddr, time::Duration};

use kith_proto::{
    config::Config,
    core::Core,
    event::Reason,
    id::{Life, NodeId},
    input::{Input, StreamId, Token},
    members::record::Record,
    store::Restored,
    swim::identity::Identity,
    time::Time,
    wire::{
        codec,
        keyring::{Key, Keyring},
        message::{
            Accusation, Direct, DirectBody, Frame, Health, Hello, Intent, KIND_DIRECT, KIND_SWIM,
            KIND_SWIM_BUDDY, News, SyncEntry, Verdict,
        },
        seal::Sealer,
    },
};
use proptest::prelude::*;

fn config() -> Config {
    let address: SocketAddr = "127.0.0.1:7400".parse().expect("an address");
    Config::new(NodeId(1), "n1", address)
}

fn ring() -> Keyring {
    Keyring::new(Key::derived_from_name("kith"))
}

fn active_core() -> Core {
    let now = Time::from_millis(1);
    let mut core = Core::new(config(), ring(), [7; 32], Restored::default(), now);
    core.handle(now, Input::Tick);
    while core.poll_output().is_some() {}
    assert_eq!(core.phase_name(), "active");
    core
}

fn frames() -> Vec<Frame> {
    let config = config();
    let record = Record::of(&config);
    let life = Life {
        id: NodeId(9),
        generation: 12,
    };
    let identity = Identity {
        id: life.id,
        generation: life.generation,
        renewal: 3,
        addr: config.advertise,
    };
    let accusation = Accusation {
        target: life,
        renewal: 1,
        incarnation: 2,
        accuser: NodeId(4),
        reason: Reason::Refused,
        silent_ms: 50,
    };
    let verdict = Verdict {
        target: life,
        renewal: 1,
        author: NodeId(4),
        reason: Reason::Unreachable,
        accusers: vec![NodeId(4), NodeId(5)],
    };
    let entry = SyncEntry {
        identity,
        incarnation: 4,
        health: Health::Down,
        record: Some(record.clone()),
    };
    vec![
        Frame::Hello(Box::new(Hello {
            protocol: (1, 1),
            cluster_name: "kith".to_owned(),
            cluster: None,
            intent: Intent::Join,
            identity,
            incarnation: 0,
            record: record.clone(),
        })),
        Frame::Refused("no".to_owned()),
        Frame::Direct(DirectBody::News(News::Accusation(accusation))),
        Frame::Direct(DirectBody::News(News::Verdict(verdict))),
        Frame::SyncSummary(vec![(NodeId(1), 2), (NodeId(3), 4)]),
        Frame::SyncDelta {
            entries: vec![entry.clone()],
            want: vec![NodeId(7)],
        },
        Frame::Newcomers(vec![entry]),
        Frame::Farewell(Box::new(record)),
    ]
}

#[test]
fn what_was_encoded_comes_back() {
    for frame in frames() {
        assert_eq!(codec::decode::<Frame>(&codec::encode(&frame)), Ok(frame));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        // Almost always an error; what is accepted must be the same when encoded again.
        if let Ok(frame) = codec::decode::<Frame>(&bytes) {
            prop_assert_eq!(codec::decode::<Frame>(&codec::encode(&frame)), Ok(frame));
        }
        if let Ok(direct) = codec::decode::<Direct>(&bytes) {
            prop_assert_eq!(codec::decode::<Direct>(&codec::encode(&direct)), Ok(direct));
        }
    }

    #[test]
    fn damaged_frames_never_panic(
        which in 0usize..8,
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = codec::encode(&frames()[which]);
        let index = at.index(bytes.len());
        bytes[index] = with;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(frame) = codec::decode::<Frame>(&bytes) {
            prop_assert_eq!(codec::decode::<Frame>(&codec::encode(&frame)), Ok(frame));
        }
    }

    // Somebody who holds the key, and speaks nonsense: sealed packets and frames of any
    // content reach the core, which must stay a member that answers its timers.
    #[test]
    fn a_core_survives_whatever_it_is_told(
        packets in prop::collection::vec(
            (0u8..4, prop::collection::vec(any::<u8>(), 0..300)), 1..20),
        which in prop::collection::vec((0usize..8, any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut core = active_core();
        let mut now = Time::from_millis(2);
        let mut sealer = Sealer::new("kith", NodeId(9), 77);
        let from: SocketAddr = "127.0.0.9:7400".parse().expect("an address");
        for (kind, payload) in &packets {
            let kind = [KIND_SWIM, KIND_SWIM_BUDDY, KIND_DIRECT, 9][usize::from(*kind)];
            let data = sealer.seal(&ring(), kind, &[payload]);
            core.handle(now, Input::Datagram { from, data });
            now += Duration::from_millis(1);
        }
        for (number, (which, at, with)) in which.iter().enumerate() {
            let stream = StreamId(number as u64);
            core.handle(now, Input::StreamOpened { stream, remote: from, dial: None });
            let mut frame = codec::encode(&frames()[*which]);
            core.handle(now, Input::StreamFrame { stream, frame: frame.clone() });
            let index = at.index(frame.len());
            frame[index] = *with;
            core.handle(now, Input::StreamFrame { stream, frame });
            core.handle(now, Input::DialFailed {
                dial: Token(number as u64),
                error: kith_proto::input::DialError::Refused,
            });
            now += Duration::from_millis(1);
        }
        for _ in 0..50 {
            while core.poll_output().is_some() {}
            let Some(due) = core.poll_timeout() else { break };
            now = now.max(due);
            core.handle(now, Input::Tick);
        }
        prop_assert!(matches!(core.phase_name(), "active" | "left"));
    }
}
