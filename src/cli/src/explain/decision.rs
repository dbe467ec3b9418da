//! The leader's decision over an object, in words.

use bursar_api::explanation::{
    BudgetExplanation, Explanation, JobExplanation, ServiceExplanation, SignalExplanation,
};
use bursar_core::money::Money;
use jiff::{SpanRound, Timestamp, Unit};

use super::object::{ObjectKind, ObjectRef};
use crate::format::description::Description;

/// The word for a number that the decision does not have.
const UNKNOWN: &str = "unknown";

/// Describes what was decided about an object, and by which budgets.
pub(super) fn describe(
    page: &mut Description,
    decision: &Explanation,
    object: &ObjectRef,
    now: Timestamp,
) {
    page.line(&format!(
        "from the leader's last decision at {}{}",
        time(decision.decided_at),
        age(decision.decided_at, now)
    ));
    if let Some(scope) = &decision.paused {
        let scope = match scope.as_str() {
            "namespace" => "the namespace is",
            "cluster" => "the cluster is",
            other => other,
        };
        page.line(&format!(
            "paused: {scope} kept as it is, also over its budget; this is decided and not carried out"
        ));
    }
    match object.kind {
        ObjectKind::Service => decision
            .service(&object.name)
            .into_iter()
            .for_each(|entry| service(page, entry)),
        ObjectKind::Job => decision
            .job(&object.name)
            .into_iter()
            .for_each(|entry| job(page, entry)),
        ObjectKind::Budget => decision
            .budget(&object.name)
            .into_iter()
            .for_each(|entry| budget(page, entry)),
    }
    if object.kind != ObjectKind::Budget {
        for entry in &decision.budgets {
            page.heading(&format!("budget/{}", entry.name));
            budget(page, entry);
        }
    }
    if decision.next_decision.is_some() {
        let at = time(decision.next_decision);
        page.line("");
        page.row("next decision", &format!("{at}, or when something changes"));
    }
}

/// A signal's value and the replicas that it asks for, or why it is not known.
fn signal(entry: &SignalExplanation) -> String {
    let target = entry.target.as_deref().unwrap_or("unknown");
    if let (Some(text), Some(_)) = (&entry.text, entry.replicas) {
        return match &entry.error {
            Some(why) => format!("{text}; a part is unknown: {why}"),
            None => text.clone(),
        };
    }
    match (&entry.value, &entry.error) {
        (Some(value), _) => format!(
            "{value} at {target} a replica: {}",
            replicas(entry.replicas)
        ),
        (None, Some(why)) => format!("unknown: {why}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn service(page: &mut Description, entry: &ServiceExplanation) {
    page.line("");
    page.row(
        "queue depth",
        &match entry.queue_depth {
            Some(depth) => format!(
                "{depth} requests waiting, running and held; {} of them held by gateways",
                number(entry.held)
            ),
            None => "unknown: the demand cannot be read".to_owned(),
        },
    );
    for each in &entry.signals {
        page.row(&format!("signal {}", each.name), &signal(each));
    }
    let by_depth = entry
        .target
        .map(|target| format!("the queue depth at {target} a replica"));
    let by = match (by_depth, entry.signals.is_empty()) {
        (Some(by_depth), true) => by_depth,
        (None, true) => format!("the queue depth at {} a replica", number(entry.target)),
        (Some(by_depth), false) => format!("the largest of {by_depth} and its signals"),
        (None, false) => "the largest of its signals".to_owned(),
    };
    page.row(
        "recommended",
        &format!("{}, by {by}", replicas(entry.recommended)),
    );
    page.row(
        "desired",
        &format!(
            "{}, within the service's own bounds",
            replicas(entry.desired)
        ),
    );
    page.row(
        "allowed",
        &format!("{}, by the budgets", replicas(entry.allowed)),
    );
    page.row("current", &replicas(entry.current));
    limits(page, entry.limited_by.as_deref(), entry.reason.as_deref());
    if entry.last_active.is_some() {
        page.row("last active", &time(entry.last_active));
    }
    if let Some(pods @ 2..) = entry.pods_per_replica {
        page.row("group", &format!("{pods} pods a replica"));
    }
    page.row(
        "replica costs",
        &match entry.replica_rate_per_hour {
            Some(rate) => format!(
                "{} an hour, and {} to stop",
                rate.rounded(4),
                amount(entry.replica_reserve)
            ),
            None => "unknown: no PriceList names its GPUs".to_owned(),
        },
    );
}

fn job(page: &mut Description, entry: &JobExplanation) {
    page.line("");
    page.row(
        "may run",
        match entry.may_run {
            Some(true) => "yes",
            Some(false) => "no",
            None => UNKNOWN,
        },
    );
    if let Some(position) = entry.queue_position {
        page.row("in the queue", &format!("at place {position}"));
    }
    limits(page, entry.limited_by.as_deref(), entry.reason.as_deref());
}

fn budget(page: &mut Description, entry: &BudgetExplanation) {
    page.line("");
    page.row("limit", &amount(entry.limit));
    let corrections = match entry.corrections {
        Some(corrections) if corrections != Money::ZERO => {
            format!(", including {} of corrections", corrections.rounded(4))
        }
        _ => String::new(),
    };
    page.row("spent", &format!("{}{corrections}", amount(entry.spent)));
    page.row(
        "in reserve",
        &format!("{}, to stop what runs", amount(entry.reserve)),
    );
    page.row("remaining", &amount(entry.remaining));
    page.row("rate", &format!("{} an hour", amount(entry.rate_per_hour)));
    page.row(
        "period",
        &format!("{} to {}", time(entry.period_start), time(entry.period_end)),
    );
    if entry.change_effective_at.is_some() {
        let at = time(entry.change_effective_at);
        page.row(
            "pending change",
            &format!("at {at} this limit stops what runs; until then only nothing new starts"),
        );
    }
    page.row(
        "exhausted",
        &match (entry.exhausted, entry.exhaustion_time) {
            (Some(true), _) => {
                "yes, until the period ends, the limit is raised or a credit is given".to_owned()
            }
            (Some(false), Some(at)) => {
                format!("not yet; at this rate at {}", time(Some(at)))
            }
            (Some(false), None) => "no, and not in this period at this rate".to_owned(),
            (None, _) => UNKNOWN.to_owned(),
        },
    );
}

/// Describes what limits a workload, and why.
pub(super) fn limits(page: &mut Description, limited_by: Option<&str>, reason: Option<&str>) {
    page.row("limited by", limited_by.unwrap_or("nothing"));
    if let Some(reason) = reason.filter(|text| !text.is_empty()) {
        page.row("reason", reason);
    }
}

fn number(number: Option<impl ToString>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), |number| number.to_string())
}

fn replicas(count: Option<u32>) -> String {
    match count {
        Some(1) => "1 replica".to_owned(),
        Some(count) => format!("{count} replicas"),
        None => UNKNOWN.to_owned(),
    }
}

/// An amount to four decimals.
fn amount(amount: Option<Money>) -> String {
    amount.map_or_else(|| UNKNOWN.to_owned(), |amount| amount.rounded(4))
}

/// A point in time to the second.
fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| UNKNOWN.to_owned(), |at| format!("{at:.0}"))
}

fn age(at: Option<Timestamp>, now: Timestamp) -> String {
    let round = SpanRound::new().smallest(Unit::Second).largest(Unit::Hour);
    at.and_then(|at| (now - at).round(round).ok())
        .map_or_else(String::new, |age| format!(" ({age:#} ago)"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::format::terminal::TEXT_WIDTH;

    const NOW: &str = "2026-11-24T04:00:09Z";

    fn decision() -> Value {
        json!({
            "at": "2026-11-24T04:00:05.250Z", "nextLook": "2026-11-24T04:00:10Z",
            "services": [
                {"name": "other", "queueDepth": 999},
                {"name": "chat", "queueDepth": 34, "held": 12, "target": 8, "current": 3, "asked": 5, "desired": 4, "allowed": 3,
                 "limitedBy": "Budget", "activeAt": "2026-11-24T04:00:05Z", "replicaRatePerHour": "6.88", "replicaReserve": "0.086000001",
                 "reason": "budget team is exhausted: 0.50 of 0.50 spent; queue depth 34 at 8 a replica asks for 5, and maxReplicas is 4"},
            ],
            "jobs": [{"name": "train", "run": false, "limitedBy": "Queue", "position": 2, "reason": "waits for finetune"}],
            "budgets": [{"name": "team", "limit": "0.5", "spent": "0.123456789", "corrections": "-0.5", "reserve": "0.1", "remaining": "0.276543211",
                "ratePerHour": "20.64", "periodStart": "2026-11-01T00:00:00Z", "periodEnd": "2026-12-01T00:00:00Z",
                "exhausted": false, "exhaustionTime": "2026-11-24T04:01:00Z"}],
        })
    }

    fn described(kind: ObjectKind, name: &str, decision: Value) -> String {
        let decision: Explanation = serde_json::from_value(decision).unwrap();
        let object = ObjectRef {
            kind,
            name: name.into(),
        };
        let mut page = Description::new(TEXT_WIDTH);
        describe(&mut page, &decision, &object, NOW.parse().unwrap());
        let text = page.into_text();
        for line in text.lines() {
            assert!(line.chars().count() <= TEXT_WIDTH, "too long: {line}");
            assert_eq!(line, line.trim_end());
        }
        text
    }

    #[test]
    fn a_service_has_its_own_numbers_and_its_budgets() {
        assert_eq!(
            described(ObjectKind::Service, "chat", decision()),
            "from the leader's last decision at 2026-11-24T04:00:05Z (4s ago)

  queue depth    34 requests waiting, running and held; 12 of them held by
                 gateways
  recommended    5 replicas, by the queue depth at 8 a replica
  desired        4 replicas, within the service's own bounds
  allowed        3 replicas, by the budgets
  current        3 replicas
  limited by     Budget
  reason         budget team is exhausted: 0.50 of 0.50 spent; queue depth 34 at
                 8 a replica asks for 5, and maxReplicas is 4
  last active    2026-11-24T04:00:05Z
  replica costs  6.8800 an hour, and 0.0860 to stop

budget/team

  limit          0.5000
  spent          0.1235, including -0.5000 of corrections
  in reserve     0.1000, to stop what runs
  remaining      0.2765
  rate           20.6400 an hour
  period         2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z
  exhausted      not yet; at this rate at 2026-11-24T04:01:00Z

  next decision  2026-11-24T04:00:10Z, or when something changes
"
        );
    }

    #[test]
    fn pods_per_replica_are_shown_where_a_replica_is_a_group() {
        let mut decision = decision();
        decision["services"][1]["podsPerReplica"] = json!(2);
        let text = described(ObjectKind::Service, "chat", decision.clone());
        let lines = "  group          2 pods a replica\n  replica costs  6.8800 an hour";
        assert!(text.contains(lines), "{text}");
        decision["services"][1]["podsPerReplica"] = json!(1);
        let text = described(ObjectKind::Service, "chat", decision);
        assert!(!text.contains("a replica\n  replica costs"), "{text}");
    }

    #[test]
    fn a_job_has_its_place_in_the_queue_and_the_reason() {
        let text = described(ObjectKind::Job, "train", decision());
        for line in [
            "  may run        no\n",
            "  in the queue   at place 2\n",
            "  reason         waits for finetune\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn an_unknown_price_or_queue_depth_is_not_shown_as_a_number() {
        let mut decision = decision();
        let chat = &mut decision["services"][1];
        chat["replicaRatePerHour"] = Value::Null;
        chat["queueDepth"] = Value::Null;
        let text = described(ObjectKind::Service, "chat", decision);
        assert!(text.contains("unknown: no PriceList"), "{text}");
        assert!(text.contains("unknown: the demand"), "{text}");
    }

    #[test]
    fn fields_that_a_leader_does_not_send_are_unknown() {
        let decision = json!({
            "services": [{"name": "chat", "queueDepth": 3}], "jobs": [{"name": "train"}], "budgets": [{"name": "team"}],
        });
        let text = described(ObjectKind::Service, "chat", decision.clone());
        for line in [
            "last decision at unknown\n",
            "unknown of them held by",
            "  recommended    unknown, by the queue depth at unknown a replica\n",
            "  current        unknown\n",
            "  limit          unknown\n",
            "  spent          unknown\n",
            "  remaining      unknown\n",
            "  exhausted      unknown\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        let text = described(ObjectKind::Job, "train", decision);
        assert!(text.contains("  may run        unknown\n"), "{text}");
    }

    #[test]
    fn each_signal_is_shown_with_what_it_asks_for_or_why_it_is_unknown() {
        let decision = json!({"services": [{
            "name": "work", "queueDepth": 0, "held": 0, "asked": 3,
            "signals": [
                {"name": "jobs", "value": "12.5", "target": "5", "replicas": 3},
                {"name": "lag", "target": "0.5", "error": "no connection to kafka:9092"},
                {"name": "kv", "value": "86", "target": "80", "replicas": 5, "text": "kv 86 % of 4 replicas / target 80 % = 5", "error": "pod c: refused"},
            ],
        }]});
        let text = described(ObjectKind::Service, "work", decision);
        for words in [
            "12.5 at 5 a replica: 3 replicas",
            "unknown: no connection to kafka:9092",
            "kv 86 % of 4 replicas / target 80 % = 5; a part is unknown: pod",
            "3 replicas, by the largest of its signals",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }
}
