//! The edge between Kubernetes and the model: it makes the model's events of what caches, accounts
//! and prices say. Objects become small values, without anything that no decision reads.
//!
//! | module | subject |
//! |---|---|
//! | `objects` | one object as a value |
//! | `placement` | where pods may be placed |
//! | `claims` | who uses which claims |
//! | `pods` | pods, and what they ask for by claims |
//! | `known_pods` | the pods that the model knows, and who leads them |
//! | `workloads` | workloads, budgets, endpoints |
//! | `marks` | which changes may change what a workload owns |
//! | `money` | prices, records, corrections, and the accounts that changed |
//! | `accounts` | what accounts have spent, as functions of time |
//!
//! An event says what is there now, however often it changed before: under load many changes of an
//! object become one event. A new leader learns all of this anew: to it, all that the caches hold
//! has changed.

mod accounts;
mod claims;
mod known_pods;
mod marks;
mod money;
mod objects;
mod placement;
mod pods;
mod workloads;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bursar_api::BudgetPolicy;
use bursar_api::names::{REPLICAS_SUFFIX, WORKLOAD_LABEL, gateway_slices, role_job};
use bursar_api::pause::pauses;
use bursar_api::prices::EffectivePrices;
use bursar_api::spend::WorkloadRef;
use bursar_core::model::Key;
use bursar_core::model::event::{Event, Name};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PodSpec;
use kube::ResourceExt;
use kube::runtime::reflector::Store;

use self::accounts::{AccountEdge, AccountLoader};
use self::claims::{Changes, ClaimIndex};
use self::marks::Marks;
use self::pods::PodEdge;
use self::workloads::WorkloadReader;
use crate::cache::{CacheChange, CachedKind, cached, key_of};
use crate::context::Context;
use crate::gpu_allocation::volume_claims;
use crate::inference::request_path::waits_for_replicas;
use crate::job_target;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::training::job;

/// Prices and corrections depend on the currency of records, which is looked at this often while
/// records change.
const CURRENCY_PERIOD: SignedDuration = SignedDuration::from_secs(1);

/// What has become known.
#[derive(Default)]
pub(crate) struct Observed {
    /// Events for the model.
    pub(crate) events: Vec<Event>,
    /// Objects whose specification was edited.
    pub(crate) edited: BTreeSet<ObjectKey>,
    /// Workloads whose owned objects may differ from what they should be.
    pub(crate) owners: BTreeSet<ObjectKey>,
    /// Objects whose status may have changed.
    pub(crate) statuses: BTreeSet<ObjectKey>,
}

/// What the model was told, and what has changed since.
pub(crate) struct Edge {
    context: Arc<Context>,
    /// In the order of kinds: what others are read with comes first.
    changed: BTreeSet<(CachedKind, Key)>,
    listed: BTreeSet<CachedKind>,
    /// The objects that were there when last looked at, without pods.
    known: HashMap<CachedKind, HashSet<Key>>,
    pods: PodEdge,
    /// The TrainingJob and the role of each Job.
    role_jobs: HashMap<Key, (Key, Name)>,
    /// The pod sets that the model knows of the targets of TrainingJobs.
    pod_sets: HashMap<Key, BTreeSet<Name>>,
    /// TrainingJobs whose targets others start and suspend.
    out_of_control: BTreeSet<Key>,
    /// Services with pods that have outlived their target, and before when those were made.
    emptied: BTreeMap<Key, Timestamp>,
    generations: HashMap<ObjectKey, i64>,
    marks: Marks,
    claims: ClaimIndex,
    /// Workloads whose templates name a volume claim, by claim, and the claims that each names.
    with_volume: HashMap<Key, BTreeSet<ObjectKey>>,
    volumes: HashMap<ObjectKey, BTreeSet<Key>>,
    /// The namespaces of corrections.
    corrections: HashMap<Key, String>,
    accounts: AccountEdge,
    /// Accounts that changed.
    changed_accounts: BTreeSet<WorkloadRef>,
    prices: Option<Arc<EffectivePrices>>,
    /// When the currency of records is looked at.
    look_at_currency: Option<Timestamp>,
}

impl Edge {
    /// Nothing is known yet; all that the caches hold has changed.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let mut edge = Self {
            context,
            changed: BTreeSet::new(),
            listed: BTreeSet::new(),
            known: HashMap::new(),
            pods: PodEdge::default(),
            role_jobs: HashMap::new(),
            pod_sets: HashMap::new(),
            out_of_control: BTreeSet::new(),
            emptied: BTreeMap::new(),
            generations: HashMap::new(),
            marks: Marks::default(),
            claims: ClaimIndex::default(),
            with_volume: HashMap::new(),
            volumes: HashMap::new(),
            corrections: HashMap::new(),
            accounts: AccountEdge::default(),
            changed_accounts: BTreeSet::new(),
            prices: None,
            look_at_currency: None,
        };
        edge.note_all();
        edge
    }

    /// Takes that a cache changed.
    pub(crate) fn note(&mut self, change: CacheChange) {
        match change {
            CacheChange::Object(kind, key) => drop(self.changed.insert((kind, key))),
            CacheChange::Listed(kind) => drop(self.listed.insert(kind)),
        }
    }

    /// Takes that any object may have changed.
    pub(crate) fn note_all(&mut self) {
        self.listed.extend(CachedKind::ALL);
    }

    /// Takes that accounts changed.
    pub(crate) fn note_accounts(&mut self, accounts: impl IntoIterator<Item = WorkloadRef>) {
        self.changed_accounts.extend(accounts);
    }

    /// When something is to be observed though nothing changes.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let prices = self.prices.as_ref().and_then(|prices| prices.next);
        let timers = [
            self.pods.next(),
            lock(&self.context.index).next_expiry(),
            self.accounts.next(),
            self.look_at_currency,
            prices,
            self.context.ports.next(),
        ];
        timers.into_iter().flatten().min()
    }

    /// What has become known since the last call.
    pub(crate) fn observe(&mut self, now: Timestamp) -> Observed {
        let context = Arc::clone(&self.context);
        for kind in std::mem::take(&mut self.listed) {
            let keys = self.listed_keys(kind);
            self.changed.extend(keys.into_iter().map(|key| (kind, key)));
        }
        let due = self.pods.due(now).into_iter();
        self.changed.extend(due.map(|key| (CachedKind::Pod, key)));
        let namespaces = context.scale_targets.take_namespaces();
        if !namespaces.is_empty() {
            self.pods.note_unlabelled(&context, &namespaces, now);
            for namespace in &namespaces {
                let adopted = context.scale_targets.take_adopted(namespace).into_iter();
                self.changed
                    .extend(adopted.map(|key| (CachedKind::InferenceDeployment, key)));
            }
        }
        let namespaces = context.job_targets.take_namespaces();
        let known = self.pods.known();
        let pods = namespaces.iter().flat_map(|each| known.keys_in(each));
        let pods = pods.map(|key| (CachedKind::Pod, key.clone()));
        self.changed.extend(pods);
        let pods = context.job_targets.take_pods_below().into_iter();
        self.changed.extend(pods.map(|key| (CachedKind::Pod, key)));
        let mut batch = Batch {
            context: &context,
            claims: std::mem::take(&mut self.claims),
            loader: AccountLoader::default(),
            reads_priorities: false,
            unknown_accelerators: BTreeSet::new(),
            gateways_changed: false,
            now,
            observed: Observed::default(),
        };
        while let Some((kind, key)) = self.changed.pop_first() {
            let is_there = self.observe_object(&mut batch, kind, &key);
            let known = self.known.entry(kind).or_default();
            match is_there {
                true => drop(known.insert(key)),
                false => drop(known.remove(&key)),
            }
        }
        let expired = lock(&context.index).expire_gateways(now);
        if batch.gateways_changed || expired.contains(&*context.namespace) {
            let services = self.listed_keys(CachedKind::InferenceDeployment);
            let owners = services.into_iter().map(ObjectKey::Service);
            batch.observed.owners.extend(owners);
        }
        for service in context.ports.due(&context.stores, now) {
            batch.owns_otherwise(ObjectKey::Service(service));
        }
        if batch.reads_priorities {
            for job in self.listed_keys(CachedKind::TrainingJob) {
                let event = batch.workloads().job(&job);
                batch.push(event);
            }
            for service in self.listed_keys(CachedKind::InferenceDeployment) {
                let event = batch.workloads().service(&service);
                batch.push(event);
            }
        }
        for namespace in std::mem::take(&mut batch.unknown_accelerators) {
            let budgets = self
                .known
                .get(&CachedKind::BudgetPolicy)
                .into_iter()
                .flatten();
            for budget in budgets.filter(|budget| budget.namespace == namespace) {
                batch.has_changed(ObjectKey::Budget(budget.clone()));
            }
        }
        self.observe_prices(&mut batch);
        self.observe_accounts(&mut batch);
        self.observe_claims(&mut batch);
        self.claims = batch.claims;
        batch.observed
    }

    /// All objects of a kind that are there or were.
    fn listed_keys(&self, kind: CachedKind) -> HashSet<Key> {
        fn keys<K>(store: &Store<K>) -> HashSet<Key>
        where
            K: kube::Resource<DynamicType = ()> + Clone + 'static,
        {
            store
                .state()
                .iter()
                .map(|object| key_of(&**object))
                .collect()
        }
        let stores = &self.context.stores;
        let mut all = match kind {
            CachedKind::Node => keys(&stores.nodes),
            CachedKind::PriceList => keys(&stores.prices),
            CachedKind::ConfigMap => keys(&stores.pauses),
            CachedKind::PriorityClass => keys(&stores.priorities),
            CachedKind::SpendRecord => keys(&stores.records),
            CachedKind::SpendCorrection => keys(&stores.corrections),
            CachedKind::BudgetPolicy => keys(&stores.budgets),
            CachedKind::PersistentVolumeClaim => keys(&stores.volume_claims),
            CachedKind::ResourceClaim => keys(&stores.device_claims),
            CachedKind::ResourceSlice => keys(&stores.device_slices),
            CachedKind::Pod => keys(&stores.pods),
            CachedKind::InferenceDeployment => keys(&stores.services),
            CachedKind::Deployment => keys(&stores.deployments),
            CachedKind::Service => keys(&stores.front_services),
            CachedKind::EndpointSlice => keys(&stores.slices),
            CachedKind::TrainingJob => keys(&stores.jobs),
            CachedKind::Job => keys(&stores.batch_jobs),
        };
        all.extend(self.known.get(&kind).into_iter().flatten().cloned());
        if kind == CachedKind::Pod {
            all.extend(self.pods.known().keys().cloned());
        }
        if kind == CachedKind::BudgetPolicy {
            let unreadable = self.context.unreadable.all::<BudgetPolicy>();
            all.extend(
                unreadable
                    .iter()
                    .map(|object| Key::new(&object.namespace, &object.name)),
            );
        }
        all
    }

    /// Observes one object. Returns whether it is there.
    fn observe_object(&mut self, batch: &mut Batch<'_>, kind: CachedKind, key: &Key) -> bool {
        let context = batch.context;
        let stores = &context.stores;
        match kind {
            CachedKind::Node => {
                let node = cached(&stores.nodes, key);
                let value = node.as_deref().map(objects::node);
                batch.push(Event::Node(key.name.clone(), value));
                node.is_some()
            }
            CachedKind::PriceList => {
                self.look_at_currency = Some(batch.now);
                cached(&stores.prices, key).is_some()
            }
            CachedKind::ConfigMap => self.observe_pauses(batch, key),
            CachedKind::PriorityClass => {
                batch.reads_priorities = true;
                cached(&stores.priorities, key).is_some()
            }
            CachedKind::SpendRecord => self.observe_record(batch, key),
            CachedKind::SpendCorrection => self.observe_correction(batch, key),
            CachedKind::BudgetPolicy => {
                for event in batch.workloads().budget(key) {
                    batch.push(event);
                }
                let object = cached(&stores.budgets, key);
                let generation = object
                    .as_ref()
                    .and_then(|object| object.metadata.generation);
                let subject = ObjectKey::Budget(key.clone());
                self.note_generation(batch, &subject, generation);
                batch.has_changed(subject);
                // one that cannot be read is in no cache, and holds starts up until it is gone
                let unreadable = &context.unreadable;
                let why = unreadable.why::<BudgetPolicy>(&key.namespace, &key.name);
                object.is_some() || why.is_some()
            }
            CachedKind::PersistentVolumeClaim => {
                batch.claims.note_volume(key);
                cached(&stores.volume_claims, key).is_some()
            }
            CachedKind::ResourceClaim => {
                batch.claims.note_devices(stores, key);
                cached(&stores.device_claims, key).is_some()
            }
            CachedKind::ResourceSlice => {
                let slice = cached(&stores.device_slices, key);
                batch.claims.set_slice(key, slice.as_deref());
                slice.is_some()
            }
            CachedKind::Pod => {
                batch.gateways_changed |= self.pods.observe(batch, key);
                false
            }
            CachedKind::InferenceDeployment => {
                let object = cached(&stores.services, key);
                context.scale_targets.set(key, object.as_deref(), batch.now);
                let successors = context.scale_targets.take_successors().into_iter();
                self.changed.extend(successors.map(|key| (kind, key)));
                let target = context.scale_targets.view(key).and_then(|view| view.target);
                let template = object
                    .as_ref()
                    .and_then(|object| object.spec.template.as_ref());
                let template = template.or(target.as_deref().map(|target| &target.template));
                if object.is_none() {
                    context.release_port(key, batch.now);
                }
                let subject = ObjectKey::Service(key.clone());
                let spec = template.and_then(|template| template.spec.as_ref());
                self.note_volumes(subject.clone(), spec);
                let generation = object
                    .as_ref()
                    .and_then(|object| object.metadata.generation);
                self.note_generation(batch, &subject, generation);
                let service = batch.workloads().service(key);
                batch.push(service);
                // whose Deployment it is depends on who has the name now
                let deployment = batch.workloads().deployment(key);
                batch.push(deployment);
                let emptied = context.scale_targets.emptied(key);
                let known = match emptied {
                    Some(at) => self.emptied.insert(key.clone(), at),
                    None => self.emptied.remove(key),
                };
                let is_for_all = known != emptied || object.is_none();
                self.observe_pods_with(context, (kind, &subject), is_for_all);
                if let Some(object) = object.as_deref().filter(|_| target.is_some()) {
                    let endpoints = batch.workloads().target_endpoints(key, object);
                    batch.push(endpoints);
                }
                self.load_subject(batch, &subject);
                let has_other_target = context.scale_targets.take_changed(key);
                if has_other_target {
                    // what was refused before may be carried out now
                    batch.observed.edited.insert(subject.clone());
                }
                match self.marks.note(kind, key, object.as_deref()) || has_other_target {
                    true => batch.owns_otherwise(subject),
                    false => batch.has_changed(subject),
                }
                object.is_some()
            }
            CachedKind::Deployment => {
                let found = cached(&stores.deployments, key);
                let event = batch.workloads().deployment(key);
                batch.push(event);
                let unreadable = context
                    .unreadable
                    .why::<Deployment>(&key.namespace, &key.name);
                let readable = found.as_deref().filter(|_| unreadable.is_none());
                if self.marks.note(kind, key, readable) {
                    batch.owns_otherwise(ObjectKey::Service(key.clone()));
                }
                found.is_some()
            }
            CachedKind::Service => {
                batch.owns_otherwise(ObjectKey::Service(key.clone()));
                batch.owns_otherwise(ObjectKey::Job(key.clone()));
                if let Some(service) = key.name.strip_suffix(REPLICAS_SUFFIX) {
                    let service = Key::new(&key.namespace, service);
                    batch.owns_otherwise(ObjectKey::Service(service));
                }
                cached(&stores.front_services, key).is_some()
            }
            CachedKind::EndpointSlice => {
                let slice = cached(&stores.slices, key);
                let changed = lock(&context.slice_index).set(key, slice.as_deref());
                for service in changed {
                    let endpoints = {
                        let index = lock(&context.slice_index);
                        batch.workloads().endpoints(&service, index.of(&service))
                    };
                    batch.push(endpoints);
                    // the other slices of a service are the cluster's
                    let of_gateways = gateway_slices(&service.name);
                    if of_gateways.iter().any(|name| **name == *key.name)
                        || waits_for_replicas(stores, &service)
                    {
                        batch.owns_otherwise(ObjectKey::Service(service));
                    }
                }
                slice.is_some()
            }
            CachedKind::TrainingJob => {
                let object = cached(&stores.jobs, key);
                context.job_targets.set(key, object.as_deref(), batch.now);
                let successors = context.job_targets.take_successors().into_iter();
                self.changed.extend(successors.map(|key| (kind, key)));
                let subject = ObjectKey::Job(key.clone());
                let target = context.job_targets.view(key).and_then(|view| view.target);
                let pod_sets = target.iter().flat_map(|target| &target.pod_sets);
                let roles = object.iter().flat_map(|object| object.spec.roles());
                let templates = roles.map(|role| role.template);
                let templates = templates.chain(pod_sets.map(|set| &*set.template));
                let specs = templates.filter_map(|template| template.spec.as_ref());
                self.note_volumes(subject.clone(), specs);
                let generation = object
                    .as_ref()
                    .and_then(|object| object.metadata.generation);
                self.note_generation(batch, &subject, generation);
                let job = batch.workloads().job(key);
                batch.push(job);
                let roles = object.iter().flat_map(|object| object.spec.roles());
                for role in roles {
                    let name = role_job(&key.name, role.name);
                    let role_job = Key::new(&key.namespace, &name);
                    if let Some((of, role)) = self.role_jobs.get(&role_job) {
                        let event = batch.workloads().role_job(&role_job, of, role);
                        batch.push(event);
                    }
                }
                self.observe_target(batch, key);
                self.observe_pods_with(context, (kind, &subject), object.is_none());
                self.load_subject(batch, &subject);
                batch.owns_otherwise(subject);
                object.is_some()
            }
            CachedKind::Job => self.observe_role_job(batch, key),
        }
    }

    /// Observes the target of a TrainingJob: it has a Job for each pod set to the model.
    fn observe_target(&mut self, batch: &mut Batch<'_>, key: &Key) {
        let context = batch.context;
        let jobs = job_target::events::batch_jobs(context, key);
        let names: BTreeSet<Name> = jobs.keys().cloned().collect();
        let known = match names.is_empty() {
            true => self.pod_sets.remove(key),
            false => self.pod_sets.insert(key.clone(), names.clone()),
        };
        for gone in known.unwrap_or_default().difference(&names) {
            batch.push(Event::BatchJob(key.clone(), gone.clone(), None));
        }
        for (name, job) in jobs {
            batch.push(Event::BatchJob(key.clone(), name, Some(job)));
        }
        let has_changed = match context.job_targets.is_out_of_control(key) {
            true => self.out_of_control.insert(key.clone()),
            false => self.out_of_control.remove(key),
        };
        if has_changed {
            self.observe_pods_of(context, &ObjectKey::Job(key.clone()), |_| true);
        }
    }

    /// The pods of a workload are to be observed anew, since whether budgets can stop them by it has changed: all of
    /// them, or those that were its own no more, if it has come back.
    fn observe_pods_with(
        &mut self,
        context: &Context,
        (kind, workload): (CachedKind, &ObjectKey),
        is_for_all: bool,
    ) {
        let known = self.known.get(&kind);
        let was_there = known.is_some_and(|known| known.contains(workload.key()));
        if is_for_all || !was_there {
            let is_meant = |pod: &Key| is_for_all || context.released_pods.is_noted(pod);
            self.observe_pods_of(context, workload, is_meant);
        }
    }

    /// These pods of a workload are to be observed anew.
    fn observe_pods_of(
        &mut self,
        context: &Context,
        workload: &ObjectKey,
        is_meant: impl Fn(&Key) -> bool,
    ) {
        if let Some(workload) = workload.workload() {
            let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
            let pods = pods.iter().map(|pod| key_of(&**pod)).filter(is_meant);
            self.changed.extend(pods.map(|pod| (CachedKind::Pod, pod)));
        }
    }

    /// Observes what is paused. What is resumed is compared with what it should be.
    fn observe_pauses(&mut self, batch: &mut Batch<'_>, key: &Key) -> bool {
        if *key != batch.context.pause_key() {
            return false;
        }
        let found = cached(&batch.context.stores.pauses, key);
        batch.push(Event::Pauses(pauses(found.as_deref())));
        for service in self.listed_keys(CachedKind::InferenceDeployment) {
            batch.owns_otherwise(ObjectKey::Service(service));
        }
        for job in self.listed_keys(CachedKind::TrainingJob) {
            batch.owns_otherwise(ObjectKey::Job(job));
        }
        for budget in self.listed_keys(CachedKind::BudgetPolicy) {
            batch.has_changed(ObjectKey::Budget(budget));
        }
        found.is_some()
    }

    /// Observes the Job of a role, of which there is one for each role of a TrainingJob.
    fn observe_role_job(&mut self, batch: &mut Batch<'_>, key: &Key) -> bool {
        let found = cached(&batch.context.stores.batch_jobs, key);
        let refusals = &batch.context.refusals;
        refusals.observe(key, found.as_deref(), batch.now);
        let role = found.as_deref().and_then(|job| role_of(key, job));
        let former = match &role {
            Some(role) => self.role_jobs.insert(key.clone(), role.clone()),
            None => self.role_jobs.remove(key),
        };
        if let Some((of, name)) = former.filter(|former| Some(former) != role.as_ref()) {
            batch.push(Event::BatchJob(of.clone(), name, None));
            batch.owns_otherwise(ObjectKey::Job(of));
        }
        if let Some((of, name)) = role {
            let event = batch.workloads().role_job(key, &of, &name);
            batch.push(event);
            // one that cannot be read goes on only if it runs
            let event = batch.workloads().job(&of);
            batch.push(event);
            batch.owns_otherwise(ObjectKey::Job(of));
        }
        found.is_some()
    }

    fn load_subject(&mut self, batch: &mut Batch<'_>, subject: &ObjectKey) {
        if let Some(account) = subject.workload() {
            self.load_account(batch, account);
        }
    }

    fn load_account(&mut self, batch: &mut Batch<'_>, account: WorkloadRef) {
        if batch.loader.load(batch.context, &account, batch.now) {
            self.changed_accounts.insert(account);
        }
    }

    /// Observes the pods and workloads whose price depends on claims that changed, or on who uses them,
    /// once all pods are known.
    fn observe_claims(&mut self, batch: &mut Batch<'_>) {
        let Changes { pods, volumes } = batch.claims.take_changes();
        for pod in pods {
            if batch.claims.contains(&pod) {
                self.pods.observe_claiming(batch, &pod);
            }
        }
        let named = volumes
            .iter()
            .filter_map(|claim| self.with_volume.get(claim));
        let workloads: BTreeSet<&ObjectKey> = named.flatten().collect();
        for workload in workloads {
            let event = match workload {
                ObjectKey::Service(key) => batch.workloads().service(key),
                ObjectKey::Job(key) => batch.workloads().job(key),
                ObjectKey::Budget(_) | ObjectKey::Pod(_) => continue,
            };
            batch.push(event);
        }
    }

    /// Notes the generation of an object, which each edit of its specification raises.
    fn note_generation(
        &mut self,
        batch: &mut Batch<'_>,
        subject: &ObjectKey,
        generation: Option<i64>,
    ) {
        let known = match generation {
            Some(generation) => self.generations.insert(subject.clone(), generation),
            None => {
                lock(&batch.context.status_memories).remove(subject);
                self.generations.remove(subject)
            }
        };
        if known != generation {
            batch.observed.edited.insert(subject.clone());
        }
    }

    /// Notes the volume claims that a workload's templates name: what they are charged for depends on
    /// them, and on who else uses them.
    fn note_volumes<'p>(
        &mut self,
        subject: ObjectKey,
        specs: impl IntoIterator<Item = &'p PodSpec>,
    ) {
        let namespace = subject.key().namespace.clone();
        let names = specs.into_iter().flat_map(|spec| volume_claims(spec, None));
        let claims: BTreeSet<Key> = names.map(|name| Key::new(&namespace, &name)).collect();
        for claim in self.volumes.remove(&subject).into_iter().flatten() {
            if let Some(workloads) = self.with_volume.get_mut(&claim) {
                workloads.remove(&subject);
                if workloads.is_empty() {
                    self.with_volume.remove(&claim);
                }
            }
        }
        for claim in &claims {
            let workloads = self.with_volume.entry(claim.clone()).or_default();
            workloads.insert(subject.clone());
        }
        if !claims.is_empty() {
            self.volumes.insert(subject, claims);
        }
    }
}

/// The TrainingJob and the role of a Job, by its labels and its name.
fn role_of(key: &Key, found: &Job) -> Option<(Key, Name)> {
    let role = job::labelled_role(found);
    let name = found.labels().get(WORKLOAD_LABEL)?;
    let is_its_job = role_job(name, role) == *key.name;
    is_its_job.then(|| (Key::new(&key.namespace, name), role.into()))
}

/// What is observed together.
struct Batch<'a> {
    context: &'a Context,
    claims: ClaimIndex,
    loader: AccountLoader,
    /// The priority of any workload may have changed.
    reads_priorities: bool,
    /// Namespaces of which pods hold other accelerators that no rule knows than before.
    unknown_accelerators: BTreeSet<Name>,
    /// The gateways that take requests have changed.
    gateways_changed: bool,
    now: Timestamp,
    observed: Observed,
}

impl Batch<'_> {
    fn push(&mut self, event: Event) {
        self.observed.events.push(event);
    }

    /// The status of a subject may be another.
    fn has_changed(&mut self, subject: ObjectKey) {
        self.observed.statuses.insert(subject);
    }

    /// What a subject owns may be other than it should be.
    fn owns_otherwise(&mut self, subject: ObjectKey) {
        self.observed.owners.insert(subject.clone());
        self.has_changed(subject);
    }

    fn workloads(&mut self) -> WorkloadReader<'_> {
        WorkloadReader {
            context: self.context,
            claims: &self.claims,
            now: self.now,
        }
    }
}
