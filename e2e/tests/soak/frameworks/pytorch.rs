//! PyTorch: torchrun by its `PET_` variables alone, DistributedDataParallel over gloo, and a budget in between.

use bursar_e2e::{Access, Cluster, scenario};

use super::*;

/// Of which each takes a tenth of a second where there is a suspension.
const STEPS: u32 = 150;
const WORKERS: u32 = 2;
const RANKS: u64 = 4;
/// Steps that are done before the suspension.
const BEFORE: usize = 20;

pub(super) fn ends_with_the_same_loss(cluster: &Cluster) -> ScenarioResult {
    let bench = Bench::new(cluster, "pytorch")?;
    bench.apply("steady", job(&bench, "steady", "0")?)?;
    bench.wait_for_phase("steady", "Succeeded")?;
    let expected = losses(&bench, "steady")?;
    let learned = expect_learned(&json!(expected))?;
    expect_equal("the number of steps", &json!(expected.len()), &json!(STEPS))?;
    bench.delete("steady")?;

    bench.apply("stopped", job(&bench, "stopped", "0.1")?)?;
    let seen = bench.directory.join("stopped/losses");
    wait_until("some steps to be done", RUN_SECONDS, || {
        Ok(fs::read_to_string(&seen).is_ok_and(|text| text.lines().count() >= BEFORE))
    })?;
    cluster.apply(&budget_manifest(bench.namespace, "0.01", ""))?;
    bench.wait_for_phase("stopped", "Suspended")?;
    scenario::wait_for_field(
        cluster,
        bench.namespace,
        "pods",
        r#".items[?(@.status.phase=="Running")].metadata.name"#,
        "",
        60,
    )?;
    let before = read_lines(&seen)?.len();
    cluster.apply(&budget_manifest(bench.namespace, "50", ""))?;
    bench.wait_for_phase("stopped", "Succeeded")?;

    expect_equal(
        "attempts",
        &json!(bench.field("stopped", ".status.attempts")?),
        &json!("2"),
    )?;
    let found = losses(&bench, "stopped")?;
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        expect_equal(&format!("the loss of step {step}"), found, expected)?;
    }
    expect_equal("the number of steps", &json!(found.len()), &json!(STEPS))?;
    let resumed = starts(&bench, "stopped")?;
    println!(
        "{learned} of {RANKS} ranks; suspended after {before} steps, resumed at step {resumed}"
    );
    bench.delete("stopped")
}

fn job(bench: &Bench, name: &str, step_seconds: &str) -> Result<Value, Error> {
    let directory = bench.directory.join(name);
    make_directory(&directory)?;
    let steps = STEPS.to_string();
    // PyTorch 1.13 on Python 3.11 cannot read its own default of the first two options
    let options = [
        "--redirects=0:1",
        "--tee=0:1",
        "/programs/torch_ddp.py",
        "/data",
    ];
    let command = [&["torchrun"], &options[..], &[&steps, step_seconds]].concat();
    let template = template(&Program {
        command: Some(&command),
        packages: None,
        gpus: NODE_GPUS,
        directory: &directory,
    })?;
    Ok(json!({"framework": "PyTorch", "replicas": WORKERS, "template": template}))
}

/// The losses in the order of their steps. A step that was done again after the last checkpoint has the same loss, to its last digit.
fn losses(bench: &Bench, name: &str) -> Result<Vec<Value>, Error> {
    let mut all: Vec<Value> = Vec::new();
    for line in read_lines(&bench.directory.join(name).join("losses"))? {
        let (step, loss) = (
            line["step"].as_u64().ok_or("a loss without its step")?,
            &line["loss"],
        );
        match all.get(usize::try_from(step)?) {
            Some(earlier) => {
                expect_equal(&format!("the second loss of step {step}"), loss, earlier)?
            }
            None => {
                expect_equal("the next step", &json!(step), &json!(all.len()))?;
                all.push(loss.clone());
            }
        }
    }
    Ok(all)
}

/// The step at which all ranks went on. Before, all have started at the first one, each on the worker that its rank belongs to.
fn starts(bench: &Bench, name: &str) -> Result<u64, Error> {
    let lines = read_lines(&bench.directory.join(name).join("starts"))?;
    let resumed = lines
        .last()
        .and_then(|line| line["first_step"].as_u64())
        .unwrap_or(0);
    let mut expected = Vec::new();
    for first_step in [0, resumed] {
        expected.extend((0..RANKS).map(|rank| {
            let (worker, local_rank) = (rank / u64::from(NODE_GPUS), rank % u64::from(NODE_GPUS));
            json!({
                "rank": rank, "ranks": RANKS, "local_rank": local_rank,
                "host": format!("{name}-{worker}"), "first_step": first_step,
            })
        }));
    }
    let mut found = lines;
    found.sort_by_key(|line| (line["first_step"].as_u64(), line["rank"].as_u64()));
    expect_equal("the starts", &json!(found), &json!(expected))?;
    if resumed == 0 {
        return Err("it began again at step 0".into());
    }
    Ok(resumed)
}
