//! The chart and the program agree on what they take, and its templates have what Prometheus and kubectl-bursar need.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::{fs, path::Path, process::Command};

use bursar_api::explanation;
use regex::Regex;
use serde_json::{Value, json};

/// A file of the chart.
fn file(path: &str) -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/bursar");
    fs::read_to_string(chart.join(path)).unwrap()
}

/// The objects of a template, without helm: lines that only steer the template are left out, and other actions become `x`.
fn objects(template: &str) -> Vec<Value> {
    let comment = Regex::new(r"(?s)\{\{-? */\*.*?\*/ *-?\}\}").unwrap();
    let text = file(template);
    let text = comment.replace_all(&text, "");
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("{{"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let text = Regex::new(r"\{\{.*?\}\}").unwrap().replace_all(&text, "x");
    serde_saphyr::from_multiple(&text).unwrap()
}

/// clap's exit status for arguments that it refuses.
const REFUSED: Option<i32> = Some(2);

/// Whether the controller takes an argument.
fn controller_takes(argument: &str) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bursar"));
    command.args([
        "controller",
        "--pod-name=p",
        "--gateway-ca=/none",
        "--gateway-token=/none",
        argument,
    ]);
    command
        .env("KUBECONFIG", "/none")
        .env_remove("KUBERNETES_SERVICE_HOST");
    // what takes it ends for another reason: there is no cluster
    command.output().unwrap().status.code() != REFUSED
}

/// The chart and the controller agree on the values of a flag.
fn assert_agree(property: &str, flag: &str, taken: &[&str], refused: &[&str]) {
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let mut field = &schema;
    for name in property.split('.') {
        field = &field["properties"][name];
    }
    let chart = Regex::new(field["pattern"].as_str().unwrap()).unwrap();
    let controller = |value: &str| controller_takes(&format!("--{flag}={value}"));
    for value in taken {
        assert!(chart.is_match(value), "the chart refuses {value}");
        assert!(controller(value), "the controller refuses {value}");
    }
    for value in refused {
        assert!(!chart.is_match(value), "the chart takes {value:?}");
        assert!(!controller(value), "the controller takes {value:?}");
    }
}

#[test]
fn the_chart_takes_no_lease_duration_that_the_controller_refuses() {
    assert_agree(
        "controller.leaseDuration",
        "lease-duration",
        &["3s", "6s", "15s", "90s", "9999s"],
        &["0s", "1s", "2s", "500ms", "1.5s", "15", "-15s", "soon", ""],
    );
}

#[test]
fn the_chart_takes_no_grace_window_that_the_controller_refuses() {
    assert_agree(
        "changeGrace",
        "change-grace",
        &["0s", "30s", "9999s", "10m", "999m", "24h"],
        &["-1s", "25h", "soon", "10", ""],
    );
}

#[test]
fn the_chart_takes_no_setting_of_node_autoscaling_that_the_controller_refuses() {
    assert_agree(
        "nodeAutoscaling.nodeStartTimeout",
        "node-start-timeout",
        &["1m", "15m", "999m", "1h", "24h"],
        &["0m", "0h", "25h", "59s", "soon", ""],
    );
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let words = &schema["properties"]["nodeAutoscaling"]["properties"]["enabled"]["enum"];
    for word in words.as_array().unwrap() {
        let argument = format!("--node-autoscaling={}", word.as_str().unwrap());
        assert!(controller_takes(&argument), "{argument}");
    }
    assert!(!controller_takes("--node-autoscaling=auto"));
}

#[test]
fn the_controller_takes_every_priority_class_that_the_chart_allows() {
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let allowed = &schema["properties"]["priorityClasses"]["properties"]["allowed"];
    let pattern = |value: &Value| Regex::new(value["pattern"].as_str().unwrap()).unwrap();
    let class = pattern(&allowed["propertyNames"]);
    let namespace = pattern(&allowed["additionalProperties"]["items"]);
    for (name, of, is_right) in [
        ("high", "team", true),
        ("research.high", "*", true),
        ("", "team", false),
        ("high", "", false),
    ] {
        assert_eq!(class.is_match(name) && namespace.is_match(of), is_right);
        let argument = format!("--allow-priority-class={name}={of}");
        assert_eq!(controller_takes(&argument), is_right, "{argument}");
    }
    for of in ["team*", "a b", "team=b"] {
        assert!(!namespace.is_match(of), "{of}");
    }
}

#[test]
fn the_controller_takes_every_network_of_signals_that_the_chart_allows() {
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let signals = &schema["properties"]["signals"]["properties"];
    let pattern = |value: &Value| Regex::new(value["pattern"].as_str().unwrap()).unwrap();
    let network = pattern(&signals["allowedNetworks"]["items"]);
    for (cidr, is_right) in [
        ("10.0.0.7/32", true),
        ("fd00::/8", true),
        ("10.0.0.7", false),
        ("redis.team.svc", false),
    ] {
        assert_eq!(network.is_match(cidr), is_right, "{cidr}");
        let argument = format!("--allow-signal-address={cidr}");
        assert_eq!(controller_takes(&argument), is_right, "{argument}");
    }
    let label = pattern(&signals["prometheusNamespaceLabel"]);
    assert!(label.is_match("namespace") && label.is_match("") && !label.is_match("a-b"));
}

/// Secrets are read where their namespace says so, and nowhere by default.
/// Neither `edit` nor `admin` has more of Bursar than Kubernetes gives, and whoever may edit workloads may not write what they cost.
#[test]
fn no_role_for_people_lets_who_edits_workloads_write_money() {
    let roles = file("templates/user-roles.yaml");
    for joined in ["aggregate-to-edit", "aggregate-to-admin"] {
        assert!(!roles.contains(joined), "{joined}");
    }
    let role = Regex::new(
        r#"\(dict "name" "([\w-]+)" "resources" (\$\w+|\(list [^)]*\)) "verbs" (\$\w+|\(list [^)]*\))(?: "scale" true)?( "view" true)?\)"#,
    )
    .unwrap();
    let mut names = Vec::new();
    for found in role.captures_iter(&roles) {
        let (name, resources, verbs) = (&found[1], &found[2], &found[3]);
        let is_of_money = |kind: &&str| resources.contains(kind);
        let money = [
            "spendrecords",
            "spendcorrections",
            "pricelists",
            "budgetpolicies",
        ];
        let of_money = money.iter().filter(|kind| is_of_money(kind)).count();
        match name {
            "bursar-workload-editor" => assert_eq!((resources, of_money), ("$workloads", 0)),
            // finance signs, and takes nothing back
            "bursar-accountant" => assert_eq!(verbs, r#"(list "get" "list" "watch" "create")"#),
            "bursar-budget-editor" => assert_eq!(resources, r#"(list "budgetpolicies")"#),
            "bursar-price-editor" => assert_eq!(resources, r#"(list "pricelists")"#),
            _ => assert_eq!(verbs, "$read", "{name}"),
        }
        // `view` sees one namespace: these are of the cluster, and name all of them
        let is_of_all = ["spendrecords", "spendcorrections", "pricelists"];
        let is_in_view = found.get(4).is_some();
        assert!(!is_in_view || !is_of_all.iter().any(is_of_money), "{name}");
        names.push(name.to_owned());
    }
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(roles.contains(r#"{{- $workloads := list "inferencedeployments" "trainingjobs" }}"#));
    assert!(roles.contains(r#"{{- $read := list "get" "list" "watch" }}"#));
}

#[test]
fn no_secret_can_be_read_by_default() {
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).unwrap();
    assert_eq!(values["signals"]["credentialNamespaces"], json!([]));
    let role = file("templates/signals.yaml");
    let (role, bindings) = role
        .split_once("{{- range .Values.signals.credentialNamespaces }}")
        .unwrap();
    assert!(role.contains("kind: ClusterRole") && !role.contains("Binding\n"));
    assert!(role.contains("resources: [secrets]\n    verbs: [get]"));
    assert!(bindings.contains("kind: RoleBinding") && !bindings.contains("ClusterRoleBinding"));
}

#[test]
fn the_uninstall_hook_calls_a_command_that_the_program_has() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/bursar/templates/hook-uninstall.yaml");
    let hook = fs::read_to_string(path).unwrap();
    assert!(hook.contains(r#""args" (list "uninstall" "#), "{hook}");
    let help = |command: &str| {
        let mut bursar = Command::new(env!("CARGO_BIN_EXE_bursar"));
        bursar.args([command, "--help"]).output().unwrap()
    };
    let uninstall = help("uninstall");
    assert!(uninstall.status.success(), "{uninstall:?}");
    assert_eq!(help("release").stdout, uninstall.stdout, "the old name");
}

#[test]
fn prometheus_keeps_the_namespace_that_a_series_is_about() {
    let monitors = objects("templates/service-monitor.yaml");
    assert_eq!(monitors.len(), 1);
    assert_eq!(
        monitors[0]["spec"]["endpoints"][0]["honorLabels"],
        json!(true)
    );
}

#[test]
fn a_role_has_what_explain_needs_in_the_operators_namespace_and_no_more() {
    let roles = objects("templates/explain-role.yaml");
    let (role, binding) = (&roles[0], &roles[1]);
    assert_eq!(
        role["kind"], "Role",
        "the proxy's right holds in one namespace alone"
    );
    assert_eq!(role["metadata"]["name"], "bursar-explain-viewer");
    let proxy = json!({
        "apiGroups": [""], "resources": ["services/proxy"], "resourceNames": [explanation::SECURE_SERVICE],
        "verbs": ["get"],
    });
    assert_eq!(role["rules"], json!([proxy]));
    assert_eq!(binding["kind"], "RoleBinding");
    assert_eq!(binding["roleRef"]["name"], "bursar-explain-viewer");
    let service = &objects("templates/controller.yaml")[1];
    let port = service["spec"]["ports"][0]["name"].as_str().unwrap();
    let name = service["metadata"]["name"].as_str().unwrap();
    assert_eq!(explanation::SECURE_SERVICE, format!("https:{name}:{port}"));
}

#[test]
fn prometheus_reads_metrics_with_a_role_that_the_chart_has() {
    let roles = objects("templates/user-roles.yaml");
    let named = |role: &&Value| role["metadata"]["name"] == "bursar-metrics-viewer";
    let rules = &roles.iter().find(named).unwrap()["rules"];
    assert_eq!(
        *rules,
        json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}])
    );
    let endpoint = &objects("templates/service-monitor.yaml")[0]["spec"]["endpoints"][0];
    assert_eq!(endpoint["scheme"], "https");
    assert!(endpoint["bearerTokenFile"].is_string(), "{endpoint}");
    for template in ["templates/controller.yaml", "templates/gateway.yaml"] {
        let objects = objects(template);
        let service = objects.iter().find(|object| object["kind"] == "Service");
        let port = &service.unwrap()["spec"]["ports"][0];
        assert_eq!(port["name"], endpoint["port"], "{template}");
    }
}

/// The verbs of a role by resource. A rule for several resources counts for each.
fn rights(template: &str, name: &str) -> Vec<(String, String)> {
    let roles = objects(template).into_iter();
    let roles = roles.filter(|role| role["metadata"]["name"] == name);
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().into_iter().flatten();
        words
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let mut all = Vec::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default()) {
        for resource in words(&rule["resources"]) {
            all.push((resource, words(&rule["verbs"]).join(" ")));
        }
    }
    all
}

/// Each right is one that the code uses; a new call needs a line here, and one that goes takes its line along.
#[test]
fn roles_hold_the_rights_that_the_code_uses_and_no_more() {
    // cached kinds are listed and watched; `get` reads one live before a write that depends on it
    let cached = "list watch";
    let live = "get list watch";
    let applied = "get list watch create patch";
    let controller = [
        // `unreadable_status` reads each live
        ("inferencedeployments", live),
        ("trainingjobs", live),
        ("budgetpolicies", live),
        ("pricelists", live),
        ("spendcorrections", live),
        ("inferencedeployments/status", "update patch"),
        ("trainingjobs/status", "update patch"),
        ("budgetpolicies/status", "update patch"),
        ("pricelists/status", "update patch"),
        ("spendcorrections/status", "update patch"),
        // the finalizer of a targetRef
        ("inferencedeployments", "patch"),
        ("trainingjobs", "patch"),
        ("pricelists", "create patch"),
        ("spendrecords", "get list watch create update delete"),
        ("spendrecords/status", "update"),
        ("deployments", "get list watch create patch update"),
        // the kinds of the value `targets`, and their scale
        ("x", "get"),
        ("x", "get patch"),
        ("replicasets", "get"),
        ("statefulsets", "get"),
        ("horizontalpodautoscalers", "list"),
        // the kinds of the value `jobTargets`, and what they make
        ("x", "get patch"),
        ("x", "get"),
        ("jobs", "get list watch create patch delete"),
        ("secrets", "create"),
        ("configmaps", "create"),
        ("podgroups", "get create patch"),
        ("services", "get list watch create patch delete"),
        ("endpointslices", applied),
        ("endpointslices/restricted", "create"),
        ("pods", "get list watch patch"),
        ("pods/eviction", "create"),
        ("nodes", live),
        ("priorityclasses", cached),
        ("persistentvolumeclaims", cached),
        ("resourceclaims", cached),
        ("resourceslices", cached),
        ("events", "create patch list"),
        // a metric's name is its resource
        ("*", "list"),
        ("tokenreviews", "create"),
        ("subjectaccessreviews", "create"),
        ("leases", "create"),
        ("leases", "get update"),
        ("configmaps", cached),
    ];
    let gateway = [
        ("inferencedeployments", cached),
        ("pods", cached),
        ("nodes", cached),
        ("namespaces", cached),
        ("networkpolicies", cached),
        ("endpointslices", cached),
        ("tokenreviews", "create"),
        ("subjectaccessreviews", "create"),
    ];
    let owned = |expected: &[(&str, &str)]| -> Vec<(String, String)> {
        let pairs = expected.iter();
        pairs
            .map(|(resource, verbs)| ((*resource).to_owned(), (*verbs).to_owned()))
            .collect()
    };
    let template = "templates/rbac.yaml";
    assert_eq!(rights(template, "bursar-controller"), owned(&controller));
    assert_eq!(rights(template, "bursar-gateway"), owned(&gateway));
    assert_eq!(
        rights(template, "bursar-node-autoscaling"),
        owned(&[("configmaps", "get")])
    );
}

/// Who may evict pods may do so in all namespaces, so it has to be asked for.
#[test]
fn the_right_to_evict_comes_with_a_value_that_is_off_by_default() {
    let role = file("templates/rbac.yaml");
    let (before, after) = role.split_once("resources: [pods/eviction]").unwrap();
    let condition = before.rsplit_once("{{- if ").unwrap().1;
    assert!(
        condition.starts_with(".Values.rbac.evictUnmanaged }}"),
        "{condition}"
    );
    assert!(!condition.contains("{{- end }}"), "{condition}");
    let rule = after.split("{{- end }}").next().unwrap();
    assert_eq!(rule.trim(), "verbs: [create]");
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).unwrap();
    assert_eq!(values["rbac"]["evictUnmanaged"], json!(false));
}

#[test]
fn the_rights_of_a_failed_hook_go_and_its_job_stays() {
    let hook = file("templates/_hook.tpl");
    let (rights, job) = hook.split_once("kind: Job").unwrap();
    let calls = |text: &str, call: &str| text.matches(call).count();
    assert_eq!(calls(rights, "include \"bursar.hookAnnotations\""), 5);
    assert_eq!(calls(rights, "\"right\") | nindent"), 5);
    assert_eq!(
        calls(job, "include \"bursar.hookAnnotations\" (list .hook 0)"),
        1
    );
    assert!(hook.contains("hook-succeeded{{ if eq (len .) 3 }},hook-failed{{ end }}"));
}

/// The value below `admission` that the block of a policy depends on.
fn switch_of(policy: &str) -> String {
    let text = file("templates/admission-policies.yaml");
    let name = format!("\n  name: {policy}\n");
    let (before, _) = text.split_once(&name).unwrap();
    let (_, block) = before.rsplit_once("{{- with $admission.").unwrap();
    block.split(' ').next().unwrap().to_owned()
}

#[test]
fn each_admission_policy_has_a_value_that_switches_it_off() {
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).unwrap();
    for (policy, value) in [
        ("bursar-pod-accounting", "podAccounting"),
        ("bursar-workload-labels", "workloadLabels"),
        ("bursar-workload-templates", "workloadLabels"),
        ("bursar-cron-job-templates", "workloadLabels"),
        ("bursar-grace-period", "gracePeriod"),
        ("bursar-deletion-grace-period", "gracePeriod"),
        ("bursar-owned-objects", "ownedObjects"),
        ("bursar-own-writes", "ownWrites"),
    ] {
        assert_eq!(switch_of(policy), value);
        let mode = &schema["properties"]["admission"]["properties"][value];
        assert_eq!(
            *mode,
            json!({"$ref": "#/definitions/policyMode"}),
            "{value}"
        );
        assert_eq!(values["admission"][value], json!("Deny"), "{value}");
    }
}

/// Each kind of Kubernetes' own that makes pods by controllers which the policy of pods lets pass.
#[test]
fn no_kind_hands_workload_labels_to_what_its_controller_makes() {
    let text = file("templates/admission-policies.yaml");
    for (policy, kinds) in [
        ("bursar-workload-templates", "[deployments, replicasets]"),
        ("bursar-workload-templates", "[jobs]"),
        ("bursar-cron-job-templates", "[cronjobs]"),
    ] {
        let (_, policy) = text.split_once(&format!("\n  name: {policy}\n")).unwrap();
        let (matched, rules) = policy.split_once("matchConditions:").unwrap();
        assert!(matched.contains(&format!("resources: {kinds}")), "{kinds}");
        assert!(rules.contains("{{ $keys }}.exists("), "{kinds}");
    }
}

/// What the controller may write by RBAC, the policy of its own writes covers; of pods it holds every part of
/// the metadata, and the specification.
#[test]
fn the_controllers_own_writes_are_held_to_what_it_made() {
    let text = file("templates/admission-policies.yaml");
    let (_, policy) = text.split_once("\n  name: bursar-own-writes\n").unwrap();
    assert!(policy.contains("'system:serviceaccount:{{ $.Release.Namespace }}:bursar-controller'"));
    let (matched, rules) = policy.split_once("matchConditions:").unwrap();
    for resource in [
        "deployments",
        "jobs",
        "services",
        "endpointslices",
        "pods",
        "inferencedeployments, trainingjobs",
    ] {
        assert!(
            matched.contains(&format!("resources: [{resource}]")),
            "{resource}"
        );
    }
    for resource in ["jobs", "services"] {
        let asked =
            format!("operations: [CREATE, UPDATE, DELETE]\n        resources: [{resource}]");
        assert!(matched.contains(&asked), "deletions of {resource}");
    }
    for part in [
        "ownerReferences",
        "labels",
        "annotations",
        "finalizers",
        "variables.now.spec == variables.before.spec",
    ] {
        assert!(rules.contains(part), "{part}");
    }
}

/// By default Deployments, StatefulSets and LeaderWorkerSets, and of kinds that are named nothing but their scale is written.
#[test]
fn targets_are_read_and_scaled_where_the_chart_names_their_kind_and_nothing_else() {
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).unwrap();
    let default = json!([
        {"apiGroup": "apps", "resource": "deployments"},
        {"apiGroup": "apps", "resource": "statefulsets"},
        {"apiGroup": "leaderworkerset.x-k8s.io", "resource": "leaderworkersets"},
    ]);
    assert_eq!(values["targets"], default);
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let named = &schema["properties"]["targets"]["items"];
    assert_eq!(named["required"], json!(["apiGroup", "resource"]));
    let resource = named["properties"]["resource"]["pattern"].as_str().unwrap();
    let resource = Regex::new(resource).unwrap();
    for (name, is_right) in [("rollouts", true), ("*", false), ("pods/exec", false)] {
        assert_eq!(resource.is_match(name), is_right, "{name}");
    }
    for template in ["templates/rbac.yaml", "templates/hook-uninstall.yaml"] {
        let text = file(template);
        let (_, rules) = text.split_once("{{- range .Values.targets }}").unwrap();
        let (rules, _) = rules.split_once("{{- end }}").unwrap();
        let verbs: Vec<&str> = rules
            .lines()
            .filter_map(|line| line.trim().strip_prefix("verbs: "))
            .collect();
        assert_eq!(verbs, ["[get]", "[get, patch]"], "{template}");
        assert!(
            rules.contains("printf \"%s/scale\" .resource"),
            "{template}"
        );
    }
}

#[test]
fn jobs_are_read_and_suspended_where_the_chart_names_their_kind_and_nothing_else_of_them_is_changed()
 {
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).unwrap();
    let listed = values["jobTargets"].as_array().unwrap().iter();
    let kinds: Vec<&str> = listed.filter_map(|entry| entry["kind"].as_str()).collect();
    let expected = [
        "Job",
        "JobSet",
        "PyTorchJob",
        "MPIJob",
        "TrainJob",
        "RayJob",
    ];
    assert_eq!(kinds, expected);
    let schema: Value = serde_json::from_str(&file("values.schema.json")).unwrap();
    let resource = schema["definitions"]["resource"]["pattern"].as_str();
    let resource = Regex::new(resource.unwrap()).unwrap();
    for (name, is_right) in [("rayjobs", true), ("*", false), ("pods/exec", false)] {
        assert_eq!(resource.is_match(name), is_right, "{name}");
    }
    for (template, end, verbs) in [
        (
            "templates/rbac.yaml",
            "\n  {{- end }}\n  {{- end }}",
            &["[get, patch]", "[get]"][..],
        ),
        (
            "templates/hook-uninstall.yaml",
            "\n{{- end }}",
            &["[get, patch]"],
        ),
    ] {
        let text = file(template);
        let (_, rules) = text.split_once("{{- range .Values.jobTargets }}").unwrap();
        let (rules, _) = rules.split_once(end).unwrap();
        let found = rules.lines();
        let found: Vec<&str> = found
            .filter_map(|line| line.trim().strip_prefix("verbs: "))
            .collect();
        assert_eq!(found, verbs, "{template}");
    }
    let policies = file("templates/admission-policies.yaml");
    let (_, own_writes) = policies.split_once("name: bursar-own-writes").unwrap();
    for part in [
        "{{- range $.Values.jobTargets }}",
        "include \"bursar.changesOnly\" (dict \"kind\" $kind)",
        "'!variables.isTarget || variables.isSuspension'",
    ] {
        assert!(own_writes.contains(part), "{part}");
    }
}

#[test]
fn openshifts_right_for_slices_is_asked_for_where_the_cluster_has_it() {
    let role = file("templates/rbac.yaml");
    let (before, _) = role
        .split_once("resources: [endpointslices/restricted]")
        .unwrap();
    let condition = before.rsplit_once("{{- if ").unwrap().1;
    assert!(!condition.contains("{{- end }}"), "{condition}");
    for part in [
        "\"Always\"",
        "\"Auto\"",
        ".Capabilities.APIVersions.Has \"security.openshift.io/v1\"",
    ] {
        assert!(condition.contains(part), "{condition}");
    }
}

/// Who is exempt from what: a list of its own for other controllers, a right beside the groups, and namespaces that a label keeps out of the
/// policies of grace periods.
#[test]
fn exemptions_are_where_they_are_meant_and_off_by_default() {
    let helpers = file("templates/_admission.tpl");
    let define = |name: &str| -> String {
        let begin = format!("{{{{- define \"{name}\" -}}}}");
        let (_, rest) = helpers.split_once(&begin).unwrap();
        rest.split("\n{{/*").next().unwrap().to_owned()
    };
    let exemptions = define("bursar.exemptions");
    assert!(exemptions.contains("include \"bursar.breakGlass\""));
    assert!(exemptions.contains(".Values.admission.exemptUsers"));
    let break_glass = define("bursar.breakGlass");
    assert!(break_glass.contains(".Values.admission.breakGlassGroups"));
    assert!(
        !break_glass.contains("exemptUsers"),
        "grace periods hold them back"
    );
    let (_, right) = break_glass
        .split_once("{{- if .Values.admission.breakGlassRight }}")
        .unwrap();
    let check =
        "!authorizer.group('bursar.dev').resource('admissionpolicies').check('bypass').allowed()";
    assert!(right.contains(check), "{right}");
    let policies = file("templates/admission-policies.yaml");
    let opted = policies
        .matches("\"optOut\" \"bursar.dev/long-grace-periods\"")
        .count();
    assert_eq!(opted, 2, "of pods and of deletions");
    assert_eq!(policies.matches("include \"bursar.breakGlass\"").count(), 2);
    let values: Value = serde_saphyr::from_str(&file("values.yaml")).unwrap();
    assert_eq!(values["admission"]["exemptUsers"], json!([]));
    assert_eq!(values["admission"]["breakGlassRight"], json!(false));
    // the right that the policies ask for is the one that the role gives
    let roles = file("templates/user-roles.yaml");
    let (_, role) = roles.split_once("name: bursar-break-glass").unwrap();
    for part in [
        "apiGroups: [bursar.dev]",
        "resources: [admissionpolicies]",
        "verbs: [bypass]",
    ] {
        assert!(role.contains(part), "{role}");
    }
}
