//! Somebody deletes the Job of one role while the others run: all start again.

use bursar_core::model::event::{BatchJob, Event, Name, Owner};
use bursar_core::model::{Key, Model};
use bursar_core::plan::{JobOrder, decide};

use super::{at, job_of_roles, model, pod, set_job};

pub(super) const ROLES: [&str; 2] = ["master", "worker"];

pub(super) fn key() -> Key {
    Key::new("lab", "train")
}

pub(super) fn batch(role: &str, started: i64) -> BatchJob {
    BatchJob {
        running: true,
        uid: Some(format!("job-{role}").as_str().into()),
        started: Some(at(started)),
        active: 1,
        ..BatchJob::default()
    }
}

pub(super) fn set_batch(model: &mut Model, role: &str, second: i64, batch: Option<BatchJob>) {
    let event = Event::BatchJob(key(), role.into(), batch);
    model.apply(event, at(second));
}

pub(super) fn orders(model: &mut Model, second: i64) -> Vec<JobOrder> {
    decide(model, at(second)).job_orders
}

/// The gang of two roles of a worker each, whose Jobs and pods these are since second 0.
pub(super) fn gang(roles: &[&str]) -> Model {
    let mut model = model(2);
    set_job(&mut model, "train", 0, job_of_roles(&ROLES));
    for (rank, role) in (0..).zip(roles) {
        set_batch(&mut model, role, 0, Some(batch(role, 0)));
        let mut pod = pod(rank, rank, 0);
        pod.owner = Owner::Job("train".into(), Name::from(*role));
        pod.made_by = Some(format!("job-{role}").as_str().into());
        let uid = format!("uid-{role}").as_str().into();
        model.apply(Event::Pod(uid, Some(Box::new(pod))), at(0));
    }
    model
}

#[test]
fn when_somebody_deletes_the_job_of_one_role_all_start_again_and_it_does_not_count() {
    let mut model = gang(&ROLES);
    assert_eq!(orders(&mut model, 1), []);
    set_batch(&mut model, "worker", 10, None);
    let stop = orders(&mut model, 10).remove(0);
    assert!(!stop.run, "{stop:?}");
    let restart = stop.restart.unwrap();
    assert_eq!((restart.count, restart.at), (0, at(20)));
    let why = "somebody has deleted the Job of role worker";
    assert!(stop.reason.contains(why), "{stop:?}");
    assert!(stop.reason.contains("against no limit"), "{stop:?}");
    // the stop makes the Job again, suspended
    let master = BatchJob {
        running: false,
        restart_at: Some(restart.at),
        ..batch("master", 0)
    };
    let worker = BatchJob {
        uid: Some("job-worker-2".into()),
        ..BatchJob::default()
    };
    set_batch(&mut model, "master", 11, Some(master.clone()));
    set_batch(&mut model, "worker", 11, Some(worker));
    assert_eq!(orders(&mut model, 11), []);
    for role in ROLES {
        let uid = format!("uid-{role}").as_str().into();
        model.apply(Event::Pod(uid, None), at(12));
    }
    let master = BatchJob {
        active: 0,
        ..master
    };
    set_batch(&mut model, "master", 12, Some(master));
    assert_eq!(orders(&mut model, 19), []);
    let start = orders(&mut model, 20).remove(0);
    assert_eq!((start.run, start.restarts), (true, 0));
    assert_eq!(start.recreate.len(), 2, "{start:?}");
}

#[test]
fn a_start_that_a_leader_left_half_done_is_completed_within_a_minute_and_begun_anew_after_it() {
    let mut model = gang(&ROLES[..1]);
    let rest = orders(&mut model, 5).remove(0);
    assert!(rest.run && rest.restart.is_none(), "{rest:?}");
    // it is refused for a minute
    model.apply(Event::JobOrderFailed(key()), at(40));
    assert!(orders(&mut model, 40).remove(0).run);
    model.apply(Event::JobOrderFailed(key()), at(59));
    assert!(orders(&mut model, 59).remove(0).run);
    model.apply(Event::JobOrderFailed(key()), at(60));
    let stop = orders(&mut model, 60).remove(0);
    assert!(!stop.run && stop.restart.is_some(), "{stop:?}");
    assert!(
        stop.reason.contains("the Job of role worker is missing"),
        "{stop:?}"
    );
}
