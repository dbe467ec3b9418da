//! `cargo demo` as somebody runs it on a cluster that he has: another harness cluster, in whose network the program is started.

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use bursar_e2e::{
    Access, Cluster, NodeOptions, Options, image,
    runner::{self, Outcome, Scenario},
};

/// Nobody listens there, so that a pull fails at once. The tag looks like a number, as many do.
const IMAGE: &str = "localhost:9/bursar-demo:1";
const LIMIT: Duration = Duration::from_secs(420);

fn main() -> ExitCode {
    let scenario = |name, run| Scenario {
        name,
        limit: LIMIT,
        run,
    };
    let scenarios = [
        scenario(
            "a_cluster_in_use_is_not_touched",
            in_use as fn(&Cluster) -> Outcome,
        ),
        scenario(
            "an_image_that_no_node_has_is_named_with_the_ways_to_bring_it",
            without_image,
        ),
        scenario(
            "the_demo_runs_on_somebodys_cluster_and_leaves_it_as_it_was",
            whole,
        ),
        scenario("a_cluster_without_gpus_is_told_the_label", without_gpus),
    ];
    runner::main(
        || {
            Ok(Options {
                nodes: vec![NodeOptions::h100(4)],
                ..Options::new("theirs")
            })
        },
        &scenarios,
    )
}

/// Whether the demo ended well, and what it wrote. Its own waits and the scenario's limit bound it. The scenarios' process is in the cluster's network, and so is what it starts.
fn demo(cluster: &Cluster) -> Result<(bool, String), Box<dyn std::error::Error>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(["--requests", "40", "--wakes", "1"]);
    command.args(["--image", IMAGE, "--kubeconfig"]);
    let output = command.arg(cluster.kubeconfig()).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

fn contains(text: &str, words: &[&str]) -> Outcome {
    match words.iter().find(|word| !text.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(format!("it does not say `{word}`:\n{text}").into()),
    }
}

/// Nothing of the demo's is there.
fn untouched(cluster: &Cluster) -> Outcome {
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

fn in_use(cluster: &Cluster) -> Outcome {
    cluster.kubectl(&["create", "namespace", "team"])?;
    let (good, said) = demo(cluster)?;
    cluster.kubectl(&["delete", "namespace", "team"])?;
    if good {
        return Err("it ran in a namespace that was there".into());
    }
    contains(&said, &["namespace/team", "take another cluster"])?;
    untouched(cluster)
}

fn without_image(cluster: &Cluster) -> Outcome {
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

fn whole(cluster: &Cluster) -> Outcome {
    cluster.load_image(&image::bundle(IMAGE)?)?;
    let (good, said) = demo(cluster)?;
    if !good {
        return Err(said.into());
    }
    contains(
        &said,
        &[
            " 0 lost, 0 answered with 5xx",
            "429 insufficient_quota",
            "none lost, none done twice",
            "inferencedeployment.bursar.dev/chat",
        ],
    )?;
    untouched(cluster)
}

fn without_gpus(cluster: &Cluster) -> Outcome {
    cluster.kubectl(&["label", "node", "--all", "nvidia.com/gpu.product-"])?;
    let (good, said) = demo(cluster)?;
    if good {
        return Err("it ran without the label".into());
    }
    contains(&said, &["kubectl label node NAME nvidia.com/gpu.product="])?;
    untouched(cluster)
}
