//! Seeing inside: `kubectl bursar explain`, and what `/metrics` says of the same things. They read the service of
//! [`crate::records::steady_begins`] and change nothing.

use std::{process::Command, time::Duration};

use bursar_e2e::{Access, Cluster, image, operator, process, runner::Outcome};

use crate::support::{field, until};

/// One H100 of the node that the harness shows, an hour.
const RATE: &str = "6.88";

pub(crate) fn explains(cluster: &Cluster) -> Outcome {
    let program = image::kubectl_bursar()?;
    let directory = program.parent().ok_or("the program lies nowhere")?;
    // kubectl finds its plugins in PATH
    let path = format!("{}:{}", cluster.tools().path(), directory.display());
    let explain = |object: &str| -> (bool, String) {
        let mut command: Command = cluster.command("kubectl");
        command.env("PATH", &path);
        command.args(["bursar", "explain", object, "-n", "steady"]);
        match process::run(&mut command, Duration::from_secs(30)) {
            Ok(output) => (true, output.stdout),
            Err(error) => (false, error.to_string()),
        }
    };
    for (object, words) in [
        (
            "infd/chat",
            &[
                "from the leader's last decision",
                "queue depth",
                "replica costs",
                RATE,
                "budget/team",
            ][..],
        ),
        (
            "budget/team",
            &[
                "from the leader's last decision",
                "limit",
                "1000",
                "in reserve",
            ],
        ),
    ] {
        let (good, said) = explain(object);
        if let Some(word) = words.iter().find(|word| !good || !said.contains(**word)) {
            return Err(format!("explain {object} does not say `{word}`:\n{said}").into());
        }
    }
    let (good, said) = explain("infd/nobody");
    if good || !said.contains("there is no InferenceDeployment nobody in namespace steady") {
        return Err(format!("explain of what is not there says:\n{said}").into());
    }
    Ok(())
}

pub(crate) fn measures(cluster: &Cluster) -> Outcome {
    let holder = ".spec.holderIdentity";
    let leader = field(
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
        format!("bursar_queue_depth{of_chat} 0"),
        format!("bursar_held_requests{of_chat} 0"),
        format!("bursar_replicas_desired{of_chat} 1"),
        format!("bursar_replicas_allowed{of_chat} 1"),
        format!("bursar_budget_limit{of_team} 1000"),
        format!("bursar_budget_spent{of_team} "),
        format!("bursar_budget_reserve{of_team} "),
        "bursar_leading 1".to_owned(),
        r#"bursar_reconciles_total{result="ok"} "#.to_owned(),
        r#"bursar_decisions_total{limited_by="None"} "#.to_owned(),
        "bursar_reconcile_seconds_count ".to_owned(),
        "bursar_wake_seconds_count ".to_owned(),
    ];
    says(cluster, &leader, &expected)?;
    says(
        cluster,
        &gateway,
        &["bursar_gateway_retries_total ".to_owned()],
    )
}

/// Waits until all of this is in a pod's `/metrics`.
fn says(cluster: &Cluster, pod: &str, expected: &[String]) -> Outcome {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{pod}:8080/proxy/metrics",
        operator::NAMESPACE
    );
    let mut text = String::new();
    let said = until("the metrics", 20, || {
        text = cluster.kubectl(&["get", "--raw", &path])?;
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
