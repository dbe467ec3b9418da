//! Which object is explained.

use std::str::FromStr;

/// An object of one of the kinds that Bursar decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    /// Its kind.
    pub(crate) kind: ObjectKind,
    /// Its name.
    pub(crate) name: String,
}

/// A kind that Bursar decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    /// InferenceDeployment.
    Service,
    /// TrainingJob.
    Job,
    /// BudgetPolicy.
    Budget,
}

impl ObjectKind {
    /// Kind in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "InferenceDeployment",
            Self::Job => "TrainingJob",
            Self::Budget => "BudgetPolicy",
        }
    }
}

impl FromStr for ObjectRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("`{text}` is not infd/NAME, tj/NAME or budget/NAME");
        let (kind, name) = text.split_once('/').ok_or_else(usage)?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "infd" | "inferencedeployment" | "inferencedeployments" => ObjectKind::Service,
            "tj" | "trainingjob" | "trainingjobs" => ObjectKind::Job,
            "budget" | "budgetpolicy" | "budgetpolicies" => ObjectKind::Budget,
            _ => return Err(usage()),
        };
        if name.is_empty() || name.contains('/') {
            return Err(usage());
        }
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_short_and_long_names() {
        for (text, kind) in [
            ("infd/chat", ObjectKind::Service),
            ("InferenceDeployments/chat", ObjectKind::Service),
            ("tj/chat", ObjectKind::Job),
            ("budgetpolicy/chat", ObjectKind::Budget),
        ] {
            let name = "chat".to_owned();
            assert_eq!(text.parse(), Ok(ObjectRef { kind, name }), "{text}");
        }
    }

    #[test]
    fn an_unknown_kind_or_a_missing_name_is_refused_with_the_form() {
        for text in ["chat", "pod/chat", "infd/", "infd/a/b"] {
            let error = text.parse::<ObjectRef>().unwrap_err();
            assert!(error.contains("infd/NAME"), "{error}");
        }
    }
}
