//! How many Events reach the API server, and what the others are counted as.

use bursar_apitest::Server;
use bursar_apitest::faults::{Faults, WriteFault};
use k8s_openapi::api::events::v1;
use kube::runtime::events::Reporter;

use super::*;

fn publisher(server: &Server, faults: &Arc<Faults>) -> EventPublisher {
    let reporter = Reporter {
        controller: "bursar-controller".to_owned(),
        instance: None,
    };
    let recorder = Recorder::new(server.client_with(faults), reporter);
    EventPublisher::new(recorder, Family::default())
}

fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("InferenceDeployment".to_owned()),
        namespace: Some("team".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-of-{name}")),
        ..ObjectReference::default()
    }
}

fn event(type_: EventType, action: &str) -> Event {
    Event {
        type_,
        reason: "Scaled".to_owned(),
        note: Some("from 1 to 2 replicas: more demand".to_owned()),
        action: action.to_owned(),
        secondary: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

impl EventPublisher {
    fn dropped(&self, cause: &'static str) -> u64 {
        let label = DroppedEventLabel { cause };
        self.shared.dropped.get_or_create(&label).get()
    }
}

#[tokio::test]
async fn equal_events_are_a_series_though_the_object_changed_meanwhile() {
    let server = Server::new(&["team"]);
    let events = publisher(&server, &Arc::default());
    for (version, action) in [
        ("1", "ScaleFrom1To2"),
        ("2", "ScaleFrom2To1"),
        ("3", "ScaleFrom1To2"),
    ] {
        let reference = ObjectReference {
            resource_version: Some(version.to_owned()),
            ..reference("chat")
        };
        events.send_at(reference, event(EventType::Normal, action), at(0));
    }
    events.flush().await;
    let published: Vec<v1::Event> = server.objects();
    let mut counts: Vec<_> = published
        .iter()
        .map(|event| {
            (
                event.action.clone().unwrap(),
                event.series.as_ref().map(|each| each.count),
            )
        })
        .collect();
    counts.sort();
    let expected = [
        ("ScaleFrom1To2".to_owned(), Some(2)),
        ("ScaleFrom2To1".to_owned(), None),
    ];
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn an_object_that_is_restless_all_day_has_few_events_and_a_warning_comes_through() {
    let server = Server::new(&["team"]);
    let faults = Arc::default();
    let events = publisher(&server, &faults);
    let day = 24 * 3_600;
    for second in (0..day).step_by(10) {
        let action = format!("ScaleFrom1To{second}");
        events.send_at(
            reference("chat"),
            event(EventType::Normal, &action),
            at(second),
        );
        events.flush().await;
    }
    assert_eq!(
        faults.writes(),
        6 + 24 * 12 - 1,
        "a burst, then one in five minutes"
    );
    assert_eq!(events.dropped("rate"), 8_640 - 6 - 24 * 12 + 1);
    events.send_at(
        reference("chat"),
        event(EventType::Warning, "ScaleFrom1To0"),
        at(day),
    );
    events.send_at(
        reference("embed"),
        event(EventType::Normal, "ScaleFrom1To2"),
        at(day),
    );
    events.flush().await;
    assert_eq!(
        faults.writes(),
        6 + 24 * 12 - 1 + 2,
        "another type, and another object"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_api_server_delays_no_sender_and_loses_the_oldest() {
    let server = Server::new(&["team"]);
    let faults = Arc::new(Faults::default());
    faults.set_write_fault("events", Some(WriteFault::Slow(Duration::from_secs(60))));
    let events = publisher(&server, &faults);
    for number in 0..QUEUE_LIMIT + 10 {
        let reference = reference(&format!("service-{number:04}"));
        events.send_at(reference, event(EventType::Normal, "ScaleFrom1To2"), at(0));
    }
    assert_eq!(events.dropped("queue"), 10);
    let oldest = events.pop().unwrap().0;
    assert_eq!(oldest.name.as_deref(), Some("service-0010"));
    let began = tokio::time::Instant::now();
    events.flush().await;
    assert_eq!(events.dropped("error"), QUEUE_LIMIT as u64 - 1);
    assert_eq!(
        began.elapsed().as_secs(),
        3 * (QUEUE_LIMIT as u64 - 1),
        "each has 3 s"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_while_it_runs_is_published() {
    let server = Server::new(&["team"]);
    let events = publisher(&server, &Arc::default());
    let running = events.clone();
    let task = tokio::spawn(async move { running.run().await });
    for count in 1..=3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let reference = reference(&format!("service-{count}"));
        events.send_at(reference, event(EventType::Normal, "ScaleFrom1To2"), at(0));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(server.objects::<v1::Event>().len(), count);
    }
    task.abort();
}

#[test]
fn objects_that_are_silent_again_are_forgotten() {
    let mut rates = EventRates::default();
    for number in 0..10_000 {
        let reference = reference(&format!("service-{number}"));
        assert!(rates.admit(&reference, EventType::Normal, at(number)));
    }
    assert!(rates.buckets.len() < 2_000, "{}", rates.buckets.len());
    // a clock that is set back takes the burst away, and no more
    let one = reference("service-9999");
    assert!(!rates.admit(&one, EventType::Normal, at(0)));
    assert!(rates.admit(&one, EventType::Normal, at(300)));
}

#[test]
fn a_long_note_is_cut_at_a_character() {
    let note = shortened("ä".repeat(2_000));
    assert!(note.len() <= 1_000 && note.ends_with('…'), "{}", note.len());
    assert_eq!(shortened("short".to_owned()), "short");
}
