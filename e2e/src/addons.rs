//! Other projects' controllers, as their users install them: images of programs that are built from their Go modules, and the
//! manifests that these modules ship.
//!
//! No cluster needs them; a suite names those that its scenarios install ([`crate::runner::Suite::addons`]).

use std::{path::PathBuf, slice, time::Duration};

use crate::{
    Access, Cluster, cache,
    error::{Error, Result},
    oci::{self, Image},
    process, program,
    tools::module::{self, Kind, Module, Program},
};

/// How long a controller may take until its certificates are there and it is ready.
const LIMIT: Duration = Duration::from_secs(240);

const LWS_NAMESPACE: &str = "lws-system";
/// What the webhooks take.
const LWS_PROBE: &str = "
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: probe, namespace: default}
spec:
  replicas: 1
  leaderWorkerTemplate: {size: 1, workerTemplate: {spec: {containers: [{name: probe, image: probe}]}}}
";

/// LeaderWorkerSet (Apache-2.0). Its chart calls the program `/manager`.
static LEADER_WORKER_SET: Module = Module {
    name: "lws",
    kind: Kind::Go,
    manifests: Some(("sigs.k8s.io/lws", "charts/lws")),
    programs: &[Program::new("manager", "sigs.k8s.io/lws/cmd", 150)],
};

/// KEDA (Apache-2.0): its operator and its metrics server, without its webhooks.
static KEDA: Module = Module {
    name: "keda",
    kind: Kind::Go,
    manifests: Some(("github.com/kedacore/keda/v2", "config")),
    programs: &[
        Program::new("keda", "github.com/kedacore/keda/v2/cmd/operator", 390),
        Program::new(
            "keda-adapter",
            "github.com/kedacore/keda/v2/cmd/adapter",
            60,
        ),
    ],
};

/// A controller of another project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addon {
    /// LeaderWorkerSet, with the webhooks, the rights and the certificates of its chart.
    LeaderWorkerSet,
    /// KEDA, which serves the external metrics API.
    Keda,
}

impl Addon {
    pub(crate) fn module(self) -> &'static Module {
        match self {
            Self::LeaderWorkerSet => &LEADER_WORKER_SET,
            Self::Keda => &KEDA,
        }
    }

    /// Its programs and its manifests; built unless the cache has them.
    fn directory(self) -> Result<PathBuf> {
        let modules = slice::from_ref(self.module());
        let directories = if module::missing(modules)?.is_empty() {
            module::directories(modules)?
        } else {
            let _lock = cache::lock()?;
            module::build(modules)?
        };
        (directories.into_iter().next()).ok_or_else(|| Error::Malformed {
            what: format!("building {}", self.module().name),
            why: "made no directory".into(),
        })
    }

    /// Writes its image, and builds its programs before if the cache lacks them, which standard error tells.
    ///
    /// # Errors
    /// When a build fails or the image cannot be written.
    pub fn image(self) -> Result<Image> {
        let (name, directory) = (self.module().name, self.directory()?);
        let paths: Vec<PathBuf> = (self.module().programs.iter())
            .map(|program| directory.join(program.name))
            .collect();
        let programs: Vec<_> = paths.iter().map(PathBuf::as_path).collect();
        let archive = cache::directory()?.join(format!("images/{name}.tar"));
        oci::write(&archive, &self.reference(), &programs)
    }

    fn reference(self) -> String {
        format!("bursar.local/{}:dev", self.module().name)
    }

    /// Installs it where the nodes have its image, and waits until it is ready.
    ///
    /// # Errors
    /// The words of helm or kubectl.
    pub fn install(self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::LeaderWorkerSet => self.install_chart(cluster),
            Self::Keda => self.install_kustomization(cluster),
        }
    }

    /// Uninstalls it, and what was made of the kinds that it defines.
    ///
    /// # Errors
    /// The words of helm or kubectl.
    pub fn uninstall(self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::LeaderWorkerSet => {
                let args = [
                    "uninstall",
                    "lws",
                    "--namespace",
                    LWS_NAMESPACE,
                    "--wait",
                    "--timeout",
                    "2m",
                ];
                cluster.helm(&args, LIMIT)?;
                let definition = "leaderworkersets.leaderworkerset.x-k8s.io";
                cluster.kubectl(&["delete", "crd", definition]).map(drop)
            }
            Self::Keda => {
                let manifests = self.kustomized(cluster)?;
                let file = program::write_file(cluster, "keda.yaml", manifests.as_bytes())?;
                let mut command = cluster.command("kubectl");
                command
                    .args(["delete", "--ignore-not-found", "-f"])
                    .arg(file);
                process::run(&mut command, LIMIT).map(drop)
            }
        }
    }

    fn install_chart(self, cluster: &Cluster) -> Result<()> {
        let (name, reference) = (self.module().name, self.reference());
        let chart = self.directory()?.join(name).display().to_string();
        let (repository, tag) = reference.rsplit_once(':').unwrap_or((&reference, "latest"));
        let image = format!("image.manager.repository={repository},image.manager.tag={tag}");
        // what its chart asks for is most of such a node
        let requests = "resources.requests.cpu=10m,resources.requests.memory=64Mi";
        let args = [
            "upgrade",
            "--install",
            name,
            &chart,
            "--namespace",
            LWS_NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout",
            "3m",
            "--set",
            "image.manager.pullPolicy=Never",
            "--set-string",
            &image,
            "--set",
            requests,
        ];
        cluster.helm(&args, LIMIT)?;
        // its pod is ready before it serves its webhooks, and before kube-proxy knows that it is
        let probe = program::write_file(cluster, "probe.yaml", LWS_PROBE.as_bytes())?;
        let probe = probe.display().to_string();
        let log = cluster.run_directory().join("log/kube-apiserver.log");
        process::wait_until("LeaderWorkerSet's webhooks", LIMIT, &log, || {
            let args = ["create", "--dry-run=server", "-f", &probe];
            Ok(cluster.kubectl(&args).is_ok())
        })
    }

    fn install_kustomization(self, cluster: &Cluster) -> Result<()> {
        cluster.apply(&self.kustomized(cluster)?)?;
        for (object, condition) in [
            ("deployment/keda-operator", "Available"),
            ("deployment/keda-metrics-apiserver", "Available"),
            ("apiservice/v1beta1.external.metrics.k8s.io", "Available"),
        ] {
            let mut command = cluster.command("kubectl");
            command.args(["-n", "keda", "wait", object, "--timeout=180s"]);
            command.arg(format!("--for=condition={condition}"));
            process::run(&mut command, LIMIT)?;
        }
        Ok(())
    }

    /// Its manifests with the image that the nodes have.
    fn kustomized(self, cluster: &Cluster) -> Result<String> {
        let directory = self.directory()?.join("config/minimal");
        let manifests = cluster.kubectl(&["kustomize", &directory.display().to_string()])?;
        let mut text = manifests.replace("imagePullPolicy: Always", "imagePullPolicy: Never");
        for image in ["keda", "keda-metrics-apiserver"] {
            let named = format!("ghcr.io/kedacore/{image}:main");
            if !text.contains(&named) {
                return Err(Error::Malformed {
                    what: format!("manifests of {}", directory.display()),
                    why: format!("they have no image {named}"),
                });
            }
            text = text.replace(&named, &self.reference());
        }
        Ok(text)
    }
}
