//! The chart's admission policies on a real API server: what others are refused, and all that must go on.
//!
//! Kubernetes' own controllers run here, each as its ServiceAccount, and make ReplicaSets and pods of what Bursar applies. No program of
//! Bursar is up. The tenant has every right that RBAC gives.

mod adopted_pods;

use std::fs;

use bursar_e2e::{
    Access, Cluster, runner::ScenarioResult, scenario::get_field, scenario::wait_until,
};
use serde_json::{Value, json};

use crate::control_plane::{HELM_LIMIT, root};

const BURSAR: &[&str] = &["--as=system:serviceaccount:bursar-system:bursar-controller"];
const TENANT: &[&str] = &["--as=tenant"];
const BREAK_GLASS: &[&str] = &["--as=somebody", "--as-group=system:masters"];
const NAMESPACE: &str = "held";
/// In `admission.exemptUsers`.
const OTHER_CONTROLLER: &[&str] = &["--as=system:serviceaccount:velero:velero"];
/// Has the right to break the glass, and no group.
const REPAIRER: &[&str] = &["--as=repairer"];
const EXEMPTIONS: [&str; 2] = [
    "--set=admission.exemptUsers={system:serviceaccount:velero:velero}",
    "--set=admission.breakGlassRight=true",
];
const SETTINGS: [(&str, &[&str]); 5] = [
    ("podAccounting", &["bursar-pod-accounting"]),
    (
        "workloadLabels",
        &[
            "bursar-workload-labels",
            "bursar-workload-templates",
            "bursar-cron-job-templates",
        ],
    ),
    ("ownedObjects", &["bursar-owned-objects"]),
    ("ownWrites", &["bursar-own-writes"]),
    (
        "gracePeriod",
        &["bursar-grace-period", "bursar-deletion-grace-period"],
    ),
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The cluster, and what went otherwise than expected.
struct Stage<'c> {
    cluster: &'c Cluster,
    problems: Vec<String>,
}

impl Stage<'_> {
    fn run(&self, who: &[&str], args: &[&str]) -> std::result::Result<String, String> {
        let all = [who, &["-n", NAMESPACE], args].concat();
        self.cluster
            .kubectl(&all)
            .map_err(|error| error.to_string())
    }

    fn passes(&mut self, who: &[&str], args: &[&str]) {
        if let Err(error) = self.run(who, args) {
            self.problems
                .push(format!("{who:?} {args:?} must pass: {error}"));
        }
    }

    fn refused(&mut self, why: &str, args: &[&str]) {
        self.refused_to(TENANT, why, args);
    }

    fn refused_to(&mut self, who: &[&str], why: &str, args: &[&str]) {
        match self.run(who, args) {
            Err(error) if error.contains(why) => {}
            other => (self.problems).push(format!("{who:?} {args:?}: not {why:?} but {other:?}")),
        }
    }

    /// As kubectl create.
    fn create(&self, who: &[&str], object: &Value) -> std::result::Result<String, String> {
        let file = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        fs::write(file.path(), object.to_string()).map_err(|error| error.to_string())?;
        self.run(who, &["create", "-f", &file.path().display().to_string()])
    }

    fn creation_passes(&mut self, who: &[&str], object: &Value) {
        if let Err(error) = self.create(who, object) {
            self.problems
                .push(format!("{who:?} must be able to create {object}: {error}"));
        }
    }

    fn creation_refused(&mut self, why: &str, object: &Value) {
        match self.create(TENANT, object) {
            Err(error) if error.contains(why) => {}
            other => (self.problems).push(format!("{object}: not {why:?} but {other:?}")),
        }
    }

    fn patch_refused(&mut self, why: &str, object: &str, patch: &Value) {
        let patch = patch.to_string();
        self.refused(why, &["patch", object, "--type=merge", "-p", &patch]);
    }

    fn patch_passes(&mut self, who: &[&str], object: &str, patch: &Value) {
        let patch = patch.to_string();
        self.passes(who, &["patch", object, "--type=merge", "-p", &patch]);
    }
}

pub(crate) fn policies(cluster: &Cluster) -> ScenarioResult {
    install(cluster)?;
    no_policy_warns_of_itself(cluster)?;
    each_can_be_switched_off(cluster)?;
    let mut stage = Stage {
        cluster,
        problems: Vec::new(),
    };
    let pod = service_runs(&stage)?;
    pods_of_the_workload(&mut stage, &pod);
    other_pods(&mut stage);
    bursars_own_writes(&mut stage, &pod);
    adopted_pods::become_replicas_and_workers(&mut stage);
    labels_are_bursars(&mut stage);
    owned_objects(&mut stage, &pod)?;
    grace_periods(&mut stage);
    exemptions(&mut stage, &pod)?;
    deletions_go_on(&mut stage)?;
    match stage.problems.is_empty() {
        true => Ok(()),
        false => Err(stage.problems.join("\n").into()),
    }
}

/// What the chart makes, but for its programs.
fn rendered(cluster: &Cluster, more: &[&str]) -> Result<String> {
    let chart = root().join("charts/bursar").display().to_string();
    let args = [
        "template",
        "bursar",
        &chart,
        "--namespace=bursar-system",
        "--set=image.repository=bursar.local/bursar",
        "--set=accounting.finalizerPolicy=Always",
        "--show-only=templates/rbac.yaml",
        "--show-only=templates/spend-finalizer.yaml",
    ];
    Ok(cluster.helm(&[&args[..], more].concat(), HELM_LIMIT)?)
}

fn install(cluster: &Cluster) -> ScenarioResult {
    cluster.kubectl(&[
        "apply",
        "--server-side",
        "-f",
        &root().join("crds").display().to_string(),
    ])?;
    let namespace =
        |name: &str| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    cluster.apply(&(namespace("bursar-system") + &namespace(NAMESPACE)))?;
    let policies = "--show-only=templates/admission-policies.yaml";
    let roles = "--show-only=templates/user-roles.yaml";
    cluster.apply(&rendered(
        cluster,
        &[policies, roles, EXEMPTIONS[0], EXEMPTIONS[1]],
    )?)?;
    // whoever may do everything may break the glass, so the tenant has every right but that
    cluster.apply(EVERY_RIGHT_OF_A_TENANT)?;
    for (user, role) in [
        ("tenant", "tenant"),
        ("repairer", "tenant"),
        ("system:serviceaccount:velero:velero", "tenant"),
        ("repairer", "bursar-break-glass"),
    ] {
        let (name, role) = (
            format!("{role}-{}", user.rsplit(':').next().unwrap_or_default()),
            format!("--clusterrole={role}"),
        );
        let user = format!("--user={user}");
        cluster.kubectl(&["create", "clusterrolebinding", &name, &role, &user])?;
    }
    let account = [
        "wait",
        "--for=create",
        "serviceaccount/default",
        "--timeout=30s",
    ];
    cluster.kubectl(&[&["-n", NAMESPACE], &account[..]].concat())?;
    // an API server reads its policies about once a second
    let labelled = gpu_pod("probe", json!({"labels": labels()}), 30);
    let stage = Stage {
        cluster,
        problems: Vec::new(),
    };
    wait_until("the policies to count", 30, || {
        let answer = stage.create(TENANT, &labelled);
        if answer.is_ok() {
            stage.run(BREAK_GLASS, &["delete", "pod", "probe", "--grace-period=0"])?;
        }
        Ok(answer.is_err())
    })
}

/// All kinds of Kubernetes and of Bursar, and no kind that stands for a right.
const EVERY_RIGHT_OF_A_TENANT: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: tenant}
rules:
  - {apiGroups: ['', apps, batch, discovery.k8s.io, policy, rbac.authorization.k8s.io], resources: ['*'], verbs: ['*']}
  - {apiGroups: [bursar.dev], resources: [inferencedeployments, trainingjobs, budgetpolicies, pricelists], verbs: ['*']}
";

/// The API server checks the types of the expressions against its own kinds.
fn no_policy_warns_of_itself(cluster: &Cluster) -> ScenarioResult {
    let path =
        "{range .items[*]}{.metadata.name} {.status.typeChecking.expressionWarnings}{\"\\n\"}{end}";
    let mut said = String::new();
    wait_until("the policies to be checked", 30, || {
        said = cluster.kubectl(&[
            "get",
            "validatingadmissionpolicies",
            "-o",
            &format!("jsonpath={path}"),
        ])?;
        let checked = cluster.kubectl(&[
            "get",
            "validatingadmissionpolicies",
            "-o",
            "jsonpath={.items[*].status.observedGeneration}",
        ])?;
        Ok(checked.split_whitespace().count() == said.lines().count())
    })?;
    let policies = SETTINGS.iter().flat_map(|(_, policies)| *policies);
    let expected: Vec<&str> = policies.copied().collect();
    let mut found: Vec<&str> = said.lines().map(str::trim).collect();
    found.retain(|line| !expected.contains(line));
    match found.is_empty() && said.lines().count() == expected.len() {
        true => Ok(()),
        false => Err(format!("not {expected:?} without warnings but {said}").into()),
    }
}

fn each_can_be_switched_off(cluster: &Cluster) -> ScenarioResult {
    const SHOW: &str = "--show-only=templates/admission-policies.yaml";
    for (value, policies) in SETTINGS {
        let set = |mode: &str| format!("--set=admission.{value}={mode}");
        let off = rendered(cluster, &[SHOW, &set("Disabled")])?;
        let warns = rendered(cluster, &[SHOW, &set("Warn")])?;
        for policy in policies {
            if off.contains(&format!("name: {policy}\n")) {
                return Err(format!("admission.{value}=Disabled leaves {policy}").into());
            }
            let warning = format!("policyName: {policy}\n  validationActions: [Warn, Audit]");
            if !warns.contains(&warning) {
                return Err(format!("admission.{value}=Warn does not let {policy} warn").into());
            }
        }
    }
    // all of them together: nothing is left to render
    let all: Vec<String> = SETTINGS
        .iter()
        .map(|(value, _)| format!("--set=admission.{value}=Disabled"))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let none = rendered(cluster, &all)?;
    match none.contains("ValidatingAdmissionPolicy") {
        true => Err("a policy is left though all are switched off".into()),
        false => Ok(()),
    }
}

fn labels() -> Value {
    json!({"bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": "held"})
}

fn gpu_pod(name: &str, metadata: Value, grace: i64) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": pod_spec(1, grace),
    });
    pod["metadata"]["name"] = json!(name);
    pod
}

fn pod_spec(gpus: u32, grace: i64) -> Value {
    let resources = match gpus {
        0 => json!({}),
        _ => json!({"limits": {"nvidia.com/gpu": gpus}}),
    };
    json!({
        "terminationGracePeriodSeconds": grace,
        "containers": [{"name": "engine", "image": "bursar.local/pause:dev", "resources": resources}],
    })
}

/// Labels of the service's pods.
fn pod_labels() -> Value {
    let mut labels = labels();
    labels["bursar.dev/serving"] = json!("true");
    labels
}

fn deployment(name: &str, metadata: Value, pod_labels: &Value) -> Value {
    let mut selector = pod_labels.clone();
    if let Some(labels) = selector.as_object_mut() {
        labels.remove("bursar.dev/serving");
    }
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {"replicas": 1, "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": pod_labels}, "spec": pod_spec(1, 30)}},
    });
    object["metadata"]["name"] = json!(name);
    object
}

/// Bursar applies what a service owns, and Kubernetes' controllers make its pod. Returns the pod's name.
fn service_runs(stage: &Stage<'_>) -> Result<String> {
    let service = json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": {"name": "held"},
        "spec": {"engine": "vLLM", "maxReplicas": 2, "template": {"spec": pod_spec(1, 30)}},
    });
    stage.create(TENANT, &service)?;
    let uid = get_field(stage.cluster, NAMESPACE, "infd/held", ".metadata.uid")?;
    let owner = json!([{"apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "name": "held", "uid": uid, "controller": true}]);
    let metadata = |name: &str| json!({"name": name, "labels": labels(), "ownerReferences": owner, "annotations": {"bursar.dev/spec-hash": "1"}});
    let mut slice = metadata("held-bursar-gateway");
    slice["labels"]["bursar.dev/gateway"] = json!("true");
    slice["labels"]["kubernetes.io/service-name"] = json!("held");
    let job_template = json!({"metadata": {"labels": labels()}, "spec": {
        "restartPolicy": "Never", "containers": [{"name": "w", "image": "bursar.local/pause:dev"}]}});
    let objects = [
        deployment("held", metadata("held"), &pod_labels()),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata("held"),
            "spec": {"selector": pod_labels(), "ports": [{"name": "http", "port": 80, "targetPort": 8000}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.32.0.5"]}], "ports": [{"name": "http", "port": 20017}]}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata("held"),
            "spec": {"suspend": true, "template": job_template}}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata("runs"), "spec": {"template": job_template}}),
    ];
    for object in &objects {
        stage.create(BURSAR, object)?;
    }
    let mut pods = String::new();
    let of = |selector: &str| {
        let names = "jsonpath={.items[*].metadata.name}";
        stage.run(&[], &["get", "pods", "-l", selector, "-o", names])
    };
    wait_until("controllers to make the pods", 60, || {
        pods = of("bursar.dev/serving=true")?;
        Ok(!pods.is_empty() && !of("job-name=runs")?.is_empty())
    })?;
    let held = get_field(
        stage.cluster,
        NAMESPACE,
        &format!("pod/{pods}"),
        ".metadata.finalizers[*]",
    )?;
    match held == "bursar.dev/spend" {
        true => Ok(pods),
        false => Err(format!("the finalizers of {pods:?} are {held:?}").into()),
    }
}

fn pods_of_the_workload(stage: &mut Stage<'_>, pod: &str) {
    let object = format!("pod/{pod}");
    let metadata = |rest: Value| json!({"metadata": rest});
    let draining =
        metadata(json!({"annotations": {"bursar.dev/draining-since": "-009999-01-02T01:59:59Z"}}));
    let cost = "controller.kubernetes.io/pod-deletion-cost";
    for (why, patch) in [
        (
            "Bursar alone adds and removes it",
            metadata(json!({"finalizers": null})),
        ),
        ("Bursar alone\nwrites it", draining.clone()),
        (
            "decides which replica leaves first",
            metadata(json!({"annotations": {cost: "-5"}})),
        ),
        (
            "to which workload a pod belongs",
            metadata(json!({"labels": {"bursar.dev/workload": null}})),
        ),
        (
            "to which workload a pod belongs",
            metadata(json!({"labels": {"bursar.dev/serving": null}})),
        ),
    ] {
        stage.patch_refused(&why.replace('\n', " "), &object, &patch);
    }
    // the way over a subresource is closed too
    let patch = draining.to_string();
    stage.refused(
        "Bursar alone writes it",
        &[
            "patch",
            &object,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ],
    );
    // what Bursar does: drain, serve again, mark as first
    let drain = json!({"labels": {"bursar.dev/serving": null},
        "annotations": {"bursar.dev/draining-since": "2026-11-28T00:00:00Z", cost: "-1000000"}});
    let keep = json!({"labels": {"bursar.dev/serving": "true"}, "annotations": {"bursar.dev/draining-since": null, cost: null}});
    for change in [drain, keep] {
        stage.patch_passes(BURSAR, &object, &metadata(change));
    }
    // what everybody may: other labels and annotations, and a status as a kubelet writes it
    let other = json!({"labels": {"team": "a"}, "annotations": {"note": "b"}});
    stage.patch_passes(TENANT, &object, &metadata(other));
    let status = json!({"status": {"message": "seen"}}).to_string();
    stage.passes(
        TENANT,
        &[
            "patch",
            &object,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ],
    );
    let by_hand = metadata(json!({"annotations": {cost: "3"}}));
    stage.patch_passes(BREAK_GLASS, &object, &by_hand);
    stage.patch_passes(
        BURSAR,
        &object,
        &metadata(json!({"annotations": {cost: null}})),
    );
}

fn other_pods(stage: &mut Stage<'_>) {
    let mut idle = gpu_pod("idle", json!({"finalizers": ["bursar.dev/spend"]}), 30);
    idle["spec"] = pod_spec(0, 30);
    stage.creation_refused("would keep it for ever", &idle);
    let poison = json!({"annotations": {"bursar.dev/draining-since": "-009999-01-02T01:59:59Z"}});
    stage.creation_refused("Bursar alone writes it", &gpu_pod("poison", poison, 30));
    // somebody else's pod, with a finalizer and labels of its own
    let own = json!({"labels": {"app": "x"}, "finalizers": ["example.test/own"]});
    stage.creation_passes(TENANT, &gpu_pod("plain", own, 30));
    let labels = json!({"metadata": {"labels": {"bursar.dev/workload": "held"}}});
    stage.patch_refused("to which workload a pod belongs", "pod/plain", &labels);
    let finalizers = json!({"metadata": {"finalizers": ["example.test/own", "bursar.dev/spend"]}});
    stage.patch_refused("Bursar alone adds and removes it", "pod/plain", &finalizers);
    let cost = json!({"metadata": {"labels": {"app": "y"}, "annotations": {
        "controller.kubernetes.io/pod-deletion-cost": "7"}}});
    stage.patch_passes(TENANT, "pod/plain", &cost);
    stage.patch_passes(BURSAR, "pod/plain", &finalizers);
    let without = json!({"metadata": {"finalizers": null}});
    stage.patch_passes(BREAK_GLASS, "pod/plain", &without);
    stage.passes(TENANT, &["delete", "pod", "plain", "--timeout=20s"]);
}

/// Whoever gets hold of the controller's token: it has the rights of RBAC, and changes what Bursar made, alone.
fn bursars_own_writes(stage: &mut Stage<'_>, pod: &str) {
    let own = json!({"labels": {"app": "x"}, "finalizers": ["example.test/own"]});
    stage.creation_passes(TENANT, &gpu_pod("theirs", own, 30));
    let mut theirs = deployment("theirs", json!({}), &json!({"app": "theirs"}));
    theirs["spec"]["replicas"] = json!(0);
    stage.creation_passes(TENANT, &theirs);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "theirs"},
        "spec": {"ports": [{"port": 80}]}});
    stage.creation_passes(TENANT, &service);
    stage.refused_to(
        BURSAR,
        "only Deployments, Jobs",
        &["delete", "service/theirs", "--timeout=20s"],
    );
    let pod = format!("pod/{pod}");
    let metadata = |rest: Value| json!({"metadata": rest});
    let image =
        json!({"spec": {"containers": [{"name": "engine", "image": "bursar.local/other:dev"}]}});
    for (why, object, patch) in [
        (
            "only Deployments, Jobs",
            "deployment/theirs",
            json!({"spec": {"replicas": 1}}),
        ),
        ("specification of a pod", "pod/theirs", image.clone()),
        ("specification of a pod", pod.as_str(), image),
        (
            "no label of pods",
            "pod/theirs",
            metadata(json!({"labels": {"bursar.dev/serving": "true"}})),
        ),
        (
            "no label of pods",
            pod.as_str(),
            metadata(json!({"labels": {"app": "y"}})),
        ),
        // no controller made it, so it is no replica of a workload that exists
        (
            "no label of pods",
            "pod/theirs",
            metadata(json!({"labels": {"bursar.dev/kind": "InferenceDeployment",
                "bursar.dev/workload": "held", "bursar.dev/serving": "true"}})),
        ),
        (
            "nothing of an InferenceDeployment",
            "infd/held",
            json!({"spec": {"maxReplicas": 9}}),
        ),
        (
            "nothing of an InferenceDeployment",
            "infd/held",
            metadata(json!({"finalizers": ["example.test/own"]})),
        ),
        (
            "no annotation of pods",
            "pod/theirs",
            metadata(json!({"annotations": {"bursar.dev/draining-since": "x"}})),
        ),
        (
            "no annotation of pods",
            pod.as_str(),
            metadata(json!({"annotations": {"note": "x"}})),
        ),
        (
            "no finalizer of pods",
            "pod/theirs",
            metadata(json!({"finalizers": null})),
        ),
    ] {
        let strategy = match patch
            .get("spec")
            .is_some_and(|spec| spec.get("containers").is_some())
        {
            true => "--type=strategic",
            false => "--type=merge",
        };
        let patch = patch.to_string();
        stage.refused_to(BURSAR, why, &["patch", object, strategy, "-p", &patch]);
    }
    // a Secret into which the cluster would write a token
    let token = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "token", "annotations": {"kubernetes.io/service-account.name": "default"}}});
    match stage.create(BURSAR, &token) {
        Err(error) if error.contains("only Deployments, Jobs") => {}
        other => stage
            .problems
            .push(format!("a Secret without an owner: {other:?}")),
    }
    // objects that no workload owns
    let labelled = json!({"labels": labels()});
    let mut nobodys = deployment("nobodys", labelled, &pod_labels());
    nobodys["spec"]["replicas"] = json!(0);
    match stage.create(BURSAR, &nobodys) {
        Err(error) if error.contains("only Deployments, Jobs") => {}
        other => stage
            .problems
            .push(format!("a Deployment without an owner: {other:?}")),
    }
    // what it does to InferenceDeployments: the finalizer of a targetRef comes and goes
    let held = metadata(json!({"finalizers": ["bursar.dev/target"]}));
    stage.patch_passes(BURSAR, "infd/held", &held);
    stage.patch_passes(BURSAR, "infd/held", &metadata(json!({"finalizers": null})));
    // what it does to pods of others: the spend finalizer comes and goes
    let with = metadata(json!({"finalizers": ["example.test/own", "bursar.dev/spend"]}));
    stage.patch_passes(BURSAR, "pod/theirs", &with);
    let without = metadata(json!({"finalizers": ["example.test/own"]}));
    stage.patch_passes(BURSAR, "pod/theirs", &without);
    stage.patch_passes(
        BREAK_GLASS,
        "pod/theirs",
        &metadata(json!({"finalizers": null})),
    );
    let gone = [
        "delete",
        "pod/theirs",
        "deployment/theirs",
        "service/theirs",
        "--timeout=20s",
    ];
    stage.passes(TENANT, &gone);
}

fn labels_are_bursars(stage: &mut Stage<'_>) {
    let half = json!({"bursar.dev/serving": "true"});
    for of_bursar in [labels(), pod_labels(), half] {
        let pod = gpu_pod("copy", json!({"labels": of_bursar}), 30);
        stage.creation_refused("count as replicas and workers", &pod);
    }
    let why = "pods of this template would have";
    let mut of_both = labels();
    of_both["app"] = json!("x");
    let template = deployment("copy", json!({}), &of_both);
    stage.creation_refused(why, &template);
    let mut replica_set = template.clone();
    replica_set["kind"] = json!("ReplicaSet");
    stage.creation_refused(why, &replica_set);
    // without labels of its own the API server gives it the template's
    let of_job = json!({"name": "copy", "labels": {"app": "x"}});
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": of_job, "spec": {
        "template": {"metadata": {"labels": labels()}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    stage.creation_refused(why, &job);
    for (of_job, of_pod) in [(labels(), json!({})), (json!({}), labels())] {
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
        let job = json!({"metadata": {"labels": of_job}, "spec": {"template": {"metadata": {"labels": of_pod}, "spec": pod}}});
        let cron_job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "copy"},
            "spec": {"schedule": "0 0 1 1 *", "jobTemplate": job}});
        stage.creation_refused("Jobs and pods of this CronJob would have", &cron_job);
    }
    // one that pretends to be made by a controller
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x", "controller": true}]);
    let pretends = json!({"labels": labels(), "ownerReferences": owner});
    stage.creation_refused(
        "count as replicas and workers",
        &gpu_pod("copy", pretends, 30),
    );
    // a Deployment of one's own, whose pods controllers make
    let own = deployment(
        "own",
        json!({"labels": {"app": "own"}}),
        &json!({"app": "own"}),
    );
    stage.creation_passes(TENANT, &own);
    let relabelled =
        json!({"spec": {"template": {"metadata": {"labels": {"bursar.dev/workload": "held"}}}}});
    stage.patch_refused("of a pod template say", "deployment/own", &relabelled);
    let image = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 9}}}});
    stage.patch_passes(TENANT, "deployment/own", &image);
    let waited = wait_until("a pod of somebody else's Deployment", 30, || {
        let args = ["get", "pods", "-l", "app=own", "-o", "name"];
        Ok(!stage.run(&[], &args)?.is_empty())
    });
    stage
        .problems
        .extend(waited.err().map(|error| error.to_string()));
    stage.passes(TENANT, &["delete", "deployment", "own", "--timeout=20s"]);
}

fn owned_objects(stage: &mut Stage<'_>, pod: &str) -> ScenarioResult {
    let why = "edit that one instead";
    let edited = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 2_592_000, "hostNetwork": true}}}});
    let replica_set = get_field(
        stage.cluster,
        NAMESPACE,
        &format!("pod/{pod}"),
        ".metadata.ownerReferences[0].name",
    )?;
    let replica_set = format!("replicaset/{replica_set}");
    for (object, patch) in [
        ("deployment/held", edited.clone()),
        ("deployment/held", json!({"spec": {"paused": true}})),
        ("deployment/held", json!({"spec": {"replicas": 3}})),
        (
            "deployment/held",
            json!({"spec": {"template": {"metadata": {"annotations": {"mine": "x"}}}}}),
        ),
        (&replica_set, edited),
        ("job/held", json!({"spec": {"suspend": false}})),
        ("service/held", json!({"spec": {"selector": {"app": "x"}}})),
        (
            "endpointslice/held-bursar-gateway",
            json!({"endpoints": [{"addresses": ["10.32.0.6"]}]}),
        ),
    ] {
        stage.patch_refused(why, object, &patch);
    }
    let why = "leave them as they are";
    for metadata in [
        json!({"labels": {"bursar.dev/workload": null}}),
        json!({"labels": {"bursar.dev/workload": null, "bursar.dev/kind": null}}),
        json!({"ownerReferences": null}),
        json!({"finalizers": ["example.test/never"]}),
        json!({"annotations": {"bursar.dev/spec-hash": "2"}}),
    ] {
        let patch = json!({"metadata": metadata});
        stage.patch_refused(why, "deployment/held", &patch);
    }
    let why = "for what Bursar makes itself";
    let steals = json!({"name": "steal", "labels": {"bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": "chat", "bursar.dev/gateway": "true"}});
    let subset =
        json!([{"addresses": [{"ip": "10.32.0.5"}], "ports": [{"name": "http", "port": 20017}]}]);
    for object in [
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": steals, "addressType": "IPv4", "endpoints": []}),
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": steals, "subsets": subset}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": steals, "spec": {"ports": [{"port": 80}]}}),
        deployment("steal", steals.clone(), &json!({"app": "x"})),
    ] {
        stage.creation_refused(why, &object);
    }
    // what people may: restart, scale, annotate; what breaks the glass; what Bursar does
    stage.passes(TENANT, &["rollout", "restart", "deployment/held"]);
    stage.passes(TENANT, &["scale", "deployment/held", "--replicas=2"]);
    stage.passes(TENANT, &["annotate", "deployment/held", "note=mine"]);
    stage.passes(
        TENANT,
        &["annotate", "service/held", "prometheus.io/scrape=true"],
    );
    let status = json!({"status": {"observedGeneration": 1}}).to_string();
    stage.passes(
        TENANT,
        &[
            "patch",
            "deployment/held",
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ],
    );
    stage.patch_passes(
        BREAK_GLASS,
        "deployment/held",
        &json!({"spec": {"paused": false, "minReadySeconds": 1}}),
    );
    stage.patch_passes(
        BURSAR,
        "deployment/held",
        &json!({"spec": {"replicas": 1, "minReadySeconds": 0}}),
    );
    stage.patch_passes(BURSAR, "job/held", &json!({"spec": {"suspend": false}}));
    wait_until("the rollout to make a ReplicaSet and its pod", 60, || {
        let names = "jsonpath={.items[*].metadata.name}";
        let sets = stage.run(
            &[],
            &["get", "rs", "-l", "bursar.dev/workload", "-o", names],
        )?;
        let pods = stage.run(
            &[],
            &["get", "pods", "-l", "bursar.dev/serving", "-o", names],
        )?;
        Ok(sets.split_whitespace().count() >= 2 && !pods.is_empty())
    })?;
    wait_until("Kubernetes' own slice of the Service", 30, || {
        let args = [
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=held",
            "-o",
            "name",
        ];
        Ok(stage.run(&[], &args)?.lines().count() == 2)
    })
}

fn grace_periods(stage: &mut Stage<'_>) {
    stage.creation_refused("must be at most 3600", &gpu_pod("slow", json!({}), 3601));
    stage.creation_passes(TENANT, &gpu_pod("in-time", json!({}), 3600));
    let mut slow = gpu_pod("slow-without-gpus", json!({}), 86_400);
    slow["spec"] = pod_spec(0, 86_400);
    stage.creation_passes(TENANT, &slow);
    let long = "--grace-period=7200";
    let gone = ["delete", "pod", "slow-without-gpus", "in-time"];
    stage.passes(TENANT, &[&gone[..], &["--timeout=20s"]].concat());
    // only a pod on a node has time to stop; that of an older pod may be longer than what is allowed now
    let mut bound = gpu_pod("bound", json!({}), 30);
    bound["spec"]["nodeName"] = json!("nowhere");
    stage.creation_passes(TENANT, &bound);
    stage.refused(
        "of the deletion of a pod with GPUs must be at most 3600",
        &["delete", "pod", "bound", long],
    );
    let mut older = gpu_pod("older", json!({}), 7200);
    older["spec"]["nodeName"] = json!("nowhere");
    stage.creation_passes(BREAK_GLASS, &older);
    let mut other = gpu_pod("no-gpus", json!({}), 30);
    other["spec"] = pod_spec(0, 30);
    other["spec"]["nodeName"] = json!("nowhere");
    stage.creation_passes(TENANT, &other);
    stage.passes(TENANT, &["delete", "pod", "bound", "older", "--wait=false"]);
    stage.passes(TENANT, &["delete", "pod", "no-gpus", long, "--wait=false"]);
    let force = ["--grace-period=0", "--force", "--timeout=20s"];
    let gone = ["delete", "pod", "bound", "older", "no-gpus"];
    stage.passes(TENANT, &[&gone[..], &force].concat());
}

/// For each exemption what must pass by it, and what must not.
fn exemptions(stage: &mut Stage<'_>, pod: &str) -> ScenarioResult {
    let object = format!("pod/{pod}");
    let cost = |cost: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
    let restored = gpu_pod(
        "restored",
        json!({"labels": labels(), "finalizers": ["bursar.dev/spend"]}),
        30,
    );
    let slow = |name: &str| gpu_pod(name, json!({}), 3601);
    let of_grace = "must be at most 3600";
    // other controllers: labels, accounts and owned objects, and no longer grace
    stage.creation_passes(OTHER_CONTROLLER, &restored);
    stage.patch_passes(
        OTHER_CONTROLLER,
        "job/held",
        &json!({"spec": {"suspend": true}}),
    );
    stage.patch_passes(OTHER_CONTROLLER, &object, &cost("-5"));
    match stage.create(OTHER_CONTROLLER, &slow("slow-restored")) {
        Err(error) if error.contains(of_grace) => {}
        other => stage
            .problems
            .push(format!("a slow pod of an exempt controller: {other:?}")),
    }
    // the right to break the glass: everything; without it nothing
    stage.patch_passes(REPAIRER, &object, &cost("-6"));
    stage.patch_passes(REPAIRER, "job/held", &json!({"spec": {"suspend": false}}));
    stage.creation_passes(REPAIRER, &slow("slow-repaired"));
    stage.patch_refused("decides which replica leaves first", &object, &cost("-7"));
    let release = json!({"metadata": {"finalizers": null}});
    stage.patch_passes(REPAIRER, "pod/restored", &release);
    stage.patch_passes(
        REPAIRER,
        &object,
        &json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": null}}}),
    );
    let gone = [
        "delete",
        "pod",
        "restored",
        "slow-repaired",
        "--timeout=20s",
    ];
    stage.passes(REPAIRER, &gone);
    // a namespace that is kept out of the policies of grace periods, and of no other
    let key = "bursar.dev/long-grace-periods";
    let label = |value: &str| {
        stage
            .cluster
            .kubectl(&["label", "namespace", NAMESPACE, &format!("{key}{value}")])
    };
    label("=allowed")?;
    wait_until("the label to count", 30, || {
        Ok(stage.create(TENANT, &slow("slow-allowed")).is_ok())
    })?;
    label("-")?;
    wait_until("the label to count no more", 30, || {
        let answer = stage.create(TENANT, &slow("slow-again"));
        if answer.is_ok() {
            stage.run(TENANT, &["delete", "pod", "slow-again", "--timeout=20s"])?;
        }
        Ok(answer.is_err_and(|error| error.contains(of_grace)))
    })?;
    stage.passes(TENANT, &["delete", "pod", "slow-allowed", "--timeout=20s"]);
    Ok(())
}

/// A deleted pod goes once Bursar has released it, an orphaned Deployment loses its owner, and a deleted owner takes all with it.
fn deletions_go_on(stage: &mut Stage<'_>) -> ScenarioResult {
    stage.passes(TENANT, &["delete", "job", "held", "runs", "--timeout=20s"]);
    stage.passes(
        TENANT,
        &[
            "delete",
            "infd",
            "held",
            "--cascade=orphan",
            "--timeout=20s",
        ],
    );
    wait_until("garbage collection to take the owner off", 30, || {
        let owners = get_field(
            stage.cluster,
            NAMESPACE,
            "deployment/held",
            ".metadata.ownerReferences",
        )?;
        Ok(owners.is_empty())
    })?;
    stage.passes(
        TENANT,
        &[
            "delete",
            "deployment",
            "held",
            "--cascade=foreground",
            "--wait=false",
        ],
    );
    stage.passes(TENANT, &["delete", "service", "held", "--timeout=20s"]);
    let names = "jsonpath={.items[*].metadata.name}";
    wait_until("the Deployment and its pods to go", 60, || {
        for pod in stage
            .run(
                &[],
                &["get", "pods", "-l", "bursar.dev/workload", "-o", names],
            )?
            .split_whitespace()
        {
            // Bursar settles it; one that was never bound may be gone meanwhile
            let release = json!({"metadata": {"finalizers": null}}).to_string();
            stage
                .run(
                    BURSAR,
                    &["patch", "pod", pod, "--type=merge", "-p", &release],
                )
                .ok();
        }
        let all = [
            "get",
            "pods,deployments,replicasets,jobs",
            "-l",
            "bursar.dev/workload",
            "-o",
            "name",
        ];
        Ok(stage.run(&[], &all)?.is_empty())
    })?;
    stage.passes(TENANT, &["delete", "namespace", NAMESPACE, "--timeout=50s"]);
    Ok(())
}

/// The Job of a hook cannot run without a node, so Helm gives up. The rights that it had are gone, and it is there to be looked at.
pub(crate) fn failed_hook(cluster: &Cluster) -> ScenarioResult {
    const OF_HOOK: &str = "bursar-crds";
    let chart = root().join("charts/bursar").display().to_string();
    let helm = |command: &str, more: &[&str]| {
        let args = [
            command,
            "hooked",
            &chart,
            "--namespace=hooked",
            "--create-namespace",
            "--skip-crds",
            "--set=image.repository=bursar.local/bursar",
        ];
        cluster.helm(&[&args[..], more].concat(), HELM_LIMIT)
    };
    // what other scenarios have applied would not be this release's
    let kinds = "clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,validatingadmissionpolicies,\
        validatingadmissionpolicybindings,mutatingadmissionpolicies,mutatingadmissionpolicybindings";
    let of_bursar = ["-A", "-l", "app.kubernetes.io/name=bursar"];
    cluster.kubectl(&[&["delete", kinds], &of_bursar[..]].concat())?;
    helm("install", &[])?;
    let failed = helm("upgrade", &["--timeout=5s"]);
    let kinds = "clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts";
    let left = cluster.kubectl(&["get", kinds, "-A", "-o", "name"])?;
    let left: Vec<&str> = left
        .lines()
        .filter(|name| name.ends_with(OF_HOOK))
        .collect();
    let job = cluster.kubectl(&["-n", "hooked", "get", "job", OF_HOOK, "-o", "name"]);
    let uninstalled = cluster.helm(
        &["uninstall", "hooked", "--namespace=hooked", "--no-hooks"],
        HELM_LIMIT,
    );
    cluster.kubectl(&["delete", "namespace", "hooked", "--wait=false"])?;
    uninstalled?;
    match (failed, left.is_empty(), job) {
        (Err(_), true, Ok(_)) => Ok(()),
        (failed, _, job) => {
            Err(format!("the upgrade: {failed:?}, its rights: {left:?}, its Job: {job:?}").into())
        }
    }
}
