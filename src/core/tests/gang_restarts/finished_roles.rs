//! A role has ended well, and its finished Job is removed: by its TTL, or by somebody who cleans up.

use bursar_core::model::event::{BatchJob, Event};
use bursar_core::model::{JobEnd, Model};
use jiff::Timestamp;

use super::deleted_jobs::{ROLES, batch, gang, key, orders, set_batch};
use super::{at, job_of_roles, set_job};

/// The Job of `master` has ended well.
fn finish(model: &mut Model, role: &str, second: i64) {
    let finished = BatchJob {
        finished: Some(true),
        active: 0,
        succeeded: 1,
        ..batch(role, 0)
    };
    set_batch(model, role, second, Some(finished));
    let uid = format!("uid-{role}").as_str().into();
    model.apply(Event::Pod(uid, None), at(second));
}

fn end(model: &Model) -> Option<JobEnd> {
    model.job_view(&key()).end
}

/// The status says that `master` has ended well.
fn record(model: &mut Model, second: i64) {
    let mut spec = job_of_roles(&ROLES);
    spec.ended_well = ["master".into()].into();
    set_job(model, "train", second, spec);
}

#[test]
fn a_finished_job_that_is_removed_restarts_nobody_and_the_gang_succeeds_without_it() {
    let mut model = gang(&ROLES);
    finish(&mut model, "master", 10);
    assert_eq!(orders(&mut model, 10), []);
    set_batch(&mut model, "master", 20, None);
    assert_eq!(orders(&mut model, 20), []);
    assert_eq!(orders(&mut model, 400), [], "it is not missing either");
    assert_eq!(end(&model), None);
    finish(&mut model, "worker", 500);
    assert_eq!(orders(&mut model, 500), []);
    assert_eq!(end(&model), Some(JobEnd::Succeeded));
    set_batch(&mut model, "worker", 600, None);
    assert_eq!(orders(&mut model, 600), [], "nothing starts it again");
    assert_eq!(end(&model), Some(JobEnd::Succeeded));
}

#[test]
fn a_new_leader_knows_it_from_the_status() {
    let mut model = gang(&[]);
    record(&mut model, 0);
    set_batch(&mut model, "worker", 0, Some(batch("worker", 0)));
    for second in [1, 100, 250] {
        assert_eq!(orders(&mut model, second), []);
    }
    finish(&mut model, "worker", 260);
    assert_eq!(orders(&mut model, 260), []);
    assert_eq!(end(&model), Some(JobEnd::Succeeded));
}

#[test]
fn a_suspended_gang_resumes_without_it() {
    let mut model = gang(&ROLES);
    finish(&mut model, "master", 10);
    set_batch(&mut model, "master", 20, None);
    let mut spec = job_of_roles(&ROLES);
    spec.suspend = true;
    set_job(&mut model, "train", 30, spec.clone());
    let stop = orders(&mut model, 30).remove(0);
    assert_eq!((stop.run, stop.done), (false, vec!["master".into()]));
    let stopped = BatchJob {
        running: false,
        active: 0,
        ..batch("worker", 0)
    };
    set_batch(&mut model, "worker", 31, Some(stopped));
    model.apply(Event::Pod("uid-worker".into(), None), at(31));
    spec.suspend = false;
    set_job(&mut model, "train", 40, spec);
    let start = orders(&mut model, 40).remove(0);
    assert_eq!((start.run, start.done), (true, vec!["master".into()]));
}

#[test]
fn when_a_worker_fails_all_start_again_also_the_role_whose_job_is_gone() {
    let mut model = gang(&ROLES);
    finish(&mut model, "master", 10);
    set_batch(&mut model, "master", 20, None);
    assert_eq!(orders(&mut model, 20), []);
    record(&mut model, 25);
    let mut pod = super::pod(1, 1, 0);
    pod.owner = bursar_core::model::event::Owner::Job("train".into(), "worker".into());
    pod.made_by = Some("job-worker".into());
    pod.ended = Some(at(30));
    pod.failure = Some("container worker: exit code 1".into());
    let event = Event::Pod("uid-worker".into(), Some(Box::new(pod)));
    model.apply(event, at(30));
    let stop = orders(&mut model, 30).remove(0);
    assert_eq!((stop.run, stop.done.len()), (false, 0), "{stop:?}");
    let restart = stop.restart.unwrap();
    let stopped = |role: &str, restart_at: Option<Timestamp>| BatchJob {
        running: false,
        active: 0,
        restart_at,
        ..batch(role, 0)
    };
    let master = BatchJob {
        uid: Some("job-master-2".into()),
        ..stopped("master", None)
    };
    set_batch(&mut model, "master", 31, Some(master));
    set_batch(
        &mut model,
        "worker",
        31,
        Some(stopped("worker", Some(restart.at))),
    );
    assert_eq!(orders(&mut model, 31), []);
    let start = orders(&mut model, 40).remove(0);
    assert_eq!((start.run, start.done.len()), (true, 0));
    assert_eq!(start.renew.len(), 2, "{start:?}");
}
