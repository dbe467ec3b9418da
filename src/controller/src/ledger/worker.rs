//! Keeps the accounts of all workloads, for as long as the process leads: a task of its own, for
//! which no decision waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bursar_api::SpendRecord;
use bursar_api::prices::EffectivePrices;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::account_sync::AccountSync;
use super::error::Error;
use super::inputs::NamespaceInputs;
use super::queue::{AccountQueue, DueAccount, SyncResult};
use crate::cache::Trigger;
use crate::context::Context;
use crate::metrics::ResultLabel;
use crate::pod;

/// What was read of a namespace serves so long for accounts that nothing happened to since.
const INPUTS_AGE: Duration = Duration::from_secs(1);
/// While events come, a namespace is read at most this often: reading it takes time that grows with
/// the cluster, and events of a thousand accounts come within a second.
const INPUTS_PAUSE: Duration = Duration::from_millis(100);
/// Changes of nodes and prices are looked at together, and so are events of accounts that wait
/// after a failure.
const CLUSTER_DELAY: Duration = Duration::from_secs(1);
const ASSUME_DELAY: Duration = Duration::from_millis(200);
/// Triggers that are taken at a time.
const MAX_TRIGGERS: usize = 1_024;

/// Keeps the accounts up to date with what `triggers` name. `clock` tells the time that is charged.
pub(crate) async fn run(
    context: Arc<Context>,
    mut triggers: mpsc::UnboundedReceiver<Trigger>,
    clock: impl Fn() -> Timestamp + Clone + Send + 'static,
) {
    let mut worker = Worker::new(context, clock);
    worker.request_all();
    let mut received = Vec::new();
    loop {
        worker.request_asked();
        worker.begin_due();
        let wake = worker.next_wake();
        tokio::select! {
            count = triggers.recv_many(&mut received, MAX_TRIGGERS) => {
                if count == 0 {
                    return;
                }
                // the caches show these events
                worker.generation += 1;
                for trigger in received.drain(..) {
                    worker.receive(trigger);
                }
            }
            Some((account, result)) = worker.running.next() => worker.finish(&account, result),
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                worker.look_at_cluster();
                worker.preview_backing_off();
            }
        }
    }
}

/// One sync and how it ended.
type Synced = (WorkloadRef, Result<SyncResult, Error>);

/// What was read of a namespace.
struct LoadedInputs {
    inputs: Arc<NamespaceInputs>,
    at: Instant,
    generation: u64,
}

struct Worker<C> {
    context: Arc<Context>,
    clock: C,
    queue: AccountQueue,
    running: FuturesUnordered<BoxFuture<'static, Synced>>,
    /// How many syncs run in each namespace.
    running_in: HashMap<String, usize>,
    inputs: HashMap<String, LoadedInputs>,
    /// Counts the times at which events came: what was read since then shows them.
    generation: u64,
    /// When nodes and prices are compared with `nodes` and `prices`.
    look_at_cluster: Option<Instant>,
    nodes: HashMap<String, u64>,
    prices: Option<Arc<EffectivePrices>>,
    /// Accounts that events concern and that wait after a failure: what the caches say of them is
    /// published meanwhile.
    paused: BTreeSet<WorkloadRef>,
    /// Namespaces of which all accounts are to be requested, and when.
    asked: BTreeMap<String, Instant>,
    assume_at: Option<Instant>,
}

impl<C: Fn() -> Timestamp + Clone + Send + 'static> Worker<C> {
    fn new(context: Arc<Context>, clock: C) -> Self {
        Self {
            nodes: fingerprints(&context),
            context,
            clock,
            queue: AccountQueue::new(Instant::now()),
            running: FuturesUnordered::new(),
            running_in: HashMap::new(),
            inputs: HashMap::new(),
            generation: 0,
            look_at_cluster: None,
            prices: None,
            paused: BTreeSet::new(),
            asked: BTreeMap::new(),
            assume_at: None,
        }
    }

    /// Requests every account: those with pods or open charges first.
    fn request_all(&mut self) {
        let (now, generation) = (Instant::now(), self.generation);
        let context = Arc::clone(&self.context);
        let stores = &context.stores;
        for pod in stores.pods.state() {
            if let Some(account) = pod::workload_of(&pod) {
                self.queue.request(&account, generation, now);
            }
        }
        for record in stores.records.state() {
            if record.is_consolidated() || record.spec.kind == WorkloadKind::Node {
                continue;
            }
            let is_open = |status: &bursar_api::spend::SpendRecordStatus| !status.open.is_empty();
            match record.status.as_ref().is_some_and(is_open) {
                true => self.queue.request(&record.workload(), generation, now),
                false => self.queue.request_in_background(&record.workload(), now),
            }
        }
        for record in context.unreadable.all::<SpendRecord>() {
            let of_account = WorkloadRef::from_record_name(&record.name);
            let is_kept = |kind| !matches!(kind, WorkloadKind::Folded | WorkloadKind::Node);
            if let Some((account, _)) = of_account.filter(|(account, _)| is_kept(account.kind)) {
                self.queue.request_in_background(&account, now);
            }
        }
        let account = |kind, namespace: Option<String>, name| WorkloadRef {
            namespace: namespace.unwrap_or_default(),
            kind,
            name,
        };
        for service in stores.services.state() {
            let kind = WorkloadKind::InferenceDeployment;
            let service = account(kind, service.namespace(), service.name_any());
            self.queue.request_in_background(&service, now);
        }
        for job in stores.jobs.state() {
            let job = account(WorkloadKind::TrainingJob, job.namespace(), job.name_any());
            self.queue.request_in_background(&job, now);
        }
    }

    fn receive(&mut self, trigger: Trigger) {
        let (now, generation) = (Instant::now(), self.generation);
        match trigger {
            Trigger::Workload(account) => self.request(&account, now),
            Trigger::Record(account) => self.queue.request_at_once(&account, generation, now),
            Trigger::Accounts(namespace) => {
                self.asked.entry(namespace).or_insert(now);
            }
            Trigger::All => {
                let at = now + CLUSTER_DELAY;
                self.look_at_cluster.get_or_insert(at);
            }
        }
    }

    /// Requests all accounts of the namespaces that events concern as a whole, of each as often as it
    /// may be read.
    fn request_asked(&mut self) {
        let (now, generation) = (Instant::now(), self.generation);
        for (namespace, at) in std::mem::take(&mut self.asked) {
            if now < at {
                self.asked.insert(namespace, at);
                continue;
            }
            if let Some(wait) = self.reload_delay(&namespace, generation, now) {
                self.asked.insert(namespace, now + wait);
                continue;
            }
            let inputs = self.inputs(&namespace, generation);
            let failed = self.queue.backing_off_in(&namespace, now);
            for account in inputs.workloads().chain(&failed) {
                self.queue.request_at_once(account, generation, now);
            }
        }
    }

    fn request(&mut self, account: &WorkloadRef, now: Instant) {
        self.queue.request(account, self.generation, now);
        if self.queue.is_backing_off(account, now) {
            self.paused.insert(account.clone());
            self.assume_at.get_or_insert(now + ASSUME_DELAY);
        }
    }

    /// Begins the syncs that are due and that there is room for.
    fn begin_due(&mut self) {
        let now = Instant::now();
        let orders_wait = self.context.orders_wait.load(Relaxed);
        self.queue.yield_to_orders(orders_wait);
        self.inputs
            .retain(|_, loaded| now.duration_since(loaded.at) < INPUTS_AGE);
        while let Some(due) = self.queue.take(now) {
            let DueAccount {
                account,
                generation,
            } = due;
            if let Some(wait) = self.reload_delay(&account.namespace, generation, now) {
                let deferred = SyncResult::Deferred(wait);
                self.queue.finish(&account, deferred, generation, now);
                continue;
            }
            let inputs = self.inputs(&account.namespace, generation);
            let running = self
                .running_in
                .entry(account.namespace.clone())
                .or_default();
            // which of two pods is charged for a device depends on whose charge is open
            if inputs.share_devices() && *running > 0 {
                let (generation, deferred) = (self.generation, SyncResult::Deferred(INPUTS_PAUSE));
                self.queue.finish(&account, deferred, generation, now);
                continue;
            }
            *running += 1;
            let (context, now) = (Arc::clone(&self.context), (self.clock)());
            self.running.push(Box::pin(async move {
                let sync = AccountSync {
                    context: &context,
                    inputs: &inputs,
                    account: &account,
                    now,
                };
                let result = sync.run().await;
                (account, result)
            }));
        }
    }

    /// How long an account of this generation waits, because its namespace was read a moment ago and
    /// must be read again for it.
    fn reload_delay(&self, namespace: &str, generation: u64, now: Instant) -> Option<Duration> {
        let known = self.inputs.get(namespace)?;
        let pause = INPUTS_PAUSE.checked_sub(now.duration_since(known.at))?;
        (known.generation < generation && !pause.is_zero()).then_some(pause)
    }

    /// What the caches hold of a namespace, of this generation or later.
    fn inputs(&mut self, namespace: &str, generation: u64) -> Arc<NamespaceInputs> {
        let known = self.inputs.get(namespace);
        if let Some(known) = known.filter(|known| known.generation >= generation) {
            return Arc::clone(&known.inputs);
        }
        let now = (self.clock)();
        let inputs = Arc::new(NamespaceInputs::load(&self.context, namespace, now));
        let loaded = LoadedInputs {
            inputs: Arc::clone(&inputs),
            at: Instant::now(),
            generation: self.generation,
        };
        self.inputs.insert(namespace.to_owned(), loaded);
        inputs
    }

    fn finish(&mut self, account: &WorkloadRef, result: Result<SyncResult, Error>) {
        let namespace = &account.namespace;
        if let Some(running) = self.running_in.get_mut(namespace) {
            *running -= 1;
            if *running == 0 {
                self.running_in.remove(namespace);
            }
        }
        let shares = |loaded: &LoadedInputs| loaded.inputs.share_devices();
        if self.inputs.get(namespace).is_some_and(shares) {
            self.inputs.remove(namespace);
        }
        let (label, result) = match result {
            Ok(result) => ("ok", result),
            Err(Error::Call(error)) if error.is_stale() => ("conflict", SyncResult::Stale),
            Err(error) => {
                tracing::warn!(%namespace, name = account.name, %error, "an account");
                ("error", SyncResult::Failed)
            }
        };
        let label = ResultLabel { result: label };
        let syncs = &self.context.metrics.account_syncs;
        syncs.get_or_create(&label).inc();
        if !matches!(result, SyncResult::Synced(_)) {
            self.generation += 1;
        }
        let (generation, now) = (self.generation, Instant::now());
        self.queue.finish(account, result, generation, now);
    }

    fn next_wake(&self) -> Option<Instant> {
        let timers = self.look_at_cluster.into_iter().chain(self.assume_at);
        let timers = timers.chain(self.asked.values().min().copied());
        timers.chain(self.queue.next_due()).min()
    }

    /// Requests the accounts that changes of nodes and prices concern.
    fn look_at_cluster(&mut self) {
        let now = Instant::now();
        if self.look_at_cluster.is_none_or(|at| now < at) {
            return;
        }
        self.look_at_cluster = None;
        let prices = self.context.prices((self.clock)());
        let known = self.prices.as_ref();
        if known.is_none_or(|known| !Arc::ptr_eq(known, &prices)) {
            let accounts: Vec<WorkloadRef> = self.queue.accounts().cloned().collect();
            for account in accounts {
                self.queue.request_in_background(&account, now);
            }
            self.prices = Some(prices);
        }
        let nodes = fingerprints(&self.context);
        let changed = |name: &str| self.nodes.get(name) != nodes.get(name);
        let pods = self.context.stores.pods.state();
        let on_changed = pods
            .iter()
            .filter(|pod| pod::node_name(pod).is_some_and(changed));
        let accounts: BTreeSet<WorkloadRef> =
            on_changed.filter_map(|pod| pod::workload_of(pod)).collect();
        for account in accounts {
            self.request(&account, now);
        }
        self.nodes = nodes;
    }

    /// Publishes what the caches say of accounts that wait after a failure.
    fn preview_backing_off(&mut self) {
        let now = Instant::now();
        if self.assume_at.is_none_or(|at| now < at) {
            return;
        }
        self.assume_at = None;
        for account in std::mem::take(&mut self.paused) {
            let inputs = self.inputs(&account.namespace, self.generation);
            let sync = AccountSync {
                context: &self.context,
                inputs: &inputs,
                account: &account,
                now: (self.clock)(),
            };
            if let Err(error) = sync.assume() {
                tracing::warn!(namespace = account.namespace, name = account.name, %error, "an account");
            }
        }
    }
}

/// What accounts depend on of each node, by name: labels, capacity, and since when it is lost.
fn fingerprints(context: &Context) -> HashMap<String, u64> {
    let fingerprint = |node: &Node| {
        let mut hasher = DefaultHasher::new();
        (node.uid(), node.labels(), pod::unreachable_since(node)).hash(&mut hasher);
        for (name, amount) in pod::capacity_of(node).into_iter().flatten() {
            (name, &amount.0).hash(&mut hasher);
        }
        hasher.finish()
    };
    let nodes = context.stores.nodes.state();
    nodes
        .iter()
        .map(|node| (node.name_any(), fingerprint(node)))
        .collect()
}

/// Brings all accounts of a namespace up to date, one after the other, as of `now`. Returns the
/// errors.
#[cfg(test)]
pub(crate) async fn sync_namespace(
    context: &Context,
    namespace: &str,
    now: Timestamp,
) -> Vec<Error> {
    let inputs = NamespaceInputs::load(context, namespace, now);
    let mut accounts: BTreeSet<WorkloadRef> = inputs.workloads().cloned().collect();
    let account = |kind, name| WorkloadRef {
        namespace: namespace.to_owned(),
        kind,
        name,
    };
    let here = |object: Option<String>| object.as_deref() == Some(namespace);
    let services = context.stores.services.state();
    let services = services.iter().filter(|each| here(each.namespace()));
    accounts
        .extend(services.map(|each| account(WorkloadKind::InferenceDeployment, each.name_any())));
    let jobs = context.stores.jobs.state();
    let jobs = jobs.iter().filter(|each| here(each.namespace()));
    accounts.extend(jobs.map(|each| account(WorkloadKind::TrainingJob, each.name_any())));
    let mut errors = Vec::new();
    for account in accounts {
        errors.extend(sync_account(context, &inputs, &account, now).await.err());
    }
    errors
}

/// Brings one account up to date by what was read of its namespace.
#[cfg(test)]
pub(crate) async fn sync_account(
    context: &Context,
    inputs: &NamespaceInputs,
    account: &WorkloadRef,
    now: Timestamp,
) -> Result<(), Error> {
    let sync = AccountSync {
        context,
        inputs,
        account,
        now,
    };
    sync.run().await.map(drop)
}
