//! When a service rests at zero replicas, which is what scaling to zero saves.

use bursar_api::spend::WorkloadRef;
use bursar_core::calendar::{Interval, Month, whole_second};
use bursar_core::ledger::{ChargeEnd, ZeroReplicaPeriod};
use k8s_openapi::api::core::v1::Pod;

use super::{Error, Ledger, MonthAccounts};
use crate::pod;

impl Ledger<'_> {
    /// Lets a service rest from the end of its last replica, if nothing is asked of it, until the next one is bound or something is
    /// asked. A rest goes on over the end of a month in the next one's account.
    pub(super) fn sync_zero_replica_period(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        self.carry_forward_zero_replica_period(workload, pages)?;
        let this = Month::containing(self.now, self.zone);
        let next = pages.get(&this).and_then(|page| {
            let open = page.account.open_charges().values();
            open.map(|charge| charge.start()).min()
        });
        if next.is_some() || !self.unasked.contains(workload) {
            let at = next.unwrap_or_else(|| whole_second(self.now));
            for page in pages.values_mut() {
                page.account.end_zero_replica_period(at, self.zone);
            }
        } else if let Some(page) = pages.get_mut(&this)
            && page.account.zero_replica_period().is_none()
        {
            let was_open = page.before.open_charges().values();
            let ended = was_open.map(|charge| (self.ended(pods, charge.uid()), charge));
            let last = ended.max_by_key(|(end, _)| end.at);
            let period =
                last.and_then(|(end, charge)| ZeroReplicaPeriod::after_last_replica(charge, end));
            if let Some(period) = period {
                page.account.begin_zero_replica_period(period);
            }
        }
        Ok(())
    }

    /// Takes a rest into the months that have begun since. A month whose rest the next one has on record is done with it.
    fn carry_forward_zero_replica_period(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
    ) -> Result<(), Error> {
        let Some((first, rest)) = pages
            .iter()
            .find_map(|(month, page)| Some((*month, page.account.zero_replica_period().cloned()?)))
        else {
            return Ok(());
        };
        let since = Interval {
            start: first.bounds(self.zone).start,
            end: self.now,
        };
        let months: Vec<Month> = since.months(self.zone).collect();
        for month in &months {
            self.ensure_month(workload, pages, *month)?;
            if let Some(page) = pages.get_mut(month) {
                page.account.begin_zero_replica_period(rest.clone());
            }
        }
        for month in months {
            let next = pages.get(&month.next());
            let carried = next.is_some_and(|next| next.before.zero_replica_period().is_some());
            if let Some(page) = pages.get_mut(&month).filter(|_| carried) {
                page.account
                    .end_zero_replica_period(month.bounds(self.zone).end, self.zone);
            }
        }
        Ok(())
    }

    /// When a pod that is settled ended: as it says, or now where it is gone.
    fn ended(&self, pods: &[&Pod], uid: &str) -> ChargeEnd {
        let told = pods.iter().find(|pod| pod::uid(pod) == uid);
        let gone = || ChargeEnd {
            at: whole_second(self.now),
            estimated: true,
        };
        told.and_then(|pod| self.end(pod)).unwrap_or_else(gone)
    }
}
