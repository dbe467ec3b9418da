//! `cargo demo` as somebody runs it on an existing cluster: another harness cluster, in whose
//! network the program is started.

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Read},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Stdio},
};

use bursar_e2e::{
    Access, Cluster, NodeOptions, image,
    runner::{Images, Scenario, ScenarioResult, Suite},
};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::{Value, json};

/// Nobody listens there, so that a pull fails at once. The tag looks like a number, as many do.
const IMAGE: &str = "localhost:9/bursar-demo:1";
/// Of a good end.
const SUMMARY: [&str; 5] = [
    " 0 lost, 0 answered with 5xx",
    " ms from the first held request",
    "429 insufficient_quota",
    "none lost, none done twice",
    "inferencedeployment.bursar.dev/chat",
];
/// A run that is over soon.
const SHORT: [&str; 4] = ["--requests", "40", "--wakes", "1"];
const NOBODY: u32 = 65534;

/// On a cluster of the suite, and on one of the demo's own.
pub(crate) fn suites() -> [Suite; 2] {
    let demo = Suite {
        name: "demo",
        nodes: vec![NodeOptions::h100(4)],
        gang_scheduling: false,
        images: Images::Built,
        addons: &[],
        setup: None,
        scenarios: vec![
            Scenario::new("a_cluster_in_use_is_not_touched", 7, in_use),
            Scenario::new(
                "an_image_that_no_node_has_is_named_with_the_ways_to_bring_it",
                7,
                without_image,
            ),
            Scenario::new(
                "the_demo_runs_on_somebodys_cluster_and_leaves_it_as_it_was",
                7,
                whole,
            ),
            Scenario::new(
                "a_cluster_with_gpus_of_its_own_gets_no_pretended_ones",
                7,
                with_real_gpus,
            ),
            Scenario::new("a_cluster_without_gpus_is_told_the_label", 7, without_gpus),
            // from here on the cluster has no GPUs
            Scenario::new(
                "the_demo_runs_on_pretended_gpus_and_takes_them_back",
                7,
                pretended,
            ),
            Scenario::new(
                "an_interrupted_demo_takes_back_what_it_made",
                7,
                interrupted,
            ),
            Scenario::new(
                "what_a_killed_demo_pretended_is_told_and_taken_back",
                7,
                killed,
            ),
        ],
    };
    let demo_local = Suite {
        name: "demo_local",
        nodes: Vec::new(),
        gang_scheduling: false,
        images: Images::Built,
        addons: &[],
        setup: None,
        scenarios: vec![
            Scenario::without_cluster("without_root_the_other_way_is_named", 7, without_root),
            Scenario::without_cluster(
                "the_demo_on_this_machine_ends_well_and_leaves_no_cluster",
                7,
                local,
            ),
        ],
    };
    [demo, demo_local]
}

/// The demo on the cluster: see [`short`].
fn demo(cluster: &Cluster) -> Result<(bool, String), Box<dyn std::error::Error>> {
    short(&mut command(cluster, &[]))
}

fn command(cluster: &Cluster, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(["--image", IMAGE, "--kubeconfig"]);
    command.arg(cluster.kubeconfig()).args(flags);
    command
}

/// Whether a shortened demo ended well, and what it wrote. Its own waits and the scenario's limit
/// bound it. The scenarios' process is in the cluster's network, and so is what it starts.
fn short(command: &mut Command) -> Result<(bool, String), Box<dyn std::error::Error>> {
    let output = command.args(SHORT).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn contains(text: &str, words: &[&str]) -> ScenarioResult {
    match words.iter().find(|word| !text.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(format!("it does not say `{word}`:\n{text}").into()),
    }
}

/// Nothing of the demo's is there.
fn untouched(cluster: &Cluster) -> ScenarioResult {
    let found = cluster.kubectl(&[
        "get",
        "namespaces,crds,clusterroles,mutatingadmissionpolicies",
        "-o",
        "name",
    ])?;
    let left: Vec<&str> = found
        .lines()
        .filter(|name| name.contains("bursar") || name.ends_with("/team"))
        .collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("it left {left:?}").into())
    }
}

fn in_use(cluster: &Cluster) -> ScenarioResult {
    cluster.kubectl(&["create", "namespace", "team"])?;
    let (good, said) = demo(cluster)?;
    cluster.kubectl(&["delete", "namespace", "team"])?;
    if good {
        return Err("it ran in a namespace that was there".into());
    }
    contains(&said, &["namespace/team", "take another cluster"])?;
    untouched(cluster)
}

fn without_image(cluster: &Cluster) -> ScenarioResult {
    let (good, said) = demo(cluster)?;
    if good {
        return Err("it ran without its image".into());
    }
    contains(
        &said,
        &[
            "cannot get the image localhost:9/bursar-demo:1",
            "bursar-demo+1.tar",
            "skopeo copy",
            "kind load",
        ],
    )?;
    untouched(cluster)
}

fn load_image(cluster: &Cluster) -> ScenarioResult {
    Ok(cluster.load_image(&image::bundle(IMAGE)?)?)
}

fn whole(cluster: &Cluster) -> ScenarioResult {
    load_image(cluster)?;
    let (good, said) = demo(cluster)?;
    if !good {
        return Err(said.into());
    }
    contains(&said, &SUMMARY)?;
    untouched(cluster)
}

/// The README's first command, shortened: the same program without `--kubeconfig` boots a cluster
/// of its own.
fn local() -> ScenarioResult {
    let (good, said) = short(&mut Command::new(env!("CARGO_BIN_EXE_demo")))?;
    if !good {
        return Err(said.into());
    }
    contains(&said, &SUMMARY)?;
    let status = Command::new(env!("CARGO_BIN_EXE_cluster"))
        .args(["--name", "demo", "status"])
        .output()?;
    contains(
        &String::from_utf8_lossy(&status.stderr),
        &["no cluster `demo` is running"],
    )
}

/// Told at once, before anything is built.
fn without_root() -> ScenarioResult {
    // what lies in root's own directories may not be started by others
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let program = directory.path().join("demo");
    fs::copy(env!("CARGO_BIN_EXE_demo"), &program)?;
    let mut command = Command::new(&program);
    let (good, said) = short(command.uid(NOBODY).gid(NOBODY).current_dir("/"))?;
    if good {
        return Err("it ran without root".into());
    }
    contains(
        &said,
        &[
            "- root: ",
            "cargo demo --kubeconfig FILE --image REGISTRY/NAME:TAG",
        ],
    )?;
    if said.contains("building") {
        return Err(format!("it built something first:\n{said}").into());
    }
    Ok(())
}

fn without_gpus(cluster: &Cluster) -> ScenarioResult {
    cluster.kubectl(&["label", "node", "--all", "nvidia.com/gpu.product-"])?;
    let (good, said) = demo(cluster)?;
    if good {
        return Err("it ran without the label".into());
    }
    contains(&said, &["kubectl label node NAME nvidia.com/gpu.product="])?;
    untouched(cluster)
}

fn with_real_gpus(cluster: &Cluster) -> ScenarioResult {
    let before = nodes(cluster)?;
    let (good, said) = short(&mut command(cluster, &["--pretend-gpus", "8"]))?;
    if good {
        return Err("it pretended GPUs next to real ones".into());
    }
    contains(&said, &["the cluster has GPUs", "node-0 (nvidia.com/gpu"])?;
    same(&nodes(cluster)?, &before)?;
    untouched(cluster)
}

/// A node without GPUs and their labels, as kind has it.
fn strip(cluster: &Cluster) -> ScenarioResult {
    let labels: Vec<String> = ["product", "memory", "count"]
        .iter()
        .map(|name| format!("nvidia.com/gpu.{name}-"))
        .collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    cluster.kubectl(&[&["label", "node", "--all"], &labels[..]].concat())?;
    let none = json!({"nvidia.com/gpu": null});
    let patch = json!({"status": {"capacity": none, "allocatable": none}}).to_string();
    let words = [
        "patch",
        "node",
        "node-0",
        "--subresource=status",
        "--type=merge",
    ];
    cluster.kubectl(&[&words[..], &["-p", &patch]].concat())?;
    Ok(())
}

/// The parts of nodes that the demo changes.
fn nodes(cluster: &Cluster) -> Result<Value, Box<dyn std::error::Error>> {
    let list: Value = serde_json::from_str(&cluster.kubectl(&["get", "nodes", "-o", "json"])?)?;
    let parts = |node: &Value| {
        json!([
            node["metadata"]["name"],
            node["metadata"]["labels"],
            node["metadata"]["annotations"],
            node["spec"]["taints"],
            node["status"]["capacity"],
            node["status"]["allocatable"],
        ])
    };
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(parts)
        .collect())
}

fn same(after: &Value, before: &Value) -> ScenarioResult {
    if after == before {
        Ok(())
    } else {
        Err(format!("nodes were\n{before:#}\nand are\n{after:#}").into())
    }
}

fn pretended(cluster: &Cluster) -> ScenarioResult {
    load_image(cluster)?;
    strip(cluster)?;
    let before = nodes(cluster)?;
    let directory = tempfile::tempdir()?;
    let (svg, journal) = (
        directory.path().join("run.svg"),
        directory.path().join("run.jsonl"),
    );
    let mut command = command(cluster, &["--pretend-gpus", "8"]);
    command
        .arg("--svg")
        .arg(&svg)
        .arg("--journal")
        .arg(&journal);
    let (good, said) = short(&mut command)?;
    if !good {
        return Err(said.into());
    }
    contains(&said, &SUMMARY)?;
    contains(
        &said,
        &["pretending 8 GPUs on each of these nodes until the end: node-0"],
    )?;
    same(&nodes(cluster)?, &before)?;
    untouched(cluster)?;
    let journal = fs::read_to_string(journal)?;
    for kind in [
        "phase",
        "idle",
        "woken",
        "refused",
        "limit",
        "exhausted",
        "suspended",
        "resumed",
        "result",
    ] {
        contains(&journal, &[&format!("\"type\":\"{kind}\"")])?;
    }
    contains(
        &fs::read_to_string(svg)?,
        &["429 insufficient_quota", "suspended at step", " lost<"],
    )
}

fn interrupted(cluster: &Cluster) -> ScenarioResult {
    load_image(cluster)?;
    strip(cluster)?;
    let before = nodes(cluster)?;
    let mut running = command(cluster, &["--pretend-gpus", "8"])
        .args(SHORT)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let mut lines = BufReader::new(running.stdout.take().ok_or("no output")?);
    while !said.contains("replaying") {
        if lines.read_line(&mut said)? == 0 {
            return Err(format!("it ended by itself:\n{said}").into());
        }
    }
    if nodes(cluster)? == before {
        return Err("no GPUs were pretended".into());
    }
    signal::kill(Pid::from_raw(i32::try_from(running.id())?), Signal::SIGINT)?;
    lines.read_to_string(&mut said)?;
    let mut errors = running.stderr.take().ok_or("no errors")?;
    errors.read_to_string(&mut said)?;
    if running.wait()?.code() != Some(1) {
        return Err(format!("it did not end by itself:\n{said}").into());
    }
    contains(
        &said,
        &[
            "removing everything from the cluster",
            "the demo ended early: interrupted",
        ],
    )?;
    same(&nodes(cluster)?, &before)?;
    untouched(cluster)
}

/// The mark is what every version of the demo has to understand.
fn killed(cluster: &Cluster) -> ScenarioResult {
    strip(cluster)?;
    let before = nodes(cluster)?;
    let labels =
        json!({"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count": "6"});
    let mark = json!({"gpus": 6, "labels": labels}).to_string();
    let metadata = json!({"metadata": {"labels": labels, "annotations": {"demo.bursar.dev/pretended-gpus": mark}}});
    let gpus = json!({"nvidia.com/gpu": "6"});
    let status = json!({"status": {"capacity": gpus, "allocatable": gpus}});
    let patch = ["patch", "node", "node-0", "--type=merge", "-p"];
    cluster.kubectl(&[&patch[..], &[&metadata.to_string()]].concat())?;
    cluster.kubectl(&[&patch[..], &[&status.to_string(), "--subresource=status"]].concat())?;

    let (good, said) = demo(cluster)?;
    if good {
        return Err("it took pretended GPUs for real ones".into());
    }
    contains(
        &said,
        &["node-0 were pretended by a demo", "--pretend-gpus 0"],
    )?;
    let take_back = || -> Result<String, Box<dyn std::error::Error>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command
            .args(["--pretend-gpus", "0", "--kubeconfig"])
            .arg(cluster.kubeconfig());
        let output = command.output()?;
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    contains(&take_back()?, &["took back the GPUs of node-0"])?;
    same(&nodes(cluster)?, &before)?;
    contains(&take_back()?, &["no node has GPUs that a demo pretended"])
}
