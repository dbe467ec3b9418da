//! Plays a story once for every write of it, and lets the controller die there, or lets somebody else write first.

use std::collections::{BTreeSet, VecDeque};

use bursar_api::names::{ROLE_LABEL, SPEND_FINALIZER};
use bursar_apitest::faults::{CrashPoint, Faults};
use futures::future::LocalBoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::leader::{Leader, View, names};
use super::world::{NAMESPACE, World};
use crate::pod;

/// How many looks old the caches of a new leader are at its first look.
const STALE: usize = 3;
/// Looks after a story's end, in which what is under way ends.
const AFTER: usize = 20;

/// A story: what users do, with looks in between.
pub(super) type Story = for<'a> fn(&'a mut Stage) -> LocalBoxFuture<'a, ()>;

/// A world with the controller in it.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) leader: Leader,
    /// Whether months are closed too, in every second instead of every hour.
    pub(super) closes: bool,
    /// Whether the API server refuses some of its writes.
    pub(super) is_refused: bool,
    views: VecDeque<View>,
    crashes: usize,
    /// The numbers of writes that were the first of their look.
    first_writes: BTreeSet<usize>,
}

impl Stage {
    pub(super) async fn new(faults: Faults) -> Self {
        let world = World::new().await;
        let leader = Leader::new(&world, faults);
        Self {
            world,
            leader,
            closes: false,
            is_refused: false,
            views: VecDeque::new(),
            crashes: 0,
            first_writes: BTreeSet::new(),
        }
    }

    /// Workers of a role that run.
    pub(super) fn running_workers(&self, role: &str) -> usize {
        let works = |pod: &&Pod| pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
        let pods = self.world.pods();
        let of_role = pods.iter().filter(works);
        let of_role = of_role.filter(|pod| pod.labels()[ROLE_LABEL] == role);
        of_role.count()
    }

    /// Seconds pass; the controller looks once in each. When it dies, another takes over, with caches that lag behind.
    pub(super) async fn seconds(&mut self, count: usize) {
        for _ in 0..count {
            self.world.turn().await;
            let view = View::of(&self.world);
            self.views.push_back(view.clone());
            if self.views.len() > STALE {
                self.views.pop_front();
            }
            let written = self.leader.faults.writes();
            let looked = self.leader.reconcile(&self.world, &view).await;
            let failures = match &looked {
                Ok(()) if self.closes => self.leader.close(self.world.now).await,
                _ => Vec::new(),
            };
            if self.leader.faults.writes() > written {
                self.first_writes.insert(written);
            }
            if self.leader.faults.has_crashed() {
                self.crashes += 1;
                self.leader = Leader::new(&self.world, Faults::default());
                if let Some(stale) = self.views.front().cloned() {
                    // it may be refused, but must not do harm
                    self.leader.reconcile(&self.world, &stale).await.ok();
                    if self.closes {
                        self.leader.close(self.world.now).await;
                    }
                }
                continue;
            }
            if let Err(error) = looked {
                assert!(self.is_refused || error.is_conflict(), "{error}");
            }
            for failure in failures {
                assert!(failure.is_stale(), "{failure}");
            }
        }
    }
}

/// What a story came to, without what may differ from run to run.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    pods: Vec<String>,
    held: Vec<String>,
    open: usize,
    cut: Vec<String>,
    estimated: i128,
    unexplained: Vec<String>,
}

async fn outcome(stage: &mut Stage) -> Outcome {
    stage.seconds(AFTER).await;
    let (cost, recorded) = (stage.world.cost(), stage.world.recorded());
    let pods = stage.world.pods();
    let held: Vec<Pod> = pods
        .iter()
        .filter(|pod| pod::has_finalizer(pod, SPEND_FINALIZER))
        .cloned()
        .collect();
    let records: Vec<bursar_api::SpendRecord> = stage.world.server.objects();
    let accounts = records.iter().map(|record| record.to_account().unwrap());
    let open = accounts
        .map(|account| account.open_charges().len() + account.settling().len())
        .sum();
    let unexplained = if cost == recorded {
        Vec::new()
    } else {
        vec![format!("costs are {cost:?}, recorded are {recorded:?}")]
    };
    Outcome {
        pods: names(&pods),
        held: names(&held),
        open,
        cut: stage.world.cut.clone(),
        estimated: stage.world.estimated(),
        unexplained,
    }
}

/// Plays the story undisturbed; returns how many writes it has.
pub(super) async fn undisturbed(story: Story) -> usize {
    played(story).await.leader.faults.writes()
}

/// The stage on which the story was played undisturbed.
async fn played(story: Story) -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    story(&mut stage).await;
    let outcome = outcome(&mut stage).await;
    assert_eq!(outcome, nothing_left(), "undisturbed");
    assert!(stage.world.lifetimes() > 0, "the story has no pod");
    stage
}

fn nothing_left() -> Outcome {
    Outcome {
        pods: Vec::new(),
        held: Vec::new(),
        open: 0,
        cut: Vec::new(),
        estimated: 0,
        unexplained: Vec::new(),
    }
}

/// The controller dies at every write, before and after it, and everything comes to the same end. Within one look,
/// to die before a write leaves the same as to have died after the one before.
pub(super) async fn every_crash(story: Story) {
    let played = played(story).await;
    let writes = played.leader.faults.writes();
    for write in 0..writes {
        let is_first = played.first_writes.contains(&write);
        let before = is_first.then_some(CrashPoint::Before);
        for moment in before.into_iter().chain([CrashPoint::After]) {
            let mut stage = Stage::new(Faults::crash(write, moment)).await;
            story(&mut stage).await;
            let outcome = outcome(&mut stage).await;
            assert_eq!(
                outcome,
                nothing_left(),
                "it died {moment:?} write {write} of {writes}"
            );
            assert_eq!(
                stage.crashes, 1,
                "write {write} of {writes} was not reached"
            );
        }
    }
}

/// Somebody changes every pod just before each write, and everything comes to the same end.
pub(super) async fn every_competing_write(story: Story) {
    let writes = undisturbed(story).await;
    for write in 0..writes {
        let mut stage = Stage::new(Faults::default()).await;
        let server = stage.world.server.clone();
        let client = server.client();
        let acts = async move {
            let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
            for pod in server.objects::<Pod>() {
                let patch = Patch::Merge(json!({"metadata": {"labels": {"rival": "was-here"}}}));
                api.patch(&pod.name_any(), &PatchParams::default(), &patch)
                    .await
                    .unwrap();
            }
        };
        stage.leader = Leader::new(&stage.world, Faults::competing_write(write, acts));
        story(&mut stage).await;
        assert_eq!(
            outcome(&mut stage).await,
            nothing_left(),
            "a rival before write {write} of {writes}"
        );
    }
}

/// Another leader, with fresh caches, closes months just before each write, and everything comes to the same end.
pub(super) async fn every_competing_month_close(story: Story) {
    let writes = undisturbed(story).await;
    for write in 0..writes {
        let mut stage = Stage::new(Faults::default()).await;
        let mut rival = Leader::new(&stage.world, Faults::default());
        let server = stage.world.server.clone();
        let acts = async move {
            rival.fill_caches(&View::on(&server));
            rival.close("2026-12-05T00:00:00Z".parse().unwrap()).await;
        };
        stage.leader = Leader::new(&stage.world, Faults::competing_write(write, acts));
        story(&mut stage).await;
        assert_eq!(
            outcome(&mut stage).await,
            nothing_left(),
            "a rival closed a month before write {write} of {writes}"
        );
    }
}
