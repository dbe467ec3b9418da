//! What a pod and its node say of a stay: since when, until when, priced by what, and in which stage.

use bursar_core::calendar::{Interval, whole_second};
use bursar_core::ledger::{Charge, ChargeEnd};
use bursar_core::pricing::PricingAttributes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::{Ledger, MonthAccounts};
use crate::lock::lock;
use crate::pod;

/// How far clocks may run ahead of ours; an end that is further ahead is not believed.
const SKEW: SignedDuration = SignedDuration::from_secs(5);

impl Ledger<'_> {
    /// From binding until now, or until the end of one that ends ahead of our clock. `None` for a pod that is not bound.
    ///
    /// A stay that has ended is settled in every month until now: before its end was known, a process with another clock or cache may
    /// have carried it into any of them, and the write meets that one's.
    pub(super) fn lifetime(&self, pod: &Pod) -> Option<Interval> {
        let mut start = whole_second(pod::bound_at(pod)?);
        if self.sharing.contains(pod::uid(pod)) {
            // another one bore its devices until now
            start = start.max(whole_second(self.now));
        }
        let end = self.end(pod).map_or(self.now, |end| {
            let latest = self.now.checked_add(SKEW).unwrap_or(self.now);
            end.at.max(latest)
        });
        Some(Interval { start, end })
    }

    /// When the pod's stay ended, if it has.
    pub(super) fn end(&self, pod: &Pod) -> Option<ChargeEnd> {
        let seen = whole_second(self.now);
        let Some(end) = pod::end(pod, seen) else {
            // somebody gave the pod up, and there is no kubelet that could say when it ended
            let by = pod.metadata.deletion_timestamp.as_ref()?.0;
            let at_once = pod.metadata.deletion_grace_period_seconds == Some(0);
            return (at_once && self.is_lost(pod)).then_some(ChargeEnd {
                at: whole_second(by),
                estimated: true,
            });
        };
        if end.at.duration_since(seen) > SKEW {
            // a node's clock runs ahead
            return Some(ChargeEnd {
                at: seen,
                estimated: true,
            });
        }
        Some(end)
    }

    /// A new charge; `None` for a pod without GPUs.
    pub(super) fn charge(&self, pod: &Pod, start: Timestamp) -> Option<Charge> {
        let facts = self.facts(pod)?;
        let mut charge = Charge::new(pod::uid(pod).to_owned(), pod.name_any(), facts, start);
        let until = self.end(pod).map_or(whole_second(self.now), |end| end.at);
        charge.reprice(&self.prices.lists, until.max(start));
        self.observe(&mut charge, pod);
        Some(charge)
    }

    /// Brings what open charges know of the pod up to date.
    pub(super) fn update_from_pod(&self, pages: &mut MonthAccounts, pod: &Pod) {
        for page in pages.values_mut() {
            let foreign = self.is_foreign(page);
            let Some(charge) = page.account.open_charge_mut(pod::uid(pod)) else {
                continue;
            };
            self.observe(charge, pod);
            // a month's record stays in the currency that it was made in
            if !foreign {
                self.price(charge, pod);
            }
        }
    }

    fn observe(&self, charge: &mut Charge, pod: &Pod) {
        if let Some(ready) = pod::served_since(pod) {
            charge.note_ready(whole_second(ready));
        }
        charge.note_draining(pod::draining_since(pod).map(whole_second));
        match self.node_unreachable_since(pod) {
            Some(since) => charge.note_node_lost(whole_second(since)),
            None if self.node(pod).is_none() => charge.note_node_gone(whole_second(self.now)),
            // what is known of its end decides when it is settled
            None if pod::is_terminal(pod) => {}
            None => charge.note_node_back(),
        }
        if let Some((done, idle_seconds)) = self.done.get(pod::uid(pod)) {
            let today = self.zone.to_datetime(self.now).date();
            let idle_seconds = idle_seconds - self.written.idle(pod::uid(pod));
            charge.add_use(today, Some(*done), idle_seconds);
        }
    }

    /// Takes labels that came late, and amounts that changed.
    fn price(&self, charge: &mut Charge, pod: &Pod) {
        let Some(mut facts) = self.facts(pod) else {
            return;
        };
        facts.amounts.watts = self.watts(charge, pod);
        let (lists, now) = (&self.prices.lists, whole_second(self.now));
        charge.update_attributes(&facts, lists, now);
        if self.end(pod).is_none() {
            charge.resize(&facts.amounts, lists, now);
        }
    }

    /// The watts that count from now on. They are of whole GPUs, and change nothing where electricity is not charged apart.
    fn watts(&self, charge: &Charge, pod: &Pod) -> Option<u32> {
        let charged = self.prices.lists.charges_power(self.now);
        if !charged || !charge.attributes().share.is_whole() {
            return charge.attributes().amounts.watts;
        }
        let namespace = pod.namespace().unwrap_or_default();
        lock(self.measured).of(&namespace, charge, self.now)
    }

    /// Since when the pod's node has not been heard of, by what the node says; `None` also where it is gone.
    fn node_unreachable_since(&self, pod: &Pod) -> Option<Timestamp> {
        self.node(pod).as_deref().and_then(pod::unreachable_since)
    }

    /// Whether nothing is heard of the pod's node.
    fn is_lost(&self, pod: &Pod) -> bool {
        self.node(pod).is_none() || self.node_unreachable_since(pod).is_some()
    }

    fn facts(&self, pod: &Pod) -> Option<PricingAttributes> {
        self.claims.attributes(pod, self.node(pod).as_deref())
    }

    fn node(&self, pod: &Pod) -> Option<std::sync::Arc<Node>> {
        let name = pod::node_name(pod)?;
        self.nodes.find(|node| node.name_any() == name)
    }
}
