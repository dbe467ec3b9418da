//! Which accounts have the charge of each pod: one, by its UID, whatever the pod's labels say.
//!
//! A charge stays in the account in which it began. Two accounts may have it for a moment: a process
//! whose cache does not show yet that another one opened it opens it once more, by labels that were
//! changed meanwhile. Then one of them gives it up, before anything of it is posted there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use bursar_api::spend::WorkloadRef;
use bursar_core::ledger::Uid;

/// The accounts that have each pod's charge.
#[derive(Debug, Default)]
pub(crate) struct ChargeHolders {
    /// With whether something of the charge is posted there.
    holders: HashMap<Uid, BTreeMap<WorkloadRef, bool>>,
    /// Pods that several accounts have.
    several: BTreeSet<Uid>,
}

impl ChargeHolders {
    /// Takes that an account has a pod's charge, and whether something of it is posted.
    pub(super) fn note(&mut self, uid: &str, account: &WorkloadRef, is_posted: bool) {
        if !self.holders.contains_key(uid) {
            self.holders.insert(uid.to_owned(), BTreeMap::new());
        }
        let holders = self.holders.entry(uid.to_owned()).or_default();
        *holders.entry(account.clone()).or_default() |= is_posted;
        if holders.len() > 1 {
            self.several.insert(uid.to_owned());
        }
    }

    /// The account that the charge stays in: one in which something of it is posted, else the first
    /// by kind and name. Everybody who sees the same records says the same.
    pub(super) fn of(&self, uid: &str) -> Option<&WorkloadRef> {
        let holders = self.holders.get(uid)?.iter();
        let first = holders.max_by_key(|(account, is_posted)| (**is_posted, Reverse(*account)));
        first.map(|(account, _)| account)
    }

    /// The pods whose charges this account has though they stay in others, with those.
    pub(super) fn elsewhere<'h>(
        &'h self,
        account: &'h WorkloadRef,
    ) -> impl Iterator<Item = (&'h Uid, &'h WorkloadRef)> {
        let has = |uid: &&Uid| {
            let holders = self.holders.get(*uid);
            holders.is_some_and(|holders| holders.contains_key(account))
        };
        let ours = self.several.iter().filter(has);
        ours.filter_map(move |uid| {
            let stays = self.of(uid)?;
            (stays != account).then_some((uid, stays))
        })
    }

    /// Whether another account has yet to give the pod's charge up.
    pub(super) fn is_open_elsewhere(&self, uid: &str, account: &WorkloadRef) -> bool {
        let mut holders = self.holders.get(uid).into_iter().flatten();
        holders.any(|(each, is_posted)| each != account && !is_posted)
    }
}
