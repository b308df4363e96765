//! Each checker catches a protocol that was broken on purpose: one that has never caught anything
//! proves nothing. What is broken is said by hooks of `world/tamper.rs`; the same runs without
//! them pass.

use std::{cell::Cell, rc::Rc, time::Duration};

use kith_proto::{event::Event, input::Input, output::Output};
use kith_sim::{
    fault::Action,
    options::{Mechanisms, NodeRange, Options, Setup, scenario},
    run::run_with,
    scenario::Step,
    world::World,
};

const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 5;

fn setup(name: &str, nodes: usize) -> Setup {
    Setup {
        scenario: scenario(name).expect("there is such a scenario"),
        seed: 1,
        nodes: Some(NodeRange {
            least: nodes,
            most: nodes,
        }),
        minutes: Some(1),
        mechanisms: Mechanisms::All,
    }
}

/// Which checker objects to what, if any does.
fn verdict(
    setup: &Setup,
    change: impl Fn(&mut Options),
    meddle: &mut dyn FnMut(&mut World),
) -> Option<(&'static str, String)> {
    let mut options = setup.draw();
    change(&mut options);
    let report = run_with(setup, options, None, meddle).report;
    let failed = report.violations.into_iter().next()?;
    Some((failed.violation.check, failed.violation.text))
}

/// Runs it broken and whole: the checker catches the one, and nobody objects to the other.
fn catches(
    check: &str,
    saying: &str,
    setup: &Setup,
    change: impl Fn(&mut Options),
    mut break_it: impl FnMut(&mut World),
) {
    let broken = verdict(setup, &change, &mut break_it);
    let Some((by, text)) = broken else {
        panic!("nobody noticed anything");
    };
    assert_eq!(by, check, "{text}");
    assert!(text.contains(saying), "{text}");
    assert_eq!(verdict(setup, &change, &mut |_| {}), None, "unbroken");
}

#[test]
fn detection_catches_who_never_notices_a_death() {
    // Node 1 hears nothing any more, not even that time passes. Others take it for dead, which is
    // another checker's business.
    let change = |options: &mut Options| {
        options.limits.false_alarms = 1000;
        options.plan = vec![Step {
            after: SECOND,
            action: Action::Kill(2),
        }];
        options.end = SECOND * 60;
    };
    catches(
        "detection",
        "n1 still shows",
        &setup("crash", NODES),
        change,
        |world| world.tamper_with_inputs(Box::new(|_, host, _| host != 1)),
    );
}

#[test]
fn false_alarm_catches_an_accusation_of_the_innocent() {
    // Node 1 runs well, and its network too, as far as the world knows.
    catches(
        "false_alarm",
        "which runs undisturbed",
        &setup("loss-5", NODES),
        |_| {},
        |world| {
            let deaf_until = world.now() + SECOND * 25;
            world.tamper_with_inputs(Box::new(move |now, host, input| {
                host != 1 || now > deaf_until || matches!(input, Input::Tick)
            }));
        },
    );
}

#[test]
fn convergence_catches_halves_that_never_meet_again() {
    catches(
        "convergence",
        "which lives, as Failed",
        &setup("two-node-split", 2),
        |_| {},
        |world| {
            world.tamper_with_outputs(Box::new(|_, _, output| match output {
                Output::Dial { .. } => Vec::new(),
                other => vec![other],
            }));
        },
    );
}

#[test]
fn lifecycle_catches_a_failure_that_is_told_twice() {
    catches(
        "lifecycle",
        "says twice",
        &setup("crash", NODES),
        |_| {},
        |world| {
            world.tamper_with_outputs(Box::new(|_, _, output| match output {
                Output::Event(event @ Event::MemberFailed { .. }) => {
                    vec![Output::Event(event.clone()), Output::Event(event)]
                }
                other => vec![other],
            }));
        },
    );
}

#[test]
fn lifecycle_catches_a_stop_that_is_told_as_a_failure() {
    let leave = |options: &mut Options| {
        options.plan = vec![Step {
            after: SECOND,
            action: Action::Leave {
                host: 2,
                returning: true,
            },
        }];
        options.end = SECOND * 5;
    };
    catches(
        "lifecycle",
        "which left",
        &setup("crash", NODES),
        leave,
        |world| {
            world.tamper_with_outputs(Box::new(|_, _, output| match output {
                Output::Event(Event::MemberLeft { who, .. }) => {
                    vec![Output::Event(Event::MemberFailed {
                        who,
                        reason: kith_proto::event::Reason::Refused,
                        accusers: vec!["n0".to_owned()],
                        last_contact_ms: 0,
                        detected_ms: 0,
                    })]
                }
                other => vec![other],
            }));
        },
    );
}

#[test]
fn traffic_catches_a_node_that_sends_everything_often() {
    catches(
        "traffic",
        "an idle node sends",
        &setup("crash", NODES),
        |_| {},
        |world| {
            world.tamper_with_outputs(Box::new(|_, _, output| match output {
                Output::Datagram { to, data } => (0..5)
                    .map(|_| Output::Datagram {
                        to,
                        data: data.clone(),
                    })
                    .collect(),
                other => vec![other],
            }));
        },
    );
}

#[test]
fn placement_catches_a_node_that_does_not_place_anew() {
    // Node 1 reads and answers everything, but its timers are never due again once a weight has
    // changed: it knows the new weight, and does nothing about it.
    let changed = Duration::from_secs(5);
    let weight = |options: &mut Options| {
        options.plan = vec![Step {
            after: changed,
            action: Action::Weight(3, 300),
        }];
        options.end = changed;
    };
    let told = Rc::new(Cell::new(false));
    let seen = Rc::clone(&told);
    catches(
        "placement",
        "place",
        &setup("crash", NODES),
        weight,
        move |world| {
            let seen = Rc::clone(&seen);
            world.tamper_with_inputs(Box::new(move |_, host, input| {
                if matches!(input, Input::Command { .. }) {
                    seen.set(true);
                }
                host != 1 || !seen.get() || !matches!(input, Input::Tick)
            }));
        },
    );
    assert!(told.get(), "the weight was never changed");
}

#[test]
fn arrival_catches_a_newcomer_that_nobody_lets_in() {
    catches(
        "arrival",
        "knows all others",
        &setup("join", NODES),
        |_| {},
        |world| {
            world.tamper_with_outputs(Box::new(|_, host, output| match output {
                Output::Dial { .. } if host >= NODES => Vec::new(),
                other => vec![other],
            }));
        },
    );
}
