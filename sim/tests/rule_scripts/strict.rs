//! What happens in strict clusters.

use std::time::Duration;

use kith_proto::config::Consistency::Strict;
use kith_sim::lab::{Lab, Omit, client::Asked};

use super::*;

// Two proposals at once, five members: the owner, which has started again, and one that thinks it gone. What the
// second one has chosen is accepted by one that has not promised for it; then the acceptance that the first
// one asked for arrives there, late, and a third proposal adopts that.
//
//   b: prepare a, d; accept ......................(late)......................> a, d
//   c:      prepare a, e;   accept e, d   (chosen by c, d, e)
//   a, b or d:                                       proposes again, without c and e
fn an_acceptance_that_comes_late(omit: Option<Omit>) -> Lab {
    let mut setup = setup(3, Strict, 5, omit);
    setup.settings.copies = 5;
    let mut lab = settled(setup);
    let [b, a, d, e, c] = members(&lab)[..] else {
        panic!("five members");
    };
    let before = epoch(&lab, b);
    for (one, other) in [(b, c), (b, e), (c, d), (d, e), (a, e)] {
        lab.cut(one, other);
    }
    lab.noticed.end = 30_000..30_001;
    lab.kill(b, false);
    lab.start(b);
    until(&mut lab, "b asks for acceptance", |lab| {
        has_accepted(lab, b)
    });
    lab.stall(b, a);
    lab.stall(b, d);
    fails(&mut lab, c, b);
    until(&mut lab, "c asks for acceptance", |lab| {
        has_accepted(lab, c)
    });
    lab.cut(c, a);
    lab.restore(c, d);
    until(&mut lab, "c has chosen", |lab| epoch(lab, c) > before);
    lab.cut(c, d);
    lab.run(Duration::from_millis(20));
    assert!(has_accepted(&lab, d), "what c proposed");
    lab.restore(b, a);
    lab.restore(b, d);
    until(&mut lab, "a configuration without c", |lab| {
        [a, b, d].iter().any(|node| epoch(lab, *node) > before)
    });
    end(lab)
}

#[test]
fn rule_3_an_acceptance_without_a_promise() {
    caught(
        an_acceptance_that_comes_late,
        Omit::AcceptancePromises,
        &["ownership"],
    );
}

// The owner stops; b takes over, and c has accepted what b chose. Then c starts again, and b does not.
fn a_vote_is_forgotten(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(17, Strict, 3, omit));
    let [a, b, c] = three_members(&lab);
    let before = epoch(&lab, c);
    lab.kill(a, false);
    until(&mut lab, "b has chosen", |lab| epoch(lab, b) > before);
    lab.kill(b, false);
    lab.kill(c, false);
    lab.start(c);
    lab.start(a);
    until(&mut lab, "a or c goes on", |lab| {
        epoch(lab, a).max(epoch(lab, c)) > before
    });
    end(lab)
}

#[test]
fn ballots_that_are_not_durable() {
    caught(a_vote_is_forgotten, Omit::DurableBallots, &["ownership"]);
}

// The owner has begun anew, and does not hear that c has installed that: it says so again, late. Meanwhile b has
// taken over, and c has accepted what b chose.
fn installed_twice(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(4, Strict, 3, omit));
    let [a, b, c] = three_members(&lab);
    let before = epoch(&lab, c);
    lab.noticed.end = 3000..3001;
    lab.kill(a, false);
    lab.start(a);
    until(&mut lab, "c has it", |lab| epoch(lab, c) > before);
    let before = epoch(&lab, c);
    lab.stall(a, c);
    until(&mut lab, "b has it", |lab| epoch(lab, b) == before);
    // It has been said again by then.
    lab.run(Duration::from_millis(400));
    lab.cut(a, b);
    fails(&mut lab, b, a);
    until(&mut lab, "b has chosen", |lab| epoch(lab, b) > before);
    lab.cut(b, c);
    assert!(has_accepted(&lab, c), "what b has chosen");
    lab.restore(a, c);
    lab.run(Duration::from_millis(20));
    lab.kill(a, false);
    lab.start(a);
    until(&mut lab, "a or c goes on", |lab| {
        epoch(lab, a).max(epoch(lab, c)) > before
    });
    end(lab)
}

#[test]
fn rule_5_the_present_configuration_is_installed_again() {
    caught(installed_twice, Omit::InstalledOnce, &["ownership"]);
}

// A write is on two of three. The machine of one of them loses power, and its disk the write; the process of
// the other one ends. Those that are left do not have it.
fn a_machine_forgets(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(5, Strict, 3, omit));
    let [a, b, c] = three_members(&lab);
    cut_from_all(&mut lab, c);
    write(&mut lab, a);
    lab.stop_machine(b, 0);
    lab.kill(a, false);
    restore_to_all(&mut lab, c);
    lab.start(b);
    lab.run(Duration::from_secs(4));
    end(lab)
}

#[test]
fn rule_8_who_may_have_forgotten_something() {
    caught(
        a_machine_forgets,
        Omit::LearnerMark,
        &["durability", "linearizability"],
    );
}

// A node that was a member once is filled, and what it got stays there when it is cut off in the middle. Then
// the key is deleted, and the deletion forgotten. The owner may not remove what is of its own epoch.
fn filled_in_vain(omit: Option<Omit>) -> Lab {
    let mut setup = setup(10, Strict, 3, omit);
    setup.tombstone_grace = Duration::from_millis(500);
    let mut lab = settled(setup);
    let (former, newcomer) = replaced(&mut lab);
    cut_from_all(&mut lab, former);
    lab.leave(newcomer);
    lab.run(Duration::from_millis(100));
    let owner = members(&lab)[0];
    write(&mut lab, owner);
    assert!(entries(&lab, former).is_empty(), "it is elsewhere");
    restore_to_all(&mut lab, former);
    until(&mut lab, "it is being filled", |lab| {
        !entries(lab, former).is_empty()
    });
    cut_from_all(&mut lab, former);
    ask(&mut lab, owner, Asked::Delete);
    until(&mut lab, "the deletion is forgotten", |lab| {
        entries(lab, owner).is_empty()
    });
    end(lab)
}

#[test]
fn rule_6_a_former_member_is_filled() {
    caught(filled_in_vain, Omit::FreshLearner, &["placement"]);
}

// The owner's clock jumps two minutes ahead of the others'.
fn a_clock_ahead(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(1, Strict, 5, omit));
    let owner = members(&lab)[0];
    lab.set_wall_error(owner, 120_000);
    lab.run(Duration::from_secs(10));
    let value = client::value(&mut lab);
    let index = ask(&mut lab, owner, Asked::Write(value, Only::Always));
    lab.run(Duration::from_millis(50));
    let written = lab.clients.history[index].written();
    assert_eq!(written.is_some(), omit.is_some(), "refused by the rule");
    lab
}

#[test]
fn rule_9_a_clock_that_is_ahead() {
    caught(a_clock_ahead, Omit::ClockBound, &["clocks"]);
}

// The owner repairs a member, and what it sends waits on its way: "drop this, I do not have it". Meanwhile the
// others have taken over, with what was to be dropped; then it arrives, and that member takes over. Whether it waits
// just there depends on when the stream stalls.
fn dropped_late(omit: Option<Omit>, after: Duration) -> Lab {
    let mut lab = settled(setup(12, Strict, 3, omit));
    let [b, a, c] = three_members(&lab);
    let before = epoch(&lab, b);
    // What b alone has.
    for other in [a, c] {
        lab.stall(b, other);
    }
    let value = client::value(&mut lab);
    ask(&mut lab, b, Asked::Write(value, Only::Always));
    for other in [a, c] {
        fails(&mut lab, other, b);
    }
    until(&mut lab, "a has taken over", |lab| {
        epoch(lab, a) > before && lab.servers(P).contains(&a)
    });
    for other in [a, c] {
        lab.restore(b, other);
        lab.believe(other, b, Standing::Living);
    }
    until(&mut lab, "b hears of it", |lab| epoch(lab, b) > before);
    lab.run(after);
    lab.stall(a, b);
    lab.cut(a, c);
    for other in [b, c] {
        fails(&mut lab, other, a);
    }
    let before = epoch(&lab, a);
    until(&mut lab, "c has taken over", |lab| {
        epoch(lab, c) > before && lab.servers(P).contains(&c)
    });
    read(&mut lab, c);
    lab.restore(a, b);
    lab.run(Duration::from_millis(50));
    lab.kill(c, false);
    lab.believe(b, a, Standing::Living);
    lab.run(Duration::from_secs(3));
    end(lab)
}

#[test]
fn rule_4_a_transfer_that_comes_late() {
    let mut found = Vec::new();
    for step in 0..30 {
        let after = Duration::from_micros(500) * step;
        let kept = dropped_late(None, after);
        assert_eq!(kept.objections(), Vec::<Objection>::new(), "{after:?}");
        found.extend(checks(&dropped_late(Some(Omit::Attempts), after)));
    }
    assert!(found.contains(&"linearizability"), "{found:?}");
}

// The others have taken over, and one of them still hears the owner before, which knows nothing of that.
fn written_in_an_earlier_epoch(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(13, Strict, 3, omit));
    let [a, b, c] = three_members(&lab);
    let before = epoch(&lab, a);
    lab.cut(a, b);
    fails(&mut lab, b, a);
    until(&mut lab, "b has taken over", |lab| {
        epoch(lab, c) > before && lab.servers(P).contains(&b)
    });
    write(&mut lab, b);
    let value = client::value(&mut lab);
    ask(&mut lab, a, Asked::Write(value, Only::Always));
    lab.run(Duration::from_millis(50));
    read(&mut lab, b);
    end(lab)
}

#[test]
fn rule_10_writes_of_an_earlier_epoch() {
    let by = ["ownership", "linearizability"];
    caught(written_in_an_earlier_epoch, Omit::ExactEpoch, &by);
}

// A newcomer takes the place of a member while another one has not heard of the last write yet. (It is wanted there with this
// seed.)
fn replaced_by_a_newcomer(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(34, Strict, 3, omit));
    let [a, b, c] = three_members(&lab);
    for other in [a, c] {
        lab.stall(other, b);
    }
    write(&mut lab, a);
    let newcomer = lab.add();
    until(&mut lab, "the newcomer is a member", |lab| {
        members(lab).contains(&newcomer)
    });
    assert!(!members(&lab).contains(&c), "in place of the last");
    lab.run(Duration::from_millis(100));
    for other in [a, c] {
        lab.restore(other, b);
    }
    end(lab)
}

#[test]
fn copies_dropped_too_early() {
    caught(replaced_by_a_newcomer, Omit::KeptCopies, &["redundancy"]);
}

// The only copy is handed over to three newcomers. Its owner has chosen that, and its disk takes long to say so: it
// ends, and nobody has heard of it. It comes back when the newcomers have long given it up.
fn handed_over_and_gone(omit: Option<Omit>) -> Lab {
    // Where its place is elsewhere depends on the identifiers, which are drawn.
    let hands_over = |seed: u64| {
        let founder = 0;
        let mut lab = Lab::new(setup(seed, Strict, 5, omit));
        lab.run(Duration::from_millis(400));
        lab.slow_disk(founder, Some(Duration::from_millis(500)));
        let id = lab.id(founder);
        let is_over = |chain: &Chain| !chain.config.has(id);
        if !lab.run_until(STEP, Duration::ZERO, |lab| {
            chain(lab, founder).is_some_and(is_over)
        }) {
            return None;
        }
        let chosen = epoch(&lab, founder);
        lab.kill(founder, false);
        lab.run(Duration::from_secs(12));
        lab.slow_disk(founder, None);
        let unheard = (1..lab.len()).all(|node| epoch(&lab, node) < chosen);
        unheard.then_some(lab)
    };
    let lab = (1..100).find_map(hands_over).expect("it hands all over");
    end(lab)
}

#[test]
fn copies_that_may_be_counted_on() {
    caught(handed_over_and_gone, Omit::HeldCopies, &["placement"]);
}
