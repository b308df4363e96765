//! What each of a node's numbers says, for people: one sentence each, with the unit.

use std::{collections::HashMap, sync::LazyLock};

/// A line for each: its name, a colon, and what it says.
const LINES: &str = include_str!("help.txt");

static HELP: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    LINES
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect()
});

/// What a number of that name says; `None` if nobody has written that down.
pub(super) fn help(name: &str) -> Option<&'static str> {
    HELP.get(name).copied()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        api::metrics::{HELD, MILLIONTHS},
        counters::HostCounters,
    };

    /// How the protocol names what it counts.
    const COUNTED: [&str; 8] = [
        "count(\"",
        ".add(\"",
        "counters_up(\"",
        "counters.entry(\"",
        "counters.insert(\"",
        "reject(now, \"",
        "=> \"foca_",
        "=> \"rejected_",
    ];

    fn names_in(directory: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in(&path, names);
                continue;
            }
            let source = fs::read_to_string(&path).unwrap();
            for how in COUNTED {
                let (_, kept) = how.split_once('"').unwrap();
                for (at, _) in source.match_indices(how) {
                    let rest = &source[at + how.len()..];
                    let name = rest.split('"').next().unwrap();
                    names.push(format!("{kept}{name}"));
                }
            }
        }
    }

    #[test]
    fn everything_counted_is_explained() {
        let mut names = Vec::new();
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/src");
        names_in(Path::new(sources), &mut names);
        assert!(names.len() > 100, "{names:?}");
        let counters = HostCounters::default();
        for (name, _) in counters.snapshot() {
            // Of two under one name, only one would be seen.
            assert!(
                !names.iter().any(|it| it == name),
                "{name} is counted twice"
            );
            names.push(name.to_owned());
        }
        for name in &mut names {
            if let Some((_, ratio)) = MILLIONTHS.iter().find(|(whole, _)| whole == name) {
                *name = (*ratio).to_owned();
            }
        }
        for name in &names {
            let name = name.split('.').next().unwrap();
            assert!(help(name).is_some(), "nobody has explained {name}");
        }
        for (name, help) in HELP.iter() {
            let found = names.iter().any(|it| it.split('.').next() == Some(*name));
            assert!(found || HELD.contains(name), "nothing counts {name}");
            assert!(help.split(' ').count() > 3, "{name}: {help}");
            assert!(!help.ends_with('.'), "{name}: the format puts a full stop");
        }
    }

    #[test]
    fn lines_are_in_order_each_once() {
        let names: Vec<&str> = LINES
            .lines()
            .filter_map(|l| Some(l.split_once(": ")?.0))
            .collect();
        assert_eq!(names.len(), LINES.lines().count());
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
}
