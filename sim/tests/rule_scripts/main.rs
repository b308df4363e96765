//! The protocol without one of its rules, where random seeds seldom or never show what happens: traces written
//! down step by step. With the rule the same steps break no promise, without it a checker objects.
//!
//! One partition; `silence` and `cut` decide which messages arrive, `believe` who thinks what of whom.

mod available;
mod strict;

use std::time::Duration;

use kith_proto::{
    config::Consistency,
    replica::{chain::Chain, host::Standing},
    store::partitions::{Page, Store},
};
use kith_sim::lab::{
    Lab, NodeIndex, Omit, Setup,
    check::{self, Objection},
    client::{self, Asked, Only},
};

/// The one partition.
const P: u16 = 0;
/// A step of a script has happened by then, or never does.
const STEP: Duration = Duration::from_secs(8);

type Script = fn(Option<Omit>) -> Lab;

// With the rule nothing is wrong; without it one of these checkers says so.
fn caught(script: Script, omit: Omit, by: &[&str]) {
    let kept = script(None);
    assert_eq!(kept.objections(), Vec::<Objection>::new(), "{omit:?} kept");
    let broken = script(Some(omit));
    let found = checks(&broken);
    assert!(
        found.iter().any(|check| by.contains(check)),
        "{omit:?}: {:?}\n{}",
        broken.objections(),
        check::shown(&broken)
    );
}

fn checks(lab: &Lab) -> Vec<&'static str> {
    let objections = lab.objections().iter();
    objections.map(|objection| objection.check).collect()
}

fn setup(seed: u64, consistency: Consistency, nodes: usize, omit: Option<Omit>) -> Setup {
    let mut setup = Setup::new(seed, consistency);
    setup.nodes = nodes;
    setup.settings.partitions = 1;
    setup.repair_delay = Duration::from_secs(60);
    setup.omit = omit;
    setup
}

fn settled(setup: Setup) -> Lab {
    let mut lab = Lab::new(setup);
    settle(&mut lab);
    lab
}

fn settle(lab: &mut Lab) {
    check::at_rest(lab, Duration::from_secs(30));
    assert_eq!(lab.objections(), Vec::<Objection>::new(), "before");
}

// Everything is whole again, and all run that may; what is there then is looked at.
fn end(mut lab: Lab) -> Lab {
    for node in 0..lab.len() {
        lab.start(node);
    }
    lab.heal();
    lab.run(Duration::from_secs(4));
    check::at_rest(&mut lab, Duration::from_secs(60));
    lab
}

// Lets time pass, event by event, until something is so.
fn until(lab: &mut Lab, what: &str, mut holds: impl FnMut(&Lab) -> bool) {
    let reached = lab.run_until(STEP, Duration::ZERO, |lab| holds(lab));
    assert!(reached, "{what}\n{}", check::shown(lab));
}

fn ask(lab: &mut Lab, node: NodeIndex, asked: Asked) -> usize {
    client::ask(lab, None, node, client::key(0), asked)
}

// A write of the one key that is done.
fn write(lab: &mut Lab, node: NodeIndex) {
    let value = client::value(lab);
    let index = ask(lab, node, Asked::Write(value, Only::Always));
    until(lab, "written", |lab| {
        lab.clients.history[index].written().is_some()
    });
}

// A read of the one key that is answered.
fn read(lab: &mut Lab, node: NodeIndex) {
    let index = ask(lab, node, Asked::Read);
    until(lab, "read", |lab| {
        lab.clients.history[index].told().is_some()
    });
}

fn chain(lab: &Lab, node: NodeIndex) -> Option<&Chain> {
    lab.shard(node).and_then(|shard| shard.chain_of(P))
}

fn has_accepted(lab: &Lab, node: NodeIndex) -> bool {
    chain(lab, node).is_some_and(|chain| chain.accepted.is_some())
}

fn epoch(lab: &Lab, node: NodeIndex) -> u64 {
    chain(lab, node).map_or(0, |chain| chain.config.id.epoch)
}

// The owner first.
fn members(lab: &Lab) -> Vec<NodeIndex> {
    let owner = lab.servers(P).first().copied();
    let chain = owner.and_then(|owner| chain(lab, owner));
    let members = chain.iter().flat_map(|chain| &chain.config.members);
    members.filter_map(|id| lab.index_of(*id)).collect()
}

fn three_members(lab: &Lab) -> [NodeIndex; 3] {
    members(lab).try_into().expect("three members")
}

fn cut_from_all(lab: &mut Lab, node: NodeIndex) {
    for other in (0..lab.len()).filter(|other| *other != node) {
        lab.cut(node, other);
    }
}

fn restore_to_all(lab: &mut Lab, node: NodeIndex) {
    for other in (0..lab.len()).filter(|other| *other != node) {
        lab.restore(node, other);
    }
}

fn fails(lab: &mut Lab, observer: NodeIndex, subject: NodeIndex) {
    lab.believe(observer, subject, Standing::Failed);
}

fn entries(lab: &Lab, node: NodeIndex) -> Page {
    let store = lab.disk(node).store_as_it_is();
    let page = store.page(P, None, usize::MAX, usize::MAX);
    page.expect("memory can be read")
}

// A fourth node joins three, and is a member in place of one of them: which, and the newcomer.
fn replaced(lab: &mut Lab) -> (NodeIndex, NodeIndex) {
    let before = members(lab);
    let newcomer = lab.add();
    lab.run(Duration::from_millis(100));
    settle(lab);
    let after = members(lab);
    let former = before.into_iter().find(|node| !after.contains(node));
    (former.expect("the newcomer is a member"), newcomer)
}
