//! What was told to leave is waited for as long as that may take, and not for ever: its money is not about to come.

use super::*;

/// What is left of a replica that was told to leave.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// Its worker, while the leader is being deleted on a node that is lost.
    WorkerOfStuckLeader,
    /// Its worker; the leader is gone.
    WorkerWithoutLeader,
    /// Its only pod is being deleted on a node that is lost.
    StuckPod,
    /// The same of a pod of no workload.
    StuckPodOfNobody,
    /// A worker of a gang that was suspended, which nobody deletes.
    WorkerOfSuspendedGang,
}

/// What is left of something, of 6.00 an hour, a gang of the same, and a service of higher priority that asks for as
/// much, where only one of the first two may run beside it.
fn model_with(leaving: Leaving) -> Model {
    let mut model = model();
    let budget = Budget {
        limit: money("15"),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_hours(1),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    model.apply(Event::Budget(budget_key(), Some(budget)), at(0));
    run_gang_of_three(&mut model, "train", false);
    set_replicas(&mut model, 0, 0);
    let deleted = |pod: Pod| Pod {
        deletion: Some(at(GRACE)),
        ..pod
    };
    match leaving {
        Leaving::WorkerOfStuckLeader => {
            set_service(&mut model, service(0, 1, 3));
            tell(&mut model, deleted(leader(0, 0, true)), 0);
            tell(&mut model, worker(0, 1, 3, true), 0);
        }
        Leaving::WorkerWithoutLeader => {
            set_service(&mut model, service(0, 1, 3));
            tell(&mut model, worker(0, 1, 3, true), 0);
        }
        Leaving::StuckPod => {
            set_service(&mut model, service(3, 0, 0));
            tell(&mut model, deleted(leader(0, 3, true)), 0);
        }
        Leaving::StuckPodOfNobody => {
            let pod = Pod {
                owner: Owner::Other,
                ..pod_of("shell", shape(3), true)
            };
            tell(&mut model, deleted(pod), 0);
        }
        Leaving::WorkerOfSuspendedGang => run_gang_of_three(&mut model, "former", true),
    }
    let urgent = Service {
        priority: 9,
        min: 1,
        ..service(3, 0, 0)
    };
    model.apply(
        Event::Service(Key::new("team", "urgent"), Some(urgent)),
        at(0),
    );
    model
}

/// A gang of one worker of three GPUs, which runs, or has just been suspended.
fn run_gang_of_three(model: &mut Model, name: &str, is_suspended: bool) {
    let job = Job {
        preemption_allowed: true,
        suspend: is_suspended,
        ..job(1, 3)
    };
    let key = Key::new("team", name);
    model.apply(Event::Job(key.clone(), Some(job)), at(0));
    let batch = BatchJob {
        running: !is_suspended,
        active: 1,
        uid: Some(name.into()),
        started: Some(at(0)),
        ..BatchJob::default()
    };
    model.apply(Event::BatchJob(key, "".into(), Some(batch)), at(0));
    let worker = Pod {
        owner: Owner::Job(name.into(), "".into()),
        made_by: Some(name.into()),
        ..pod_of(&format!("{name}-0"), shape(3), true)
    };
    tell(model, worker, 0);
}

#[test]
fn who_waits_for_money_waits_for_no_pod_that_should_have_gone_long_ago() {
    for leaving in [
        Leaving::WorkerOfStuckLeader,
        Leaving::WorkerWithoutLeader,
        Leaving::StuckPod,
        Leaving::StuckPodOfNobody,
        Leaving::WorkerOfSuspendedGang,
    ] {
        let mut model = model_with(leaving);
        let train = Key::new("team", "train");
        let runs = |model: &Model| model.job(&train).unwrap().run;
        for second in [1, 60] {
            settle(&mut model, second);
            assert!(runs(&model), "{leaving:?} goes by itself, after {second} s");
        }
        // nothing happens but that time goes by
        let mut second = 60;
        while runs(&model) && second < HOUR {
            let next = model.next_timer().unwrap().max(at(second + 1));
            second = next.duration_since(at(0)).as_secs() + 1;
            settle(&mut model, second);
        }
        assert!(!runs(&model), "{leaving:?}: the gang gives way");
        assert!((300..900).contains(&second), "{leaving:?}: {second}");
    }
}
