//! The ledger's exactly-once protocol over SpendRecords and the pods' finalizer.
//!
//! 1. A pod that is bound is opened: its record is read at version r, the pod is read live, and the
//!    charge is written at r.
//! 2. Days that are over are posted, and a pod that has ended is settled: the records are read at
//!    r, the pod is read live with its finalizer still there, and daily costs and UID are written at
//!    r, to one record for each month of the pod's lifetime, the earliest first.
//! 3. Only then is the finalizer removed; and only when the pod is gone from a live read is its UID
//!    forgotten.
//!
//! A write at r fails if anybody wrote since, so a stale cache and a former leader change nothing.
//! A crash between any two steps leaves a state from which the same steps go on. A pod is added to
//! its months in order. If a later month contains a pod and an earlier one does not, the earlier one is
//! already complete for that pod. A pod may be gone between two writes, so its charge is in the
//! records of all its months before it is settled in the first.
//!
//! Accounts are kept by tasks of their own. A decision reads what they published last, and waits for
//! no write.
//!
//! | module | subject |
//! |---|---|
//! | `worker` | the task that keeps the accounts of workloads |
//! | `queue` | which account is synced next |
//! | `account_sync` | one sync of one account, and what is published of it |
//! | `published` | what decisions read |
//! | `inputs` | what the caches hold of a namespace's pods and records |
//! | `charge_holders` | which account has the charge of each pod |
//! | `pods` | the accounts of workloads, from their pods |
//! | `nodes` | the accounts of nodes |
//! | `month_account` | one workload's account of one month: loaded, written |
//! | `month_accounts` | one workload's accounts by month: loaded, changed, written |
//! | `stored_accounts` | what a namespace's records hold |
//! | `write_cache` | the records that this process wrote last |
//! | `pod_lifetime` | since when and until when a pod costs, and at which price |
//! | `finalizer` | adding and removing the pods' finalizer |
//! | `zero_replica_savings` | what scaling to zero saves |
//! | `month_close` | months that are over: consolidated for each namespace, removed when old |
//! | `accounts` | what a workload's accounts sum to |

mod account_sync;
mod accounts;
mod charge_holders;
mod error;
mod finalizer;
mod inputs;
mod month_account;
mod month_accounts;
pub(crate) mod month_close;
pub(crate) mod nodes;
mod pod_lifetime;
mod pods;
mod published;
mod queue;
mod stored_accounts;
pub(crate) mod worker;
mod write_cache;
mod zero_replica_savings;

pub(crate) use accounts::{Accounts, rate, sum};
#[cfg(test)]
pub(crate) use error::Error;
#[cfg(test)]
pub(crate) use inputs::NamespaceInputs;
pub(crate) use pod_lifetime::SharedSince;
pub(crate) use published::{AccountView, PublishedAccounts};
pub(crate) use stored_accounts::{ConsolidatedCache, StoredAccounts};
pub(crate) use write_cache::WriteCache;
