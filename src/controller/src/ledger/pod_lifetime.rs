//! Pod lifetimes: since when and until when a pod costs, priced by what, and in which stage.

use std::collections::BTreeMap;

use bursar_core::calendar::{Interval, whole_second};
use bursar_core::ledger::{Charge, ChargeEnd, EngineCounters, Uid};
use bursar_core::pricing::PricingAttributes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};

use super::month_account::AccountStore;
use super::month_accounts::MonthAccounts;
use crate::gpu_allocation::GpuAllocations;
use crate::lock::lock;
use crate::pod;
use crate::power_readings::SharedPowerReadings;

/// How far a node's clock may run ahead of ours; an end that is further ahead is not believed.
const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// As many changes of amounts on days that are not posted does an account keep, of 250 bytes each.
/// Beyond that its pods cost what they did until a day is posted.
const MAX_CHANGES: usize = 1_500;

/// Pods of which all devices were charged to other pods, and since when they hold devices themselves;
/// `None` while they hold none.
pub(crate) type SharedSince = BTreeMap<Uid, Option<Timestamp>>;

/// What pods, their nodes and their engines report about pod lifetimes.
pub(crate) struct PodLifetimes<'a> {
    pub(crate) store: AccountStore<'a>,
    pub(crate) nodes: &'a Store<Node>,
    pub(crate) allocations: &'a GpuAllocations,
    /// Pods without a charge on record of which all devices were charged to other pods.
    pub(crate) sharing: &'a SharedSince,
    pub(crate) power: &'a SharedPowerReadings,
    /// What each replica has done by its own counters, and its idle seconds since this process
    /// first read it.
    pub(crate) usage: &'a BTreeMap<Uid, (EngineCounters, i64)>,
}

impl PodLifetimes<'_> {
    /// From binding until now, or until the end of a pod that ends ahead of our clock. `None` for a
    /// pod that is not bound.
    ///
    /// A lifetime that has ended is settled in every month until now: before its end was known, a
    /// process with another clock or cache may have carried its charge into any of them, and the
    /// write meets that one's.
    pub(super) fn lifetime(&self, pod: &Pod) -> Option<Interval> {
        let now = self.store.now;
        let mut start = whole_second(pod::bound_at(pod)?);
        if let Some(since) = self.sharing.get(pod::uid(pod)) {
            // its devices were charged to another pod until then
            start = start.max(whole_second(since.unwrap_or(now)));
        }
        let end = self.end(pod).map_or(now, |end| {
            let latest = now.checked_add(SKEW).unwrap_or(now);
            end.at.max(latest)
        });
        Some(Interval { start, end })
    }

    /// When the pod's lifetime ended, if it has.
    pub(super) fn end(&self, pod: &Pod) -> Option<ChargeEnd> {
        let now = whole_second(self.store.now);
        let Some(end) = pod::end(pod, now) else {
            // somebody deleted the pod by force, and no kubelet can report when it ended
            let by = pod.metadata.deletion_timestamp.as_ref()?.0;
            let at_once = pod.metadata.deletion_grace_period_seconds == Some(0);
            return (at_once && self.is_node_lost(pod)).then_some(ChargeEnd {
                at: whole_second(by),
                estimated: true,
            });
        };
        if end.at.duration_since(now) > SKEW {
            // the node's clock runs ahead
            return Some(ChargeEnd {
                at: now,
                estimated: true,
            });
        }
        Some(end)
    }

    /// A new charge; `None` for a pod without GPUs.
    pub(super) fn new_charge(&self, pod: &Pod, start: Timestamp) -> Option<Charge> {
        let attributes = self.attributes(pod)?;
        let mut charge = Charge::new(pod::uid(pod).to_owned(), pod.name_any(), attributes, start);
        let now = whole_second(self.store.now);
        let until = self.end(pod).map_or(now, |end| end.at);
        charge.reprice(&self.store.prices.lists, until.max(start));
        self.update_stages(&mut charge, pod);
        Some(charge)
    }

    /// Brings open charges up to date with their pods.
    pub(super) fn update(&self, accounts: &mut MonthAccounts<'_>, pods: &[&Pod]) {
        let pods: BTreeMap<&str, &Pod> = pods.iter().map(|pod| (pod::uid(pod), *pod)).collect();
        let mut changes = accounts.unposted_changes();
        accounts.update_open(|charge, priced| {
            let Some(pod) = pods.get(charge.uid()) else {
                return;
            };
            self.update_stages(charge, pod);
            if priced && self.update_price(charge, pod, changes < MAX_CHANGES) {
                changes += 1;
            }
        });
    }

    /// Idle seconds of these pods since this process first read them.
    pub(super) fn idle_seconds<'p>(
        &'p self,
        pods: &'p [&Pod],
    ) -> impl Iterator<Item = (&'p str, i64)> {
        let uids = pods.iter().map(|pod| pod::uid(pod));
        uids.filter_map(|uid| Some((uid, self.usage.get(uid)?.1)))
    }

    fn update_stages(&self, charge: &mut Charge, pod: &Pod) {
        let now = self.store.now;
        if let Some(ready) = pod::first_ready_or_started_at(pod) {
            charge.note_ready(whole_second(ready));
        }
        charge.note_draining(pod::draining_since(pod).map(whole_second));
        if self.allocations.shares_devices(pod) {
            charge.note_shared_devices();
        }
        match self.node_unreachable_since(pod) {
            Some(since) => charge.note_node_lost(whole_second(since)),
            None if self.node(pod).is_none() => charge.note_node_gone(whole_second(now)),
            // its reported end decides when it is settled
            None if pod::is_terminal(pod) => {}
            None => charge.note_node_back(),
        }
        if let Some((counters, idle_seconds)) = self.usage.get(pod::uid(pod)) {
            let today = self.store.zone.to_datetime(now).date();
            let idle_seconds = idle_seconds - self.store.write_cache.idle(pod::uid(pod));
            charge.add_usage(today, Some(*counters), idle_seconds);
        }
    }

    /// Takes labels and devices that came late, and amounts that changed, if it `may_resize`. True if it took such
    /// amounts.
    fn update_price(&self, charge: &mut Charge, pod: &Pod, may_resize: bool) -> bool {
        let Some(mut attributes) = self.attributes(pod) else {
            return false;
        };
        attributes.amounts.watts = self.watts(charge, pod);
        let (lists, now) = (&self.store.prices.lists, whole_second(self.store.now));
        charge.update_attributes(&attributes, lists, now);
        // of a pod that has ended, what it shared goes to others
        if !charge.shares_devices() || self.end(pod).is_none() {
            charge.take_gpus(&attributes, lists, now);
        }
        may_resize && self.end(pod).is_none() && charge.resize(&attributes.amounts, lists, now)
    }

    /// The watts that count from now on. They are of whole GPUs, and change nothing where
    /// electricity is not charged apart.
    fn watts(&self, charge: &Charge, pod: &Pod) -> Option<u32> {
        let now = self.store.now;
        let charged = self.store.prices.lists.charges_power(now);
        if !charged || !charge.attributes().share.is_whole() {
            return charge.attributes().amounts.watts;
        }
        let namespace = pod.namespace().unwrap_or_default();
        lock(self.power).median_watts(&namespace, charge, now)
    }

    /// Since when the pod's node has been unreachable, by the Node's own conditions; `None` also
    /// where the Node is gone.
    fn node_unreachable_since(&self, pod: &Pod) -> Option<Timestamp> {
        self.node(pod).as_deref().and_then(pod::unreachable_since)
    }

    /// Whether the pod's node is gone or unreachable.
    fn is_node_lost(&self, pod: &Pod) -> bool {
        self.node(pod).is_none() || self.node_unreachable_since(pod).is_some()
    }

    fn attributes(&self, pod: &Pod) -> Option<PricingAttributes> {
        self.allocations.attributes(pod, self.node(pod).as_deref())
    }

    fn node(&self, pod: &Pod) -> Option<std::sync::Arc<Node>> {
        self.nodes.get(&ObjectRef::new(pod::node_name(pod)?))
    }
}
