//! The accounts of whole nodes: every Node that offers GPUs costs from its creation until it is gone, whoever holds it.
//!
//! A node has one open charge for each kind of GPU that it offers, as a resource or as devices, all in one record: nodes are kept by
//! the first digit of their UIDs. One that offers something else (another MIG layout) ends its charges and begins others at that moment; one that offers
//! nothing for a while (its device plugin is down) is paid for all the same.
//!
//! Nodes carry no finalizer. What is written is decided by a live read of the Node and written at the record's version, so a stale
//! cache and a former leader change nothing. A charge that is open over a month's end is written to the next month before anything
//! else becomes of it, so that no part of it is lost. A node that lives always has its open charges, in the latest month's record at
//! least, and what is open nowhere need not be remembered: only a node that is there can be charged anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bursar_api::SpendRecord;
use bursar_api::gpu_inventory::{DevicePools, GpuOffer, gpu_offers};
use bursar_api::quantities;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::calendar::{Interval, whole_second};
use bursar_core::ledger::{Charge, ChargeEnd, Uid};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::runtime::reflector::Store;

use super::month_accounts::{MonthAccounts, months_left};
use super::{Error, Ledger, StoredAccounts};
use crate::api_calls::{ApiError, with_timeout};

use crate::context::Context;
use crate::gpu_allocation::GpuAllocations;
use crate::pod;

/// How often the accounts are compared with the caches.
const PACE: Duration = Duration::from_secs(3);

/// Nodes whose charges this process has seen to be what they offer: what they offer next begins when it is seen.
pub(crate) type Seen = BTreeSet<Uid>;

/// Nodes, and what they offer.
type Offering<'a> = Vec<(&'a Node, Vec<GpuOffer>)>;

/// Keeps the accounts of all nodes, for as long as the process leads.
pub(crate) async fn run(context: Arc<Context>) {
    let mut seen = Seen::new();
    loop {
        for error in sync_once(&context, &mut seen, Timestamp::now()).await {
            match error {
                Error::Call(ApiError::Conflict { .. } | ApiError::Gone { .. }) => {}
                error => tracing::warn!(%error, "accounts of nodes"),
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Brings the accounts of all nodes up to date. What failed is returned; the next look goes on where this one stopped.
pub(crate) async fn sync_once(context: &Context, seen: &mut Seen, now: Timestamp) -> Vec<Error> {
    let stores = &context.stores;
    // nodes do not choose the currency: their accounts begin when the first workload's has
    let Some(since) = since(&stores.records, now) else {
        return Vec::new();
    };
    let records = StoredAccounts::of(&stores.records, &context.folded, "");
    let prices = context.prices(now);
    let ledger = Ledger {
        client: &context.client,
        records: &records,
        written: &context.written,
        nodes: &stores.nodes,
        claims: &GpuAllocations::default(),
        sharing: &BTreeSet::new(),
        measured: &context.measured,
        departed: &context.departed,
        prices: &prices,
        done: &BTreeMap::new(),
        unasked: &BTreeSet::new(),
        zone: &context.zone,
        now,
    };
    let (nodes, slices) = (stores.nodes.state(), stores.device_slices.state());
    let pools = DevicePools::from_slices(slices.iter().map(AsRef::as_ref));
    let mut shards: BTreeMap<WorkloadRef, Offering<'_>> = BTreeMap::new();
    for node in nodes.iter().map(AsRef::as_ref) {
        let shard = WorkloadRef::nodes(uid(node));
        let offering = (node, gpu_offers(node, &pools));
        shards.entry(shard).or_default().push(offering);
    }
    for shard in records.workloads() {
        shards.entry(shard.clone()).or_default();
    }
    let mut errors = Vec::new();
    for (shard, nodes) in shards {
        let kept = ledger.sync_shard(&shard, &nodes, since, seen).await;
        errors.extend(kept.err());
    }
    errors
}

/// Since when nodes are charged: Bursar does not charge for the time before their accounts began. `None` while there is no account of
/// anything.
fn since(records: &Store<SpendRecord>, now: Timestamp) -> Option<Timestamp> {
    let records = records.state();
    let of_nodes = records
        .iter()
        .filter(|record| record.spec.kind == WorkloadKind::Node);
    let made = of_nodes.filter_map(|record| Some(record.metadata.creation_timestamp.as_ref()?.0));
    let first = made.min();
    first.or_else(|| (!records.is_empty()).then_some(whole_second(now)))
}

impl Ledger<'_> {
    /// Brings the accounts of one record's nodes up to date with the cache.
    async fn sync_shard(
        &self,
        shard: &WorkloadRef,
        nodes: &Offering<'_>,
        since: Timestamp,
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let mut pages = self.load_months(shard)?;
        let missing = self.missing_months(shard, &mut pages)?;
        if !missing.is_empty() {
            self.carry_forward_unseen(&mut pages, missing).await?;
            return self.write_changed(shard, &mut pages).await;
        }
        self.update_attributes(&mut pages, nodes);
        let open = self.open_charges(&pages);
        let gone = open.keys().filter_map(|key| {
            let at = self.departed.node(node_uid_of(key))?;
            Some((key.as_str(), whole_second(at)))
        });
        self.reprice(&mut pages, &gone.collect());
        let mut held: BTreeMap<&str, Vec<&Charge>> = BTreeMap::new();
        for (key, charge) in &open {
            held.entry(node_uid_of(key)).or_default().push(charge);
        }
        for (node, offers) in nodes {
            let charges = held.remove(uid(node)).unwrap_or_default();
            if are_charged(uid(node), offers, &charges) {
                seen.insert(uid(node).to_owned());
                continue;
            }
            self.charge_node(shard, &mut pages, node, &charges, since, seen)
                .await?;
        }
        for (uid, charges) in held {
            self.end_node(&mut pages, uid, &charges).await?;
            seen.remove(uid);
        }
        let (until, due) = self.due(&pages);
        if !due.is_empty() {
            let live = self.live_nodes().await?;
            self.post_days_until(&mut pages, until, due, |key| {
                live.contains(node_uid_of(key))
            });
        }
        forget_settled(&mut pages);
        self.write_changed(shard, &mut pages).await
    }

    async fn write_changed(
        &self,
        shard: &WorkloadRef,
        pages: &mut MonthAccounts,
    ) -> Result<(), Error> {
        for (month, page) in pages {
            if page.account != page.before {
                self.write(shard, *month, page).await?;
            }
        }
        Ok(())
    }

    /// Ends and begins charges of a node that does not offer what its charges say.
    async fn charge_node(
        &self,
        shard: &WorkloadRef,
        pages: &mut MonthAccounts,
        node: &Node,
        charges: &[&Charge],
        since: Timestamp,
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let Some(live) = self.live_node(&node.name_any(), uid(node)).await? else {
            // the cache is behind
            return Ok(());
        };
        let slices = self.live_slices(&live).await?;
        let offers = gpu_offers(&live, &DevicePools::from_slices(&slices));
        if are_charged(uid(node), &offers, charges) {
            return Ok(());
        }
        let now = whole_second(self.now);
        let charged = charges.iter().map(|charge| charge.unposted_since());
        let start = match (charged.max(), live.creation_timestamp()) {
            // a clock that stepped back charges nothing twice
            (Some(charged), _) => now.max(charged),
            (None, Some(made)) => made.0.max(since).min(now),
            (None, None) => now,
        };
        for charge in charges {
            let end = ChargeEnd {
                at: start,
                estimated: !seen.contains(uid(node)),
            };
            self.settle(pages, charge, end);
        }
        let stay = Interval {
            start,
            end: self.now,
        };
        for month in stay.months(self.zone) {
            self.ensure_month(shard, pages, month)?;
        }
        for GpuOffer { what, facts } in with_machine(&live, offers) {
            let key = charge_key(uid(node), &what, facts.gpus, start);
            let mut charge = Charge::new(key, live.name_any(), facts, start);
            // a node does not start as a replica does
            charge.note_ready(start);
            charge.reprice(&self.prices.lists, now);
            for month in months_left(pages, charge.uid(), stay, self.zone) {
                if let Some(page) = pages.get_mut(&month) {
                    page.account.carry_forward(&charge, self.zone);
                }
            }
        }
        seen.insert(uid(node).to_owned());
        Ok(())
    }

    /// Settles the charges of a node that is gone: when the watch saw it go, or else estimated as now.
    async fn end_node(
        &self,
        pages: &mut MonthAccounts,
        uid: &str,
        charges: &[&Charge],
    ) -> Result<(), Error> {
        let Some(first) = charges.first() else {
            return Ok(());
        };
        if self.live_node(first.pod(), uid).await?.is_some() {
            return Ok(());
        }
        let told = self.departed.node(uid);
        if told.is_none() {
            tracing::warn!(
                node = first.pod(),
                "nobody saw this node go; its end is estimated"
            );
        }
        for charge in charges {
            let end = ChargeEnd {
                at: whole_second(told.unwrap_or(self.now)).max(charge.start()),
                estimated: told.is_none(),
            };
            self.settle(pages, charge, end);
        }
        Ok(())
    }

    /// Takes labels that came late.
    fn update_attributes(&self, pages: &mut MonthAccounts, nodes: &Offering<'_>) {
        let offered = nodes.iter().flat_map(|(node, offers)| {
            let known_by = |offer| (offer_key(uid(node), offer), offer);
            offers.iter().map(known_by)
        });
        let offered: BTreeMap<String, &GpuOffer> = offered.collect();
        let open = pages
            .values_mut()
            .flat_map(|page| page.account.open_charges_mut());
        for charge in open {
            if let Some(offer) = offered.get(offer_key_of(charge.uid())) {
                charge.update_attributes(&offer.facts, &self.prices.lists, whole_second(self.now));
            }
        }
    }

    /// The node as it is now, if it is still the same one.
    async fn live_node(&self, name: &str, of: &str) -> Result<Option<Node>, ApiError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let live = with_timeout("get node", api.get_opt(name)).await?;
        Ok(live.filter(|live| uid(live) == of))
    }

    /// The slices of the node's devices as they are now; none where the API server has no dynamic resource allocation.
    async fn live_slices(&self, node: &Node) -> Result<Vec<ResourceSlice>, ApiError> {
        let api: Api<ResourceSlice> = Api::all(self.client.clone());
        let params = ListParams::default().fields(&format!("spec.nodeName={}", node.name_any()));
        match with_timeout("list resourceslices", api.list(&params)).await {
            Ok(listed) => Ok(listed.items),
            Err(ApiError::Gone { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The UIDs of all nodes that there are.
    async fn live_nodes(&self) -> Result<BTreeSet<Uid>, ApiError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let listed = with_timeout("list nodes", api.list_metadata(&ListParams::default())).await?;
        Ok(listed.iter().filter_map(ResourceExt::uid).collect())
    }
}

/// Forgets what was settled, once no record has it open.
fn forget_settled(pages: &mut MonthAccounts) {
    let open: BTreeSet<Uid> = pages
        .values()
        .flat_map(|page| page.before.open_charges().keys().cloned())
        .collect();
    for page in pages.values_mut() {
        for key in page.before.settling().difference(&open) {
            page.account.forget_settled(key);
        }
    }
}

fn uid(node: &Node) -> &str {
    node.metadata.uid.as_deref().unwrap_or_default()
}

/// What a node's charge is known by. A node that comes back to an earlier layout begins another charge.
fn charge_key(uid: &str, what: &str, gpus: u32, start: Timestamp) -> Uid {
    format!("{uid}/{what}/{gpus}/{}", start.as_second())
}

/// The key of a charge for this offer, but for its start.
fn offer_key(uid: &str, offer: &GpuOffer) -> String {
    format!("{uid}/{}/{}", offer.what, offer.facts.gpus)
}

/// The key of a charge but for its start.
fn offer_key_of(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(stem, _)| stem)
}

/// The UID of the node that a charge is for.
fn node_uid_of(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

/// Whether these open charges are for what the node offers. While it offers nothing, what it offered last is charged.
fn are_charged(uid: &str, offers: &[GpuOffer], charges: &[&Charge]) -> bool {
    let offered: BTreeSet<String> = offers.iter().map(|offer| offer_key(uid, offer)).collect();
    let charged: BTreeSet<&str> = charges
        .iter()
        .map(|charge| offer_key_of(charge.uid()))
        .collect();
    offers.is_empty() || (charges.len() == offers.len() && offered.iter().eq(charged))
}

/// Gives the GPUs of which the node has most its cores and memory, so that lists which price them apart from GPUs find them once.
fn with_machine(node: &Node, mut offers: Vec<GpuOffer>) -> Vec<GpuOffer> {
    const MIB_MILLI: i64 = 1000 << 20;
    let amount = |name: &str, unit_milli: i64| {
        let has = pod::capacity_of(node).and_then(|has| has.get(name));
        let milli = has.and_then(|has| quantities::milli(has).ok()).unwrap_or(0);
        u32::try_from(milli / unit_milli).unwrap_or(u32::MAX)
    };
    if let Some(most) = offers.iter_mut().max_by_key(|offer| offer.facts.gpus) {
        most.facts.amounts.cpu_milli = amount("cpu", 1);
        most.facts.amounts.memory_mib = amount("memory", MIB_MILLI);
    }
    offers
}
