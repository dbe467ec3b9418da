//! SpendRecords, listed and parsed.

use std::collections::BTreeSet;

use bursar_api::SpendRecord;
use bursar_api::spend::{RecordPrecedence, WorkloadKind, authoritative};
use bursar_core::calendar::Month;
use bursar_core::cluster_bill::ClusterBill;
use bursar_core::cost_report::CostOwner;
use bursar_core::ledger::Account;
use clap::Args;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, Resource};
use serde_json::Value;

use crate::client::api_error;

/// Records in one page of a list.
const PAGE_SIZE: u32 = 500;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading {kind}s: {why}")]
    List { kind: String, why: String },
    #[error("reading {0}: the cluster does not know them: is Bursar installed?")]
    UnknownKind(String),
    #[error(
        "SpendRecord {record} cannot be read: {why}; mend it, restore it from a backup, or leave it out with --skip-unreadable"
    )]
    Unreadable { record: String, why: String },
    #[error(
        "SpendRecord {one} is in {one_currency} and {other} in {other_currency}: sums of two currencies mean nothing, so ask for namespaces or months apart"
    )]
    Currencies {
        one: String,
        one_currency: String,
        other: String,
        other_currency: String,
    },
}

/// The namespaces that a command reads.
#[derive(Debug, Clone, Args)]
pub(crate) struct Scope {
    /// Namespace to read [default: that of the kubeconfig's context].
    #[arg(short, long, conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,
    /// Read all namespaces.
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
}

impl Scope {
    /// The one namespace that is read; `None` for all.
    pub(crate) fn namespace(&self, client: &Client) -> Option<String> {
        let given = || {
            self.namespace
                .clone()
                .unwrap_or_else(|| client.default_namespace().to_owned())
        };
        (!self.all_namespaces).then(given)
    }
}

/// The account of one workload and month, parsed.
#[derive(Debug, Clone)]
pub(crate) struct LoadedAccount {
    /// The record; as it was before consolidation, if it is consolidated.
    pub(crate) record: SpendRecord,
    /// Its precedence over other records of the same workload and month.
    pub(crate) precedence: RecordPrecedence,
    /// The workload that it is charged to.
    pub(crate) owner: CostOwner,
    /// Its charges and daily costs.
    pub(crate) account: Account,
    /// Its accounting time zone.
    pub(crate) zone: TimeZone,
}

impl LoadedAccount {
    /// Parses a record's accounts: one, or one for each section of a consolidated record. A
    /// malformed section does not hide the others.
    pub(crate) fn from_record(object: &Value) -> Vec<Result<Self, String>> {
        let record = serde_json::from_value::<SpendRecord>(object.clone());
        let record = match record {
            Ok(record) => record,
            Err(error) => return vec![Err(error.to_string())],
        };
        let accounts = match record.expand() {
            Ok(accounts) => accounts.into_iter(),
            Err(error) => return vec![Err(error.to_string())],
        };
        let with_section = |workload: &str, why| match record.is_consolidated() {
            true => format!("status.folded[] of {workload}: {why}"),
            false => why,
        };
        let accounts = accounts.map(|(precedence, record)| {
            let workload = format!("{}/{}", record.spec.kind.short(), record.spec.name);
            Self::new(precedence, record).map_err(|why| with_section(&workload, why))
        });
        accounts.collect()
    }

    /// Parses one account, and refuses what would make sums wrong.
    fn new(precedence: RecordPrecedence, record: SpendRecord) -> Result<Self, String> {
        let account = record.to_account().map_err(|error| error.to_string())?;
        let zone = TimeZone::get(&record.spec.time_zone)
            .map_err(|error| format!("spec.timeZone: {error}"))?;
        let owner = record.workload().cost_owner();
        Ok(Self {
            record,
            precedence,
            owner,
            account,
            zone,
        })
    }
}

impl LoadedAccount {
    /// The account's currency; `None` for one that was created before any PriceList, which holds no
    /// money.
    pub(crate) fn currency(&self) -> Option<&str> {
        self.record.currency()
    }

    /// True for an account of the current month, in its own time zone.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        self.account.month() == Month::containing(now, &self.zone)
    }
}

/// The name of an object that may be malformed.
pub(crate) fn object_name(object: &Value) -> &str {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or("without a name")
}

/// The authoritative account of each workload and month, in their order.
pub(crate) fn authoritative_accounts(accounts: Vec<LoadedAccount>) -> Vec<LoadedAccount> {
    let accounts = accounts.into_iter().map(|loaded| {
        let account = (loaded.record.workload(), loaded.account.month());
        (account, loaded.precedence, loaded)
    });
    authoritative(accounts).into_values().collect()
}

/// Parses all records. With `skip`, those that cannot be read are named in the second list and left
/// out.
pub(crate) fn load(
    objects: &[Value],
    skip: bool,
) -> Result<(Vec<LoadedAccount>, Vec<String>), Error> {
    let (mut accounts, mut skipped) = (Vec::new(), Vec::new());
    for object in objects {
        for read in LoadedAccount::from_record(object) {
            match read {
                Ok(loaded) => accounts.push(loaded),
                Err(why) if skip => skipped.push(format!(
                    "SpendRecord {} is left out, because it cannot be read: {why}",
                    object_name(object)
                )),
                Err(why) => {
                    return Err(Error::Unreadable {
                        record: object_name(object).to_owned(),
                        why,
                    });
                }
            }
        }
    }
    Ok((authoritative_accounts(accounts), skipped))
}

/// The accounts of workloads, and those of nodes.
pub(crate) fn split_nodes(
    accounts: Vec<LoadedAccount>,
) -> (Vec<LoadedAccount>, Vec<LoadedAccount>) {
    let is_node = |loaded: &LoadedAccount| loaded.record.spec.kind == WorkloadKind::Node;
    let (nodes, workloads) = accounts.into_iter().partition(is_node);
    (workloads, nodes)
}

/// The cluster's bill of one month's accounts, without overheads.
pub(crate) fn cluster_bill<'a>(
    accounts: impl IntoIterator<Item = &'a LoadedAccount>,
    now: Timestamp,
) -> ClusterBill {
    let mut bill = ClusterBill::default();
    for loaded in accounts {
        let lines = loaded.account.daily_costs(now, &loaded.zone);
        bill.add(loaded.record.spec.kind.cost_source(), lines);
    }
    bill
}

/// The one currency of all accounts; `None` if there is none.
pub(crate) fn common_currency<'a>(
    accounts: impl IntoIterator<Item = &'a LoadedAccount>,
) -> Result<Option<&'a str>, Error> {
    let name = |loaded: &LoadedAccount| loaded.record.metadata.name.clone().unwrap_or_default();
    let accounts = accounts.into_iter();
    let mut named = accounts.filter_map(|loaded| Some((loaded, loaded.currency()?)));
    let Some((first, currency)) = named.next() else {
        return Ok(None);
    };
    match named.find(|(_, other)| *other != currency) {
        None => Ok(Some(currency)),
        Some((other, other_currency)) => Err(Error::Currencies {
            one: name(first),
            one_currency: currency.to_owned(),
            other: name(other),
            other_currency: other_currency.to_owned(),
        }),
    }
}

/// The label selector of the current month's records: each record has its own time zone, so two
/// months may be current.
pub(crate) fn current_month_selector(namespace: Option<&str>, now: Timestamp) -> String {
    let month =
        |hours| Month::containing(now, &TimeZone::fixed(Offset::constant(hours))).to_string();
    let months: BTreeSet<String> = [month(-12), month(14)].into();
    let months = months.into_iter().collect::<Vec<_>>().join(",");
    let namespace_term = namespace.map(|name| format!(",bursar.dev/namespace={name}"));
    format!(
        "bursar.dev/month in ({months}){}",
        namespace_term.unwrap_or_default()
    )
}

/// The accounting time zone of a record that may be malformed.
pub(crate) fn time_zone(object: &Value) -> Option<TimeZone> {
    TimeZone::get(object["spec"]["timeZone"].as_str()?).ok()
}

/// The accounting time zone of the current month's records; UTC while there are none.
pub(crate) async fn accounting_zone(client: &Client, now: Timestamp) -> Result<TimeZone, Error> {
    let kind = ApiResource::erase::<SpendRecord>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let selector = current_month_selector(None, now);
    let params = ListParams::default().labels(&selector).limit(1);
    let page = api.list(&params).await;
    let page = page.map_err(|error| list_error::<SpendRecord>(&error))?;
    let zone = page.items.into_iter().find_map(|object| {
        let zone = object.data["spec"]["timeZone"].as_str()?;
        TimeZone::get(zone).ok()
    });
    Ok(zone.unwrap_or(TimeZone::UTC))
}

fn list_error<K: Resource<DynamicType = ()>>(error: &kube::Error) -> Error {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            Error::UnknownKind(K::plural(&()).into_owned())
        }
        other => Error::List {
            kind: K::kind(&()).into_owned(),
            why: api_error(other),
        },
    }
}

/// All SpendRecords with these labels, by name, not parsed: one that cannot be read must not hide
/// the others.
pub(crate) async fn list(client: &Client, selector: &str) -> Result<Vec<Value>, Error> {
    list_of::<SpendRecord>(client, selector).await
}

/// All objects of a kind with these labels, by name, not parsed.
pub(crate) async fn list_of<K>(client: &Client, selector: &str) -> Result<Vec<Value>, Error>
where
    K: Resource<DynamicType = ()>,
{
    let failed = |why: String| Error::List {
        kind: K::kind(&()).into_owned(),
        why,
    };
    let kind = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let mut params = ListParams::default().labels(selector).limit(PAGE_SIZE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&params).await;
        let page = page.map_err(|error| list_error::<K>(&error))?;
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        for object in page.items {
            all.push(serde_json::to_value(object).map_err(|error| failed(error.to_string()))?);
        }
        match next {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    all.sort_by(|one, other| object_name(one).cmp(object_name(other)));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn an_unreadable_record_is_named_and_left_out_only_when_asked() {
        let mut objects = samples::records();
        objects[1]["status"]["days"][0]["compute"] = "1,50".into();
        let error = load(&objects, false).unwrap_err().to_string();
        for part in [
            object_name(&objects[1]),
            "status.days[]",
            "1,50",
            "--skip-unreadable",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        let (accounts, skipped) = load(&objects, true).unwrap();
        assert_eq!((accounts.len(), skipped.len()), (objects.len() - 1, 1));
        assert!(skipped[0].contains(object_name(&objects[1])), "{skipped:?}");
    }

    #[test]
    fn a_day_of_another_month_or_an_unknown_zone_is_refused() {
        let mut object = samples::records().remove(0);
        object["status"]["days"][0]["date"] = "2026-12-01".into();
        let read = |object: &Value| LoadedAccount::from_record(object).remove(0).unwrap_err();
        let error = read(&object);
        assert!(
            error.contains("2026-12-01 is not a day of 2026-11"),
            "{error}"
        );
        let mut object = samples::records().remove(0);
        object["spec"]["timeZone"] = "Mars/Olympus".into();
        assert!(read(&object).contains("spec.timeZone"));
    }

    #[test]
    fn a_consolidated_account_counts_once_with_the_record_that_it_was_made_of() {
        let total = |objects: &[Value]| -> String {
            let (accounts, _) = load(objects, false).unwrap();
            let lines = accounts
                .iter()
                .flat_map(|loaded| loaded.account.days().values());
            let cost = lines.flatten().map(|(_, line)| line.cost.total());
            cost.sum::<bursar_core::money::Money>().to_string()
        };
        let (own, folded) = (samples::records(), samples::consolidated());
        assert_eq!(total(&[own.clone(), folded.clone()].concat()), total(&own));
        // a section that the record has outgrown does not count
        let mut old = folded.clone();
        old[0]["status"]["folded"][0]["days"][0]["compute"] = "1.00".into();
        assert_eq!(total(&[old.clone(), own.clone()].concat()), total(&own));
        assert_ne!(total(&[old, own[1..].to_vec()].concat()), total(&own));
        // one that nothing was written to yet does not hide its section
        let mut made = own.clone();
        for record in &mut made {
            record.as_object_mut().unwrap().remove("status");
        }
        assert_eq!(total(&[made, folded.clone()].concat()), total(&folded));
    }

    #[test]
    fn an_unreadable_section_is_left_out_alone_when_asked() {
        let mut objects = samples::consolidated();
        objects[0]["status"]["folded"][0]["days"][0]["compute"] = "1,50".into();
        let error = load(&objects, false).unwrap_err().to_string();
        assert!(error.contains("status.folded[] of infd/chat"), "{error}");
        let all: usize = load(&samples::consolidated(), false).unwrap().0.len();
        let (accounts, skipped) = load(&objects, true).unwrap();
        assert_eq!((accounts.len(), skipped.len()), (all - 1, 1));
    }

    #[test]
    fn a_record_made_before_any_price_was_known_is_summed_with_others() {
        let mut objects = samples::records();
        objects[0]["spec"]["currency"] = "".into();
        let of = |objects: &[Value]| {
            let (accounts, _) = load(objects, false).unwrap();
            common_currency(&accounts).unwrap().map(str::to_owned)
        };
        assert_eq!(of(&objects).as_deref(), Some("USD"));
        assert_eq!(of(&objects[..1]), None);
    }

    #[test]
    fn two_currencies_are_not_summed() {
        let mut objects = samples::records();
        objects.truncate(3);
        objects[2]["spec"]["currency"] = "EUR".into();
        let (accounts, _) = load(&objects, false).unwrap();
        let error = common_currency(&accounts).unwrap_err().to_string();
        for part in [
            object_name(&objects[0]),
            "USD",
            object_name(&objects[2]),
            "EUR",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn records_of_every_month_that_is_current_in_some_time_zone_are_listed() {
        assert_eq!(
            current_month_selector(Some("ml"), "2026-11-30T12:00:00Z".parse().unwrap()),
            "bursar.dev/month in (2026-11,2026-12),bursar.dev/namespace=ml"
        );
        assert_eq!(
            current_month_selector(None, "2026-11-24T04:00:00Z".parse().unwrap()),
            "bursar.dev/month in (2026-11)"
        );
    }
}
