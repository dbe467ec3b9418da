use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn event(note: &str, times: Value) -> Event {
    let mut event = json!({"metadata": {}, "note": note, "eventTime": null});
    event
        .as_object_mut()
        .unwrap()
        .extend(times.as_object().unwrap().clone());
    serde_json::from_value(event).unwrap()
}

fn core(note: &str, first: i64, last: i64) -> Event {
    let (first, last) = (at(first).to_string(), at(last).to_string());
    event(
        note,
        json!({"deprecatedFirstTimestamp": first, "deprecatedLastTimestamp": last}),
    )
}

#[test]
fn the_newest_event_of_this_run_has_the_word() {
    let events = [
        core("Error creating: old", 0, 40),
        core("Error creating: first", 101, 101),
        core(
            "(combined from similar events): Error creating: pods \"a\" is forbidden",
            103,
            130,
        ),
        core("Error creating: second", 107, 107),
    ];
    let report = report_of(&events, at(100)).unwrap();
    assert_eq!((report.since, report.last), (at(101), at(130)));
    assert_eq!(&*report.why, "pods \"a\" is forbidden");
    assert_eq!(report_of(&events[..1], at(100)), None, "of a run before");
    // the first try is made before the start is written
    let report = report_of(&events[1..2], at(102)).unwrap();
    assert_eq!((report.since, report.last), (at(102), at(102)));
}

#[test]
fn at_most_eight_events_of_the_job_alone_are_asked_for() {
    let run = JobRun {
        uid: "u".into(),
        started: at(100),
    };
    let request = kube::core::Request::new("/events").list(&list_params(&run));
    let uri = request.unwrap().uri().to_string();
    let mut query = uri.split(['?', '&']);
    assert!(query.any(|part| part == "limit=8"), "{uri}");
    assert!(
        uri.contains("regarding.uid%3Du%2Creason%3DFailedCreate"),
        "{uri}"
    );
}

#[test]
fn words_of_any_length_are_bounded() {
    let report = report_of(&[core(&"x".repeat(1_000_000), 101, 101)], at(100)).unwrap();
    assert!(report.why.chars().count() < 300, "{}", report.why.len());
}

#[test]
fn events_of_the_new_form_are_read_as_well() {
    let micro = |second| format!("{}", at(second).strftime("%Y-%m-%dT%H:%M:%S.000000Z"));
    let series = json!({"count": 3, "lastObservedTime": micro(120)});
    let event = event("denied", json!({"eventTime": micro(101), "series": series}));
    let report = report_of(&[event], at(100)).unwrap();
    assert_eq!((report.since, report.last), (at(101), at(120)));
}

fn job(suspend: bool, status: Value) -> Job {
    let spec = json!({"suspend": suspend, "completions": 4, "template": {}});
    serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec, "status": status}))
        .unwrap()
}

#[test]
fn only_jobs_that_run_with_too_few_pods_are_read() {
    let start = at(100).to_string();
    let key = Key::new("team", "train");
    let refusals = PodCreationFailures::default();
    let is_read = |job: &Job| {
        refusals.observe(&key, Some(job), at(110));
        refusals.next_read() == Some(at(113))
    };
    assert!(is_read(&job(
        false,
        json!({"startTime": start, "active": 1, "succeeded": 2})
    )));
    for complete in [
        job(true, json!({"startTime": start})),
        job(
            false,
            json!({"startTime": start, "active": 1, "succeeded": 2, "terminating": 1}),
        ),
        job(false, json!({})),
        job(
            false,
            json!({"startTime": start, "conditions": [{"type": "Suspended", "status": "True"}]}),
        ),
        job(
            false,
            json!({"startTime": start, "conditions": [{"type": "Failed", "status": "True"}]}),
        ),
    ] {
        assert!(!is_read(&complete), "{complete:?}");
    }
}

#[test]
fn what_was_read_counts_for_this_run_of_the_job_alone() {
    let key = Key::new("team", "train");
    let refusals = PodCreationFailures::default();
    let started = |second| job(false, json!({"startTime": at(second).to_string()}));
    refusals.observe(&key, Some(&started(100)), at(100));
    let run = JobRun {
        uid: "u".into(),
        started: at(100),
    };
    let report = report_of(&[core("Error creating: denied", 101, 101)], at(100));
    let read = |report, second| {
        assert!(refusals.take_due(at(second)).is_some());
        let is_new = refusals.note(&key, &run, report, at(second));
        refusals.end_turn(&key.namespace);
        is_new
    };
    assert!(read(report.clone(), 103));
    assert!(!read(report.clone(), 109), "no news");
    // a read that finds nothing takes no word back
    assert!(!read(None, 121));
    assert_eq!(refusals.report(&key), report);
    assert_eq!(refusals.next_read(), Some(at(121 + 24)));
    refusals.observe(&key, Some(&started(200)), at(200));
    assert_eq!(refusals.report(&key), None);
    assert!(
        !refusals.note(&key, &run, report, at(203)),
        "of the run before"
    );
    refusals.observe(&key, None, at(204));
    assert_eq!(refusals.next_read(), None);
}

/// Lists of Events: of namespace `slow` none is answered, of others each after a second.
#[derive(Default)]
struct Lists {
    /// Namespace and time of each list, since the test began.
    begun: Mutex<Vec<(String, Duration)>>,
    in_flight: Mutex<(usize, usize)>,
}

impl Lists {
    fn client(self: &Arc<Self>) -> Client {
        let (lists, start) = (Arc::clone(self), Instant::now());
        let serve = tower::service_fn(move |request: Request<Body>| {
            let lists = Arc::clone(&lists);
            async move {
                let mut path = request.uri().path().split('/');
                let namespace = path.nth(5).unwrap_or_default().to_owned();
                let is_slow = namespace == "slow";
                lock(&lists.begun).push((namespace, start.elapsed()));
                let _in_flight = InFlight::new(&lists);
                match is_slow {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(Duration::from_secs(1)).await,
                }
                let now = clock_since(start)().to_string();
                let event = json!({"metadata": {}, "note": "denied", "eventTime": null, "deprecatedFirstTimestamp": now, "deprecatedLastTimestamp": now});
                let list = json!({"metadata": {}, "items": [event]});
                let body = Body::from(list.to_string().into_bytes());
                Ok::<_, std::io::Error>(Response::new(body))
            }
        });
        Client::new(serve, "default")
    }
}

struct InFlight(Arc<Lists>);

impl InFlight {
    fn new(lists: &Arc<Lists>) -> Self {
        let mut in_flight = lock(&lists.in_flight);
        in_flight.0 += 1;
        in_flight.1 = in_flight.1.max(in_flight.0);
        Self(Arc::clone(lists))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.0.in_flight).0 -= 1;
    }
}

fn clock_since(start: Instant) -> impl Fn() -> Timestamp + Clone {
    move || at(0) + SignedDuration::try_from(start.elapsed()).unwrap()
}

/// Reads for `seconds` what is due of so many Jobs of these namespaces, all of which are seen at the
/// start. When each Job was first told.
async fn told(lists: &Arc<Lists>, jobs: &[(&str, usize)], seconds: u64) -> BTreeMap<Key, u64> {
    let (start, refusals) = (Instant::now(), PodCreationFailures::default());
    for (namespace, number) in jobs {
        for index in 0..*number {
            let key = Key::new(namespace, &format!("train-{index:02}"));
            refusals.observe(&key, Some(&job(false, json!({"startTime": at(0)}))), at(0));
        }
    }
    let (changes, mut received) = tokio::sync::mpsc::unbounded_channel();
    let client = lists.client();
    let reads = run(&refusals, &client, changes, clock_since(start));
    let mut told = BTreeMap::new();
    let collect = async {
        while let Some(CacheChange::Object(_, key)) = received.recv().await {
            told.entry(key).or_insert(start.elapsed().as_secs());
        }
    };
    let both = async { tokio::join!(reads, collect) };
    let limit = Duration::from_secs(seconds);
    assert!(tokio::time::timeout(limit, both).await.is_err());
    told
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_reads_are_slow_delays_no_other() {
    let lists = Arc::default();
    let told = told(&lists, &[("slow", 20), ("team", 1)], 300).await;
    assert_eq!(told.get(&Key::new("team", "train-00")), Some(&4));
}

#[tokio::test(start_paused = true)]
async fn each_report_is_told_as_soon_as_it_was_read_and_namespaces_take_turns() {
    let lists = Arc::<Lists>::default();
    let told = told(&lists, &[("a", 100), ("b", 2), ("c", 2)], 30).await;
    assert_eq!(told.get(&Key::new("a", "train-00")), Some(&4));
    assert!(told[&Key::new("b", "train-01")] <= 6, "{told:?}");
    assert!(told[&Key::new("c", "train-01")] <= 6, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_few_lists_are_under_way_at_a_time_of_each_namespace_one() {
    let lists = Arc::<Lists>::default();
    let names: Vec<String> = (0..50).map(|number| format!("n{number:02}")).collect();
    let jobs: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 2)).collect();
    let read = told(&lists, &jobs, 20).await;
    assert_eq!(lock(&lists.in_flight).1, 8);
    assert_eq!(read.len(), 100, "all are read");
    let lists = Arc::<Lists>::default();
    told(&lists, &[("a", 100)], 20).await;
    assert_eq!(lock(&lists.in_flight).1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_after_its_read_has_ended() {
    let lists = Arc::<Lists>::default();
    told(&lists, &[("slow", 1)], 300).await;
    let begun = lock(&lists.begun);
    let gaps = begun
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1).as_secs());
    // each read ends after 10 s, and the waits double
    assert_eq!(gaps.collect::<Vec<_>>(), [16, 22, 34, 58, 70, 70]);
}
