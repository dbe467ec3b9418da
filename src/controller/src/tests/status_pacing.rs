//! When statuses are written: at once, once readings settle, or because figures are old.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;

const SECOND: SignedDuration = SignedDuration::from_secs(1);
const WINDOW: SignedDuration = SignedDuration::from_mins(15);

/// A status with one value of each class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Status {
    allowed: i32,
    ready: i32,
    desired: i32,
    limited_by: Option<LimitedBy>,
    spent: i64,
    as_of: Option<Timestamp>,
}

impl Status {
    fn readings(&self) -> Readings {
        Readings {
            desired_replicas: Some(self.desired),
            limited_by: self.limited_by,
            ..Readings::default()
        }
    }
}

/// An object whose status is written as its pacing says.
struct Paced {
    object: ConfigMap,
    pacing: StatusPacing,
    status: Option<Status>,
    present: Status,
    spending: bool,
    now: Timestamp,
    writes: Vec<Timestamp>,
    look_at: Option<Timestamp>,
}

impl Paced {
    fn new() -> Self {
        let mut paced = Self {
            object: serde_json::from_value(json!({"metadata": {"uid": "first"}})).unwrap(),
            pacing: StatusPacing::default(),
            status: None,
            present: Status::default(),
            spending: false,
            now: "2026-11-26T21:00:00Z".parse().unwrap(),
            writes: Vec::new(),
            look_at: None,
        };
        assert!(paced.write_if_due());
        paced
    }

    /// What is written now, if anything.
    fn ask(&mut self) -> Option<Status> {
        let none = Status::default();
        let old = self.status.as_ref().unwrap_or(&none);
        let change = Change {
            at_once: self.status.is_none() || old.allowed != self.present.allowed,
            counts: old.ready != self.present.ready,
            written: old.readings(),
            present: self.present.readings(),
            figures: old.spent != self.present.spent,
            spending: self.spending,
            as_of: old.as_of,
            changes_at: None,
        };
        let status = Status {
            as_of: Some(self.now),
            ..self.present.clone()
        };
        let old = self.status.as_ref();
        let next = self
            .pacing
            .next(&self.object, old, status, change, self.now);
        self.look_at = next.look_at;
        assert!(self.look_at.is_none_or(|at| at > self.now), "a busy loop");
        next.status
    }

    /// Looks, and writes if it is time. Returns whether it wrote.
    fn write_if_due(&mut self) -> bool {
        let status = self.ask();
        let writes = status.is_some();
        if writes {
            self.status = status;
            self.writes.push(self.now);
            assert!(self.ask().is_none(), "what is written is good enough");
        }
        writes
    }

    /// Time passes. It is looked at only when it must be.
    fn pass(&mut self, time: SignedDuration) {
        let end = self.now + time;
        while let Some(at) = self.look_at.filter(|at| *at <= end) {
            self.now = at;
            self.write_if_due();
        }
        self.now = end;
    }

    /// A reading changes the demand and the limit.
    fn flicker(&mut self) {
        self.present.desired = 3 - self.present.desired;
        self.present.limited_by = match self.present.limited_by {
            None => Some(LimitedBy::Stabilization),
            Some(_) => None,
        };
        self.write_if_due();
    }

    /// The most writes in any 15 minutes.
    fn most_writes(&self) -> usize {
        let starts = self.writes.iter();
        let within = |start: &Timestamp| {
            let in_window = |at: &&Timestamp| **at >= *start && **at < *start + WINDOW;
            self.writes.iter().filter(in_window).count()
        };
        starts.map(within).max().unwrap_or(0)
    }

    fn assert_settles(&mut self) {
        self.pass(LONGEST_WAIT);
        let written = self.status.as_ref().map(Status::readings);
        assert_eq!(written, Some(self.present.readings()));
        assert!(
            !self.spending && self.look_at.is_none(),
            "at rest there is no look"
        );
    }
}

#[test]
fn decisions_are_written_at_once_and_readings_once_they_keep_a_value() {
    let mut paced = Paced::new();
    paced.present.allowed = 1;
    assert!(paced.write_if_due());
    paced.flicker();
    assert_eq!(paced.look_at, Some(paced.now + SECOND * 2));
    paced.pass(SECOND);
    paced.flicker();
    assert_eq!(
        (paced.writes.len(), paced.look_at),
        (2, None),
        "it is as written"
    );
    paced.flicker();
    paced.pass(SECOND);
    assert_eq!(paced.writes.len(), 2);
    paced.pass(SECOND);
    assert_eq!(paced.writes.len(), 3);
    assert_eq!(
        paced.status.as_ref().map(Status::readings),
        Some(paced.present.readings())
    );
}

#[test]
fn counts_are_written_at_once_and_then_every_two_seconds() {
    let mut paced = Paced::new();
    paced.pass(SECOND * 60);
    paced.present.ready = 1;
    assert!(paced.write_if_due(), "the last write is long ago");
    // the pods of a gang become ready one after the other
    for ready in 2..=100 {
        paced.pass(SECOND / 10);
        paced.present.ready = ready;
        paced.write_if_due();
    }
    assert_eq!(
        paced.writes.len(),
        6,
        "the first one of all, and one in 2 s"
    );
    paced.pass(SECOND * 2);
    assert_eq!(paced.status.as_ref().map(|status| status.ready), Some(100));
    // a decision does not wait, and takes the counts along
    (paced.present.allowed, paced.present.ready) = (1, 99);
    assert!(paced.write_if_due());
    paced.assert_settles();
    assert_eq!(paced.writes.len(), 8);
}

#[test]
fn what_is_written_at_once_takes_readings_along() {
    let mut paced = Paced::new();
    paced.flicker();
    paced.present.allowed = 1;
    assert!(paced.write_if_due());
    assert_eq!(paced.look_at, None);
    paced.assert_settles();
    assert_eq!(paced.writes.len(), 2);
}

#[test]
fn the_wait_doubles_up_to_five_minutes_and_five_quiet_minutes_reset_it() {
    let mut paced = Paced::new();
    for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        paced.flicker();
        let settles_at = paced.now + SECOND * seconds;
        assert_eq!(paced.look_at, Some(settles_at));
        paced.pass(SECOND * seconds);
        assert_eq!(paced.writes.last(), Some(&settles_at));
    }
    paced.pass(QUIET - SECOND);
    paced.flicker();
    assert_eq!(paced.look_at, Some(paced.now + LONGEST_WAIT));
    paced.pass(LONGEST_WAIT + QUIET);
    paced.flicker();
    assert_eq!(paced.look_at, Some(paced.now + SHORTEST_WAIT));
}

#[test]
fn readings_that_alternate_in_any_rhythm_write_little_and_settle() {
    let mut most = 0;
    for step in 0..120 {
        // from 0.4 s to 20 minutes
        let period = 400.0 * 1.07_f64.powi(step);
        for share in [0.1, 0.5, 0.75] {
            let mut paced = Paced::new();
            let high = SignedDuration::from_millis((period * share) as i64);
            let low = SignedDuration::from_millis(period as i64) - high;
            while paced.now < paced.writes[0] + SECOND * 3600 {
                paced.flicker();
                paced.pass(high.max(SignedDuration::from_millis(1)));
                paced.flicker();
                paced.pass(low);
            }
            most = most.max(paced.most_writes());
            paced.assert_settles();
        }
    }
    assert_eq!(most, 7, "the bound in the module's documentation");
}

#[test]
fn the_worst_readings_cannot_write_more_than_eighteen_times_in_fifteen_minutes() {
    let mut most = 0;
    // each change comes as soon as the last one is written; after some writes there is a rest that
    // resets the wait
    for writes_before_rest in 1..12 {
        let mut paced = Paced::new();
        while paced.now < paced.writes[0] + SECOND * 3600 {
            for _ in 0..writes_before_rest {
                paced.flicker();
                let settles_at = paced.look_at.unwrap();
                paced.pass(settles_at.duration_since(paced.now));
            }
            paced.pass(QUIET);
        }
        most = most.max(paced.most_writes());
        paced.assert_settles();
    }
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut paced = Paced::new();
        while paced.now < paced.writes[0] + SECOND * 3600 {
            paced.flicker();
            let pause = match random.u8(..4) {
                0 => random.i64(1..3_000),
                1 => random.i64(1..60_000),
                2 => random.i64(1..400_000),
                // just after it is written
                _ => paced.look_at.map_or(300_000, |at| {
                    at.duration_since(paced.now).as_millis() as i64
                }),
            };
            paced.pass(SignedDuration::from_millis(pause));
        }
        most = most.max(paced.most_writes());
        paced.assert_settles();
    }
    assert!((12..=18).contains(&most), "{most}");
}

#[test]
fn a_write_that_failed_is_due_again_at_the_next_look_and_does_not_count() {
    let mut paced = Paced::new();
    paced.flicker();
    paced.now += SECOND * 2;
    for _ in 0..5 {
        assert!(paced.ask().is_some(), "it fails, so it is due again");
        paced.now += SECOND;
    }
    assert!(paced.write_if_due());
    paced.flicker();
    assert_eq!(
        paced.look_at,
        Some(paced.now + SHORTEST_WAIT * 2),
        "one write counts"
    );
    paced.present.allowed = 4;
    for _ in 0..3 {
        assert!(paced.ask().is_some());
        paced.now += SECOND;
    }
    assert!(paced.write_if_due());
}

#[test]
fn figures_are_written_every_five_minutes_while_they_change() {
    let mut paced = Paced::new();
    (paced.spending, paced.present.allowed) = (true, 1);
    paced.write_if_due();
    for _ in 0..60 {
        paced.present.spent += 1;
        paced.write_if_due();
        paced.pass(SECOND * 10);
    }
    assert_eq!(paced.writes.len(), 2 + 2, "{:?}", paced.writes);
    // one that fails is due again
    paced.present.spent += 1;
    paced.now += FIGURES_PACE;
    assert!(paced.ask().is_some());
    paced.now += SECOND;
    assert!(paced.write_if_due());
    paced.spending = false;
    assert!(!paced.write_if_due());
    assert_eq!(paced.look_at, None, "at rest time changes nothing");
    paced.present.spent += 1;
    assert!(!paced.write_if_due());
    assert_eq!(
        paced.look_at,
        Some(*paced.writes.last().unwrap() + FIGURES_PACE)
    );
}

#[test]
fn a_new_leader_goes_on_by_the_time_in_the_status() {
    let mut paced = Paced::new();
    paced.spending = true;
    paced.pacing = StatusPacing::default();
    paced.present.spent = 1;
    paced.now += SECOND * 299;
    assert!(!paced.write_if_due());
    paced.now += SECOND;
    assert!(paced.write_if_due());
}

#[test]
fn an_object_that_is_made_anew_remembers_nothing() {
    let mut paced = Paced::new();
    for _ in 0..4 {
        paced.flicker();
        paced.pass(SECOND * 60);
    }
    paced.object.metadata.uid = Some("second".to_owned());
    paced.status = None;
    assert!(paced.write_if_due());
    paced.flicker();
    assert_eq!(paced.look_at, Some(paced.now + SHORTEST_WAIT));
}

#[test]
fn a_clock_that_is_set_back_delays_nothing_for_long() {
    for back in [3, 200, 100_000] {
        let mut paced = Paced::new();
        for _ in 0..3 {
            paced.flicker();
            paced.pass(SECOND * 20);
        }
        paced.flicker();
        paced.now -= SECOND * back;
        paced.write_if_due();
        paced.assert_settles();
        paced.spending = true;
        paced.present.spent += 1;
        paced.write_if_due();
        let (writes, end) = (paced.writes.len(), paced.now + FIGURES_PACE * 2);
        paced.pass(end.duration_since(paced.now));
        assert!(
            paced.writes.len() > writes,
            "figures wait for a clock that was wrong"
        );
    }
}
