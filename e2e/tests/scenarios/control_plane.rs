//! What needs no node: the definitions and everything they refuse, on a real API server.

use std::{fs, path::Path, time::Duration};

use bursar_apitest::conformance::CHECKS;
use bursar_apitest::schema_fuzz;
use bursar_e2e::{
    Access, Cluster,
    runner::{Images, Scenario, ScenarioResult, Suite},
};

use crate::example::Example;

pub(crate) const HELM_LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn suite() -> Suite {
    Suite {
        name: "control_plane",
        nodes: Vec::new(),
        gang_scheduling: false,
        images: Images::None,
        addons: &[],
        setup: None,
        scenarios: vec![
            Scenario::new("kubectl_applies_every_definition", 3, definitions),
            Scenario::new("every_example_is_accepted", 3, examples),
            Scenario::new(
                "every_invalid_manifest_is_rejected_with_its_reason",
                3,
                invalid_manifests,
            ),
            Scenario::new(
                "a_correction_is_made_by_an_accountant_and_changed_by_nobody",
                3,
                corrections,
            ),
            Scenario::new("kubectl_scale_sets_the_minimum", 3, scale),
            Scenario::new(
                "nobody_writes_what_only_bursar_may_and_all_else_goes_on",
                4,
                crate::admission::policies,
            ),
            Scenario::new(
                "a_failed_hook_leaves_its_job_and_none_of_its_rights",
                3,
                crate::admission::failed_hook,
            ),
            Scenario::new(
                "what_the_api_server_accepts_is_read_or_its_fault_is_named",
                5,
                fuzz,
            ),
            Scenario::new(
                "the_script_of_the_in_memory_server_holds_here_too",
                3,
                conformance,
            ),
        ],
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Client-side apply, which is what people do and what large definitions break.
fn definitions(cluster: &Cluster) -> ScenarioResult {
    cluster.kubectl(&["apply", "-f", &root().join("crds").display().to_string()])?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        "--timeout=30s",
    ])?;
    Ok(())
}

fn examples(cluster: &Cluster) -> ScenarioResult {
    for folder in ["examples", "examples/frameworks", "examples/adoption"] {
        let folder = root().join(folder).display().to_string();
        cluster.kubectl(&["apply", "-f", &folder])?;
    }
    // scenarios drive these with programs of the tests; as they are written they are accepted, too
    for folder in ["examples/engines", "examples/signals"] {
        let folder = root().join(folder).display().to_string();
        cluster.kubectl(&["apply", "--dry-run=server", "-f", &folder])?;
    }
    // all but the kinds of other projects, which are not served here
    for (file, kind) in [
        ("adoption/lws/leader-worker-set", "LeaderWorkerSet"),
        ("adoption/kubeflow/pytorch-job", "PyTorchJob"),
    ] {
        let mut example = Example::read(file)?;
        example.take(kind)?;
        cluster.apply(&example.manifest("default"))?;
    }
    cluster.kubectl(&[
        "apply",
        "-f",
        &root()
            .join("charts/bursar/files/default-prices.yaml")
            .display()
            .to_string(),
    ])?;
    let shown = cluster.kubectl(&["get", "bursar", "-A"])?;
    for name in [
        "inferencedeployment.bursar.dev/chat",
        "trainingjob.bursar.dev/finetune",
        "budgetpolicy.bursar.dev/team",
        "spendcorrection.bursar.dev/lost-node-2026-11",
    ] {
        if !shown.contains(name) {
            return Err(format!("`kubectl get bursar -A` does not show {name}:\n{shown}").into());
        }
    }
    Ok(())
}

fn invalid_manifests(cluster: &Cluster) -> ScenarioResult {
    let mut problems = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(root().join("e2e/tests/rejected"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        // the field, and what would be right
        let reasons: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix("# refused: "))
            .collect();
        if reasons.is_empty() {
            return Err(format!("{} must begin with `# refused: ...`", path.display()).into());
        }
        count += 1;
        match cluster.kubectl(&[
            "apply",
            "--dry-run=server",
            "-f",
            &path.display().to_string(),
        ]) {
            Ok(_) => problems.push(format!("{} was accepted", path.display())),
            Err(error) => {
                let said = error.to_string();
                let unsaid = reasons.iter().filter(|reason| !said.contains(**reason));
                problems.extend(
                    unsaid.map(|reason| format!("{}: not {reason:?} but {said}", path.display())),
                );
            }
        }
    }
    if count < 25 {
        problems.push(format!("there are only {count} invalid manifests"));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n").into())
    }
}

/// By the chart's own rights, and by the definition's rules where rights allow everything.
fn corrections(cluster: &Cluster) -> ScenarioResult {
    const CONTROLLER: &str = "--as=system:serviceaccount:bursar-system:bursar-controller";
    const ACCOUNTANT: &str = "--as=accountant";
    let chart = root().join("charts/bursar").display().to_string();
    let rendered = cluster.helm(
        &[
            "template",
            "bursar",
            &chart,
            "--namespace=bursar-system",
            "--set=image.repository=bursar.local/bursar",
            "--show-only=templates/rbac.yaml",
            "--show-only=templates/user-roles.yaml",
        ],
        HELM_LIMIT,
    )?;
    cluster.kubectl(&["create", "namespace", "bursar-system"])?;
    cluster.apply(&rendered)?;
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "accountant",
        "--clusterrole=bursar-accountant",
        "--user=accountant",
    ])?;

    let of_example = fs::read_to_string(root().join("examples/correction.yaml"))?;
    let mine = of_example.replace("name: lost-node-2026-11", "name: made-by-accountant");
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), mine)?;
    let path = file.path().display().to_string();
    cluster.kubectl(&["create", ACCOUNTANT, "-f", &path])?;

    let object = "spendcorrection/made-by-accountant";
    let patch = r#"{"spec": {"amount": "-41.00"}}"#;
    let patch = ["patch", object, "--type=merge", "-p", patch];
    let delete = ["delete", object];
    // who may do everything may not change it either
    let refused = [
        (
            &patch[..],
            None,
            "make another correction that takes it back",
        ),
        (&patch, Some(ACCOUNTANT), "cannot patch resource"),
        (&patch, Some(CONTROLLER), "cannot patch resource"),
        (&delete, Some(ACCOUNTANT), "cannot delete resource"),
        (&delete, Some(CONTROLLER), "cannot delete resource"),
    ];
    for (args, who, why) in refused {
        let args: Vec<&str> = args.iter().copied().chain(who).collect();
        match cluster.kubectl(&args) {
            Err(error) if error.to_string().contains(why) => {}
            other => return Err(format!("{args:?}: not {why:?} but {other:?}").into()),
        }
    }
    let objects = "spendcorrections.bursar.dev";
    for right in [
        &["list", objects][..],
        &["watch", objects],
        &["update", objects, "--subresource=status"],
    ] {
        cluster.kubectl(&[&["auth", "can-i", CONTROLLER], right].concat())?;
    }
    Ok(())
}

fn scale(cluster: &Cluster) -> ScenarioResult {
    cluster.kubectl(&["scale", "infd/chat", "--replicas=2"])?;
    let min = cluster.kubectl(&["get", "infd", "chat", "-o", "jsonpath={.spec.minReplicas}"])?;
    if min != "2" {
        return Err(format!("minReplicas is {min}, not 2").into());
    }
    let refused = cluster.kubectl(&["scale", "infd/chat", "--replicas=9"]);
    match refused {
        Err(error)
            if error
                .to_string()
                .contains("minReplicas must not be above maxReplicas") =>
        {
            Ok(())
        }
        other => Err(format!("a scale above maxReplicas: {other:?}").into()),
    }
}

/// Objects at the bounds of the definitions' schemas, by dry runs: the answer is the object as it would be stored, with defaults and
/// without what is pruned.
fn fuzz(cluster: &Cluster) -> ScenarioResult {
    const OBJECTS: usize = 2_000;
    const LIMIT: Duration = Duration::from_secs(200);
    let seed = std::env::var("BURSAR_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut generator = schema_fuzz::Generator::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut accepted, mut taken, mut problems) = (0, 0, Vec::new());
    let sent = runtime.block_on(async {
        let client = cluster.client().await?;
        let params = kube::api::PostParams {
            dry_run: true,
            ..Default::default()
        };
        let all = async {
            for _ in 0..OBJECTS {
                let candidate = generator.candidate();
                let text = candidate.object.to_string();
                let request =
                    kube::core::Request::new(candidate.path).create(&params, text.into_bytes())?;
                let answer = match client.request_text(request).await {
                    Ok(answer) => answer,
                    Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => continue,
                    Err(error) => {
                        problems.push(format!(
                            "{} {:?}: {error}",
                            candidate.kind, candidate.changes
                        ));
                        continue;
                    }
                };
                accepted += 1;
                match schema_fuzz::read(candidate.kind, &answer) {
                    Ok(is_read) => taken += usize::from(is_read),
                    Err(why) => {
                        problems.push(format!("{} {:?}: {why}", candidate.kind, candidate.changes))
                    }
                }
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        };
        match tokio::time::timeout(LIMIT, all).await {
            Ok(done) => done,
            Err(_) => {
                Err(format!("{OBJECTS} objects take longer than {} s", LIMIT.as_secs()).into())
            }
        }
    });
    sent?;
    println!(
        "seed {seed}: of {OBJECTS} objects the API server accepts {accepted}, and {taken} of these are read"
    );
    if accepted < OBJECTS / 10 {
        problems.push(format!("only {accepted} of {OBJECTS} objects are accepted"));
    }
    problems.truncate(20);
    match problems.is_empty() {
        true => Ok(()),
        false => Err(format!("BURSAR_SEED={seed}:\n{}", problems.join("\n")).into()),
    }
}

/// What controllers are tested against in memory is what they meet here.
fn conformance(cluster: &Cluster) -> ScenarioResult {
    const NAMESPACE: &str = "check";
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    // pods are not admitted before it is there
    let account = [
        "wait",
        "--for=create",
        "serviceaccount/default",
        "--timeout=30s",
    ];
    cluster.kubectl(&[&["-n", NAMESPACE], &account[..]].concat())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let failed = runtime.block_on(async {
        let client = cluster.client().await?;
        let mut failed = Vec::new();
        for check in CHECKS {
            if let Err(error) = (check.run)(client.clone(), NAMESPACE.to_owned()).await {
                failed.push(format!("{}: {error}", check.name));
            }
        }
        Ok::<_, bursar_e2e::Error>(failed)
    })?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n").into())
    }
}
