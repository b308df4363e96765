//! The driver: the one task that touches the core.
//!
//! ```text
//!   gossip socket ──datagrams──┐                        ┌── datagrams, frames, dials, knocks
//!   peers ────────reports──────┤   handle(now, input)   ├── Persist, Keys: before what follows
//!   handles ──────requests─────┼─────────> core ────────┤── events: to the log and its readers
//!   timer ────────Tick─────────┘       poll_output()    └── replies, Stop
//! ```
//!
//! Time is fed last. After every wake-up, whatever has arrived is handed over before a
//! `Tick` is, so that the core never counts somebody as silent whose answer was already
//! here. A process that was stopped, starved or suspended finds itself far behind its timer;
//! then bytes wait not only in the gossip socket but in those of all peer streams, and the
//! threads that read them run before time passes (see [`Driver::settle`]).
//!
//! Frames about partitions go past it, between streams and shards (see [`crate::peer`]), once it has
//! said whose stream is whose.
//!
//! Outputs are carried out in the order in which the core gave them. What follows a
//! `Persist` may only happen once that is on the disk; if it does not get there, the
//! node stops, because it could no longer keep what it promises.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kith_proto::{
    core::Core,
    input::{Command, Input, RequestId},
    output::{Answer, Output, Refusal, Stop},
    time::Time,
    wire::keyring::Keyring,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

pub(crate) use self::hand_over::Departure;
use crate::{
    clock::Clock,
    counters::HostCounters,
    disk::Disk,
    events::EventLog,
    handle::Request,
    kv::TopologyNode,
    log_event,
    partitions::{FromShard, Nodes, Partitions},
    peer::{Peers, Report},
    tls::{Certificates, TlsError, TlsSetup},
    udp::GossipSocket,
    views,
};

/// More than this behind its timer, the node was kept from running.
const LATE: Duration = Duration::from_millis(50);
/// How long others get at a time to run, before the threads that read streams are asked to.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(1);
/// How many times at least, and at most while there is still something new.
const CATCH_UP_ROUNDS: std::ops::RangeInclusive<u32> = 2..=8;
/// What is taken from each source between two looks at the clock: a flood on one of them
/// must not keep the others, or time, from their turn.
const BATCH: usize = 4096;
/// How long the timer is set if the core has nothing to wait for.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// Everything that the driver owns, to be made by [`crate::node::Node::start`].
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) clock: Clock,
    pub(crate) gossip: GossipSocket,
    pub(crate) peers: Peers,
    pub(crate) reports: mpsc::Receiver<Report>,
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) replies: Replies,
    pub(crate) disk: Disk,
    pub(crate) keys: Keyring,
    pub(crate) certificates: Option<Certificates>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) host: views::Host,
    pub(crate) counters: Arc<HostCounters>,
    pub(crate) partitions: Partitions,
    pub(crate) from_shards: mpsc::UnboundedReceiver<FromShard>,
    pub(crate) departure: Option<Departure>,
    pub(crate) stopped: watch::Sender<Option<Stop>>,
}

/// Commands that wait for what the core answers.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    last: u64,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
}

impl Driver {
    /// Runs until the core stops, or cannot be served any more; then sends what is queued,
    /// and tells why at the very end.
    pub(crate) async fn run(mut self) {
        let stop = self.drive().await;
        // Nobody gets an answer any more: those who wait learn that the node has stopped.
        drop(self.requests);
        drop(self.replies);
        drop(self.reports);
        self.peers.shutdown().await;
        self.partitions.close().await;
        // The lock is given back first: whoever waits for the end may start the next life.
        drop(self.disk);
        self.stopped.send_replace(Some(stop));
    }

    async fn drive(&mut self) -> Stop {
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            if let Some(stop) = self.carry_out() {
                return stop;
            }
            if let Some(stop) = self.tell_partitions() {
                return stop;
            }
            if self.has_handed_over() {
                continue;
            }
            let wake = match self.core.poll_timeout() {
                Some(due) => self.clock.instant(due).into(),
                None => Instant::now() + NOTHING_DUE,
            };
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                readable = self.gossip.readable() => if let Err(error) = readable {
                    return broken("the gossip socket is gone", &error);
                },
                Some(report) = self.reports.recv() => self.take(report),
                Some(request) = self.requests.recv() => self.serve(request),
                Some(what) = self.from_shards.recv() => if let Some(stop) = self.heed(what) {
                    return stop;
                },
                () = timer.as_mut() => {}
            }
            self.absorb();
            if let Some(stop) = self.absorb_shards() {
                return stop;
            }
            let Some(due) = self.due() else { continue };
            if let Some(stop) = self.carry_out() {
                return stop;
            }
            if let Some(stop) = self.settle(due).await {
                return stop;
            }
            if self.due().is_some() {
                self.feed(Input::Tick);
            }
        }
    }

    /// The time that was due, if it is now.
    fn due(&self) -> Option<Time> {
        self.core
            .poll_timeout()
            .filter(|due| *due <= self.clock.now())
    }

    /// Before time passes: lets whatever reads sockets run, and takes what that brings.
    /// Once is enough for a node that is on time; one that is late may have much to read.
    async fn settle(&mut self, due: Time) -> Option<Stop> {
        let mut late_by = self.clock.now().saturating_since(due);
        if late_by <= LATE {
            let before = self.clock.now();
            yield_now().await;
            self.absorb();
            if let Some(stop) = self.carry_out() {
                return Some(stop);
            }
            // A starved process is interrupted while it runs, not while it waits: perhaps
            // between the system's answer about its sockets and this line.
            late_by = self.clock.now().saturating_since(before);
            if late_by <= LATE {
                return None;
            }
        }
        self.counters.late_wakeups.up();
        tracing::debug!(target: "kith", ?late_by, "this process was kept from running");
        self.catch_up().await
    }

    async fn catch_up(&mut self) -> Option<Stop> {
        for round in 1..=*CATCH_UP_ROUNDS.end() {
            let before = self.clock.now();
            sleep(CATCH_UP_PAUSE).await;
            self.peers.let_read(LATE).await;
            let brought = self.absorb();
            if let Some(stop) = self.carry_out() {
                return Some(stop);
            }
            let is_late_again = self.clock.now().saturating_since(before) > LATE;
            if brought == 0 && !is_late_again && round >= *CATCH_UP_ROUNDS.start() {
                break;
            }
        }
        None
    }

    /// Feeds the core all that has arrived, up to a bound for each source. Returns how much
    /// that was.
    fn absorb(&mut self) -> usize {
        let mut taken = 0;
        for _ in 0..BATCH {
            let Some((from, data)) = self.gossip.receive() else {
                break;
            };
            self.feed(Input::Datagram { from, data });
            taken += 1;
        }
        for _ in 0..BATCH {
            let Ok(report) = self.reports.try_recv() else {
                break;
            };
            self.take(report);
            taken += 1;
        }
        for _ in 0..BATCH {
            let Ok(request) = self.requests.try_recv() else {
                break;
            };
            self.serve(request);
            taken += 1;
        }
        taken
    }

    fn feed(&mut self, input: Input) {
        #[cfg(test)]
        tests::note(&input);
        self.core.handle(self.clock.now(), input);
    }

    fn take(&mut self, report: Report) {
        if let Report::Frame {
            stream,
            frame,
            room,
            introduction,
        } = report
        {
            return self.take_frame(stream, frame, room, introduction);
        }
        let input = self.peers.take(report);
        self.feed(input);
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Agent(reply) => {
                let mut view = views::agent(&self.core, &self.host);
                view.leaving = self.departure_view();
                answer(reply, view);
            }
            Request::Members(reply) => {
                let topology = self.partitions.topology();
                answer(reply, views::members(&self.core, &self.host, &topology));
            }
            Request::Partitions(key, reply) => self.show_partitions(key, reply),
            Request::Status(reply) => {
                answer(
                    reply,
                    views::status(&self.core, &self.partitions.topology()),
                );
            }
            Request::SafeToStop(member, reply) => {
                answer(reply, views::stopping(&self.core, &member));
            }
            Request::Recover(only, reply) => self.partitions.recover(only, reply),
            Request::Keys(reply) => answer(reply, views::keys(&self.keys)),
            Request::Counters(reply) => {
                let mut all = views::counters(&self.core);
                all.extend(self.counters.snapshot());
                let (shown, showing) = oneshot::channel();
                self.partitions.show(shown);
                tokio::spawn(async move {
                    if let Ok(showing) = showing.await {
                        let held = showing.partitions.iter();
                        let (keys, bytes) = held.fold((0, 0), |(keys, bytes), one| {
                            (keys + one.entries, bytes + one.bytes)
                        });
                        all.extend([("held_keys", keys), ("held_bytes", bytes)]);
                        all.extend(showing.counters);
                    }
                    answer(reply, all);
                });
            }
            Request::Settings(settings, reply) => {
                self.host.settings = settings;
                answer(reply, ());
            }
            Request::KeyGiven(key, reply) => {
                self.disk.set_given(Some(key));
                let kept = self.disk.store_keys(&self.keys);
                answer(reply, kept.map_err(|error| error.to_string()));
            }
            Request::Certificates(certificates, reply) => {
                answer(reply, self.use_certificates(certificates));
            }
            Request::Command(command, reply) => self.command(command, reply),
        }
    }

    fn use_certificates(&mut self, certificates: Option<Certificates>) -> Result<(), TlsError> {
        let tls = TlsSetup::new(&self.keys, certificates.as_ref())?;
        self.peers.set_tls(tls);
        self.certificates = certificates;
        Ok(())
    }

    fn command(&mut self, command: Command, reply: oneshot::Sender<Answer>) {
        if let Command::Leave { returning } = command
            && self.hands_over(returning)
        {
            return answer(reply, Answer::Done);
        }
        self.replies.last += 1;
        let request = RequestId(self.replies.last);
        self.replies.waiting.insert(request, reply);
        self.feed(Input::Command { request, command });
    }

    /// Does all that the core asks, in order. Returns how it ends, if it does.
    fn carry_out(&mut self) -> Option<Stop> {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Datagram { to, data } => self.gossip.send(to, &data),
                Output::Dial { dial, to } => self.peers.dial(dial, to),
                Output::Knock { knock, to } => self.peers.knock(knock, to),
                Output::Frame { stream, frame } => self.peers.send(stream, frame),
                Output::Close { stream } => self.peers.close(stream),
                Output::Resolve { seeds } => self.peers.resolve(seeds),
                Output::Persist(durable) => {
                    if let Err(error) = self.disk.store(&durable) {
                        return Some(broken("the node's state could not be kept", &error));
                    }
                    self.counters.persisted.up();
                }
                Output::Keys(keys) => {
                    if let Err(error) = self.disk.store_keys(&keys) {
                        return Some(broken("the cluster's keys could not be kept", &error));
                    }
                    self.keys = *keys;
                    match TlsSetup::new(&self.keys, self.certificates.as_ref()) {
                        Ok(tls) => self.peers.set_tls(tls),
                        Err(error) => return Some(broken("new keys could not be used", &error)),
                    }
                }
                Output::Event(event) => log_event::log(&self.events.publish(event)),
                Output::Reply {
                    request,
                    answer: what,
                } => {
                    if let Some(reply) = self.replies.waiting.remove(&request) {
                        answer(reply, what);
                    }
                }
                Output::Stop(stop) => return Some(self.in_words_of_the_host(stop)),
            }
        }
        None
    }

    /// The core knows of no certificates but those that come from the cluster key.
    fn in_words_of_the_host(&self, stop: Stop) -> Stop {
        if let Stop::Refused(Refusal::WrongKey { address }) = &stop
            && let Some(why) = self.peers.wrong_certificate(*address)
        {
            return Stop::Refused(Refusal::WrongCertificate {
                address: *address,
                why: why.to_owned(),
            });
        }
        stop
    }
}

/// Whoever asked may have gone; then there is nobody to be told.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    drop(reply.send(value));
}

/// The host cannot serve the core any more.
fn broken(what: &str, error: &dyn std::error::Error) -> Stop {
    tracing::error!(target: "kith", %error, "{what}: this node stops. Mend the cause and start it again");
    Stop::LeftUncleanly(format!("{what}: {error}"))
}

mod hand_over;
#[cfg(test)]
mod tests;
