//! Where pods may go: taints and tolerations, node selectors and required node affinity, as
//! kube-scheduler reads them.

use std::collections::BTreeMap;

/// What a taint does to pods that do not tolerate it. `PreferNoSchedule` keeps no pod away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaintEffect {
    /// They are not placed there.
    NoSchedule,
    /// They are not placed there, and those that are there are evicted.
    NoExecute,
}

/// A taint of a node that keeps pods away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; empty if it has none.
    pub value: String,
    /// Its effect.
    pub effect: TaintEffect,
}

/// A toleration of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Toleration {
    /// The key of the taints; `None` for any.
    pub key: Option<String>,
    /// The value of the taints; `None` for any.
    pub value: Option<String>,
    /// The effect of the taints; `None` for any.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// How a requirement compares a label with its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// It is one of them.
    In,
    /// It is none of them, or is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
    /// It is a whole number above the only value.
    Gt,
    /// It is a whole number below the only value.
    Lt,
}

/// What a label, or the name, of a node must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

impl Requirement {
    fn is_met(&self, value: Option<&str>) -> bool {
        let is_among = |value: &str| self.values.iter().any(|one| one == value);
        let number = |text: &str| text.parse::<i64>().ok();
        let compared = || match (value.and_then(number), self.values.as_slice()) {
            (Some(found), [bound]) => number(bound).map(|bound| found.cmp(&bound)),
            _ => None,
        };
        match self.operator {
            Operator::In => value.is_some_and(is_among),
            Operator::NotIn => !value.is_some_and(is_among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compared().is_some_and(std::cmp::Ordering::is_gt),
            Operator::Lt => compared().is_some_and(std::cmp::Ordering::is_lt),
        }
    }
}

/// One of the terms of a required node affinity. A term without requirements matches no node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeTerm {
    /// Requirements on labels.
    pub labels: Vec<Requirement>,
    /// Requirements on the node's name.
    pub names: Vec<Requirement>,
}

impl NodeTerm {
    /// Whether it matches the node; `name` is `None` for any node with these labels.
    fn matches(&self, name: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        let label = |key: &str| labels.get(key).map(String::as_str);
        let mut of_labels = self.labels.iter();
        let mut of_names = self.names.iter();
        !(self.labels.is_empty() && self.names.is_empty())
            && of_labels.all(|requirement| requirement.is_met(label(&requirement.key)))
            && (name.is_none() || of_names.all(|requirement| requirement.is_met(name)))
    }
}

/// On which nodes a pod may be placed, besides its node selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// What it tolerates.
    pub tolerations: Vec<Toleration>,
    /// The terms of its required node affinity, of which one must match; `None` if it has none.
    pub terms: Option<Vec<NodeTerm>>,
}

impl Placement {
    /// A placement that no node matches.
    pub fn nowhere() -> Self {
        Self {
            tolerations: Vec::new(),
            terms: Some(Vec::new()),
        }
    }

    /// A placement that tolerates whatever a node has: that of a pod that names its node itself.
    pub fn anywhere() -> Self {
        let any = Toleration {
            key: None,
            value: None,
            effect: None,
        };
        Self {
            tolerations: vec![any],
            terms: None,
        }
    }

    /// Whether the pod tolerates a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let mut tolerations = self.tolerations.iter();
        tolerations.any(|toleration| toleration.tolerates(taint))
    }

    /// Whether a node of this name, with these labels and taints, takes the pod.
    pub fn allows(&self, name: &str, labels: &BTreeMap<String, String>, taints: &[Taint]) -> bool {
        self.allows_named(Some(name), labels, taints)
    }

    /// Whether some node with these labels and taints might take the pod, whatever its name is.
    pub fn may_allow(&self, labels: &BTreeMap<String, String>, taints: &[Taint]) -> bool {
        self.allows_named(None, labels, taints)
    }

    fn allows_named(
        &self,
        name: Option<&str>,
        labels: &BTreeMap<String, String>,
        taints: &[Taint],
    ) -> bool {
        let matches = |terms: &Vec<NodeTerm>| terms.iter().any(|term| term.matches(name, labels));
        taints.iter().all(|taint| self.tolerates(taint)) && self.terms.as_ref().is_none_or(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: TaintEffect) -> Taint {
        Taint {
            key: key.to_owned(),
            value: value.to_owned(),
            effect,
        }
    }

    fn toleration(
        key: Option<&str>,
        value: Option<&str>,
        effect: Option<TaintEffect>,
    ) -> Placement {
        Placement {
            tolerations: vec![Toleration {
                key: key.map(str::to_owned),
                value: value.map(str::to_owned),
                effect,
            }],
            terms: None,
        }
    }

    #[test]
    fn each_taint_must_be_tolerated_by_key_value_and_effect() {
        use TaintEffect::{NoExecute, NoSchedule};
        let gpu = taint("gpu", "present", NoSchedule);
        for (placement, allowed) in [
            (Placement::default(), false),
            (toleration(None, None, None), true),
            (toleration(Some("gpu"), None, None), true),
            (
                toleration(Some("gpu"), Some("present"), Some(NoSchedule)),
                true,
            ),
            (toleration(Some("gpu"), Some(""), None), false),
            (toleration(Some("gpu"), None, Some(NoExecute)), false),
            (toleration(Some("spot"), None, None), false),
        ] {
            let taints = std::slice::from_ref(&gpu);
            assert_eq!(
                placement.allows("n", &BTreeMap::new(), taints),
                allowed,
                "{placement:?}"
            );
        }
        let two = [gpu, taint("spot", "", NoExecute)];
        let placement = toleration(Some("gpu"), None, None);
        assert!(!placement.allows("n", &BTreeMap::new(), &two));
    }

    fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
        Requirement {
            key: key.to_owned(),
            operator,
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }
    }

    #[test]
    fn one_term_must_match_with_all_its_requirements() {
        use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
        let labels = BTreeMap::from([
            ("zone".to_owned(), "a".to_owned()),
            ("memory".to_owned(), "80".to_owned()),
        ]);
        let allows = |terms: Vec<Vec<Requirement>>| {
            let term = |labels| NodeTerm {
                labels,
                names: vec![],
            };
            let placement = Placement {
                tolerations: vec![],
                terms: Some(terms.into_iter().map(term).collect()),
            };
            placement.allows("n", &labels, &[])
        };
        let zone = |operator, values: &[&str]| requirement("zone", operator, values);
        let memory = |operator, value| requirement("memory", operator, &[value]);
        for (one, matches) in [
            (zone(In, &["b", "a"]), true),
            (zone(In, &["b"]), false),
            (zone(NotIn, &["a"]), false),
            (requirement("pool", NotIn, &["a"]), true),
            (zone(Exists, &[]), true),
            (requirement("pool", Exists, &[]), false),
            (requirement("pool", DoesNotExist, &[]), true),
            (zone(DoesNotExist, &[]), false),
            (memory(Gt, "40"), true),
            (memory(Gt, "80"), false),
            (memory(Lt, "81"), true),
            (memory(Lt, "many"), false),
            (requirement("pool", Lt, &["1"]), false),
        ] {
            assert_eq!(allows(vec![vec![one.clone()]]), matches, "{one:?}");
        }
        assert!(!allows(vec![]), "no term");
        assert!(!allows(vec![vec![]]), "a term without requirements");
        let other = vec![zone(In, &["b"])];
        assert!(allows(vec![other.clone(), vec![zone(In, &["a"])]]), "or");
        assert!(
            !allows(vec![vec![zone(In, &["a"]), other[0].clone()]]),
            "and"
        );
    }

    #[test]
    fn a_pod_of_a_daemon_set_is_for_the_node_that_it_names() {
        let placement = Placement {
            tolerations: vec![],
            terms: Some(vec![NodeTerm {
                labels: vec![],
                names: vec![requirement("metadata.name", Operator::In, &["n"])],
            }]),
        };
        assert!(placement.allows("n", &BTreeMap::new(), &[]));
        assert!(!placement.allows("m", &BTreeMap::new(), &[]));
    }
}
