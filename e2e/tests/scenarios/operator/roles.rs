//! A TrainingJob with roles: one gang, whose workers find each other, and which ends with its last role.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use bursar_e2e::{Access, Cluster, operator, runner::ScenarioResult};

use bursar_e2e::scenario::{get_field, job_manifest, wait_for_field, wait_until};

const NAMESPACE: &str = "roles";
/// Workers of both roles.
const WORKERS: u32 = 3;
const NODE_GPUS: u32 = 8;
/// What the launcher's container reads before it ends.
const END: &str = "end";

pub(crate) fn start_and_end_together(cluster: &Cluster) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let directory = cluster.run_directory().join("roles");
    let mut end = shared_files(&directory)?;
    let wait_for = |object: &str, path: &str, value: &str| {
        wait_for_field(cluster, NAMESPACE, object, path, value, 60)
    };

    // one GPU less than the gang needs is left
    let blocked = NODE_GPUS - used_gpus(cluster)? - (WORKERS - 1);
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n{}",
        blocker(blocked)
    ))?;
    wait_for("tj/blocker", ".status.phase", "Running")?;
    cluster.apply(&gang(&directory))?;
    wait_for("tj/pretrain", ".status.limitedBy", "Capacity")?;
    for (role, workers) in [("launcher", "1"), ("worker", "2")] {
        let job = format!("job/pretrain-{role}");
        // the braces at both ends are added
        let spec = ".spec.completions} {.spec.parallelism} {.spec.suspend";
        wait_for(&job, spec, &format!("{workers} {workers} true"))?;
    }
    expect(
        &gang_field(cluster, ".items[*].metadata.name")?,
        "",
        "pods while there is room for a part",
    )?;

    cluster.kubectl(&["-n", NAMESPACE, "delete", "tj", "blocker"])?;
    // its own wait for the message keeps the launcher, while the workers end
    wait_for("tj/pretrain", ".status.roles[*].succeeded", "0 2")?;
    for (field, of_roles) in [
        ("name", "launcher worker"),
        ("replicas", "1 2"),
        ("active", "1 0"),
        ("failed", "0 0"),
    ] {
        let path = format!(".status.roles[*].{field}");
        wait_for("tj/pretrain", &path, of_roles)?;
    }
    wait_for("tj/pretrain", ".status.phase", "Running")?;
    ranks_counted_on(&directory)?;
    every_rank_has_computed(&directory)?;

    end.write_all(b"\n")?;
    wait_for("tj/pretrain", ".status.phase", "Succeeded")?;
    wait_for("tj/pretrain", ".status.roles[*].succeeded", "1 2")?;
    // what ran never ended early, and no part ran before
    wait_for("tj/pretrain", ".status.attempts", "1")?;
    wait_for("tj/pretrain", ".status.workers.succeeded", "3")?;
    wait_until("the gang's cost in its status", 30, || {
        let total = get_field(cluster, NAMESPACE, "tj/pretrain", ".status.spend.total")?;
        Ok(total.parse::<f64>().is_ok_and(|total| total > 0.0))
    })
}

/// The directory that all workers mount, with the pipe on which the launcher waits.
fn shared_files(directory: &Path) -> Result<File, Box<dyn std::error::Error>> {
    fs::create_dir_all(directory)?;
    // the image's user is not root
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    let pipe = directory.join(END);
    let made = Command::new("mkfifo")
        .args(["-m", "666"])
        .arg(&pipe)
        .status()?;
    if !made.success() {
        return Err(format!("mkfifo {}: {made}", pipe.display()).into());
    }
    // open for both, it waits for no reader
    Ok(OpenOptions::new().read(true).write(true).open(pipe)?)
}

/// GPUs of pods that run, of all namespaces.
fn used_gpus(cluster: &Cluster) -> Result<u32, Box<dyn std::error::Error>> {
    let running = r#".items[?(@.status.phase=="Running")]"#;
    let limits = format!(r"{{{running}.spec.containers[*].resources.limits.nvidia\.com/gpu}}");
    let path = format!("jsonpath={limits}");
    let counts = cluster.kubectl(&["get", "pods", "-A", "-o", &path])?;
    let mut sum = 0;
    for count in counts.split_whitespace() {
        sum += count.parse::<u32>()?;
    }
    Ok(sum)
}

/// A field of the pods of all roles.
fn gang_field(cluster: &Cluster, path: &str) -> Result<String, Box<dyn std::error::Error>> {
    let of_gang = "bursar.dev/workload=pretrain";
    let path = format!("jsonpath={{{path}}}");
    let words = ["-n", NAMESPACE, "get", "pods", "-l", of_gang, "-o", &path];
    Ok(cluster.kubectl(&words)?)
}

fn expect(found: &str, expected: &str, what: &str) -> ScenarioResult {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {expected:?}").into())
    }
}

/// One worker that holds so many GPUs until it is deleted.
fn blocker(gpus: u32) -> String {
    let args = r#"--steps, "100000", --checkpoint, /tmp/checkpoint"#;
    job_manifest(NAMESPACE, "blocker", gpus, args)
}

/// A launcher and two workers. The image has no shell, which computes the rank as the documentation says, so the node's is mounted.
fn gang(directory: &Path) -> String {
    let role = |name: &str, replicas: u32, command: &str| {
        format!(
            r#"
    - name: {name}
      replicas: {replicas}
      template:
        spec:
          terminationGracePeriodSeconds: 10
          volumes:
            - {{name: data, hostPath: {{path: {}}}}}
            - {{name: shell, hostPath: {{path: /bin/dash, type: File}}}}
          containers:
            - name: worker
              image: bursar.local/trainer:dev
              imagePullPolicy: Never
              command: [/bin/sh, -c, '{command}']
              volumeMounts: [{{name: data, mountPath: /data}}, {{name: shell, mountPath: /bin/sh}}]
              resources: {{limits: {{nvidia.com/gpu: 1}}}}"#,
            directory.display()
        )
    };
    let train = "--steps 8 --step-time 250ms --checkpoint /data --journal /data/journal";
    let noted = "export -p > /data/$BURSAR_ROLE-$BURSAR_ROLE_RANK";
    let launcher = format!("{noted} && /bursar-trainer {train} && read line < /data/{END}");
    let worker = format!(
        "{noted} && exec /bursar-trainer --rank $((BURSAR_RANK_OFFSET + BURSAR_ROLE_RANK)) {train}"
    );
    format!(
        "apiVersion: bursar.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: pretrain, namespace: {NAMESPACE}}}\nspec:\n  \
         framework: PyTorch\n  roles:{}{}\n",
        role("launcher", 1, &launcher),
        role("worker", 2, &worker)
    )
}

/// The environment that each worker had.
fn ranks_counted_on(directory: &Path) -> ScenarioResult {
    let address = format!("pretrain-launcher-0.pretrain.{NAMESPACE}.svc");
    for (worker, role, offset, index, rank) in [
        ("launcher-0", "launcher", "0", "0", Some("0")),
        ("worker-0", "worker", "1", "0", None),
        ("worker-1", "worker", "1", "1", None),
    ] {
        let text = fs::read_to_string(directory.join(worker))?;
        let variable = |name: &str| {
            let start = format!("export {name}='");
            let lines = text.lines();
            let mut values = lines.filter_map(|line| line.strip_prefix(&start)?.strip_suffix('\''));
            values.next()
        };
        for (name, expected) in [
            ("BURSAR_ROLE", Some(role)),
            ("BURSAR_RANK_OFFSET", Some(offset)),
            ("BURSAR_ROLE_RANK", Some(index)),
            ("RANK", rank),
            ("MASTER_ADDR", Some(&*address)),
            ("MASTER_PORT", Some("29500")),
            ("WORLD_SIZE", Some("3")),
            ("PET_NNODES", Some("3")),
        ] {
            let found = variable(name);
            if found != expected {
                return Err(format!("{name} of {worker} is {found:?}, not {expected:?}").into());
            }
        }
    }
    Ok(())
}

/// Steps count once all ranks have reached rank 0 by its name, and every rank writes its own.
fn every_rank_has_computed(directory: &Path) -> ScenarioResult {
    let mut ranks = std::collections::BTreeSet::new();
    for line in fs::read_to_string(directory.join("journal"))?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        ranks.extend(line["step"].as_u64().and(line["rank"].as_u64()));
    }
    let expected = (0..u64::from(WORKERS)).collect();
    if ranks == expected {
        Ok(())
    } else {
        Err(format!("ranks {ranks:?} computed, not {expected:?}").into())
    }
}
