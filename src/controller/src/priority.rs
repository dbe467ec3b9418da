//! What PriorityClasses count.
//!
//! A namespace may order its own workloads as it likes. Beside those of other namespaces a class
//! above 0 counts only where the installation allows it, or everybody would use the highest.

use std::str::FromStr;

use bursar_api::conditions::{ConditionState, PRIORITY_ALLOWED, priority_allowed};
use bursar_core::model::Key;

use crate::cache::cached;
use crate::context::Context;

/// All namespaces.
const ANY: &str = "*";

/// A PriorityClass that counts beside other namespaces, and a namespace that may use it: written as
/// `CLASS=NAMESPACE`, with `*` for all namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedClass {
    class: String,
    namespace: String,
}

impl FromStr for AllowedClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = text.split_once('=');
        let pair = pair.filter(|(class, namespace)| !class.is_empty() && !namespace.is_empty());
        let Some((class, namespace)) = pair else {
            return Err(
                "must be a PriorityClass and a namespace, as in `high=team`, or `high=*`".into(),
            );
        };
        Ok(Self {
            class: class.to_owned(),
            namespace: namespace.to_owned(),
        })
    }
}

/// The priority of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Priority {
    /// Within its namespace.
    pub(crate) value: i32,
    /// Beside workloads of other namespaces.
    pub(crate) in_cluster: i32,
}

impl Priority {
    /// The priority of workloads of this PriorityClass, or of the cluster's default one. A class
    /// that is not there counts nothing: Kubernetes admits no pod of it.
    pub(crate) fn of(context: &Context, namespace: &str, class: Option<&str>) -> Self {
        let classes = &context.stores.priorities;
        let class = match class {
            Some(name) => cached(classes, &Key::new("", name)),
            None => classes.find(|class| class.global_default == Some(true)),
        };
        let value = class.as_ref().and_then(|class| class.value).unwrap_or(0);
        let name = class.and_then(|class| class.metadata.name.clone());
        let is_allowed = name.is_some_and(|name| {
            let mut allowed = context.allowed_classes.iter();
            allowed.any(|allowed| {
                allowed.class == name
                    && (allowed.namespace == ANY || allowed.namespace == namespace)
            })
        });
        Self {
            value,
            in_cluster: if is_allowed { value } else { value.min(0) },
        }
    }

    /// The condition that says so, if it counts less beside other namespaces.
    pub(crate) fn limit(self, namespace: &str) -> Option<ConditionState> {
        let Self { value, in_cluster } = self;
        (in_cluster < value).then(|| ConditionState {
            kind: PRIORITY_ALLOWED,
            status: Some(false),
            reason: priority_allowed::CLASS_NOT_ALLOWED,
            message: format!(
                "its priority {value} counts as {in_cluster} beside other namespaces: the \
                 installation does not allow its PriorityClass in namespace {namespace} (chart \
                 value priorityClasses.allowed)"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_allowed_with_its_namespace() {
        let allowed: AllowedClass = "high=team".parse().unwrap();
        assert_eq!((&*allowed.class, &*allowed.namespace), ("high", "team"));
        for text in ["", "high", "high=", "=team", "="] {
            assert!(text.parse::<AllowedClass>().is_err(), "{text:?}");
        }
    }
}
