//! Work that changes hands while clients write: a node joins, another leaves.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use kith_tests::process;

use crate::{
    Options, Rows,
    figures::{Row, Unit},
    holdings::{self, Holdings, settled},
    load::{Done, Load},
    machines::Machines,
    subject::Subject,
};

/// What is held before: so many values of so many bytes.
const VALUES: usize = 6_400;
const VALUE: usize = 10 << 10;
/// Clients: each writes a key of its own so often.
const CLIENTS: usize = 128;
const EACH: Duration = Duration::from_millis(125);
/// How long they write before and between, with nothing else going on.
const CALM: Duration = Duration::from_secs(10);
/// Nothing has moved for so long: it is over.
const STILL: Duration = Duration::from_secs(2);

/// A sixth of five joins, then one of the first five leaves; and again.
pub(crate) fn join_and_leave(options: &Options, subject: &Subject, nodes: usize) -> Rows {
    let row = |what: &str, unit| Row::new(what, subject, nodes, unit);
    let mut calm = Clients::new("calm", &row);
    let mut join = Change::new("join", &row);
    let mut leave = Change::new("leave", &row);
    let mut lost = row("… keys with less than was acknowledged", Unit::Count);
    let trials = options.slow_trials.min(nodes - 1);
    let mut machines = Machines::start(subject, nodes, trials, &[])?;
    holdings::fill(machines.cluster.nodes(), VALUES, VALUE)?;
    let mut members: Vec<usize> = (0..nodes).collect();
    for trial in 0..trials {
        // Never the seed of the others.
        let leaver = 1 + trial;
        let stay: Vec<usize> = members.iter().copied().filter(|&i| i != leaver).collect();
        settled(&machines.cluster, &members, STILL, |_| true)?;
        let through = stay.iter().map(|&i| machines.cluster.node(i));
        let load = Load::begin(CLIENTS, EACH, through)?;
        thread::sleep(Duration::from_secs(2));
        let before = Period::begin(&machines)?;
        thread::sleep(CALM);
        let before = before.end(&machines)?;

        let joining = Period::begin(&machines)?;
        let first = Holdings::of(&machines.cluster, &members)?;
        let joiner = machines.cluster.grow()?;
        members.push(joiner);
        let name = machines.cluster.node(joiner).name().to_owned();
        let share = |copies: usize| copies * 9 / 10 / (nodes + 1);
        let (second, joined) = settled(&machines.cluster, &members, STILL, |held| {
            held.copies_at(&name) >= share(held.copies())
                && held.owned_by(&name) >= share(held.len())
        })?;
        let joining = joining.end(&machines)?;
        thread::sleep(Duration::from_secs(2));

        let leaving = Period::begin(&machines)?;
        let mut command = machines.cluster.node(leaver).client(&["leave"])?;
        let (code, text) = process::run(&mut command)?;
        ensure!(code == 0, "leave: {text}");
        members.retain(|&i| i != leaver);
        let (third, left) = settled(&machines.cluster, &members, STILL, |_| true)?;
        let leaving = leaving.end(&machines)?;

        let done = load.finish()?;
        calm.add(&done, before.from, before.to);
        // As little as possible: what one of six keeps.
        let fewest = second.copies() / (nodes + 1);
        join.add(&done, &joining, &before, joined, &first, &second, fewest);
        let fewest = second.copies_at(machines.cluster.node(leaver).name());
        leave.add(&done, &leaving, &before, left, &second, &third, fewest);
        let gone = holdings::not_held(machines.cluster.node(0), VALUES, VALUE)?;
        lost.add(Ok((done.lost()? + gone) as f64));
    }
    let mut rows = calm.rows();
    rows.extend(join.rows());
    rows.extend(leave.rows());
    rows.push(lost);
    Ok(rows)
}

/// A stretch of time, with what nodes have said to each other in it (bytes).
struct Period {
    from: Instant,
    to: Instant,
    bytes: u64,
}

impl Period {
    fn begin(machines: &Machines) -> Result<Self> {
        let from = Instant::now();
        Ok(Self {
            from,
            to: from,
            bytes: machines.between_nodes()?,
        })
    }

    fn end(self, machines: &Machines) -> Result<Self> {
        Ok(Self {
            bytes: machines.between_nodes()? - self.bytes,
            to: Instant::now(),
            ..self
        })
    }

    fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }
}

/// What clients see in such a time.
struct Clients {
    writes: Row,
    median: Row,
    p99: Row,
    longest: Row,
    refused: Row,
    unknown: Row,
}

impl Clients {
    fn new(when: &str, row: &impl Fn(&str, Unit) -> Row) -> Self {
        let label = |what: &str| format!("{when}: {what}");
        Self {
            writes: row(&label("writes"), Unit::Count),
            median: row(&label("a write takes, median"), Unit::Millis),
            p99: row(&label("… p99"), Unit::Millis),
            longest: row(&label("… longest pause of a key"), Unit::Millis),
            refused: row(&label("… answers that a write is refused"), Unit::Count),
            unknown: row(&label("… answers that it is not known"), Unit::Count),
        }
    }

    fn add(&mut self, done: &Done, from: Instant, to: Instant) {
        let window = done.window(from, to);
        self.writes.add(Ok(window.writes as f64));
        self.median.add(Ok(window.median));
        self.p99.add(Ok(window.p99));
        self.longest.add(Ok(window.longest));
        self.refused.add(Ok(window.refused as f64));
        self.unknown.add(Ok(window.unknown as f64));
    }

    fn rows(self) -> Vec<Row> {
        vec![
            self.writes,
            self.median,
            self.p99,
            self.longest,
            self.refused,
            self.unknown,
        ]
    }
}

/// A change of members: what clients see, how long it takes, what it moves.
struct Change {
    clients: Clients,
    took: Row,
    copies: Row,
    fewest: Row,
    moved: Row,
    ratio: Row,
}

impl Change {
    fn new(what: &str, row: &impl Fn(&str, Unit) -> Row) -> Self {
        let label = |text: &str| format!("{what}: {text}");
        Self {
            clients: Clients::new(what, row),
            took: row(
                &label("all copies are in their places after"),
                Unit::Seconds,
            ),
            copies: row(&label("copies made anew"), Unit::Count),
            fewest: row(&label("… as few as possible"), Unit::Count),
            moved: row(
                &label("moved between nodes (IP level, clients' writes left out)"),
                Unit::MiB,
            ),
            ratio: row(
                &label("… for each byte of the copies made anew"),
                Unit::Times,
            ),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one trial's findings")]
    fn add(
        &mut self,
        done: &Done,
        period: &Period,
        calm: &Period,
        over: Instant,
        before: &Holdings,
        after: &Holdings,
        fewest: usize,
    ) {
        self.clients.add(done, period.from, over);
        self.took.add(Ok((over - period.from).as_secs_f64()));
        let movement = after.since(before);
        self.copies.add(Ok(movement.copies as f64));
        self.fewest.add(Ok(fewest as f64));
        let ordinary = calm.bytes as f64 / calm.seconds() * period.seconds();
        let moved = period.bytes as f64 - ordinary;
        self.moved.add(Ok(moved / f64::from(1 << 20)));
        self.ratio.add(Ok(moved / movement.bytes.max(1) as f64));
    }

    fn rows(self) -> Vec<Row> {
        let mut rows = self.clients.rows();
        rows.extend([self.took, self.copies, self.fewest, self.moved, self.ratio]);
        rows
    }
}
