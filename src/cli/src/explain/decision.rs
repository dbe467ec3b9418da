//! From what was read to what is printed, at 80 columns.

use bursar_core::money::Money;
use jiff::{SpanRound, Timestamp, Unit};
use serde_json::Value;

use crate::{
    args::Kind,
    client::{Answer, Source, list},
    format::description::Page,
};

/// All that is printed; ends with a newline.
pub(crate) fn render(answer: &Answer, now: Timestamp) -> String {
    let mut page = Page::default();
    let kind = answer.object.kind;
    page.line(&format!(
        "{} {}/{}",
        kind.as_str(),
        answer.namespace,
        answer.object.name
    ));
    match &answer.source {
        Source::Decision(decision) => {
            let at = &decision["at"];
            page.line(&format!(
                "from the leader's last decision at {}{}",
                time(at),
                age(word(at), now)
            ));
            let of = |kind: Kind| decision[list(kind)].as_array().into_iter().flatten();
            for entry in of(kind).filter(|entry| entry["name"] == answer.object.name) {
                match kind {
                    Kind::Service => service(&mut page, entry),
                    Kind::Job => job(&mut page, entry),
                    Kind::Budget => budget(&mut page, entry),
                }
            }
            if kind != Kind::Budget {
                for entry in of(Kind::Budget) {
                    page.heading(&format!("budget/{}", word(&entry["name"])));
                    budget(&mut page, entry);
                }
            }
            if decision["nextLook"].is_string() {
                let at = time(&decision["nextLook"]);
                page.line("");
                page.row("next look", &format!("{at}, or when something changes"));
            }
        }
        Source::Object { object, cause } => {
            page.wrapped(
                "",
                &format!("from the object's status, not from the leader: {cause}"),
                0,
            );
            from_status(&mut page, kind, object);
        }
    }
    page.text
}

fn service(page: &mut Page, entry: &Value) {
    page.line("");
    let target = number(&entry["target"]);
    page.row(
        "queue depth",
        &match entry["queueDepth"].as_u64() {
            Some(depth) => format!(
                "{depth} requests waiting, running and held; {} of them held by gateways",
                number(&entry["held"])
            ),
            None => "unknown: the engine's metrics cannot be read".to_owned(),
        },
    );
    page.row(
        "asked for",
        &format!(
            "{}, by the queue depth at {target} a replica",
            replicas(&entry["asked"])
        ),
    );
    page.row(
        "desired",
        &format!(
            "{}, within the service's own bounds",
            replicas(&entry["desired"])
        ),
    );
    page.row(
        "allowed",
        &format!("{}, by the budgets", replicas(&entry["allowed"])),
    );
    page.row("at present", &replicas(&entry["current"]));
    limits(page, entry);
    if entry["activeAt"].is_string() {
        page.row("last active", &time(&entry["activeAt"]));
    }
    page.row(
        "replica costs",
        &match entry["replicaRatePerHour"].as_str() {
            Some(_) => format!(
                "{} an hour, and {} to stop",
                money(&entry["replicaRatePerHour"]),
                money(&entry["replicaReserve"])
            ),
            None => "unknown: no PriceList names its GPUs".to_owned(),
        },
    );
}

fn job(page: &mut Page, entry: &Value) {
    page.line("");
    page.row("may run", if entry["run"] == true { "yes" } else { "no" });
    if let Some(position) = entry["position"].as_u64() {
        page.row("in the queue", &format!("at place {position}"));
    }
    limits(page, entry);
}

fn budget(page: &mut Page, entry: &Value) {
    page.line("");
    page.row("limit", &money(&entry["limit"]));
    let corrections = match entry["corrections"].as_str() {
        Some(amount) if amount.parse() != Ok(Money::ZERO) => {
            format!(
                ", of which {} are corrections",
                money(&entry["corrections"])
            )
        }
        _ => String::new(),
    };
    page.row("spent", &format!("{}{corrections}", money(&entry["spent"])));
    page.row(
        "in reserve",
        &format!("{}, to stop what runs", money(&entry["reserve"])),
    );
    page.row("remaining", &money(&entry["remaining"]));
    page.row("rate", &format!("{} an hour", money(&entry["ratePerHour"])));
    page.row(
        "period",
        &format!(
            "{} to {}",
            time(&entry["periodStart"]),
            time(&entry["periodEnd"])
        ),
    );
    page.row(
        "exhausted",
        &if entry["exhausted"] == true {
            "yes, until the period ends, the limit is raised or a credit is given".to_owned()
        } else {
            match &entry["exhaustionTime"] {
                Value::String(_) => format!(
                    "not yet; at this rate at {}",
                    time(&entry["exhaustionTime"])
                ),
                _ => "no, and not in this period at this rate".to_owned(),
            }
        },
    );
}

fn limits(page: &mut Page, entry: &Value) {
    page.row(
        "limited by",
        entry["limitedBy"].as_str().unwrap_or("nothing"),
    );
    if let Some(reason) = entry["reason"].as_str().filter(|text| !text.is_empty()) {
        page.row("reason", reason);
    }
}

fn from_status(page: &mut Page, kind: Kind, object: &Value) {
    let status = &object["status"];
    page.line("");
    if status.is_null() {
        page.row("status", "none: no controller has written it yet");
        return;
    }
    let seen = status["observedGeneration"].as_i64();
    if seen < object["metadata"]["generation"].as_i64() {
        page.row("note", "the status speaks of an earlier spec");
    }
    let mut field = |name: &str, value: &Value| {
        let text = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        page.row(name, &text);
    };
    match kind {
        Kind::Service => {
            field("queue depth", &status["queueDepth"]);
            field("ready", &status["readyReplicas"]);
            field("desired", &status["desiredReplicas"]);
            field("allowed", &status["allowedReplicas"]);
            field("at present", &status["replicas"]);
        }
        Kind::Job => {
            field("phase", &status["phase"]);
            field("ready", &status["workers"]["ready"]);
            field("in the queue", &status["queuePosition"]);
            field("attempts", &status["attempts"]);
        }
        Kind::Budget => {
            field("limit", &object["spec"]["limit"]);
            field("spent", &status["spent"]);
            field("corrections", &status["corrections"]);
            field("in reserve", &status["reserve"]);
            field("remaining", &status["remaining"]);
            field("rate", &status["ratePerHour"]);
            field("phase", &status["phase"]);
            field("exhausted on", &status["exhaustionTime"]);
            field("as of", &status["asOf"]);
        }
    }
    if kind != Kind::Budget {
        limits(page, status);
        let spend = &status["spend"];
        if spend.is_object() {
            let currency = word(&spend["currency"]);
            page.row(
                "spent",
                &format!(
                    "{} {currency} today, {} this month, {} in all; {} an hour",
                    word(&spend["today"]),
                    word(&spend["monthToDate"]),
                    word(&spend["total"]),
                    word(&spend["ratePerHour"])
                ),
            );
            if let Some(amount) = spend["corrections"].as_str() {
                let text = format!("{amount} {currency} this month, beside what is spent");
                page.row("corrections", &text);
            }
            page.row("as of", word(&spend["asOf"]));
        }
    }
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let name = format!(
            "{}: {}",
            word(&condition["type"]),
            word(&condition["status"])
        );
        let why = format!(
            "{name} ({}) {}",
            word(&condition["reason"]),
            word(&condition["message"])
        );
        page.row("condition", why.trim_end());
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn number(value: &Value) -> String {
    value
        .as_u64()
        .map_or_else(|| "?".to_owned(), |number| number.to_string())
}

fn replicas(value: &Value) -> String {
    let plural = if value.as_u64() == Some(1) { "" } else { "s" };
    format!("{} replica{plural}", number(value))
}

/// An amount to four decimals; what is not one as it is.
fn money(value: &Value) -> String {
    let text = word(value);
    text.parse::<Money>()
        .map_or_else(|_| text.to_owned(), |amount| amount.rounded(4))
}

/// A point in time to the second; what is not one as it is.
fn time(value: &Value) -> String {
    let text = word(value);
    match text.parse::<Timestamp>() {
        Ok(at) => format!("{at:.0}"),
        Err(_) => text.to_owned(),
    }
}

fn age(at: &str, now: Timestamp) -> String {
    let Ok(at) = at.parse::<Timestamp>() else {
        return String::new();
    };
    let round = SpanRound::new().smallest(Unit::Second).largest(Unit::Hour);
    (now - at)
        .round(round)
        .map_or_else(|_| String::new(), |age| format!(" ({age:#} ago)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Object;
    use crate::format::description::WIDTH;
    use serde_json::json;

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

    fn printed(kind: Kind, name: &str, source: Source) -> String {
        let answer = Answer {
            object: Object {
                kind,
                name: name.into(),
            },
            namespace: "team".into(),
            source,
        };
        let text = render(&answer, NOW.parse().unwrap());
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "too long: {line}");
            assert_eq!(line, line.trim_end());
        }
        text
    }

    #[test]
    fn a_service_is_explained_by_its_own_numbers_and_its_budgets() {
        let text = printed(Kind::Service, "chat", Source::Decision(decision()));
        assert_eq!(
            text,
            "InferenceDeployment team/chat
from the leader's last decision at 2026-11-24T04:00:05Z (4s ago)

  queue depth    34 requests waiting, running and held; 12 of them held by
                 gateways
  asked for      5 replicas, by the queue depth at 8 a replica
  desired        4 replicas, within the service's own bounds
  allowed        3 replicas, by the budgets
  at present     3 replicas
  limited by     Budget
  reason         budget team is exhausted: 0.50 of 0.50 spent; queue depth 34 at
                 8 a replica asks for 5, and maxReplicas is 4
  last active    2026-11-24T04:00:05Z
  replica costs  6.8800 an hour, and 0.0860 to stop

budget/team

  limit          0.5000
  spent          0.1235, of which -0.5000 are corrections
  in reserve     0.1000, to stop what runs
  remaining      0.2765
  rate           20.6400 an hour
  period         2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z
  exhausted      not yet; at this rate at 2026-11-24T04:01:00Z

  next look      2026-11-24T04:00:10Z, or when something changes
"
        );
    }

    #[test]
    fn a_job_says_its_place_and_what_it_waits_for() {
        let text = printed(Kind::Job, "train", Source::Decision(decision()));
        assert!(text.contains("  may run        no\n"), "{text}");
        assert!(text.contains("  in the queue   at place 2\n"), "{text}");
        assert!(
            text.contains("  reason         waits for finetune\n"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_price_or_queue_is_said_and_not_shown_as_a_number() {
        let mut decision = decision();
        let chat = &mut decision["services"][1];
        chat["replicaRatePerHour"] = Value::Null;
        chat["queueDepth"] = Value::Null;
        let text = printed(Kind::Service, "chat", Source::Decision(decision));
        assert!(text.contains("unknown: no PriceList"), "{text}");
        assert!(text.contains("unknown: the engine's metrics"), "{text}");
    }

    #[test]
    fn without_the_leader_the_status_is_printed_with_the_cause() {
        let source = |object| Source::Object {
            object,
            cause: "no controller leads".into(),
        };
        let object = json!({"metadata": {"generation": 2}, "spec": {}, "status": {
            "observedGeneration": 1, "readyReplicas": 1, "desiredReplicas": 2, "allowedReplicas": 1, "replicas": 1, "limitedBy": "Budget",
            "reason": "r", "spend": {"today": "0.1000", "monthToDate": "0.2000", "total": "0.3000", "ratePerHour": "6.8800",
            "gpuHours": "0.1", "currency": "USD", "asOf": "2026-11-24T04:00:00Z"},
            "conditions": [{"type": "Ready", "status": "False", "reason": "PodStuck", "message": "the image cannot be pulled"}],
        }});
        let text = printed(Kind::Service, "chat", source(object));
        for part in [
            "from the object's status, not from the leader: no controller leads\n",
            "the status speaks of an earlier spec",
            "  allowed        1\n",
            "  limited by     Budget\n",
            "0.3000 in all",
            "Ready: False (PodStuck) the image cannot be pulled",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let text = printed(Kind::Budget, "team", source(json!({"spec": {}})));
        assert!(text.contains("no controller has written it yet"), "{text}");
    }
}
