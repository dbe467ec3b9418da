//! The signals of an imported service.

use std::collections::BTreeSet;

use bursar_api::quantities::nanos;
use bursar_api::signal::MAX_SIGNALS;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use super::draft::Draft;
use super::report::Report;

/// Signals that are being gathered: each has a name of its own, and there are not too many.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    signals: Vec<Value>,
    names: BTreeSet<String>,
}

impl Signals {
    pub(crate) fn is_empty(&self) -> bool {
        self.signals.is_empty()
    }

    /// The path that the next signal will have.
    pub(crate) fn next_path(&self) -> String {
        format!("spec.scaling.signals[{}]", self.signals.len())
    }

    /// Whether one more may be added.
    pub(crate) fn has_room(&self) -> bool {
        self.signals.len() < MAX_SIGNALS as usize
    }

    /// Adds a signal under the nearest name that is free.
    pub(crate) fn push(&mut self, mut signal: Value, wanted: &str) {
        signal["name"] = json!(self.free_name(wanted));
        self.signals.push(signal);
    }

    fn free_name(&mut self, wanted: &str) -> String {
        let name = signal_name(wanted);
        let mut number = 1;
        let mut free = name.clone();
        while !self.names.insert(free.clone()) {
            number += 1;
            free = format!("{name}-{number}");
        }
        free
    }

    /// Leaves out the targets of all signals, and asks for them.
    pub(crate) fn ask_for_targets(&mut self, report: &Report, why: &str) {
        for (index, signal) in self.signals.iter_mut().enumerate() {
            if let Value::Object(fields) = signal {
                fields.remove("target");
            }
            report.missing(format!("spec.scaling.signals[{index}].target"), why);
        }
    }

    pub(crate) fn set(self, draft: &mut Draft<'_>) {
        if !self.signals.is_empty() {
            draft.set("scaling.signals", self.signals);
        }
    }
}

/// The nearest name that a signal may have.
fn signal_name(wanted: &str) -> String {
    const MAX_NAME: usize = 56;
    let allowed = |character: char| match character.to_ascii_lowercase() {
        lower @ ('a'..='z' | '0'..='9') => lower,
        _ => '-',
    };
    let name: String = wanted.chars().map(allowed).collect();
    let name = name.trim_start_matches(|first: char| !first.is_ascii_lowercase());
    let name: String = name.chars().take(MAX_NAME).collect();
    match name.trim_end_matches('-') {
        "" => "signal".to_owned(),
        name => name.to_owned(),
    }
}

/// A target as Bursar takes it: a number, or a quantity of at least a thousandth. `None` of any
/// other text.
pub(crate) fn target(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (number >= 1).then(|| json!(number));
    }
    let nanos = nanos(&Quantity(text.to_owned())).ok()?;
    (nanos >= 1_000_000).then(|| json!(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_that_they_may_have_and_that_differ() {
        let mut signals = Signals::default();
        for wanted in ["s0-redis", "s0-redis", "0_A", "", "Ünit.7"] {
            signals.push(json!({}), wanted);
        }
        let names: Vec<&str> = (signals.signals.iter())
            .filter_map(|signal| signal["name"].as_str())
            .collect();
        assert_eq!(names, ["s0-redis", "s0-redis-2", "a", "signal", "nit-7"]);
        assert!(signal_name(&"x".repeat(500)).len() <= 56);
    }

    #[test]
    fn targets_are_numbers_or_quantities_above_zero() {
        for (text, read) in [
            ("5", Some(json!(5))),
            ("500m", Some(json!("500m"))),
            ("100.50", Some(json!("100.50"))),
            ("0", None),
            ("-1", None),
            ("many", None),
            ("", None),
            ("{{ .Values.x }}", None),
        ] {
            assert_eq!(target(text), read, "{text}");
        }
    }
}
