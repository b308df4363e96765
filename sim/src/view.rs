//! The nodes' views side by side, for whoever looks at a failure.

use kith_proto::{id::NodeId, members::table::Status};

use crate::{
    host::{HostId, Process},
    world::World,
};

/// The most members that fit on a line.
const COLUMNS: usize = 64;

/// A line for each host: how its node sees each other node, oldest life first.
///
/// `A`live, `s`uspect, `F`ailed, `l`eaving, `L`eft, `E`victed; `a` alive in an older life than
/// the present one, `?` only its record is known, `.` not known.
pub fn side_by_side(world: &World) -> Vec<String> {
    let mut columns: Vec<(NodeId, HostId)> = Vec::new();
    for life in world.truth.lives() {
        if !columns.iter().any(|(id, _)| *id == life.id) {
            columns.push((life.id, life.host));
        }
    }
    let hidden = columns.len().saturating_sub(COLUMNS);
    columns.truncate(COLUMNS);
    let mut lines = vec![format!(
        "sees, in the order {}{}",
        columns
            .iter()
            .map(|(_, host)| format!("n{host}"))
            .collect::<Vec<_>>()
            .join(" "),
        if hidden > 0 {
            format!(" and {hidden} more")
        } else {
            String::new()
        }
    )];
    lines.push(
        "A alive, a alive in an old life, s suspect, F failed, l leaving, L left, E evicted, \
         ? record only, . unknown"
            .to_owned(),
    );
    for host in 0..world.len() {
        let process = world.process(host);
        let Some(core) = world.core(host) else {
            let why = world
                .stopped(host)
                .map_or_else(|| "dead".to_owned(), |stop| format!("{stop:?}"));
            lines.push(format!("n{host:<4} {why}"));
            continue;
        };
        let cells: String = columns
            .iter()
            .map(|(id, _)| cell(world, host, *id))
            .collect();
        let paused = if process == Process::Paused {
            " paused"
        } else {
            ""
        };
        lines.push(format!(
            "n{host:<4} {cells}  {}{paused}, living {}, health {}, digest {:016x}",
            core.phase_name(),
            core.living(),
            core.health_score(),
            core.table().digest()
        ));
    }
    lines
}

fn cell(world: &World, observer: HostId, id: NodeId) -> char {
    let Some(entry) = world.core(observer).and_then(|core| core.table().get(id)) else {
        return '.';
    };
    let present = world
        .truth
        .running(id)
        .is_none_or(|life| life.generation == entry.identity.generation);
    match entry.status() {
        _ if entry.swim.is_none() => '?',
        Status::Alive if !present => 'a',
        Status::Alive => 'A',
        Status::Suspect => 's',
        Status::Failed => 'F',
        Status::Leaving => 'l',
        Status::Left => 'L',
        Status::Evicted => 'E',
    }
}
