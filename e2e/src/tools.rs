//! The programs of the cluster, built once from the Go modules in `e2e/tools`, each pinned by its
//! `go.mod` and `go.sum`.
//!
//! The programs of a module are in a directory of the cache that is named by a hash of everything
//! that decides what is built. A version bump builds anew, and an older checkout still finds its
//! own.

pub(crate) mod module;

use std::path::{Path, PathBuf};

use crate::{cache, error::Result, prerequisites};
use module::{Kind, Module, Program};

const MODULES: &[Module] = &[
    Module {
        name: "kubernetes",
        kind: Kind::Kubernetes,
        manifests: None,
        programs: &[
            Program::new(
                "kube-apiserver",
                "k8s.io/kubernetes/cmd/kube-apiserver",
                250,
            ),
            Program::new(
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
                95,
            ),
            Program::new("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 10),
            Program::new("kubectl", "k8s.io/kubernetes/cmd/kubectl", 45),
            Program::new("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 20),
            Program::new("kubelet", "k8s.io/kubernetes/cmd/kubelet", 30),
            Program::new("etcd", "go.etcd.io/etcd/server/v3", 10),
            Program::new("helm", "helm.sh/helm/v4/cmd/helm", 30),
        ],
    },
    Module {
        name: "node",
        kind: Kind::Go,
        manifests: None,
        programs: &[
            Program::new(
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
                130,
            ),
            Program::new(
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                4,
            ),
            Program::new("ctr", "github.com/containerd/containerd/v2/cmd/ctr", 8),
            Program::new(
                "host-local",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
                3,
            ),
            Program::new(
                "loopback",
                "github.com/containernetworking/plugins/plugins/main/loopback",
                1,
            ),
            Program::new(
                "ptp",
                "github.com/containernetworking/plugins/plugins/main/ptp",
                1,
            ),
        ],
    },
    Module {
        name: "coredns",
        kind: Kind::Go,
        manifests: None,
        programs: &[Program::new("coredns", ".", 85)],
    },
    Module {
        name: "runc",
        kind: Kind::Runc,
        manifests: None,
        programs: &[Program::new("runc", "github.com/opencontainers/runc", 25)],
    },
    Module {
        name: "kwok",
        kind: Kind::Go,
        manifests: None,
        programs: &[Program::new("kwok", "sigs.k8s.io/kwok/cmd/kwok", 75)],
    },
    Module {
        name: "pause",
        kind: Kind::C,
        manifests: None,
        programs: &[Program::new("pause", "pause.c", 1)],
    },
];

/// The built programs.
#[derive(Debug, Clone)]
pub struct Tools {
    directories: Vec<PathBuf>,
}

impl Tools {
    /// The programs in the cache, if none is missing.
    pub fn built() -> Option<Self> {
        let directories = module::directories(MODULES).ok()?;
        let complete = directories.iter().all(|directory| directory.exists());
        complete.then_some(Self { directories })
    }

    /// Builds what the cache lacks and says on standard error how far it is; with everything there
    /// it takes milliseconds. Unlike [`crate::setup()`] it installs nothing and needs no root.
    ///
    /// # Errors
    /// When the machine lacks what a build needs, or a build fails.
    pub fn build() -> Result<Self> {
        if let Some(tools) = Self::built() {
            return Ok(tools);
        }
        let _lock = cache::lock()?;
        Self::build_locked()
    }

    /// [`Self::build`] for callers that hold the lock of the [`cache`].
    pub(crate) fn build_locked() -> Result<Self> {
        let directories = module::build(MODULES)?;
        Ok(Self { directories })
    }

    /// For each program that the cache lacks, how long its build takes on two cores, in seconds.
    pub(crate) fn missing() -> Result<Vec<u32>> {
        module::missing(MODULES)
    }

    /// Checks that the installed Go can build them, or fetch one that can.
    pub(crate) fn check_go() -> Result<()> {
        prerequisites::find_go(&module::go_version(MODULES)?).map(drop)
    }

    /// The path of a program, or its bare name if it is not one of these.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directories
            .iter()
            .map(|directory| directory.join(name))
            .find(|path| path.exists())
            .unwrap_or(name.into())
    }

    /// The directory of the CNI plugins, among other programs of a node.
    pub fn cni(&self) -> PathBuf {
        self.program("ptp")
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default()
    }

    /// `PATH` with these programs first.
    pub fn path(&self) -> String {
        let ours = self
            .directories
            .iter()
            .map(|directory| directory.display().to_string())
            .collect::<Vec<_>>();
        format!("{}:{}", ours.join(":"), prerequisites::path())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{module::sources, *};
    use crate::addons::Addon;

    #[test]
    fn every_program_is_pinned_by_a_tool_directive_of_its_module() {
        let modules = MODULES
            .iter()
            .chain([Addon::LeaderWorkerSet, Addon::Keda].map(Addon::module));
        for module in modules.filter(|module| module.kind != Kind::C) {
            let file = fs::read_to_string(sources().join(module.name).join("go.mod")).unwrap();
            let packages = module.programs.iter().map(|program| program.package);
            for package in packages.filter(|package| *package != ".") {
                assert!(
                    file.lines()
                        .any(|line| line.trim().trim_start_matches("tool ") == package),
                    "{package}"
                );
            }
        }
    }

    #[test]
    fn what_is_built_names_the_directory() {
        let kubernetes = &MODULES[0];
        let copy = tempfile::tempdir().unwrap();
        let directory = copy.path().join(kubernetes.name);
        fs::create_dir(&directory).unwrap();
        for file in ["go.mod", "go.sum"] {
            fs::copy(
                sources().join(kubernetes.name).join(file),
                directory.join(file),
            )
            .unwrap();
        }
        let key = kubernetes.cache_key(copy.path()).unwrap();
        assert_eq!(key, kubernetes.cache_key(&sources()).unwrap());
        fs::write(directory.join("go.sum"), "").unwrap();
        assert_ne!(key, kubernetes.cache_key(copy.path()).unwrap());
    }

    #[test]
    fn kubernetes_programs_know_their_version() {
        let flags = MODULES[0]
            .link_flags(&sources().join("kubernetes"))
            .unwrap();
        assert!(
            flags.contains("version.gitVersion=v1.") && flags.contains("version.gitMajor=1 "),
            "{flags}"
        );
    }
}
