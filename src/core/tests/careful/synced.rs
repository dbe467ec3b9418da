//! Nothing is taken away for want of demand before everything was read once.

use bursar_core::model::Key;
use bursar_core::model::event::Event;

use super::{World, service};

fn chat() -> Key {
    Key::new("team", "chat")
}

/// A new leader that finds a service with three replicas, which have been ready for an hour.
fn found() -> World {
    let mut world = World::new(10);
    world.tell(0, Event::Service(chat(), Some(service())));
    world.serve(-3600, &chat(), 3);
    world
}

#[test]
fn a_new_leader_takes_no_replica_whose_engine_it_has_not_read() {
    let mut world = found();
    for second in [0, 10, 61, 600, 7200] {
        assert_eq!(world.orders(second).0, [] as [&str; 0], "at {second}");
    }
    let decision = world.service(&chat());
    assert!(decision.unknown.unwrap().contains("not read yet"));
}

#[test]
fn one_engine_that_was_not_read_keeps_all_replicas() {
    let mut world = found();
    world.read(0, &chat(), 0);
    let unread = world.pods["team-chat-2"].clone();
    let renamed = bursar_core::model::event::Pod {
        key: Key::new("team", "unread"),
        ..unread
    };
    world.tell(0, Event::Pod("team-chat-2".into(), None));
    world.show(0, "unread", renamed);
    for second in [1, 61, 600, 7200] {
        assert_eq!(world.orders(second).0, [] as [&str; 0], "at {second}");
    }
}

#[test]
fn a_new_leader_keeps_what_it_finds_for_the_idle_time_after_its_first_reads() {
    let mut world = found();
    world.read(0, &chat(), 0);
    for second in [0, 29] {
        assert_eq!(world.orders(second).0, [] as [&str; 0], "at {second}");
    }
    // the window is over: one stays until the service was idle for long enough since the first read
    let orders = world.orders(31).0;
    assert_eq!(orders, ["chat: (3, 3), 2 leave"]);
}
