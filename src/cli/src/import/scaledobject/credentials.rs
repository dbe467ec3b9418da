//! What a trigger signs in with: the Secrets of its TriggerAuthentication or of the target's
//! variables.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::container::Variable;
use super::super::report::Report;
use super::trigger::{Source, Trigger};

/// The keys of a Secret as Bursar reads them, and what KEDA calls them.
const KEYS: [(&str, &[&str]); 6] = [
    ("username", &["username"]),
    ("password", &["password"]),
    ("token", &["bearerToken", "token"]),
    ("ca.crt", &["ca"]),
    ("tls.crt", &["cert"]),
    ("tls.key", &["key"]),
];

/// The keys that a signal needs, and where KEDA found them.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// By the key that Bursar reads: the Secret and its key.
    keys: BTreeMap<&'static str, (String, String)>,
    /// What is known of the rest, in words.
    remarks: Vec<String>,
}

/// The Secret and key that a TriggerAuthentication among the objects has for a parameter.
pub(super) fn secret_of(
    trigger: &Trigger<'_>,
    source: &Source<'_>,
    parameter: &str,
) -> Option<(String, String)> {
    let (name, kind) = trigger.authentication.as_ref()?;
    let object = source
        .objects
        .find(("keda.sh", kind), name, source.namespace.as_deref());
    let references = object?["spec"]["secretTargetRef"].as_array()?;
    let reference = references
        .iter()
        .find(|reference| reference["parameter"] == parameter)?;
    let text = |name: &str| reference[name].as_str().map(str::to_owned);
    Some((text("name")?, text("key")?))
}

/// A setting that a TriggerAuthentication may take from a Secret.
pub(super) enum Setting {
    /// No Secret is named for it.
    Absent,
    /// The Secret is among the objects, and has it as a text.
    Known(String),
    /// Where it is, in words.
    Unknown(String),
}

/// A setting of a trigger that its TriggerAuthentication may take from a Secret.
pub(super) fn setting_of_secret(
    trigger: &Trigger<'_>,
    source: &Source<'_>,
    parameter: &str,
) -> Setting {
    let Some((secret, key)) = secret_of(trigger, source, parameter) else {
        return Setting::Absent;
    };
    let namespace = source.namespace.as_deref();
    let object = source.objects.find(("", "Secret"), &secret, namespace);
    match object.and_then(|object| object["stringData"][&key].as_str()) {
        Some(text) => Setting::Known(text.to_owned()),
        None => Setting::Unknown(format!("key {key} of Secret {secret}")),
    }
}

impl Credentials {
    /// What a trigger signs in with; `None` if it does not.
    pub(super) fn find(trigger: &Trigger<'_>, source: &Source<'_>) -> Option<Self> {
        let mut found = Self::default();
        for (own, theirs) in KEYS {
            let from_authentication = || {
                theirs
                    .iter()
                    .find_map(|name| secret_of(trigger, source, name))
            };
            if let Some(place) =
                from_authentication().or_else(|| of_variable(trigger, source, theirs))
            {
                found.keys.insert(own, place);
            }
        }
        for name in ["sentinelUsername", "sentinelPassword"] {
            if trigger.variables.contains_key(name) {
                let remark =
                    "sentinels get the same name and password as the server that they name";
                found.remarks.push(remark.to_owned());
            }
        }
        if let Some((name, kind)) = &trigger.authentication {
            let object = source
                .objects
                .find(("keda.sh", kind), name, source.namespace.as_deref());
            match object {
                None => found
                    .remarks
                    .push(format!("{kind} {name} says what KEDA signs in with")),
                Some(object) => found.remarks.extend(other_ways(object)),
            }
        }
        (!found.keys.is_empty() || !found.remarks.is_empty()).then_some(found)
    }

    /// Sets `secretName`, and says which keys the Secret needs and which label.
    pub(super) fn set(self, signal: &mut Value, at: &str, report: &Report) {
        let field = format!("{at}.secretName");
        let mut secrets: Vec<&str> = self
            .keys
            .values()
            .map(|(secret, _)| secret.as_str())
            .collect();
        secrets.dedup();
        let wants: Vec<String> = (self.keys.iter())
            .map(|(own, (secret, key))| match secret.as_str() {
                _ if own == key && secrets.len() == 1 => format!("{own} (has it)"),
                secret => format!("{own} (now {key} of {secret})"),
            })
            .collect();
        let label = "and the label bursar.dev/signal-credentials: \"true\"";
        match secrets.as_slice() {
            [secret] => {
                signal["secretName"] = json!(secret);
                let why = format!(
                    "Secret {secret} needs the keys {} {label}",
                    wants.join(", ")
                );
                report.missing(&field, why);
            }
            [] => {}
            _ => {
                let why = format!("one Secret with the keys {} {label}", wants.join(", "));
                report.missing(&field, why);
            }
        }
        for remark in self.remarks {
            report.missing(&field, remark);
        }
    }
}

/// A Secret that a variable of the target's container is read from.
fn of_variable(
    trigger: &Trigger<'_>,
    source: &Source<'_>,
    names: &[&str],
) -> Option<(String, String)> {
    let container = source.container.as_ref()?;
    names.iter().find_map(|name| {
        let variable = trigger.variables.get(*name)?;
        match container.variable(variable)? {
            Variable::Secret { name, key } => Some((name.clone(), key.clone())),
            _ => None,
        }
    })
}

/// What a TriggerAuthentication has that no Secret of Bursar's can have.
fn other_ways(object: &Value) -> Vec<String> {
    let spec = object["spec"].as_object();
    let names = spec.into_iter().flat_map(|spec| spec.keys());
    let others = names.filter(|name| *name != "secretTargetRef");
    let mut remarks: Vec<String> = others
        .map(|name| {
            format!("{name} of the TriggerAuthentication: Bursar signs in with a Secret only")
        })
        .collect();
    let references = object["spec"]["secretTargetRef"].as_array();
    let known = |parameter: &str| KEYS.iter().any(|(_, names)| names.contains(&parameter));
    for reference in references.into_iter().flatten() {
        let parameter = reference["parameter"].as_str().unwrap_or_default();
        if parameter == "host" {
            let (name, key) = (&reference["name"], &reference["key"]);
            remarks.push(format!(
                "Secret {} has an address with a name and password under the key {}: Bursar reads them as the keys username and password",
                name.as_str().unwrap_or("?"),
                key.as_str().unwrap_or("?")
            ));
        } else if !known(parameter)
            && !matches!(parameter, "address" | "sasl" | "tls" | "vhostName")
        {
            // those are settings, and asked for where they belong
            remarks.push(format!(
                "parameter {parameter:?} of the TriggerAuthentication has no key of Bursar's"
            ));
        }
    }
    remarks
}
