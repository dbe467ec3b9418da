//! What an operator of the cluster reads: `kubectl bursar` and `/metrics`. The scenarios read the service of
//! [`super::status_writes::steady_begins`] and change nothing.

use bursar_e2e::{Access, Cluster, operator, runner::ScenarioResult};

use bursar_e2e::scenario::{
    client_runtime, current_month, get_field, run_kubectl_bursar, wait_until,
};

/// One H100 of the node that the harness shows, an hour.
const RATE: &str = "6.88";

pub(crate) fn explains(cluster: &Cluster) -> ScenarioResult {
    let explain = |object: &str| run_kubectl_bursar(cluster, &["explain", object, "-n", "steady"]);
    for (object, words) in [
        (
            "infd/chat",
            &[
                "from the leader's last decision",
                "queue depth",
                "replica costs",
                RATE,
                "budget/team",
                "money in USD, exactly",
                "PriceList default, node p5.48xlarge",
                "forecast",
            ][..],
        ),
        (
            "budget/team",
            &[
                "from the leader's last decision",
                "limit",
                "1000",
                "in reserve",
                "money in USD, exactly",
                "infd/chat",
            ],
        ),
    ] {
        let (good, said) = explain(object)?;
        if let Some(word) = words.iter().find(|word| !good || !said.contains(**word)) {
            return Err(format!("explain {object} does not say `{word}`:\n{said}").into());
        }
    }
    let (good, said) = explain("infd/nobody")?;
    if good || !said.contains("there is no InferenceDeployment nobody in namespace steady") {
        return Err(format!("explain of what is not there says:\n{said}").into());
    }
    Ok(())
}

pub(crate) fn reports(cluster: &Cluster) -> ScenarioResult {
    let month = current_month();
    let table = std::env::temp_dir().join(format!("bursar-prices-{}.csv", std::process::id()));
    std::fs::write(&table, "kind,name,price\ngpu,NVIDIA-H100-80GB-HBM3,2.10\n")?;
    let file = table.display().to_string();
    let report = ["report", "--month", month.as_str(), "-A"];
    let of = |more: &[&'static str]| [&report[..], more].concat();
    let cases: [(Vec<&str>, &[&str]); 8] = [
        (vec!["top", "-A"], &["infd/chat", RATE]),
        (
            of(&[]),
            &["steady", "infd/chat", "TOTAL", "USD", "unattributed"],
        ),
        (
            of(&["--overheads", "-o", "csv"]),
            &["month,currency,namespace,workload", "steady,infd/chat"],
        ),
        (of(&["-o", "focus-csv"]), &["BilledCost", "GPU Inference"]),
        (vec!["ledger", "verify"], &[]),
        (
            vec!["ledger", "backup"],
            &["steady.infd.chat", "\"name\":\"nodes."],
        ),
        (
            vec!["prices", "check"],
            &["1 of 1 kinds of GPU on 1 nodes have a price"],
        ),
        (
            vec!["prices", "import", &file, "--name", "contract", "--dry-run"],
            &["contract"],
        ),
    ];
    for (words, expected) in cases {
        let (good, said) = run_kubectl_bursar(cluster, &words)?;
        if let Some(missing) = expected.iter().find(|word| !good || !said.contains(**word)) {
            return Err(format!("{words:?} does not say `{missing}`:\n{said}").into());
        }
        if !good {
            return Err(format!("{words:?}: {said}").into());
        }
    }
    std::fs::write(&table, "kind,name,price\ngpu,NVIDIA-H100-80GB-HBM3,cheap\n")?;
    let (good, said) = run_kubectl_bursar(cluster, &["prices", "import", &file])?;
    std::fs::remove_file(&table)?;
    if good || !said.contains("line 2") {
        return Err(format!("a bad line is not named:\n{said}").into());
    }
    Ok(())
}

pub(crate) fn measures(cluster: &Cluster) -> ScenarioResult {
    let holder = ".spec.holderIdentity";
    let leader = get_field(
        cluster,
        operator::NAMESPACE,
        "lease/bursar-controller",
        holder,
    )?;
    let gateway = cluster.kubectl(&[
        "-n",
        operator::NAMESPACE,
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/component=gateway",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])?;
    let of_chat = r#"{namespace="steady",kind="InferenceDeployment",name="chat"}"#;
    let of_team = r#"{namespace="steady",kind="BudgetPolicy",name="team"}"#;
    let expected = [
        format!("bursar_spend_rate_per_hour{of_chat} {RATE}"),
        format!("bursar_spend_month_to_date{of_chat} "),
        format!("bursar_spend_compute_month_to_date{of_chat} "),
        format!("bursar_gpu_hours_month_to_date{of_chat} "),
        format!("bursar_queue_depth{of_chat} 0"),
        format!("bursar_held_requests{of_chat} 0"),
        format!("bursar_replicas_desired{of_chat} 1"),
        format!("bursar_replicas_allowed{of_chat} 1"),
        format!("bursar_budget_limit{of_team} 1000"),
        format!("bursar_budget_spent{of_team} "),
        format!("bursar_budget_reserve{of_team} "),
        "bursar_leader 1".to_owned(),
        r#"bursar_reconciles_total{result="ok"} "#.to_owned(),
        r#"bursar_decisions_total{limited_by="None"} "#.to_owned(),
        "bursar_decision_seconds_count ".to_owned(),
        "bursar_wake_seconds_count ".to_owned(),
    ];
    cluster.apply(READERS)?;
    let token = operator::token(cluster, operator::NAMESPACE, "prometheus")?;
    wait_for_metrics(cluster, &leader, &token, &expected)?;
    let of_gateway = ["bursar_gateway_retries_total ".to_owned()];
    wait_for_metrics(cluster, &gateway, &token, &of_gateway)
}

/// Prometheus, and somebody who may view namespace `steady`.
const READERS: &str = "apiVersion: v1
kind: ServiceAccount
metadata: {name: prometheus, namespace: bursar-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: prometheus}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bursar-metrics-viewer}
subjects: [{kind: ServiceAccount, name: prometheus, namespace: bursar-system}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ana, namespace: steady}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ana, namespace: steady}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: ana, namespace: steady}]
";

/// Whoever may view a namespace reads what was decided there and nothing else; who is nobody reads nothing.
pub(crate) fn keeps_money_from_strangers(cluster: &Cluster) -> ScenarioResult {
    cluster.apply(READERS)?;
    let holder = ".spec.holderIdentity";
    let lease = "lease/bursar-controller";
    let leader = get_field(cluster, operator::NAMESPACE, lease, holder)?;
    let ana = operator::token(cluster, "steady", "ana")?;
    let runtime = client_runtime()?;
    for (token, path, expected) in [
        (ana.as_str(), "/explain/steady", "\"chat\""),
        (
            &ana,
            "/explain/other",
            "may not get explanations.bursar.dev in namespace other",
        ),
        (&ana, "/metrics", "may not get /metrics"),
        ("guess", "/metrics", "does not know this token"),
        ("", "/explain/steady", "send a token of this cluster"),
    ] {
        let said = runtime.block_on(read(cluster, &leader, path, token))?;
        if !said.contains(expected) {
            return Err(format!("{path} does not say `{expected}`: {said}").into());
        }
    }
    Ok(())
}

/// What a pod answers to whoever has this token, or why it does not.
async fn read(
    cluster: &Cluster,
    pod: &str,
    path: &str,
    token: &str,
) -> Result<String, bursar_e2e::Error> {
    let client = cluster.client().await?;
    let read = operator::get_secure(&client, pod, path, token).await;
    Ok(read.unwrap_or_else(|error| error.to_string()))
}

/// Waits until all of this is in a pod's `/metrics`.
fn wait_for_metrics(
    cluster: &Cluster,
    pod: &str,
    token: &str,
    expected: &[String],
) -> ScenarioResult {
    let runtime = client_runtime()?;
    let mut text = String::new();
    let said = wait_until("the metrics", 20, || {
        text = runtime.block_on(read(cluster, pod, "/metrics", token))?;
        Ok(expected.iter().all(|line| text.contains(line)))
    });
    said.map_err(|error| {
        let missing: Vec<_> = expected
            .iter()
            .filter(|line| !text.contains(*line))
            .collect();
        format!("{error}: {pod} lacks {missing:#?}\n{text}").into()
    })
}
