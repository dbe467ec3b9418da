//! The accounts of nodes: every Node that offers GPUs costs from its creation until it is gone,
//! whoever uses it.
//!
//! A node has one open charge for each kind of GPU that it offers, as an extended resource or as
//! devices. The charges of all nodes whose UIDs begin with the same digit are in one record. A node
//! that offers something else (another MIG layout) ends its charges and begins others at that
//! moment; a node that offers nothing for a while (its device plugin is down) is paid for all the
//! same.
//!
//! Nodes have no finalizer. A live read of the Node decides what is written, at the version of the
//! record that was read, so a stale cache and a former leader change nothing. A charge that is open
//! over the end of a month is on record in the next month before it is settled or posted to its
//! end, so that no part of it is lost. A node that lives always has its charges open, at least in
//! the latest month's record, and a settled charge need not be remembered: only a node that is
//! there can be charged anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bursar_api::SpendRecord;
use bursar_api::gpu_inventory::{DevicePools, GpuOffer, gpu_offers};
use bursar_api::quantities;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::calendar::{Interval, whole_second};
use bursar_core::ledger::{Charge, ChargeEnd, Uid};
use bursar_core::pricing::CapacityType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::runtime::reflector::Store;

use super::error::Error;
use super::month_account::AccountStore;
use super::month_accounts::MonthAccounts;
use super::stored_accounts::StoredAccounts;
use crate::api_calls::{ApiError, with_timeout};
use crate::cache::{Tombstones, UnreadableObjects};
use crate::context::Context;
use crate::pod;

/// How often the accounts are compared with the caches.
const INTERVAL: Duration = Duration::from_secs(3);

/// Nodes whose charges this process has seen match their offers: their next offers begin when they
/// are observed.
pub(crate) type MatchedNodes = BTreeSet<Uid>;

/// Nodes and their offers.
type NodeOffers<'a> = Vec<(&'a Node, Vec<GpuOffer>)>;

/// Keeps the accounts of all nodes, for as long as the process leads.
pub(crate) async fn run(context: Arc<Context>) {
    let mut matched = MatchedNodes::new();
    loop {
        for error in sync_once(&context, &mut matched, Timestamp::now()).await {
            match error {
                Error::Call(error) if error.is_stale() => {}
                error => tracing::warn!(%error, "accounts of nodes"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Brings the accounts of all nodes up to date, and returns the errors; the next call goes on where
/// this one stopped.
pub(crate) async fn sync_once(
    context: &Context,
    matched: &mut MatchedNodes,
    now: Timestamp,
) -> Vec<Error> {
    let stores = &context.stores;
    // nodes do not choose the currency: their accounts begin when the first workload's has
    let Some(since) = since(&stores.records, now) else {
        return Vec::new();
    };
    let mut stored = StoredAccounts::load(context.records_in(""), &context.folded);
    stored.note_unreadable(&context.unreadable, "");
    let ledger = NodeLedger {
        store: AccountStore {
            client: &context.client,
            stored: &stored,
            write_cache: &context.written,
            prices: &context.prices(now),
            zone: &context.zone,
            now,
        },
        tombstones: &context.tombstones,
        unreadable: &context.unreadable,
        since,
    };
    let (nodes, slices) = (stores.nodes.state(), stores.device_slices.state());
    let pools = DevicePools::from_slices(slices.iter().map(AsRef::as_ref));
    let mut shards: BTreeMap<WorkloadRef, NodeOffers<'_>> = BTreeMap::new();
    for node in nodes.iter().map(AsRef::as_ref) {
        let shard = WorkloadRef::nodes(uid(node));
        let offers = (node, gpu_offers(node, &pools));
        shards.entry(shard).or_default().push(offers);
    }
    for shard in stored.workloads() {
        shards.entry(shard.clone()).or_default();
    }
    let mut errors = Vec::new();
    for (shard, nodes) in shards {
        let synced = ledger.sync_shard(&shard, &nodes, matched).await;
        errors.extend(synced.err());
    }
    errors
}

/// Since when nodes are charged: Bursar does not charge for the time before their accounts began.
/// `None` while there is no account of anything.
fn since(records: &Store<SpendRecord>, now: Timestamp) -> Option<Timestamp> {
    let records = records.state();
    let node_records = records
        .iter()
        .filter(|record| record.spec.kind == WorkloadKind::Node);
    let created =
        node_records.filter_map(|record| Some(record.metadata.creation_timestamp.as_ref()?.0));
    let first = created.min();
    first.or_else(|| (!records.is_empty()).then_some(whole_second(now)))
}

/// Keeps the accounts of nodes.
struct NodeLedger<'a> {
    store: AccountStore<'a>,
    /// Nodes that are gone, and when the watch saw them go.
    tombstones: &'a Tombstones,
    /// Nodes that are there, though the cache may not have them.
    unreadable: &'a UnreadableObjects,
    /// The earliest start of a charge.
    since: Timestamp,
}

impl NodeLedger<'_> {
    /// Brings the accounts of one shard, the nodes of one record, up to date with the cache.
    async fn sync_shard(
        &self,
        shard: &WorkloadRef,
        nodes: &NodeOffers<'_>,
        matched: &mut MatchedNodes,
    ) -> Result<(), Error> {
        let mut accounts = MonthAccounts::load(self.store, shard)?;
        let missing = accounts.missing_months()?;
        if !missing.is_empty() {
            accounts.carry_forward_unseen(missing).await?;
        }
        self.update_attributes(&mut accounts, nodes);
        let open = accounts.open_charges();
        let gone = open.keys().filter_map(|key| {
            let at = self.tombstones.node(node_uid_of(key))?;
            Some((key.as_str(), whole_second(at)))
        });
        accounts.reprice(&gone.collect());
        let mut charges_by_node: BTreeMap<&str, Vec<&Charge>> = BTreeMap::new();
        for (key, charge) in &open {
            let charges = charges_by_node.entry(node_uid_of(key)).or_default();
            charges.push(charge);
        }
        for (node, offers) in nodes {
            let charges = charges_by_node.remove(uid(node)).unwrap_or_default();
            if are_charged(uid(node), offers, &charges) {
                matched.insert(uid(node).to_owned());
                continue;
            }
            self.charge_node(&mut accounts, node, &charges, matched)
                .await?;
        }
        for (uid, charges) in charges_by_node {
            if self.unreadable.contains_uid::<Node>("", uid) {
                continue;
            }
            self.end_node(&mut accounts, uid, &charges).await?;
            matched.remove(uid);
        }
        let (until, unposted) = accounts.unposted_days();
        if !unposted.is_empty() {
            let live = self.live_nodes().await?;
            accounts.post_days_until(until, unposted, |key| live.contains(node_uid_of(key)));
        }
        // a settled charge is needed no more once no record has it open
        let open = accounts.open_on_record();
        for key in accounts.settled_on_record().difference(&open) {
            accounts.forget_settled(key);
        }
        accounts.write_changed().await.map(drop)
    }

    /// Ends and begins charges of a node whose charges do not match its offers. Waits while a
    /// charge that ends is not on record in all its months yet.
    async fn charge_node(
        &self,
        accounts: &mut MonthAccounts<'_>,
        node: &Node,
        charges: &[&Charge],
        matched: &mut MatchedNodes,
    ) -> Result<(), Error> {
        if !charges.iter().all(|charge| accounts.can_settle(charge)) {
            return Ok(());
        }
        let Some(live) = self.live_node(&node.name_any(), uid(node)).await? else {
            // the cache is behind
            return Ok(());
        };
        let slices = self.live_slices(&live).await?;
        let offers = gpu_offers(&live, &DevicePools::from_slices(&slices));
        if are_charged(uid(node), &offers, charges) {
            return Ok(());
        }
        let now = whole_second(self.store.now);
        let posted = charges.iter().map(|charge| charge.unposted_since());
        let start = match (posted.max(), live.creation_timestamp()) {
            // a clock that stepped back charges nothing twice
            (Some(posted), _) => now.max(posted),
            (None, Some(created)) => created.0.max(self.since).min(now),
            (None, None) => now,
        };
        if charges.iter().any(|charge| charge.start() >= start) {
            // a clock that lags: the next charge would have the key of the one before
            return Ok(());
        }
        for charge in charges {
            let end = ChargeEnd {
                at: start,
                estimated: !matched.contains(uid(node)),
            };
            accounts.settle(charge, end);
        }
        let lifetime = Interval {
            start,
            end: self.store.now,
        };
        for GpuOffer {
            name: what,
            attributes: facts,
        } in with_machine(&live, offers)
        {
            let key = charge_key(uid(node), &what, facts.gpus, start);
            let mut charge = Charge::new(key, live.name_any(), facts, start);
            // a node does not start as a replica does
            charge.note_ready(start);
            charge.reprice(&self.store.prices.lists, now);
            accounts.ensure_months(charge.uid(), lifetime)?;
            let months = accounts.months_left(charge.uid(), lifetime);
            accounts.open(&charge, &months);
        }
        matched.insert(uid(node).to_owned());
        Ok(())
    }

    /// Settles the charges of a node that is gone: when the watch saw it go, or else now, which is
    /// an estimate. Waits while one of them is not on record in all its months yet.
    async fn end_node(
        &self,
        accounts: &mut MonthAccounts<'_>,
        uid: &str,
        charges: &[&Charge],
    ) -> Result<(), Error> {
        let Some(first) = charges.first() else {
            return Ok(());
        };
        if !charges.iter().all(|charge| accounts.can_settle(charge))
            || self.live_node(first.pod(), uid).await?.is_some()
        {
            return Ok(());
        }
        let observed = self.tombstones.node(uid);
        if observed.is_none() {
            tracing::warn!(
                node = first.pod(),
                "nobody saw this node go; its end is estimated"
            );
        }
        for charge in charges {
            let end = ChargeEnd {
                at: whole_second(observed.unwrap_or(self.store.now)).max(charge.start()),
                estimated: observed.is_none(),
            };
            accounts.settle(charge, end);
        }
        Ok(())
    }

    /// Takes labels that came late.
    fn update_attributes(&self, accounts: &mut MonthAccounts<'_>, nodes: &NodeOffers<'_>) {
        let offered = nodes.iter().flat_map(|(node, offers)| {
            let keyed = |offer| (offer_key(uid(node), offer), offer);
            offers.iter().map(keyed)
        });
        let offered: BTreeMap<String, &GpuOffer> = offered.collect();
        let (lists, now) = (&self.store.prices.lists, whole_second(self.store.now));
        accounts.update_open(|charge, priced| {
            if let Some(offer) = offered.get(offer_key_of(charge.uid())).filter(|_| priced) {
                charge.update_attributes(&offer.attributes, lists, now);
            }
        });
    }

    /// The node as it is now, if it is still the same one.
    async fn live_node(&self, name: &str, expected_uid: &str) -> Result<Option<Node>, ApiError> {
        let api: Api<Node> = Api::all(self.store.client.clone());
        let live = with_timeout("get node", api.get_opt(name)).await?;
        Ok(live.filter(|live| uid(live) == expected_uid))
    }

    /// The slices of the node's devices as they are now; none where the API server has no dynamic
    /// resource allocation.
    async fn live_slices(&self, node: &Node) -> Result<Vec<ResourceSlice>, ApiError> {
        let api: Api<ResourceSlice> = Api::all(self.store.client.clone());
        let params = ListParams::default().fields(&format!("spec.nodeName={}", node.name_any()));
        match with_timeout("list resourceslices", api.list(&params)).await {
            Ok(listed) => Ok(listed.items),
            Err(ApiError::Gone { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The UIDs of all nodes that there are.
    async fn live_nodes(&self) -> Result<BTreeSet<Uid>, ApiError> {
        let api: Api<Node> = Api::all(self.store.client.clone());
        let listed = with_timeout("list nodes", api.list_metadata(&ListParams::default())).await?;
        Ok(listed.iter().filter_map(ResourceExt::uid).collect())
    }
}

fn uid(node: &Node) -> &str {
    node.metadata.uid.as_deref().unwrap_or_default()
}

/// The key of a node's charge. A node that returns to an earlier layout begins another charge.
fn charge_key(uid: &str, what: &str, gpus: u32, start: Timestamp) -> Uid {
    format!("{uid}/{what}/{gpus}/{}", start.as_second())
}

/// The key of a charge for this offer, without its start.
fn offer_key(uid: &str, offer: &GpuOffer) -> String {
    format!("{uid}/{}/{}", offer.name, offer.attributes.gpus)
}

/// The key of a charge without its start.
fn offer_key_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(offer_key, _)| offer_key)
}

/// The UID of the node that a charge is for.
fn node_uid_of(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

/// Whether these open charges match the node's offers, and how it is paid for: a reservation may end while the
/// node goes on. While it offers nothing, its last offers are charged.
fn are_charged(uid: &str, offers: &[GpuOffer], charges: &[&Charge]) -> bool {
    let offered: BTreeMap<String, Option<CapacityType>> = offers
        .iter()
        .map(|offer| (offer_key(uid, offer), offer.attributes.capacity_type))
        .collect();
    let charged: BTreeMap<String, Option<CapacityType>> = charges
        .iter()
        .map(|charge| {
            (
                offer_key_of(charge.uid()).to_owned(),
                charge.attributes().capacity_type,
            )
        })
        .collect();
    offers.is_empty() || (charges.len() == offers.len() && offered == charged)
}

/// Adds the node's cores and memory to its largest offer, so that lists which price them apart from
/// GPUs find them once.
fn with_machine(node: &Node, mut offers: Vec<GpuOffer>) -> Vec<GpuOffer> {
    const MIB_MILLI: i64 = 1000 << 20;
    let amount = |name: &str, unit_milli: i64| {
        let capacity = pod::capacity_of(node).and_then(|capacity| capacity.get(name));
        let milli = capacity
            .and_then(|amount| quantities::milli(amount).ok())
            .unwrap_or(0);
        u32::try_from(milli / unit_milli).unwrap_or(u32::MAX)
    };
    if let Some(largest) = offers.iter_mut().max_by_key(|offer| offer.attributes.gpus) {
        largest.attributes.amounts.cpu_milli = amount("cpu", 1);
        largest.attributes.amounts.memory_mib = amount("memory", MIB_MILLI);
    }
    offers
}
