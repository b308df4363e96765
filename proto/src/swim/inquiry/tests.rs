//! An inquiry alone, with a clock of its own.

use super::*;

const TIMEOUT: Duration = Duration::from_millis(50);

fn start() -> (Inquiry, Time) {
    let now = Time::from_millis(1000);
    (Inquiry::new(now, 7, TIMEOUT), now)
}

#[test]
fn nothing_is_concluded_before_both_were_asked() {
    let (mut inquiry, now) = start();
    assert_eq!(
        inquiry.conclude(now + TIMEOUT),
        None,
        "the kernel was not heard"
    );
    inquiry.knocked(now, Knock::Refused);
    assert_eq!(inquiry.conclude(now), None, "the process has time left");
    assert_eq!(
        inquiry.conclude(now + TIMEOUT),
        Some(Conclusion::Silent(Reason::Refused))
    );
    assert_eq!(inquiry.conclude(now + TIMEOUT), None, "said already");
}

#[test]
fn a_kernel_that_answers_late_changes_the_conclusion_once() {
    let (mut inquiry, now) = start();
    assert!(inquiry.take_knock(now));
    inquiry.knocked(now, Knock::Silent);
    assert!(inquiry.take_knock(now), "asked again");
    assert_eq!(
        inquiry.conclude(now + TIMEOUT),
        Some(Conclusion::Silent(Reason::Unreachable))
    );
    inquiry.knocked(now, Knock::Accepted);
    assert!(!inquiry.take_knock(now));
    assert!(inquiry.take_knock(now + SECOND_KNOCK), "and once more");
    inquiry.knocked(now + SECOND_KNOCK, Knock::Accepted);
    assert_eq!(
        inquiry.conclude(now + TIMEOUT),
        Some(Conclusion::Silent(Reason::Unresponsive))
    );
    inquiry.knocked(now, Knock::Silent);
    assert_eq!(inquiry.conclude(now + TIMEOUT), None);
}

// The stream to a process breaks, and its kernel refuses from then on, both so many milliseconds after an inquiry
// began: when it is knocked at, and what is said.
fn killed(breaks: u64, refuses: u64) -> (Vec<u64>, Vec<(u64, Conclusion)>) {
    let (mut inquiry, start) = start();
    let (mut at, mut said) = (Vec::new(), Vec::new());
    for ms in 0..7000 {
        let now = start + Duration::from_millis(ms);
        if ms == breaks {
            inquiry.stream_broke(now);
        }
        if inquiry.take_knock(now) {
            at.push(ms);
            let answer = match ms < refuses {
                true => Knock::Accepted,
                false => Knock::Refused,
            };
            inquiry.knocked(now, answer);
        }
        said.extend(inquiry.conclude(now).map(|it| (ms, it)));
    }
    (at, said)
}

// On a busy machine a process that was killed may have its listening socket for long.
#[test]
fn a_kernel_that_accepts_though_the_stream_broke_is_asked_until_it_refuses() {
    let (at, said) = killed(0, 100);
    assert_eq!(at, [0, 15, 45, 105]);
    let silent = Conclusion::Silent;
    let wanted = [
        (50, silent(Reason::Unresponsive)),
        (105, silent(Reason::Refused)),
    ];
    assert_eq!(said, wanted);
}

// It falls silent first, and loses its streams when its last thread has ended.
#[test]
fn a_kernel_that_accepted_is_asked_again_when_the_stream_breaks() {
    let (at, said) = killed(300, 310);
    assert_eq!(at, [0, 15, 300, 315]);
    let silent = Conclusion::Silent;
    let wanted = [
        (50, silent(Reason::Unresponsive)),
        (315, silent(Reason::Refused)),
    ];
    assert_eq!(said, wanted);
}

#[test]
fn pings_are_repeated_with_growing_pauses() {
    let (mut inquiry, start) = start();
    let mut at = Vec::new();
    for ms in 0..4000 {
        if inquiry.take_ping(start + Duration::from_millis(ms)) {
            at.push(ms);
        }
    }
    assert_eq!(at, [0, 25, 75, 175, 375, 775, 1575, 2375, 3175, 3975]);
}

#[test]
fn a_process_that_only_does_not_read_is_asked_seldom() {
    // Over a stream or not, and what is known of it.
    let asked = |stream: Option<StreamId>, unsteady| {
        let (mut inquiry, start) = start();
        inquiry.unsteady = unsteady;
        inquiry.accepted_before = true;
        inquiry.knocked(start, Knock::Accepted);
        let mut at = Vec::new();
        for ms in 0..5000 {
            let now = start + Duration::from_millis(ms);
            if inquiry.take_ping(now) {
                let suspected = (ms >= 50).then_some((0, 0));
                stream.map(|stream| inquiry.take_stream_ping(stream, suspected));
                at.push(ms);
            }
            inquiry.conclude(now);
        }
        at
    };
    assert_eq!(asked(Some(StreamId(1)), false), [0, 25, 75, 175, 3175]);
    assert_eq!(asked(None, true), [0, 25, 75, 3075]);
    let often = asked(None, false);
    assert_eq!(often.len(), 11, "{often:?}");
}

#[test]
fn an_answer_over_the_stream_alone_is_believed_after_many_pings() {
    let (mut inquiry, now) = start();
    inquiry.answered_over_stream();
    inquiry.knocked(now, Knock::Refused);
    let mut at = now + TIMEOUT;
    assert_eq!(inquiry.conclude(at), None, "UDP may be lossy");
    let mut pings = 0;
    while inquiry.conclude(at) != Some(Conclusion::OnlyStream) {
        assert!(inquiry.next() > at || inquiry.take_ping(at), "it is stuck");
        pings += 1;
        at = inquiry.next();
    }
    assert_eq!(at, now + TIMEOUT + ONLY_STREAM);
    assert_eq!(pings, 25);
}

#[test]
fn when_only_udp_is_in_question_nobody_is_accused() {
    let now = Time::from_millis(1000);
    let mut inquiry = Inquiry::about_udp(now, 7, TIMEOUT);
    assert!(inquiry.take_ping(now) && !inquiry.take_knock(now));
    assert_eq!(inquiry.conclude(now + TIMEOUT), None);
    let end = now + ONLY_STREAM;
    assert_eq!(inquiry.clone().conclude(end), Some(Conclusion::Nothing));
    inquiry.answered_over_stream();
    assert_eq!(inquiry.conclude(end), Some(Conclusion::OnlyStream));
}

#[test]
fn a_stream_that_breaks_after_its_answer_leaves_the_question_open() {
    let (mut inquiry, now) = start();
    assert!(inquiry.take_knock(now));
    inquiry.answered_over_stream();
    let broke = now + TIMEOUT * 2;
    inquiry.stream_lost(broke);
    assert!(inquiry.take_ping(broke) && inquiry.take_knock(broke));
    inquiry.knocked(broke, Knock::Refused);
    assert_eq!(inquiry.conclude(broke), None, "it has time to answer");
    assert_eq!(
        inquiry.conclude(broke + TIMEOUT),
        Some(Conclusion::Silent(Reason::Refused))
    );
}

#[test]
fn a_sleeper_starts_over() {
    let (mut inquiry, now) = start();
    inquiry.knocked(now, Knock::Refused);
    assert!(inquiry.take_stream_ping(StreamId(1), None));
    let awake = now + Duration::from_secs(20);
    inquiry.excuse(awake);
    assert_eq!(inquiry.conclude(awake), None);
    assert!(inquiry.take_ping(awake) && inquiry.take_stream_ping(StreamId(1), None));
}

#[test]
fn over_a_stream_each_question_is_asked_once() {
    let (mut inquiry, _) = start();
    let mut asked = |stream, suspected| inquiry.take_stream_ping(StreamId(stream), suspected);
    assert!(asked(1, None) && !asked(1, None));
    assert!(asked(1, Some((0, 3))), "that it is suspected is new");
    assert!(!asked(1, Some((0, 3))));
    assert!(asked(2, Some((0, 3))), "another stream");
}
