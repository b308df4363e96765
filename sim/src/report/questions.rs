//! The questions that tests ask: what the nodes said, and when.

use std::time::Duration;

use kith_proto::{event::Event, members::table::Status, time::Time};

use crate::world::{HostId, World};

/// Whether all hosts given see each other alive, and nobody suspected or missing among them.
pub fn all_see_all(world: &World, hosts: &[HostId]) -> bool {
    hosts.iter().all(|a| {
        world.core(*a).is_some_and(|core| {
            hosts.iter().all(|b| {
                core.table().get(world.id(*b)).is_some_and(|entry| {
                    entry.announced && entry.status() == Status::Alive && entry.swim.is_some()
                })
            })
        })
    })
}

/// How `of` is seen by `by`, if it is known there.
pub fn status(world: &World, by: HostId, of: HostId) -> Option<Status> {
    let entry = world.core(by)?.table().get(world.id(of))?;
    Some(entry.status())
}

/// When each host first declared the node of another host failed, after `since`.
pub fn failed_at(world: &World, of: HostId, since: Time) -> Vec<(HostId, Duration)> {
    let id = world.id(of);
    let mut found: Vec<(HostId, Duration)> = Vec::new();
    for told in &world.told {
        if let Event::MemberFailed { who, .. } = &told.event
            && who.member_id == id
            && told.at >= since
            && !found.iter().any(|(host, _)| *host == told.host)
        {
            found.push((told.host, told.at.saturating_since(since)));
        }
    }
    found
}

/// Declared failures of nodes other than those given.
pub fn false_alarms(world: &World, except: &[HostId]) -> usize {
    let except: Vec<_> = except.iter().map(|host| world.id(*host)).collect();
    world
        .told
        .iter()
        .filter(|told| match &told.event {
            Event::MemberFailed { who, .. } => !except.contains(&who.member_id),
            _ => false,
        })
        .count()
}

/// What was told, for people: a line for every event, with when and by whom.
pub fn show(world: &World) -> String {
    let lines: Vec<String> = world
        .told
        .iter()
        .filter(|told| !matches!(told.event, Event::PartitionAssigned { .. }))
        .map(|told| format!("{:?} n{} {:?}", told.at, told.host, told.event))
        .collect();
    lines.join("\n")
}
