//! Consolidates a namespace's records of a month: decides which record becomes a section of which
//! consolidated record. Needs no server.

use bursar_api::SpendRecord;
use bursar_api::spend::{self, ConsolidatedAccount, SpendRecordStatus, WorkloadKind, WorkloadRef};
use bursar_core::calendar::Month;
use bursar_core::money::Money;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

/// How long after its end a month is consolidated: by then the ends of its pods are known.
const CONSOLIDATE_AFTER: SignedDuration = SignedDuration::from_hours(72);

/// The records to write and to remove, in this order.
#[derive(Debug, Default)]
pub(super) struct Consolidation {
    /// Consolidated records that change, or are new.
    pub(super) write: Vec<SpendRecord>,
    /// Records that are sections of those then, or that hold nothing.
    pub(super) remove: Vec<SpendRecord>,
    /// Why records are left as they are though their month is over.
    pub(super) doubtful: Vec<String>,
}

/// Consolidates the records of one namespace and month, of `max_workloads` at most. A consolidated
/// record has sections of `limit` bytes at most, as JSON; further sections go into the next part. A
/// section that is there already stays in its part.
pub(super) fn consolidate(
    mut records: Vec<SpendRecord>,
    now: Timestamp,
    limit: usize,
    max_workloads: usize,
) -> Consolidation {
    // folded, folded-2, ... folded-10
    records.sort_by_key(|record| (record.spec.name.len(), record.name_any()));
    let (parts, own): (Vec<_>, Vec<_>) =
        records.into_iter().partition(SpendRecord::is_consolidated);
    let mut parts: Vec<Part> = parts.into_iter().map(Part::from_record).collect();
    let mut result = Consolidation::default();
    for record in own.into_iter().filter(|record| is_closed(record, now)) {
        if result.remove.len() == max_workloads {
            break;
        }
        match validate(&record) {
            Err(why) => result.doubtful.push(why),
            Ok(month) => {
                place(&mut parts, &record, month, limit);
                result.remove.push(record);
            }
        }
    }
    let changed = parts.into_iter().filter(|part| part.changed);
    result.write = changed.map(Part::into_record).collect();
    result
}

/// True for a workload's record of a month that ended long enough ago, if none of its charges is
/// open or settling. Records of nodes are in no namespace, and sixteen a month at most.
pub(super) fn is_closed(record: &SpendRecord, now: Timestamp) -> bool {
    let ended = || {
        let zone = TimeZone::get(&record.spec.time_zone).ok()?;
        Some(record.month().ok()?.bounds(&zone).end)
    };
    let is_due = |end: Timestamp| now.duration_since(end) >= CONSOLIDATE_AFTER;
    let status = record.status.as_ref();
    let at_zero = status.is_some_and(|status| status.resting.is_some());
    let can_consolidate = !matches!(record.spec.kind, WorkloadKind::Folded | WorkloadKind::Node);
    can_consolidate && is_settled(record) && !at_zero && ended().is_some_and(is_due)
}

/// True for a record of a month that ended more than so many months ago, if none of its charges is
/// open or settling.
pub(super) fn is_past_retention(record: &SpendRecord, months: u32, now: Timestamp) -> bool {
    let age = || {
        let zone = TimeZone::get(&record.spec.time_zone).ok()?;
        let (this, then) = (
            Month::containing(now, &zone).first(),
            record.month().ok()?.first(),
        );
        let years = i32::from(this.year()) - i32::from(then.year());
        Some(years * 12 + i32::from(this.month()) - i32::from(then.month()))
    };
    let older = |age: i32| u32::try_from(age).is_ok_and(|age| age > months);
    is_settled(record) && age().is_some_and(older)
}

fn is_settled(record: &SpendRecord) -> bool {
    let status = record.status.as_ref();
    status.is_none_or(|status| status.open.is_empty() && status.settling.is_empty())
}

/// The month of a sound record. An unsound record is left as it is for people to look at.
fn validate(record: &SpendRecord) -> Result<Month, String> {
    let name = record.name_any();
    if let Some(unsound) = spend::record_faults(record).first() {
        return Err(format!("{name}: {unsound}"));
    }
    record.month().map_err(|error| format!("{name}: {error}"))
}

/// A consolidated record that is being built.
struct Part {
    record: SpendRecord,
    sections: Vec<ConsolidatedAccount>,
    bytes: usize,
    changed: bool,
}

impl Part {
    fn from_record(record: SpendRecord) -> Self {
        let sections = record.sections().to_vec();
        Self {
            bytes: sections.iter().map(size).sum(),
            sections,
            record,
            changed: false,
        }
    }

    /// True if this record can be a section of the part.
    fn is_for(&self, record: &SpendRecord) -> bool {
        let (own, other) = (&self.record.spec, &record.spec);
        own.time_zone == other.time_zone && own.currency == other.currency
    }

    fn position(&self, record: &SpendRecord) -> Option<usize> {
        let is_of = |section: &ConsolidatedAccount| {
            section.kind == record.spec.kind && section.name == record.spec.name
        };
        self.sections.iter().position(is_of)
    }

    fn remove(&mut self, at: usize) {
        let section = self.sections.remove(at);
        self.bytes -= size(&section);
        self.changed = true;
    }

    fn insert(&mut self, at: usize, section: ConsolidatedAccount) {
        self.bytes += size(&section);
        self.sections.insert(at, section);
        self.changed = true;
    }

    fn into_record(self) -> SpendRecord {
        let settled = self.sections.iter().map(ConsolidatedAccount::settled);
        // all sections were read before they were added
        let settled: Money = settled.filter_map(Result::ok).sum();
        let status = SpendRecordStatus {
            settled: settled.to_string(),
            folded: self.sections,
            ..SpendRecordStatus::default()
        };
        SpendRecord {
            status: Some(status),
            ..self.record
        }
    }
}

/// Puts a record's section into the part that has the workload's section, else into the first part
/// with room, and leaves it in no other. The record itself counts until it is removed, so the parts
/// may be written one after the other.
fn place(parts: &mut Vec<Part>, record: &SpendRecord, month: Month, limit: usize) {
    // nothing was ever written to the record: the workload's section counts
    if record.status.is_none() {
        return;
    }
    let mut section = ConsolidatedAccount::from_record(record);
    for part in parts.iter_mut() {
        if let Some(at) = part.position(record) {
            part.remove(at);
            if let Some(section) = section.take_if(|_| part.is_for(record)) {
                part.insert(at, section);
            }
        }
    }
    let Some(section) = section else { return };
    let bytes = size(&section);
    let fits = |part: &&mut Part| part.is_for(record) && part.bytes + bytes <= limit;
    if let Some(part) = parts.iter_mut().find(fits) {
        part.insert(part.sections.len(), section);
        return;
    }
    let workload = |number| WorkloadRef::consolidated(record.spec.namespace.clone(), number);
    let is_free = |number: &usize| {
        let name = workload(*number).record_name(month);
        parts.iter().all(|part| part.record.name_any() != name)
    };
    let number = (1..).find(is_free).unwrap_or(1);
    let (zone, currency) = (&record.spec.time_zone, &record.spec.currency);
    let mut part = Part::from_record(workload(number).record(month, zone, currency));
    part.insert(0, section);
    parts.push(part);
}

/// The bytes of a section in its record.
fn size(section: &ConsolidatedAccount) -> usize {
    serde_json::to_vec(section).map_or(0, |json| json.len() + 1)
}

#[cfg(test)]
mod tests {
    use bursar_api::spend::RecordPrecedence;
    use serde_json::json;

    use super::*;

    const LIMIT: usize = 100_000;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn own(name: &str, compute: &str) -> SpendRecord {
        let workload = WorkloadRef {
            namespace: "ml".into(),
            kind: WorkloadKind::TrainingJob,
            name: name.into(),
        };
        let mut record = workload.record("2026-11".parse().unwrap(), "UTC", "USD");
        record.metadata.resource_version = Some("7".into());
        let day =
            json!({"date": "2026-11-03", "hardware": 0, "compute": compute, "gpuSeconds": 60});
        let hardware = json!([{"resource": "nvidia.com/gpu"}]);
        let status = json!({"hardware": hardware, "days": [day], "settled": compute});
        record.status = Some(serde_json::from_value(status).unwrap());
        record
    }

    fn change(record: &mut SpendRecord, change: serde_json::Value) {
        let mut status = serde_json::to_value(&record.status).unwrap();
        for (field, value) in change.as_object().unwrap() {
            status[field] = value.clone();
        }
        record.status = Some(serde_json::from_value(status).unwrap());
    }

    fn consolidated(records: Vec<SpendRecord>) -> Consolidation {
        consolidate(records, at("2026-12-04T00:00:00Z"), LIMIT, 100)
    }

    fn names(records: &[SpendRecord]) -> Vec<String> {
        records.iter().map(ResourceExt::name_any).collect()
    }

    #[test]
    fn a_month_is_consolidated_three_days_after_its_end_in_its_own_zone() {
        let mut record = own("a", "1.00");
        assert!(!is_closed(&record, at("2026-12-03T23:59:59Z")));
        assert!(is_closed(&record, at("2026-12-04T00:00:00Z")));
        record.spec.time_zone = "America/New_York".into();
        assert!(!is_closed(&record, at("2026-12-04T04:59:59Z")));
        assert!(is_closed(&record, at("2026-12-04T05:00:00Z")));
    }

    #[test]
    fn an_open_or_unsound_record_is_not_consolidated() {
        let mut settling = own("settling", "1.00");
        change(&mut settling, json!({"settling": ["u"]}));
        let mut open = own("open", "1.00");
        change(
            &mut open,
            json!({"open": [{"uid": "u", "pod": "p", "resource": "r", "gpus": 1, "nodeGpus": 1, "start": "2026-11-30T00:00:00Z"}]}),
        );
        let mut edited = own("edited", "1.00");
        change(&mut edited, json!({"settled": "9.00"}));
        let mut unreadable = own("unreadable", "1.00");
        unreadable.status.as_mut().unwrap().days[0].date = "today".into();
        let result = consolidated(vec![
            settling,
            open,
            edited,
            unreadable,
            own("whole", "1.00"),
        ]);
        assert_eq!(names(&result.remove), ["ml.tj.whole.2026-11"]);
        assert_eq!(result.write[0].sections().len(), 1);
        assert_eq!(result.doubtful.len(), 2, "{:?}", result.doubtful);
        assert!(result.doubtful[0].contains("status.settled is 9.00"));
        assert!(result.doubtful[1].contains("ml.tj.unreadable.2026-11: it cannot be read"));
    }

    #[test]
    fn a_zero_replica_period_and_the_accounts_of_nodes_are_not_consolidated() {
        let later = at("2026-12-04T00:00:00Z");
        let mut resting = own("a", "1.00");
        let period = json!({"resource": "nvidia.com/gpu", "gpus": 1, "nodeGpus": 1, "since": "2026-11-30T00:00:00Z", "perHour": "1.00"});
        change(&mut resting, json!({"resting": period}));
        assert!(!is_closed(&resting, later));
        let mut nodes = WorkloadRef::nodes("7").record("2026-11".parse().unwrap(), "UTC", "USD");
        nodes.status = own("a", "1.00").status;
        assert!(!is_closed(&nodes, later));
    }

    #[test]
    fn sections_keep_everything_and_the_sum_is_theirs() {
        let records = vec![own("a", "1.25"), own("b", "2.50")];
        let result = consolidated(records.clone());
        assert_eq!(names(&result.write), ["ml.ns.folded.2026-11"]);
        assert_eq!(result.write[0].status.as_ref().unwrap().settled, "3.75");
        let expanded = result.write[0].expand().unwrap();
        for ((budget_state, expanded), own) in expanded.iter().zip(&records) {
            assert_eq!(*budget_state, RecordPrecedence::Section(7));
            assert_eq!((&expanded.spec, &expanded.status), (&own.spec, &own.status));
        }
    }

    #[test]
    fn a_section_that_does_not_fit_goes_into_the_next_part_and_others_do_not_move() {
        let records = vec![own("a", "1.00"), own("b", "1.00"), own("c", "1.00")];
        let limit = 2 * size(&ConsolidatedAccount::from_record(&records[0]).unwrap());
        let now = at("2026-12-04T00:00:00Z");
        let first = consolidate(records, now, limit, 100);
        let parts = first.write;
        assert_eq!(
            names(&parts),
            ["ml.ns.folded.2026-11", "ml.ns.folded-2.2026-11"]
        );
        let mut late = own("a", "1.50");
        late.metadata.resource_version = Some("9".into());
        let records = [parts.clone(), vec![late, own("d", "1.00")]].concat();
        let second = consolidate(records, now, limit, 100);
        let sections = |part: &SpendRecord| -> Vec<(String, i64)> {
            let sections = part.sections().iter();
            sections
                .map(|each| (each.name.clone(), each.version))
                .collect()
        };
        assert_eq!(
            sections(&second.write[0]),
            [("a".to_owned(), 9), ("b".to_owned(), 7)]
        );
        assert_eq!(
            sections(&second.write[1]),
            [("c".to_owned(), 7), ("d".to_owned(), 7)]
        );
        assert_eq!(second.write[0].status.as_ref().unwrap().settled, "2.50");
    }

    #[test]
    fn a_workload_that_two_parts_have_is_left_in_the_first_alone() {
        let mut parts = consolidated(vec![own("a", "1.00")]).write;
        let mut second = parts[0].clone();
        second.metadata.name = Some("ml.ns.folded-2.2026-11".into());
        second.spec.name = "folded-2".into();
        parts.push(second);
        parts.push(own("a", "2.00"));
        let write = consolidated(parts).write;
        let sections: Vec<usize> = write.iter().map(|part| part.sections().len()).collect();
        assert_eq!(sections, [1, 0]);
        assert_eq!(write[0].status.as_ref().unwrap().settled, "2.00");
    }

    #[test]
    fn another_currency_or_zone_has_a_part_of_its_own() {
        let mut euros = own("b", "1.00");
        euros.spec.currency = "EUR".into();
        let write = consolidated(vec![own("a", "1.00"), euros]).write;
        assert_eq!(
            names(&write),
            ["ml.ns.folded.2026-11", "ml.ns.folded-2.2026-11"]
        );
        assert_eq!(write[1].spec.currency, "EUR");
    }

    #[test]
    fn a_record_without_a_status_goes_and_leaves_the_section_as_it_is() {
        let parts = consolidated(vec![own("a", "1.00")]).write;
        let mut made = own("a", "1.00");
        made.status = None;
        let result = consolidated([parts, vec![made]].concat());
        assert_eq!((result.write.len(), result.remove.len()), (0, 1));
    }

    #[test]
    fn a_run_is_bounded() {
        let records = vec![own("a", "1.00"), own("b", "1.00"), own("c", "1.00")];
        let result = consolidate(records, at("2026-12-04T00:00:00Z"), LIMIT, 2);
        assert_eq!(result.remove.len(), 2);
        assert_eq!(result.write[0].sections().len(), 2);
    }

    #[test]
    fn a_record_is_old_when_so_many_whole_months_lie_after_it() {
        let record = own("a", "1.00");
        assert!(!is_past_retention(&record, 13, at("2027-12-31T23:59:59Z")));
        assert!(is_past_retention(&record, 13, at("2028-01-01T00:00:00Z")));
        assert!(!is_past_retention(&record, 13, at("2025-01-01T00:00:00Z")));
        let mut settling = record;
        change(&mut settling, json!({"settling": ["u"]}));
        assert!(!is_past_retention(
            &settling,
            13,
            at("2028-01-01T00:00:00Z")
        ));
    }
}
