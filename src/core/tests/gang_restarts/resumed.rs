//! A gang that was suspended after some of its workers had ended well resumes as a whole, unless its workers
//! are independent of each other.

use bursar_core::model::event::Job;

use super::{Cluster, at, job, set_job};

/// The gang of four was suspended at second 20, after worker 0 had ended well.
fn suspended(spec: &Job) -> Cluster {
    let mut cluster = Cluster::new(4, 4);
    set_job(&mut cluster.model, "train", 3, spec.clone());
    cluster.batch.succeeded = 1;
    cluster.batch.active = 3;
    cluster.change(0, 10, |pod| {
        (pod.ended, pod.ready_since) = (Some(at(10)), None);
    });
    cluster.show_batch(10);
    assert_eq!(cluster.decide(10), []);
    let suspend = Job {
        suspend: true,
        ..spec.clone()
    };
    set_job(&mut cluster.model, "train", 20, suspend);
    let stop = cluster.order(20);
    cluster.stop(20, &stop, &[]);
    set_job(&mut cluster.model, "train", 30, spec.clone());
    cluster
}

#[test]
fn workers_that_wait_for_each_other_resume_with_those_that_had_ended_well() {
    let whole = Job {
        resumes_whole: true,
        is_adopted: false,
        ..job(0, 4)
    };
    let mut cluster = suspended(&whole);
    let start = cluster.order(30);
    assert_eq!((start.run, start.recreate), (true, vec!["".into()]));
    assert_eq!(start.restarts, 0);
}

#[test]
fn independent_workers_that_have_ended_well_are_not_started_again() {
    let mut cluster = suspended(&job(0, 4));
    let start = cluster.order(30);
    assert_eq!((start.run, start.recreate.len()), (true, 0));
}
