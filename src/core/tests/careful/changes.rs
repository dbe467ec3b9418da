//! An edit of a budget or a price that would newly stop something takes effect after a grace window:
//! until then the former terms stop what runs, and nothing starts that the new ones do not pay for.

use bursar_core::budget::{BudgetRecord, BudgetState, OnExhausted, PendingChange, Phase, Terms};
use bursar_core::calendar::Period;
use bursar_core::model::event::{BatchJob, Budget, Event, Service};
use bursar_core::model::{Key, Model};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::{World, at, budget, job, money, prices, service};

const GRACE: SignedDuration = SignedDuration::from_mins(10);

fn chat() -> Key {
    Key::new("team", "chat")
}

fn train() -> Key {
    Key::new("team", "train")
}

fn all() -> Key {
    Key::new("team", "all")
}

/// Two replicas and a gang of two workers, which cost 8 an hour; 40 are spent.
fn running(spec: Budget) -> World {
    let model = Model::new(TimeZone::UTC, at(0)).with_change_grace(GRACE);
    let mut world = World::with(model, 10);
    world.tell(0, Event::Budget(all(), Some(spec)));
    world.tell(0, Event::Service(chat(), Some(service())));
    world.tell(0, Event::Job(train(), Some(job(2))));
    world.serve(0, &chat(), 2);
    world.train(0, &train(), 2);
    world.read(0, &chat(), 8);
    world.spend(0, "team", "40", "8");
    assert_eq!(world.orders(0).0, [] as [&str; 0]);
    world
}

fn edit(world: &mut World, second: i64, limit: &str) -> Vec<String> {
    world.tell(second, Event::Budget(all(), Some(budget(limit))));
    world.orders(second).0
}

fn state(world: &World) -> BudgetState {
    world.model.budget(&all()).unwrap().clone()
}

fn pending(world: &World) -> Option<PendingChange> {
    state(world).pending
}

/// The gang has stopped as it was told, at second 1.
fn suspend_gang(world: &mut World) {
    let suspended = BatchJob::default();
    world.tell(1, Event::BatchJob(train(), "".into(), Some(suspended)));
    for number in 0..2 {
        world.tell(1, Event::Pod(format!("team-train-{number}").into(), None));
    }
}

/// The service has a higher class than the gang, from second 0 on.
fn raise_priority(world: &mut World) {
    let spec = Service {
        priority: 10,
        ..service()
    };
    world.tell(0, Event::Service(chat(), Some(spec)));
}

/// Everything stops.
fn stopped() -> Vec<&'static str> {
    vec!["chat: (2, 2), 2 leave", "train: false"]
}

#[test]
fn a_lower_limit_stops_nothing_before_the_window_ends_and_says_when() {
    let mut world = running(budget("100"));
    assert_eq!(edit(&mut world, 60, "30"), [] as [&str; 0]);
    let change = pending(&world).unwrap();
    assert_eq!(change.effective_at, at(660));
    assert_eq!(change.announced.limit, money("30"));
    assert!(change.remaining < money("-10"));
    assert_eq!(change.stops_below, None);
    assert_eq!(state(&world).phase, Phase::Active);
    for second in [61, 300, 659] {
        assert_eq!(world.orders(second).0, [] as [&str; 0], "at {second}");
    }
    // a timer is set
    assert!(world.model.next_timer().unwrap() <= at(660));
    assert_eq!(world.orders(660).0, stopped());
    assert_eq!(pending(&world), None);
    assert_eq!(state(&world).phase, Phase::OverLimit);
}

#[test]
fn nothing_grows_or_starts_under_the_lower_limit_meanwhile() {
    let mut world = running(budget("100"));
    edit(&mut world, 60, "30");
    world.read(61, &chat(), 40);
    let waiting = Key::new("team", "waiting");
    world.tell(61, Event::Job(waiting, Some(job(1))));
    // its Job is made, and does not run
    assert_eq!(world.orders(61).0, ["waiting: false"]);
    let decision = world.service(&chat());
    assert_eq!((decision.desired, decision.allowed), (10, 2));
    assert!(
        decision.reason.contains("budget all has a new limit"),
        "{}",
        decision.reason
    );
}

#[test]
fn replicas_without_a_node_are_taken_back_at_once() {
    let mut world = running(budget("100"));
    world.scale(50, &chat(), 5);
    assert_eq!(edit(&mut world, 60, "30"), ["chat: (5, 2), 0 leave"]);
}

#[test]
fn the_former_limit_goes_on_stopping_within_the_window() {
    let mut world = running(budget("41"));
    edit(&mut world, 60, "30");
    // a minute before the former limit is reached
    assert_eq!(world.orders(300).0, [] as [&str; 0]);
    let spent_at_former_limit = 450;
    assert_eq!(world.orders(spent_at_former_limit).0, stopped());
}

#[test]
fn an_edit_that_would_stop_nothing_takes_effect_at_once() {
    let mut world = running(budget("100"));
    assert_eq!(edit(&mut world, 60, "60"), [] as [&str; 0]);
    assert_eq!(pending(&world), None);
    // and the promise holds for it
    world.spend(120, "team", "60", "8");
    assert_eq!(world.orders(120).0, stopped());
}

#[test]
fn an_edit_that_would_stop_something_within_the_window_waits_for_its_end() {
    let mut world = running(budget("100"));
    // 1.00 is left: 7.5 minutes, without the reserve
    edit(&mut world, 0, "41");
    assert_eq!(pending(&world).unwrap().effective_at, at(600));
    assert_eq!(world.orders(460).0, [] as [&str; 0]);
    assert_eq!(world.orders(600).0, stopped());
}

#[test]
fn the_window_of_edits_in_a_row_counts_from_the_first_one_that_would_stop_something() {
    let mut world = running(budget("100"));
    // this one would not
    edit(&mut world, 30, "90");
    for (second, limit) in [(60, "30"), (300, "29"), (500, "28"), (650, "27")] {
        assert_eq!(edit(&mut world, second, limit), [] as [&str; 0], "{limit}");
        assert_eq!(pending(&world).unwrap().effective_at, at(660), "{limit}");
    }
    assert_eq!(world.orders(660).0, stopped());
}

#[test]
fn a_raise_takes_effect_at_once_and_takes_back_what_waits() {
    let mut world = running(budget("100"));
    edit(&mut world, 60, "30");
    assert!(pending(&world).is_some());
    edit(&mut world, 120, "120");
    assert_eq!(pending(&world), None);
    world.read(121, &chat(), 16);
    assert_eq!(world.orders(121).0, ["chat: (2, 4), 0 leave"]);
    // what was raised is what the next edit is compared with
    let mut world = running(budget("100"));
    edit(&mut world, 60, "120");
    edit(&mut world, 120, "100");
    assert_eq!(pending(&world), None);
}

#[test]
fn an_annotation_lets_an_edit_take_effect_at_once_also_later() {
    let at_once = |limit: &str| Budget {
        record: BudgetRecord {
            apply_now: true,
            ..BudgetRecord::default()
        },
        ..budget(limit)
    };
    let mut world = running(budget("100"));
    world.tell(60, Event::Budget(all(), Some(at_once("30"))));
    assert_eq!(world.orders(60).0, stopped());
    let mut world = running(budget("100"));
    edit(&mut world, 60, "30");
    world.tell(120, Event::Budget(all(), Some(at_once("30"))));
    assert_eq!(world.orders(120).0, stopped());
}

#[test]
fn another_action_and_another_period_wait_as_a_lower_limit_does() {
    let frozen = Budget {
        on_exhausted: OnExhausted::Freeze,
        ..budget("40")
    };
    let mut world = running(budget("100"));
    world.tell(
        1,
        Event::Budget(
            all(),
            Some(Budget {
                record: BudgetRecord {
                    apply_now: true,
                    ..BudgetRecord::default()
                },
                ..frozen.clone()
            }),
        ),
    );
    // a frozen budget suspends training
    assert_eq!(world.orders(1).0, ["train: false"]);
    let suspended = BatchJob::default();
    world.tell(1, Event::BatchJob(train(), "".into(), Some(suspended)));
    world.tell(2, Event::Budget(all(), Some(frozen)));
    assert_eq!(edit(&mut world, 60, "40"), [] as [&str; 0]);
    assert_eq!(pending(&world).unwrap().effective_at, at(660));
    let orders = world.orders(660).0;
    assert!(
        orders.contains(&"chat: (2, 2), 2 leave".to_owned()),
        "{orders:?}"
    );
    let daily = Budget {
        period: Period::Daily,
        ..budget("1")
    };
    let mut world = running(budget("100"));
    world.spend_in(60, "team", Period::Daily, "5", "8");
    world.tell(60, Event::Budget(all(), Some(daily)));
    assert_eq!(world.orders(60).0, [] as [&str; 0]);
    assert_eq!(world.orders(660).0, stopped());
}

#[test]
fn a_new_budget_that_would_stop_something_waits_since_it_was_seen() {
    // it may have been made while nobody led
    let new = |limit: &str| Budget {
        record: BudgetRecord {
            is_new: true,
            ..BudgetRecord::default()
        },
        ..budget(limit)
    };
    let mut world = running(budget("100"));
    let second = Key::new("team", "second");
    world.tell(110, Event::Budget(second.clone(), Some(new("30"))));
    assert_eq!(world.orders(110).0, [] as [&str; 0]);
    let change = world.model.budget(&second).unwrap().pending.clone();
    assert_eq!(change.unwrap().effective_at, at(710));
    assert_eq!(world.orders(710).0, stopped());
    // where nothing runs, it counts at once
    let model = Model::new(TimeZone::UTC, at(0)).with_change_grace(GRACE);
    let mut world = World::with(model, 10);
    world.tell(110, Event::Budget(all(), Some(new("30"))));
    world.decide(110);
    assert_eq!(pending(&world), None);
}

#[test]
fn a_new_leader_continues_the_window_and_nobody_lengthens_it_by_what_is_on_record() {
    let recorded = |effective_at| Budget {
        record: BudgetRecord {
            in_force: Some(Terms {
                limit: money("100"),
                period: Period::Monthly,
                on_exhausted: OnExhausted::ScaleToZero,
                unmanaged: Default::default(),
            }),
            effective_at,
            ..BudgetRecord::default()
        },
        ..budget("30")
    };
    for (on_record, ends) in [
        (Some(at(200)), at(200)),
        // an edit while nobody led
        (None, at(600)),
        (Some(at(100_000)), at(600)),
    ] {
        let world = running(recorded(on_record));
        assert_eq!(pending(&world).unwrap().effective_at, ends);
    }
}

#[test]
fn a_budget_that_could_not_be_read_meanwhile_is_not_edited() {
    let unreadable = Budget {
        on_exhausted: OnExhausted::Freeze,
        record: BudgetRecord {
            unreadable: true,
            ..BudgetRecord::default()
        },
        ..budget("1000000")
    };
    let mut world = running(budget("50"));
    world.tell(60, Event::Budget(all(), Some(unreadable)));
    assert_eq!(world.orders(60).0, [] as [&str; 0]);
    world.spend(120, "team", "50", "8");
    assert_eq!(edit(&mut world, 120, "50"), stopped());
}

#[test]
fn a_higher_price_that_would_stop_something_waits_and_lets_nothing_start() {
    // what is left lasts for 20 minutes at the former prices
    let mut world = running(budget("43"));
    // stopping costs 3.7 now
    world.tell(60, prices("40"));
    assert_eq!(world.orders(60).0, [] as [&str; 0]);
    assert_eq!(pending(&world).unwrap().effective_at, at(660));
    world.read(61, &chat(), 40);
    assert_eq!(world.orders(61).0, [] as [&str; 0]);
    // the next edits do not begin it anew
    world.tell(300, prices("4000"));
    assert_eq!(world.orders(300).0, [] as [&str; 0]);
    assert_eq!(world.orders(659).0, [] as [&str; 0]);
    assert_eq!(world.orders(660).0, stopped());
}

/// The ledger follows an edit of prices a second later, account by account.
#[test]
fn a_higher_price_of_what_is_charged_waits_as_well() {
    let mut world = running(budget("43"));
    world.charge(0, "team", "40", "2");
    assert_eq!(world.orders(0).0, [] as [&str; 0]);
    world.tell(60, prices("400"));
    assert_eq!(world.orders(60).0, [] as [&str; 0]);
    world.charge(61, "team", "40.2", "400");
    assert_eq!(world.orders(61).0, [] as [&str; 0]);
    assert_eq!(pending(&world).unwrap().effective_at, at(660));
    world.charge(63, "team", "41", "500");
    assert_eq!(world.orders(63).0, [] as [&str; 0]);
    assert_eq!(world.orders(659).0, [] as [&str; 0]);
    assert_eq!(world.orders(660).0, stopped());
}

/// What was admitted after it has spent the money, at the prices as they are.
#[test]
fn a_price_edit_that_stops_nothing_puts_no_stop_off() {
    let mut world = running(budget("100"));
    world.spend(0, "team", "60", "0");
    assert_eq!(world.orders(0).0, [] as [&str; 0]);
    world.tell(60, prices("2.01"));
    assert_eq!(world.orders(60).0, [] as [&str; 0]);
    world.spend(125, "team", "60", "0");
    assert_eq!(world.orders(125).0, [] as [&str; 0]);
    world.spend(130, "team", "61", "1000");
    assert_eq!(world.orders(130).0, [] as [&str; 0]);
    world.spend(300, "team", "100", "1000");
    assert_eq!(world.orders(300).0, stopped());
    assert_eq!(pending(&world), None);
}

#[test]
fn what_the_former_prices_would_stop_within_the_window_stops_then() {
    let mut world = running(budget("41"));
    let anyway = state(&world).exhausted_at.unwrap();
    assert!(at(300) < anyway && anyway < at(660), "{anyway}");
    world.tell(60, prices("40"));
    assert_eq!(world.orders(60).0, [] as [&str; 0]);
    assert_eq!(pending(&world).unwrap().effective_at, anyway);
    let second = anyway.as_second() - at(0).as_second();
    assert_eq!(world.orders(second - 1).0, [] as [&str; 0]);
    assert_eq!(world.orders(second).0, stopped());
}

#[test]
fn prices_that_are_edited_while_another_edit_waits_stop_nothing_before_its_end() {
    let mut world = running(budget("100"));
    edit(&mut world, 60, "30");
    world.tell(62, prices("40000"));
    world.charge(63, "team", "40.2", "40000");
    assert_eq!(world.orders(63).0, [] as [&str; 0]);
    assert_eq!(world.orders(659).0, [] as [&str; 0]);
    assert_eq!(world.orders(660).0, stopped());
}

#[test]
fn a_harsher_action_of_an_exhausted_budget_waits_while_money_is_left() {
    let with = |on_exhausted| Budget {
        on_exhausted,
        ..budget("41")
    };
    let mut world = running(with(OnExhausted::Freeze));
    // the reserve of everything reaches the limit, and all but that of the gang is left afterwards
    world.spend(0, "team", "40.9", "8");
    assert_eq!(world.orders(0).0, ["train: false"]);
    suspend_gang(&mut world);
    world.spend(1, "team", "40.8", "0");
    assert_eq!(world.orders(1).0, [] as [&str; 0]);
    assert!(state(&world).remaining() > money("0"));
    let harsher = with(OnExhausted::ScaleToZero);
    world.tell(60, Event::Budget(all(), Some(harsher)));
    assert_eq!(world.orders(60).0, [] as [&str; 0]);
    assert_eq!(pending(&world).unwrap().effective_at, at(660));
    assert_eq!(world.orders(659).0, [] as [&str; 0]);
    let orders = world.orders(660).0;
    let stops = "chat: (2, 2), 2 leave".to_owned();
    assert!(orders.contains(&stops), "{orders:?}");
}

/// The lower class has stopped, and the limit is lowered so far that the higher one would soon.
#[test]
fn a_lower_limit_waits_where_only_the_lower_class_is_stopped() {
    let mut world = running(budget("100"));
    raise_priority(&mut world);
    world.spend(0, "team", "99.8", "8");
    assert_eq!(world.orders(0).0, ["train: false"]);
    suspend_gang(&mut world);
    world.spend(1, "team", "99.8", "4");
    assert_eq!(world.orders(1).0, [] as [&str; 0]);
    assert_eq!(state(&world).phase, Phase::PartlyExhausted);
    assert_eq!(edit(&mut world, 2, "99.95"), [] as [&str; 0]);
    assert_eq!(pending(&world).unwrap().effective_at, at(602));
}

/// It is between two runs for a moment, and has its room and its money.
#[test]
fn a_gang_whose_worker_fails_within_the_window_starts_again_in_its_room() {
    let mut world = running(budget("100"));
    assert_eq!(edit(&mut world, 60, "30"), [] as [&str; 0]);
    let mut failed = world.pods["team-train-0"].clone();
    (failed.ended, failed.failure) = (Some(at(70)), Some("exit code 1".into()));
    world.show(70, "team-train-0", failed);
    let (orders, decisions) = world.orders(70);
    assert_eq!(orders, ["train: false"]);
    let stopped = BatchJob {
        restarts: 1,
        restart_at: decisions.job_orders[0].restart.map(|restart| restart.at),
        ..BatchJob::default()
    };
    world.tell(71, Event::BatchJob(train(), "".into(), Some(stopped)));
    for number in 0..2 {
        world.tell(71, Event::Pod(format!("team-train-{number}").into(), None));
    }
    assert_eq!(world.orders(72).0, [] as [&str; 0]);
    let decision = world.job(&train());
    assert!(decision.keeps_reservation, "{}", decision.reason);
    // the edit is corrected, or it is not
    let mut corrected = World {
        model: world.model.clone(),
        pods: world.pods.clone(),
    };
    assert_eq!(edit(&mut corrected, 75, "100"), [] as [&str; 0]);
    for mut world in [world, corrected] {
        assert_eq!(world.orders(80).0, ["train: true"]);
    }
}

/// What waits for money takes none back that only terms refuse which stop nothing yet.
#[test]
fn nobody_gives_way_for_what_only_the_announced_terms_refuse() {
    let mut world = running(budget("1000"));
    raise_priority(&mut world);
    assert_eq!(world.orders(0).0, [] as [&str; 0]);
    // 1.5 is left of it: eleven minutes less the reserve
    assert_eq!(edit(&mut world, 60, "41.1"), [] as [&str; 0]);
    assert!(pending(&world).is_some());
    world.read(61, &chat(), 12);
    assert_eq!(world.orders(61).0, [] as [&str; 0]);
    assert!(world.job(&train()).run);
    let decision = world.service(&chat());
    assert_eq!(
        (decision.desired, decision.allowed),
        (3, 2),
        "{}",
        decision.reason
    );
}

#[test]
fn a_price_edit_does_not_put_off_what_the_budget_stops_anyway() {
    let mut world = running(budget("41"));
    world.spend(60, "team", "41", "8");
    assert_eq!(world.orders(60).0, stopped());
    world.tell(61, prices("40"));
    world.orders(61);
    assert_eq!(pending(&world), None);
}
