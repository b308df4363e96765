//! A member that holds the key but is sick accuses everybody: no healthy member is declared
//! failed for it, and the cluster's news is not buried under its own.

mod common;

use std::time::Duration;

use common::cluster;
use kith_proto::{
    event::{Event, Reason},
    members::table::Status,
    wire::{
        codec,
        keyring::{Key, Keyring},
        message::{Accusation, Direct, DirectBody, KIND_DIRECT, News, Verdict},
        seal::Sealer,
    },
};
use kith_sim::{
    report::{all_see_all, show, status},
    world::{HostId, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// Failures of healthy members that healthy members told.
fn false_alarms(world: &World, sick: HostId) -> Vec<String> {
    let id = world.id(sick);
    world
        .told
        .iter()
        .filter(|told| told.host != sick)
        .filter_map(|told| match &told.event {
            Event::MemberFailed { who, .. } if who.member_id != id => Some(format!("{told:?}")),
            _ => None,
        })
        .collect()
}

fn counter(world: &World, host: HostId, name: &str) -> u64 {
    let core = world.core(host).expect("it runs");
    core.counters().get(name).copied().unwrap_or(0)
}

#[test]
fn a_node_that_hears_nothing_gets_nobody_declared_failed() {
    for (seed, nodes) in [(1, 16), (2, 16), (3, 48), (4, 48)] {
        let (mut world, hosts) = cluster(seed, nodes, SECOND * 10);
        let sick = hosts[5];
        let healthy: Vec<HostId> = hosts.iter().copied().filter(|h| *h != sick).collect();
        world.deafen(sick, true);
        world.run(SECOND * 120);
        let alarms = false_alarms(&world, sick);
        assert!(alarms.is_empty(), "{nodes} nodes: {}", alarms.join("\n"));
        assert!(all_see_all(&world, &healthy), "{}", show(&world));
        assert_eq!(status(&world, healthy[0], sick), Some(Status::Failed));

        world.deafen(sick, false);
        let healed = world.run_while(SECOND * 60, |world| all_see_all(world, &hosts));
        assert!(healed, "{}", show(&world));
        let alarms = false_alarms(&world, sick);
        assert!(alarms.is_empty(), "{nodes} nodes: {}", alarms.join("\n"));
    }
}

/// Speaks in the name of a member, beside that member itself.
struct Voice {
    sick: HostId,
    sealer: Sealer,
    keys: Keyring,
}

impl Voice {
    fn of(world: &World, sick: HostId) -> Self {
        Self {
            sick,
            sealer: Sealer::new("kith", world.id(sick), 4711),
            keys: Keyring::new(Key::derived_from_name("kith")),
        }
    }

    /// Accuses a member at its present incarnation, and declares it failed, to another.
    fn accuse(&mut self, world: &mut World, to: HostId, of: HostId, reason: Reason) {
        let core = world.core(self.sick).expect("it runs");
        let own = core.table().get(world.id(self.sick)).expect("itself");
        let (from, address) = (own.life(), own.identity.addr);
        let target = world
            .core(to)
            .and_then(|core| core.table().get(world.id(of)))
            .expect("it is known");
        let accusation = Accusation {
            target: target.life(),
            renewal: target.identity.renewal,
            incarnation: target.incarnation,
            accuser: from.id,
            reason,
            silent_ms: 60_000,
        };
        let verdict = Verdict {
            target: target.life(),
            renewal: target.identity.renewal,
            author: from.id,
            reason,
            accusers: vec![from.id],
        };
        for news in [News::Accusation(accusation), News::Verdict(verdict)] {
            let body = DirectBody::News(news);
            let payload = codec::encode(&Direct { from, body });
            let data = self.sealer.seal(&self.keys, KIND_DIRECT, &[&payload]);
            world.inject(to, address, data);
        }
    }
}

#[test]
fn a_node_that_accuses_everybody_for_ever_is_doubted_by_all_and_floods_nobody() {
    for (seed, nodes) in [(5, 16), (6, 48)] {
        let (mut world, hosts) = cluster(seed, nodes, SECOND * 10);
        let sick = hosts[3];
        let healthy: Vec<HostId> = hosts.iter().copied().filter(|h| *h != sick).collect();
        let mut voice = Voice::of(&world, sick);
        let sent = |world: &World| {
            let all = hosts.iter().map(|host| world.traffic(*host).datagram_bytes);
            all.sum::<u64>() / nodes as u64
        };

        let before = sent(&world);
        world.run(SECOND * 30);
        let quiet = sent(&world) - before;

        let reasons = [Reason::Unreachable, Reason::Refused, Reason::Unresponsive];
        let mut at_half = 0;
        for round in 0..600usize {
            // Ten a second to everybody, each time about another member.
            for (number, to) in healthy.iter().enumerate() {
                let of = healthy[(round + number + 1) % healthy.len()];
                if of != *to {
                    voice.accuse(&mut world, *to, of, reasons[round % 3]);
                }
            }
            world.run(Duration::from_millis(100));
            if round == 300 {
                at_half = sent(&world);
            }
        }
        let noisy = sent(&world) - at_half;

        let alarms = false_alarms(&world, sick);
        assert!(alarms.is_empty(), "{nodes} nodes: {}", alarms.join("\n"));
        assert!(all_see_all(&world, &hosts), "{}", show(&world));
        for host in &healthy {
            let core = world.core(*host).expect("it runs");
            let entry = core.table().get(world.id(sick)).expect("it is known");
            assert!(!entry.limit.is_credible(), "host {host} believes it still");
            assert!(counter(&world, *host, "accusations_limited") > 0);
            assert!(counter(&world, *host, "accusations_doubted") > 0);
            assert!(core.health_score() <= 2, "host {host} doubts itself");
        }
        // What the others send because of it, once they doubt it, in half a minute.
        eprintln!("{nodes} nodes: quiet {quiet}, noisy {noisy} bytes a node");
        assert!(
            noisy < quiet * 4,
            "{nodes} nodes: {noisy}, else {quiet} bytes a node"
        );
    }
}
