//! `cargo demo` as somebody runs it on a cluster that he has: another harness cluster, in whose network the program is started.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use bursar_e2e::{
    Access, Cluster, NodeOptions, image,
    runner::{Images, Scenario, ScenarioResult, Suite},
};

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
const NOBODY: u32 = 65534;

/// On a cluster of the suite, and on one of the demo's own.
pub(crate) fn suites() -> [Suite; 2] {
    let demo = Suite {
        name: "demo",
        nodes: vec![NodeOptions::h100(4)],
        images: Images::Built,
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
            Scenario::new("a_cluster_without_gpus_is_told_the_label", 7, without_gpus),
        ],
    };
    let demo_local = Suite {
        name: "demo_local",
        nodes: Vec::new(),
        images: Images::Built,
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
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(["--image", IMAGE, "--kubeconfig"]);
    short(command.arg(cluster.kubeconfig()))
}

/// Whether a shortened demo ended well, and what it wrote. Its own waits and the scenario's limit bound it. The scenarios' process is in
/// the cluster's network, and so is what it starts.
fn short(command: &mut Command) -> Result<(bool, String), Box<dyn std::error::Error>> {
    let output = command
        .args(["--requests", "40", "--wakes", "1"])
        .output()?;
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
            "demo.tar",
            "skopeo copy",
            "kind load",
        ],
    )?;
    untouched(cluster)
}

fn whole(cluster: &Cluster) -> ScenarioResult {
    cluster.load_image(&image::bundle(IMAGE)?)?;
    let (good, said) = demo(cluster)?;
    if !good {
        return Err(said.into());
    }
    contains(&said, &SUMMARY)?;
    untouched(cluster)
}

/// The README's first command, shortened: the same program without `--kubeconfig` boots a cluster of its own.
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
