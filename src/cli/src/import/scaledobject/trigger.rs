//! A trigger of a ScaledObject, and what all of them have.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::container::Container;
use super::super::fields::Fields;
use super::super::hpa::TOTAL;
use super::super::objects::Objects;
use super::super::report::Report;
use super::super::signals::target;

/// What triggers refer to.
pub(super) struct Source<'o> {
    /// The name of the ScaledObject.
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    /// The external metrics that KEDA serves for it, as its status has them.
    pub(super) metric_names: Vec<String>,
    /// The container whose variables triggers name.
    pub(super) container: Option<Container>,
    pub(super) objects: &'o Objects,
}

/// A trigger.
pub(super) struct Trigger<'r> {
    pub(super) kind: String,
    /// Its place among the triggers.
    pub(super) index: usize,
    /// Its name, or that of its type.
    pub(super) name: String,
    /// Its settings.
    pub(super) metadata: Fields<'r>,
    /// The TriggerAuthentication that it names, and its kind.
    pub(super) authentication: Option<(String, String)>,
    /// Its path.
    pub(super) path: String,
    /// The variables of the target's container that have a credential, by KEDA's name for it.
    pub(super) variables: BTreeMap<&'static str, String>,
    metric_type: Option<String>,
    polling: Option<i64>,
}

/// Settings that name a variable with a credential.
const CREDENTIAL_VARIABLES: [(&str, &str); 4] = [
    ("username", "usernameFromEnv"),
    ("password", "passwordFromEnv"),
    ("sentinelUsername", "sentinelUsernameFromEnv"),
    ("sentinelPassword", "sentinelPasswordFromEnv"),
];

impl<'r> Trigger<'r> {
    /// Takes a trigger. `polling` is how often it is read, in seconds, if the ScaledObject says it.
    pub(super) fn take(mut fields: Fields<'r>, index: usize, polling: Option<i64>) -> Self {
        let kind = fields.text("type").unwrap_or_default();
        let name = fields.text("name").unwrap_or_else(|| kind.clone());
        let metric_type = fields.text("metricType");
        fields.drop_field(
            "useCachedMetrics",
            "each signal is read at its own interval",
        );
        let authentication = fields.has("authenticationRef").then(|| {
            let mut reference = fields.object("authenticationRef");
            let kind = reference.text("kind");
            let kind = kind.unwrap_or_else(|| "TriggerAuthentication".to_owned());
            (reference.text("name").unwrap_or_default(), kind)
        });
        let mut metadata = fields.object("metadata");
        let variables = CREDENTIAL_VARIABLES.into_iter();
        let variables =
            variables.filter_map(|(name, setting)| Some((name, metadata.text(setting)?)));
        Self {
            kind,
            index,
            name,
            variables: variables.collect(),
            metadata,
            authentication,
            path: fields.location().to_owned(),
            metric_type,
            polling,
        }
    }

    pub(super) fn report(&self) -> &'r Report {
        self.metadata.report()
    }

    /// Sets what all signals have: how often it is read, and what its target meant.
    pub(super) fn finish(&self, signal: &mut Value, at: &str) {
        if let Some(seconds) = self.polling {
            signal["pollingInterval"] = format!("{seconds}s").into();
        }
        let target = format!("{at}.target");
        match self.metric_type.as_deref() {
            None | Some("AverageValue") => {}
            Some("Value") => self.report().changed(target, TOTAL),
            Some(other) => self
                .report()
                .changed(target, format!("its metricType {other:?} is unknown")),
        }
    }

    /// Sets the target: how much of the signal one replica carries. `default` is KEDA's.
    pub(super) fn set_target(
        &mut self,
        signal: &mut Value,
        at: &str,
        names: &[&str],
        default: Option<&str>,
    ) {
        let given = names.iter().find_map(|name| self.metadata.text(name));
        let text = given.as_deref().or(default);
        match text.and_then(target) {
            Some(value) => signal["target"] = value,
            None => self.report().missing(
                format!("{at}.target"),
                "how much of it one replica carries, above 0",
            ),
        }
        if let (None, Some(default)) = (&given, default) {
            let why = format!("{default} is KEDA's default");
            self.report().note(format!("{at}.target"), why);
        }
    }

    /// Activation thresholds have no counterpart.
    pub(super) fn drop_activation(&mut self) {
        for name in self.metadata.names() {
            if name.starts_with("activation") {
                let why = "any signal above 0 starts the first replica: subtract it in the query or the program where that is too little";
                self.metadata.drop_field(&name, why);
            }
        }
    }

    /// Reports the whole trigger with a reason.
    pub(super) fn discard(&mut self, why: &str) {
        for name in self.metadata.names() {
            self.metadata.ignore(&[&name]);
        }
        self.report()
            .dropped(format!("{} ({})", self.path, self.kind), why);
    }

    /// A setting, or what the variable of the target's container has whose name another setting
    /// gives.
    pub(super) fn setting(&mut self, name: &str, source: &Source<'_>) -> Option<String> {
        let variable = self.metadata.text(&format!("{name}FromEnv"));
        let given = self.metadata.text(name);
        given.or_else(|| {
            let container = source.container.as_ref()?;
            container.resolve(&format!("${}", variable?))
        })
    }
}
