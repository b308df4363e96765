//! What foca did and wants, taken over after each call: packets, timers, notifications, and
//! what its codec saw.

use std::time::Duration;

use foca::{Notification, OwnedNotification, Runtime, Timer};

use super::{super::identity::Identity, Detector, Note, Seen};
use crate::time::Time;

/// What one call of foca asked for, in order.
#[derive(Default)]
pub(super) struct Effects {
    sends: Vec<(Identity, Vec<u8>)>,
    timers: Vec<(Timer<Identity>, Duration)>,
    notes: Vec<OwnedNotification<Identity>>,
}

impl Runtime<Identity> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        self.notes.push(notification.to_owned());
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((event, after));
    }
}

impl Detector {
    // Takes over what foca did and wants.
    pub(super) fn settle(&mut self, now: Time, result: Result<(), foca::Error>, effects: Effects) {
        if let Err(error) = result {
            self.count(error_kind(&error));
        }
        self.desk.lock().own = *self.foca.identity();
        for notification in effects.notes {
            self.note(now, notification);
        }
        for (timer, after) in effects.timers {
            self.schedule(now, timer, after);
        }
        for (to, data) in effects.sends {
            self.notes.push_back(Note::Send(to, data));
        }
        let (seen, news) = {
            let mut desk = self.desk.lock();
            (
                std::mem::take(&mut desk.seen),
                std::mem::take(&mut desk.news),
            )
        };
        for member in seen {
            self.notes.push_back(Note::Claimed(Seen::of(&member)));
        }
        if !news.is_empty() {
            // foca hands over broadcasts only of packets whose sender it accepted, and one
            // call handles one packet, whose sender was noted above.
            let sender = self.notes.iter().rev().find_map(|note| match note {
                Note::Heard(id) => Some(*id),
                _ => None,
            });
            if let Some(sender) = sender {
                self.notes
                    .extend(news.into_iter().map(|news| Note::News(sender, news)));
            }
        }
    }

    pub(super) fn note(&mut self, now: Time, notification: OwnedNotification<Identity>) {
        match notification {
            OwnedNotification::MemberUp(id) | OwnedNotification::MemberDown(id) => {
                self.notes.push_back(Note::Touched(id.id));
            }
            OwnedNotification::Rename(_, id) => self.notes.push_back(Note::Touched(id.id)),
            OwnedNotification::Rejoin(identity) => {
                self.probe = None;
                self.incarnation = 0;
                self.notes.push_back(Note::Renewed(identity));
            }
            OwnedNotification::DataReceived(header) => self.received(now, &header),
            OwnedNotification::DataSent(header) => self.sent(now, &header),
            // Told by `close_probe`, which knows since when the target has been silent.
            OwnedNotification::ProbeFailed(_, id) => self.notes.push_back(Note::Touched(id.id)),
            OwnedNotification::Idle | OwnedNotification::Defunct => self.probe = None,
            OwnedNotification::Active => {}
        }
    }
}

fn error_kind(error: &foca::Error) -> &'static str {
    match error {
        foca::Error::DataTooBig => "foca_too_big",
        foca::Error::NotUndead => "foca_not_undead",
        foca::Error::SameIdentity => "foca_same_identity",
        foca::Error::NotConnected => "foca_not_connected",
        foca::Error::IncompleteProbeCycle => "foca_incomplete_probe",
        foca::Error::DataFromOurselves => "foca_from_ourselves",
        foca::Error::IndirectForOurselves => "foca_indirect_for_ourselves",
        foca::Error::MalformedPacket => "foca_malformed",
        foca::Error::Encode(_) => "foca_encode",
        foca::Error::Decode(_) => "foca_decode",
        foca::Error::CustomBroadcast(_) => "foca_broadcast",
        foca::Error::InvalidConfig => "foca_config",
    }
}
