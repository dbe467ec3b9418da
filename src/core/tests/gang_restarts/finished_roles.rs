//! A role has ended well, and its finished Job is removed: by its TTL, or by somebody who cleans up.

use bursar_core::model::event::{BatchJob, Event, Job, Owner};
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

/// A gang over whose success `master` alone decides.
fn led_by_master() -> Model {
    let mut model = gang(&ROLES);
    let mut spec = job_of_roles(&ROLES);
    spec.success_roles = ["master".into()].into();
    set_job(&mut model, "train", 0, spec);
    model
}

#[test]
fn once_the_deciding_role_has_ended_well_the_gang_has_succeeded_and_the_others_are_stopped() {
    let mut model = led_by_master();
    assert_eq!(orders(&mut model, 1), []);
    finish(&mut model, "master", 10);
    assert_eq!(end(&model), Some(JobEnd::Succeeded));
    let stop = orders(&mut model, 10).remove(0);
    assert_eq!((stop.run, stop.restart), (false, None));
    assert!(stop.reason.contains("have ended well"), "{stop:?}");
    // a worker that does not end well when it is told to stop
    let stopped = BatchJob {
        running: false,
        failed: 1,
        ..batch("worker", 0)
    };
    set_batch(&mut model, "worker", 12, Some(stopped));
    for second in [12, 60, 400] {
        assert_eq!(orders(&mut model, second), [], "{second}");
    }
    // the finished Job is removed once the status has it on record
    let mut spec = job_of_roles(&ROLES);
    spec.success_roles = ["master".into()].into();
    spec.ended_well = ["master".into()].into();
    set_job(&mut model, "train", 500, spec);
    set_batch(&mut model, "master", 500, None);
    assert_eq!(orders(&mut model, 500), []);
    assert_eq!(end(&model), Some(JobEnd::Succeeded));
}

#[test]
fn a_role_that_does_not_decide_and_ends_well_ends_nothing() {
    let mut model = led_by_master();
    finish(&mut model, "worker", 10);
    assert_eq!((orders(&mut model, 10), end(&model)), (vec![], None));
    finish(&mut model, "master", 20);
    assert_eq!(end(&model), Some(JobEnd::Succeeded));
}

#[test]
fn the_job_of_a_role_that_does_not_decide_fails_the_gang_all_the_same() {
    let mut model = led_by_master();
    let failed = BatchJob {
        finished: Some(false),
        ..batch("worker", 0)
    };
    set_batch(&mut model, "worker", 10, Some(failed));
    assert_eq!(end(&model), Some(JobEnd::RoleFailed("worker".into())));
}

/// A role of this name may be gone with an edit of an older version: nobody is taken to have succeeded by it.
#[test]
fn where_no_role_has_the_name_that_decides_all_roles_do() {
    let mut model = gang(&ROLES);
    let mut spec = job_of_roles(&ROLES);
    spec.success_roles = ["chief".into()].into();
    set_job(&mut model, "train", 0, spec);
    assert_eq!(end(&model), None);
    finish(&mut model, "master", 10);
    assert_eq!(end(&model), None);
    finish(&mut model, "worker", 20);
    assert_eq!(end(&model), Some(JobEnd::Succeeded));
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
    assert_eq!(start.recreate.len(), 2, "{start:?}");
}

/// The new Jobs of a gang that starts again cannot be made at first, after the old ones were deleted.
#[test]
fn a_role_that_had_ended_well_is_made_again_also_where_that_fails_once() {
    let mut model = gang(&ROLES);
    finish(&mut model, "worker", 10);
    assert_eq!(orders(&mut model, 10), []);
    let mut pod = super::pod(0, 0, 0);
    pod.owner = Owner::Job("train".into(), "master".into());
    pod.made_by = Some("job-master".into());
    pod.ended = Some(at(30));
    pod.failure = Some("container worker: exit code 1".into());
    let event = Event::Pod("uid-master".into(), Some(Box::new(pod)));
    model.apply(event, at(30));
    let restart = orders(&mut model, 30).remove(0).restart.unwrap();
    let master = BatchJob {
        running: false,
        active: 0,
        restart_at: Some(restart.at),
        ..batch("master", 0)
    };
    set_batch(&mut model, "master", 31, Some(master));
    assert_eq!(orders(&mut model, 31), []);
    let start = orders(&mut model, 40).remove(0);
    assert_eq!((start.run, start.recreate.len()), (true, 2), "{start:?}");
    // none says any more that the gang starts again once the first is gone
    for role in ROLES {
        set_batch(&mut model, role, 41, None);
    }
    model.apply(Event::JobOrderFailed(key()), at(41));
    let again = orders(&mut model, 41).remove(0);
    assert_eq!((again.run, again.done.len()), (true, 0), "{again:?}");
    let next = |role: &str, finished| BatchJob {
        uid: Some(format!("job-{role}-2").as_str().into()),
        finished,
        ..batch(role, 42)
    };
    for role in ROLES {
        set_batch(&mut model, role, 42, Some(next(role, None)));
    }
    // the next one may be removed as the first one might
    set_batch(&mut model, "worker", 50, Some(next("worker", Some(true))));
    set_batch(&mut model, "worker", 60, None);
    assert_eq!(orders(&mut model, 60), []);
}

/// Its Jobs are there for a moment longer, or are seen to go at the same time, before it or after it.
#[test]
fn a_job_that_is_made_anew_runs_however_the_one_before_has_ended() {
    let anew = || Job {
        created: at(20),
        seed: 2,
        ..job_of_roles(&ROLES)
    };
    for jobs_go_first in [false, true] {
        let mut model = gang(&ROLES);
        for role in ROLES {
            finish(&mut model, role, 10);
        }
        assert_eq!(end(&model), Some(JobEnd::Succeeded));
        if !jobs_go_first {
            set_job(&mut model, "train", 20, anew());
        }
        for role in ROLES {
            set_batch(&mut model, role, 20, None);
        }
        if jobs_go_first {
            set_job(&mut model, "train", 20, anew());
        }
        assert_eq!(end(&model), None);
        let start = orders(&mut model, 20).remove(0);
        assert_eq!((start.run, start.done.len()), (true, 0), "{start:?}");
    }
}
