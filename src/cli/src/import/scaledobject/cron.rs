//! Times at which KEDA wants replicas become schedules.

use serde_json::{Value, json};

use bursar_api::scaling::MAX_SCHEDULES;

use super::super::deployment::MAX_REPLICAS;
use super::trigger::Trigger;

/// Adds a schedule whose minimum is what the trigger wants: of all that is wanted at a time, the
/// largest number wins in both.
pub(super) fn schedule(mut trigger: Trigger<'_>, schedules: &mut Vec<Value>) {
    if schedules.len() >= MAX_SCHEDULES as usize {
        let why = format!("a service has {MAX_SCHEDULES} schedules at most");
        trigger.discard(&why);
        return;
    }
    let report = trigger.report();
    let at = format!("spec.scaling.schedules[{}]", schedules.len());
    let mut schedule = json!({"name": format!("{}-{}", name(&trigger.name), trigger.index)});
    for (own, theirs) in [("start", "start"), ("end", "end"), ("timeZone", "timezone")] {
        match trigger.metadata.text(theirs) {
            Some(text) => schedule[own] = json!(text),
            None => report.missing(format!("{at}.{own}"), "the source has none"),
        }
    }
    match trigger.metadata.integer("desiredReplicas") {
        Some(number) => {
            let near = number.clamp(0, MAX_REPLICAS);
            if near != number {
                let why = format!("was {number}: Bursar takes 0 to {MAX_REPLICAS}");
                report.changed(format!("{at}.minReplicas"), why);
            }
            schedule["minReplicas"] = json!(near);
        }
        None => report.missing(
            format!("{at}.minReplicas"),
            "the source has no desiredReplicas",
        ),
    }
    schedules.push(schedule);
}

/// A name that a schedule may have, with room for a number.
fn name(wanted: &str) -> String {
    let allowed = |character: char| match character.to_ascii_lowercase() {
        lower @ ('a'..='z' | '0'..='9') => lower,
        _ => '-',
    };
    let name: String = wanted.chars().map(allowed).take(50).collect();
    match name.trim_matches('-') {
        "" => "cron".to_owned(),
        name => name.to_owned(),
    }
}
