//! The names of SpendRecords, read back: of a record that cannot be read, the name alone is known.

use bursar_core::calendar::Month;

use super::{WorkloadKind, WorkloadRef};

/// All kinds of accounts.
const KINDS: [WorkloadKind; 5] = [
    WorkloadKind::InferenceDeployment,
    WorkloadKind::TrainingJob,
    WorkloadKind::Unmanaged,
    WorkloadKind::Folded,
    WorkloadKind::Node,
];

impl WorkloadRef {
    /// The workload and the month whose record has this name; `None` if no record of a namespace
    /// has such a name. It is the reverse of [`WorkloadRef::record_name`].
    pub fn from_record_name(name: &str) -> Option<(Self, Month)> {
        let (rest, month) = name.rsplit_once('.')?;
        let (first, rest) = rest.split_once('.')?;
        // the records of nodes are of no namespace
        let (namespace, short, name) = match rest.split_once('.') {
            Some((short, name)) => (first, short, name),
            None => ("", first, rest),
        };
        let kind = KINDS.into_iter().find(|kind| kind.short() == short)?;
        let workload = Self {
            namespace: namespace.to_owned(),
            kind,
            name: name.to_owned(),
        };
        Some((workload, month.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back() {
        let month: Month = "2026-11".parse().unwrap();
        let mut workloads = KINDS.map(|kind| WorkloadRef {
            namespace: "team".into(),
            kind,
            name: "a.b".into(),
        });
        workloads[KINDS.len() - 1] = WorkloadRef::nodes("7f");
        for workload in workloads {
            let name = workload.record_name(month);
            assert_eq!(
                WorkloadRef::from_record_name(&name),
                Some((workload, month)),
                "{name}"
            );
        }
        for name in [
            "team.infd.chat",
            "team.x.chat.2026-11",
            "chat",
            "a.infd.b.2026-13",
        ] {
            assert_eq!(WorkloadRef::from_record_name(name), None, "{name}");
        }
    }
}
