//! Names that Bursar gives: labels, annotations, finalizers, and objects that belong to a workload.

/// API group.
pub const GROUP: &str = "bursar.dev";
/// Label on pods and owned objects: the workload's kind.
pub const KIND_LABEL: &str = "bursar.dev/kind";
/// Label on pods and owned objects: the workload's name.
pub const WORKLOAD_LABEL: &str = "bursar.dev/workload";
/// Label of Secrets that signals may be read with; its value is `true`.
pub const SIGNAL_CREDENTIALS_LABEL: &str = "bursar.dev/signal-credentials";
/// Label on pods that the workload's Service sends traffic to; its value is `true`.
pub const SERVING_LABEL: &str = "bursar.dev/serving";
/// The value of [`SERVING_LABEL`] in the selector of a Service whose requests all go through gateways. No
/// pod has it, so the cluster puts no pod into the Service's EndpointSlices.
pub const SERVED_BY_GATEWAYS: &str = "by-gateways";
/// Label on the Jobs and pods of a TrainingJob's roles: the role's name. The only role of the short
/// form has none.
pub const ROLE_LABEL: &str = "bursar.dev/role";
/// Label on EndpointSlices that name gateways; its value is `true`.
pub const GATEWAY_LABEL: &str = "bursar.dev/gateway";
/// Label on SpendRecords: the workload's namespace.
pub const NAMESPACE_LABEL: &str = "bursar.dev/namespace";
/// Label on SpendRecords: the month.
pub const MONTH_LABEL: &str = "bursar.dev/month";
/// Annotation on a pod of a replica of several pods: the UID of the pod that leads it, which has none.
pub const LEADER_ANNOTATION: &str = "bursar.dev/leader-uid";
/// Annotation on a pod: since when it has been draining.
pub const DRAINING_ANNOTATION: &str = "bursar.dev/draining-since";
/// Annotation on a Job: how often its gang was evicted because some of its workers found no node or
/// were given no pod.
pub const RETRIES_ANNOTATION: &str = "bursar.dev/gang-retries";
/// Annotation on a Job: a gang that was evicted does not start before this time.
pub const RETRY_AT_ANNOTATION: &str = "bursar.dev/gang-retry-at";
/// Annotation on a Job: why the cluster refused pods of its gang, in the API server's words, if it was evicted
/// for that.
pub const REFUSED_ANNOTATION: &str = "bursar.dev/gang-refused";
/// Annotation on a Job: with the value `true` its gang was evicted although nodes had room for all of
/// it, so that no GPUs are taken back for it.
pub const RETRY_HAD_ROOM_ANNOTATION: &str = "bursar.dev/gang-retry-had-room";
/// Annotation on a Job: how often a worker of its gang has failed.
pub const RESTARTS_ANNOTATION: &str = "bursar.dev/gang-restarts";
/// Annotation on a Job that was suspended because a worker ended: its gang starts again, in new Jobs,
/// not before this time.
pub const RESTART_AT_ANNOTATION: &str = "bursar.dev/gang-restart-at";
/// Annotation on a Job: how often in a row its gang was stopped to start again for what counts against no limit.
pub const DISRUPTIONS_ANNOTATION: &str = "bursar.dev/gang-disruptions";
/// Annotation on a Job of a gang with a launcher: how the names of the Secret and the ConfigMap end that its
/// pods mount.
pub const LAUNCHER_FILES_ANNOTATION: &str = "bursar.dev/launcher-files";
/// Annotation on a BudgetPolicy: with the value `true` edits take effect at once, whatever they stop.
pub const APPLY_NOW_ANNOTATION: &str = "bursar.dev/apply-now";
/// Annotation on owned objects: a hash of the specification that Bursar applied.
pub const SPEC_HASH_ANNOTATION: &str = "bursar.dev/spec-hash";
/// Finalizer on pods: their charge is not settled yet.
pub const SPEND_FINALIZER: &str = "bursar.dev/spend";
/// Finalizer on InferenceDeployments and TrainingJobs with a targetRef: it is not given back yet.
pub const TARGET_FINALIZER: &str = "bursar.dev/target";
/// Annotation on the target of a TrainingJob: whether Bursar has last suspended it (`true`) or let it run
/// (`false`), written together with its `suspend`.
pub const SUSPENDED_ANNOTATION: &str = "bursar.dev/suspended";
/// Kubernetes' annotation: the pod with the lowest cost goes first.
pub const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Who Bursar is as a field manager.
pub const FIELD_MANAGER: &str = "bursar";
/// First and last port that gateways listen on for services; outside Linux's ephemeral range.
pub const GATEWAY_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;
/// Lease that controllers compete for, in the operator's namespace; its holder is the name of the leader's pod.
pub const CONTROLLER_LEASE: &str = "bursar-controller";
/// ConfigMap in the operator's namespace whose entries pause the cluster or namespaces.
pub const PAUSE_CONFIG_MAP: &str = "bursar-pause";
/// Port of health and readiness, in controllers and gateways.
pub const HEALTH_PORT: u16 = 8080;
/// Port of what only callers with a right may read, over TLS: metrics, and the leader's explanations.
pub const SECURE_PORT: u16 = 8443;
/// Port of a gateway's demand stream, which controllers alone reach.
pub const DEMAND_PORT: u16 = 8444;
/// The `Authorization` of a caller of the secure port for whom the API server's proxy asks: it takes the header of that name for itself.
pub const PROXIED_AUTHORIZATION: &str = "bursar-authorization";
/// The port of an owned Service.
pub const SERVICE_PORT: u16 = 80;
/// The name of the owned Service's port.
pub const SERVICE_PORT_NAME: &str = "http";

/// The EndpointSlice that names the gateways for the Service of InferenceDeployment `name`, by their IPv4
/// addresses.
pub fn gateway_slice(name: &str) -> String {
    format!("{name}-bursar-gateway")
}

/// The same for the gateways' IPv6 addresses: the addresses of a slice are all of one family.
pub fn gateway_slice_ipv6(name: &str) -> String {
    format!("{name}-bursar-gateway-ipv6")
}

/// All of them.
pub fn gateway_slices(name: &str) -> [String; 2] {
    [gateway_slice(name), gateway_slice_ipv6(name)]
}

/// What the name of the Service of replicas ends in.
pub const REPLICAS_SUFFIX: &str = "-replicas";

/// The Service that has the replicas of InferenceDeployment `name` while gateways are the endpoints of
/// its own. A workload's name has 50 characters at most, so this is a DNS label.
pub fn replicas_service(name: &str) -> String {
    format!("{name}{REPLICAS_SUFFIX}")
}

/// The Job of a role of TrainingJob `name`. The only role of the short form has the empty name.
pub fn role_job(name: &str, role: &str) -> String {
    match role {
        "" => name.to_owned(),
        _ => format!("{name}-{role}"),
    }
}

/// The DNS name of a worker of TrainingJob `name`, by its index in its role: the headless Service has the
/// job's name. A cluster's pods resolve it without the cluster's domain.
pub fn worker_address(name: &str, namespace: &str, role: &str, index: u32) -> String {
    format!("{}-{index}.{name}.{namespace}.svc", role_job(name, role))
}

/// The longest name of a role.
pub(crate) const MAX_ROLE_NAME: usize = 20;
/// Characters that the names of a TrainingJob and of a role may have together: with a dash after
/// each and the three digits of a worker's index they make a DNS label of 63 characters.
pub(crate) const MAX_ROLE_JOB_NAME: usize = 58;

/// True for a name that a role can have: at most 20 letters, digits and dashes, beginning with a
/// letter.
pub fn is_role(name: &str) -> bool {
    name.len() <= MAX_ROLE_NAME && is_workload(name)
}

/// True for a name that a workload can have: at most 50 letters, digits and dashes, beginning with
/// a letter.
pub fn is_workload(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 50
        && name.bytes().all(inner)
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_make_no_record_are_no_workloads() {
        for (name, is) in [
            ("chat", true),
            ("a", true),
            ("gpt-4", true),
            ("Foo_Bar", false),
            ("", false),
            ("4chan", false),
            ("a-", false),
            ("a.b", false),
        ] {
            assert_eq!(is_workload(name), is, "{name:?}");
        }
        assert!(!is_workload(&"a".repeat(51)));
        assert!(is_role("worker") && is_role(&"a".repeat(20)) && !is_role(&"a".repeat(21)));
    }
}
