//! What is paused keeps what it has, whatever demand, room and money say.

use bursar_core::budget::Phase;
use bursar_core::model::event::Event;
use bursar_core::model::{Key, Pauses};
use bursar_core::plan::LimitedBy;
use bursar_core::refusal::RefusalReason;

use super::{World, budget, job, service};

fn chat() -> Key {
    Key::new("team", "chat")
}

fn train() -> Key {
    Key::new("team", "train")
}

fn everything() -> Pauses {
    Pauses {
        cluster: true,
        ..Pauses::default()
    }
}

fn only(namespace: &str) -> Pauses {
    Pauses {
        namespaces: [namespace.into()].into(),
        ..Pauses::default()
    }
}

/// A service with two replicas and a gang of two workers, paused as these say.
fn running(pauses: Pauses) -> World {
    let mut world = World::new(10);
    world.tell(
        0,
        Event::Budget(Key::new("team", "all"), Some(budget("100"))),
    );
    world.tell(0, Event::Service(chat(), Some(service())));
    world.tell(0, Event::Job(train(), Some(job(2))));
    world.serve(0, &chat(), 2);
    world.train(0, &train(), 2);
    world.read(0, &chat(), 8);
    world.tell(0, Event::Pauses(pauses));
    assert_eq!(world.orders(0).0, [] as [&str; 0]);
    world
}

#[test]
fn demand_changes_nothing_in_a_paused_scope_and_acts_once_it_is_resumed() {
    for pauses in [everything(), only("team")] {
        let mut world = running(pauses);
        world.read(1, &chat(), 40);
        assert_eq!(world.orders(1).0, [] as [&str; 0]);
        let decision = world.service(&chat());
        assert_eq!((decision.desired, decision.allowed), (10, 2));
        assert_eq!(decision.limited_by, Some(LimitedBy::Paused));
        assert!(
            decision.reason.contains("is paused: it keeps 2 replicas"),
            "{}",
            decision.reason
        );
        assert!(
            decision.reason.contains("10 otherwise"),
            "{}",
            decision.reason
        );
        world.tell(2, Event::Pauses(Pauses::default()));
        assert_eq!(world.orders(2).0, ["chat: (2, 10), 0 leave"]);
        assert_eq!(world.service(&chat()).limited_by, None);
    }
}

#[test]
fn idle_services_and_exhausted_budgets_stop_nothing_in_a_paused_scope() {
    for pauses in [everything(), only("team")] {
        let mut world = running(pauses);
        world.read(1, &chat(), 0);
        assert_eq!(world.orders(600).0, [] as [&str; 0]);
        world.spend(601, "team", "101", "8");
        let (orders, decisions) = world.orders(601);
        assert_eq!(orders, [] as [&str; 0]);
        // it accounts and decides all the same
        assert_eq!(decisions.latches.len(), 1);
        let state = world.model.budget(&Key::new("team", "all")).unwrap();
        assert_eq!(state.phase, Phase::OverLimit);
        let decision = world.job(&train());
        assert!(decision.run);
        assert_eq!(decision.limited_by, Some(LimitedBy::Paused));
        assert!(
            decision
                .reason
                .contains("goes on, and would stop otherwise"),
            "{}",
            decision.reason
        );
        assert!(
            decision.reason.contains("budget all is exhausted"),
            "{}",
            decision.reason
        );
        world.tell(602, Event::Pauses(Pauses::default()));
        let orders = world.orders(602).0;
        assert_eq!(orders, ["chat: (2, 2), 2 leave", "train: false"]);
    }
}

#[test]
fn nothing_of_a_paused_namespace_starts_and_requests_are_refused() {
    let mut world = World::new(10);
    world.tell(0, Event::Service(chat(), Some(service())));
    world.tell(0, Event::Job(train(), Some(job(2))));
    world.scale(0, &chat(), 0);
    world.tell(0, Event::Pauses(only("team")));
    world.hold(0, &[(chat(), 3)]);
    assert_eq!(world.orders(0).0, [] as [&str; 0]);
    let refusal = world.service(&chat()).refusal.unwrap();
    assert_eq!(refusal.reason, RefusalReason::ScalingPaused);
    assert_eq!(
        refusal.message,
        "the service is stopped, and the namespace is paused"
    );
    let decision = world.job(&train());
    assert_eq!((decision.run, decision.position), (false, None));
    assert_eq!(decision.limited_by, Some(LimitedBy::Paused));
    world.tell(1, Event::Pauses(Pauses::default()));
    assert_eq!(world.orders(1).0, ["chat: (0, 1), 0 leave", "train: true"]);
}

#[test]
fn another_namespace_goes_on_and_takes_room_that_a_paused_gang_waits_for() {
    let mut world = World::new(2);
    let other = Key::new("other", "fit");
    world.tell(0, Event::Job(train(), Some(job(2))));
    let younger = bursar_core::model::event::Job {
        created: super::at(10),
        ..job(2)
    };
    world.tell(0, Event::Job(other.clone(), Some(younger)));
    world.tell(0, Event::Pauses(only("team")));
    assert_eq!(world.orders(20).0, ["fit: true"]);
}

#[test]
fn an_order_on_its_way_is_forgotten_when_its_namespace_is_paused() {
    let mut world = running(Pauses::default());
    world.read(1, &chat(), 40);
    assert_eq!(world.orders(1).0, ["chat: (2, 10), 0 leave"]);
    world.tell(2, Event::Pauses(only("team")));
    assert_eq!(world.orders(2).0, [] as [&str; 0]);
    assert_eq!(world.service(&chat()).allowed, 2);
    world.tell(3, Event::Pauses(Pauses::default()));
    assert_eq!(world.orders(3).0, ["chat: (2, 10), 0 leave"]);
}

#[test]
fn a_budget_stops_a_job_that_its_user_has_paused() {
    let mut world = running(Pauses::default());
    let mut paused = job(2);
    paused.paused = true;
    world.tell(1, Event::Job(train(), Some(paused)));
    assert_eq!(world.orders(3600).0, [] as [&str; 0]);
    world.spend(3601, "team", "101", "8");
    let orders = world.orders(3601).0;
    assert!(orders.contains(&"train: false".to_owned()), "{orders:?}");
}

/// What it lacks would be kept from others for ever.
#[test]
fn an_incomplete_gang_is_taken_back_though_its_user_has_paused_it() {
    let mut world = running(Pauses::default());
    let mut paused = job(2);
    paused.paused = true;
    world.tell(1, Event::Job(train(), Some(paused)));
    world.pods.remove("team-train-1");
    world.tell(2, Event::Pod("team-train-1".into(), None));
    assert_eq!(world.orders(295).0, [] as [&str; 0]);
    assert_eq!(world.orders(310).0, ["train: false"]);
    let decision = world.job(&train());
    assert_eq!(decision.limited_by, Some(LimitedBy::Capacity));
}

#[test]
fn a_job_that_its_user_has_paused_does_not_start_and_holds_nobody_up() {
    let mut world = World::new(2);
    let mut paused = job(2);
    paused.paused = true;
    world.tell(0, Event::Job(train(), Some(paused)));
    let younger = bursar_core::model::event::Job {
        created: super::at(10),
        ..job(2)
    };
    let second = Key::new("team", "second");
    world.tell(0, Event::Job(second, Some(younger)));
    // its Jobs are made, and do not run
    assert_eq!(world.orders(20).0, ["train: false", "second: true"]);
    let decision = world.job(&train());
    assert_eq!(decision.limited_by, Some(LimitedBy::Paused));
    assert_eq!(decision.reason, "spec.paused is true: it does not start");
}
