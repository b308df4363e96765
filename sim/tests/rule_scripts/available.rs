//! What happens in available clusters.

use std::time::Duration;

use kith_proto::config::Consistency::Available;
use kith_sim::lab::{Lab, Omit, client::Asked};

use super::*;

// The owner wants a newcomer in place of a member, and has accepted that itself when it is cut off with the
// newcomer. The other two choose something else: the two that are cut off may not take the branch with them.
fn a_minority_with_a_plan(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(17, Available, 3, omit));
    let [a, b, c] = three_members(&lab);
    let newcomer = lab.add();
    until(&mut lab, "a has accepted", |lab| has_accepted(lab, a));
    for one in [a, newcomer] {
        for other in [b, c] {
            lab.cut(one, other);
            fails(&mut lab, one, other);
            fails(&mut lab, other, one);
        }
    }
    lab.run(Duration::from_secs(6));
    end(lab)
}

#[test]
fn rule_a1_a_minority_adopts_nothing() {
    caught(a_minority_with_a_plan, Omit::MajorityAdopts, &["ownership"]);
}

// The owner went on alone, and is asked for a promise by each of the others, who do not see each other.
fn asked_after_it_went_on_alone(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(8, Available, 3, omit));
    let [a, b, c] = three_members(&lab);
    let branch = |lab: &Lab, node| chain(lab, node).map(|chain| chain.config.id.branch);
    let before = branch(&lab, b);
    cut_from_all(&mut lab, a);
    fails(&mut lab, a, b);
    fails(&mut lab, a, c);
    until(&mut lab, "a goes on alone", |lab| branch(lab, a) != before);
    lab.cut(b, c);
    fails(&mut lab, b, c);
    fails(&mut lab, c, b);
    restore_to_all(&mut lab, a);
    lab.run(Duration::from_secs(5));
    end(lab)
}

#[test]
fn rule_a1_who_went_on_alone_is_mute() {
    caught(
        asked_after_it_went_on_alone,
        Omit::ForkedIsMute,
        &["ownership"],
    );
}

// A write is on two of three. One of these stops, and the other two, which do not see each other, go on alone: the
// one that has the write is joined into the other.
fn written_before_the_branch(omit: Option<Omit>) -> Lab {
    let mut lab = settled(setup(9, Available, 3, omit));
    let [a, b, c] = three_members(&lab);
    write(&mut lab, a);
    lab.run(Duration::from_millis(20));
    cut_from_all(&mut lab, c);
    write(&mut lab, a);
    lab.kill(b, false);
    lab.split(&[c]);
    lab.run(Duration::from_secs(4));
    // So that its branch is the one that is kept.
    lab.kill(c, false);
    lab.start(c);
    lab.run(Duration::from_secs(2));
    assert!(epoch(&lab, c) > epoch(&lab, a));
    lab.heal();
    lab.run(Duration::from_secs(5));
    end(lab)
}

#[test]
fn rule_a2_what_was_written_before_the_branch() {
    caught(written_before_the_branch, Omit::JoinsAll, &["durability"]);
}

// A node that was a member once is cut off, though nobody takes it for failed, while a key is deleted and the
// deletion forgotten. Then it becomes a member again.
fn away_for_too_long(omit: Option<Omit>) -> Lab {
    let mut setup = setup(6, Available, 3, omit);
    setup.tombstone_grace = Duration::from_millis(500);
    let mut lab = settled(setup);
    let owner = members(&lab)[0];
    write(&mut lab, owner);
    let (former, newcomer) = replaced(&mut lab);
    cut_from_all(&mut lab, former);
    assert!(!entries(&lab, former).is_empty(), "it has the key yet");
    let owner = members(&lab)[0];
    ask(&mut lab, owner, Asked::Delete);
    until(&mut lab, "the deletion is forgotten", |lab| {
        entries(lab, owner).is_empty()
    });
    lab.leave(newcomer);
    end(lab)
}

#[test]
fn rule_a5_who_was_away_for_too_long() {
    caught(away_for_too_long, Omit::StaleRebuilds, &["deletes"]);
}

// A member is down while a key is deleted, for longer than deletions are remembered.
fn deleted_while_a_member_is_down(omit: Option<Omit>) -> Lab {
    let mut setup = setup(2, Available, 3, omit);
    setup.tombstone_grace = Duration::from_millis(500);
    let mut lab = settled(setup);
    let [owner, backup, _] = three_members(&lab);
    write(&mut lab, owner);
    lab.run(Duration::from_millis(50));
    lab.kill(backup, false);
    lab.run(Duration::from_secs(1));
    ask(&mut lab, owner, Asked::Delete);
    lab.run(Duration::from_secs(5));
    end(lab)
}

#[test]
fn tombstones_dropped_too_early() {
    caught(
        deleted_while_a_member_is_down,
        Omit::TombstoneGrace,
        &["deletes"],
    );
}

// A former member went on alone, and its branch is the larger one. The owner hears of that when its members do not
// hear from it any more, and choose another owner.
fn a_rival_appears(omit: Option<Omit>) -> Lab {
    let mut setup = setup(11, Available, 4, omit);
    setup.repair_delay = Duration::from_secs(1);
    let mut lab = settled(setup);
    let [.., rival] = three_members(&lab);
    lab.split(&[rival]);
    lab.run(Duration::from_secs(6));
    let [owner, b, c] = members(&lab)[..] else {
        panic!("three members, another one in place of the one cut off");
    };
    while epoch(&lab, rival) <= epoch(&lab, owner) + 1 {
        lab.kill(rival, false);
        lab.start(rival);
        lab.run(Duration::from_secs(1));
    }
    for other in [b, c] {
        lab.cut(owner, other);
    }
    lab.restore(owner, rival);
    lab.believe(owner, rival, Standing::Living);
    lab.believe(rival, owner, Standing::Living);
    lab.run(Duration::from_millis(100));
    for other in [b, c] {
        fails(&mut lab, other, owner);
    }
    lab.run(Duration::from_secs(4));
    end(lab)
}

#[test]
fn rule_a4_a_branch_closed_by_its_owner_alone() {
    caught(a_rival_appears, Omit::ChosenClose, &["ownership"]);
}
