//! The programs of the cluster, built once from the Go modules in `e2e/tools`, each pinned by its
//! `go.mod` and `go.sum`.
//!
//! The programs of a module are in a directory of the cache that is named by a hash of everything
//! that decides what is built. A version bump builds anew, and an older checkout still finds its
//! own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{
    cache,
    error::{Error, Result, While},
    prerequisites::{self, BUILD_PACKAGES, Go},
    process,
    progress::Progress,
};

/// For one program on a slow machine with empty Go caches.
const BUILD_LIMIT: Duration = Duration::from_secs(45 * 60);
/// Begins the name of a directory whose programs are not all built.
const UNFINISHED: &str = ".building-";
const STRIP_SYMBOLS: &str = "-s -w";

/// A Go module below `e2e/tools`, and what is built from it.
struct Module {
    name: &'static str,
    programs: &'static [Program],
    kind: Kind,
}

/// A program and its package; `.` is the module's own.
struct Program {
    name: &'static str,
    package: &'static str,
    /// Seconds of its build on two cores, after the programs before it in the list and with Go
    /// caches that were empty at first.
    seconds: u32,
}

impl Program {
    const fn new(name: &'static str, package: &'static str, seconds: u32) -> Self {
        Self {
            name,
            package,
            seconds,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Static without cgo.
    Go,
    /// As [`Kind::Go`], with the version linked in. Without it kubectl and helm refuse to work, and
    /// feature emulation fails.
    Kubernetes,
    /// Static with cgo and libseccomp.
    Runc,
    /// One C file.
    C,
}

const MODULES: &[Module] = &[
    Module {
        name: "kubernetes",
        kind: Kind::Kubernetes,
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
        programs: &[Program::new("coredns", ".", 85)],
    },
    Module {
        name: "runc",
        kind: Kind::Runc,
        programs: &[Program::new("runc", "github.com/opencontainers/runc", 25)],
    },
    Module {
        name: "kwok",
        kind: Kind::Go,
        programs: &[Program::new("kwok", "sigs.k8s.io/kwok/cmd/kwok", 75)],
    },
    Module {
        name: "pause",
        kind: Kind::C,
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
        let directories = program_directories(&sources()).ok()?;
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
        let sources = sources();
        let directories = program_directories(&sources)?;
        let missing: Vec<(&Module, &PathBuf)> = MODULES
            .iter()
            .zip(&directories)
            .filter(|(_, directory)| !directory.exists())
            .collect();
        if !missing.is_empty() {
            prerequisites::require_packages(&prerequisites::missing_packages(BUILD_PACKAGES))?;
            let root = cache::tools_directory()?;
            remove_unfinished(&root)?;
            let go = GoToolchain::choose(&sources)?;
            let mut progress = Progress::new(Self::missing()?);
            for (module, directory) in missing {
                module.build(
                    &sources.join(module.name),
                    &root,
                    directory,
                    &go,
                    &mut progress,
                )?;
            }
            progress.end();
        }
        Ok(Self { directories })
    }

    /// For each program that the cache lacks, how long its build takes on two cores, in seconds.
    pub(crate) fn missing() -> Result<Vec<u32>> {
        let directories = program_directories(&sources())?;
        let missing = MODULES.iter().zip(&directories);
        Ok(missing
            .filter(|(_, directory)| !directory.exists())
            .flat_map(|(module, _)| module.programs)
            .map(|program| program.seconds)
            .collect())
    }

    /// Checks that the installed Go can build them, or fetch one that can.
    pub(crate) fn check_go() -> Result<()> {
        prerequisites::find_go(&go_version(&sources())?).map(drop)
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

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

/// The directory of each module's programs.
fn program_directories(sources: &Path) -> Result<Vec<PathBuf>> {
    let root = cache::tools_directory()?;
    let target = |module: &Module| -> Result<PathBuf> {
        Ok(root.join(format!("{}-{}", module.name, module.cache_key(sources)?)))
    };
    MODULES.iter().map(target).collect()
}

impl Module {
    /// A hash of everything that decides what is built: the module's files, the packages and the
    /// flags.
    fn cache_key(&self, sources: &Path) -> Result<String> {
        let mut hash = Sha256::new();
        let directory = sources.join(self.name);
        let mut files = fs::read_dir(&directory)
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<Result<Vec<_>, _>>()
            })
            .while_(|| format!("listing {}", directory.display()))?;
        files.sort();
        for file in files {
            let contents = fs::read(&file).while_(|| format!("reading {}", file.display()))?;
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update(contents.len().to_be_bytes());
            hash.update(contents);
        }
        let programs: Vec<(&str, &str)> = self
            .programs
            .iter()
            .map(|program| (program.name, program.package))
            .collect();
        hash.update(format!("{programs:?} {}", self.link_flags(&directory)?));
        Ok(hash
            .finalize()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    fn build(
        &self,
        sources: &Path,
        root: &Path,
        target: &Path,
        go: &GoToolchain,
        progress: &mut Progress,
    ) -> Result<()> {
        let unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(root)
            .while_(|| format!("creating a directory in {}", root.display()))?;
        let flags = self.link_flags(sources)?;
        for program in self.programs {
            let mut command = match self.kind {
                Kind::C => {
                    let mut command = Command::new("gcc");
                    command.args(["-Os", "-static", "-s", "-Wall"]);
                    command
                }
                Kind::Go | Kind::Kubernetes => go.build(&flags, false),
                Kind::Runc => {
                    let mut command = go.build(&flags, true);
                    command.args(["-tags", "seccomp netgo osusergo"]);
                    command
                }
            };
            command
                .arg("-o")
                .arg(unfinished.path().join(program.name))
                .arg(program.package)
                .env("PATH", prerequisites::path())
                .current_dir(sources);
            progress.begin(program.name);
            process::run_while(&mut command, BUILD_LIMIT, || {
                progress.tick();
                Ok(())
            })?;
        }
        let finished = unfinished.keep();
        fs::rename(&finished, target)
            .while_(|| format!("moving {} to {}", finished.display(), target.display()))
    }

    fn link_flags(&self, sources: &Path) -> Result<String> {
        Ok(match self.kind {
            Kind::Go => STRIP_SYMBOLS.into(),
            Kind::Runc => format!("{STRIP_SYMBOLS} -extldflags -static"),
            Kind::C => String::new(),
            Kind::Kubernetes => {
                let version = required_version(&sources.join("go.mod"), "k8s.io/kubernetes")?;
                let numbers = version
                    .trim_start_matches('v')
                    .split('.')
                    .collect::<Vec<_>>();
                let [major, minor, ..] = numbers[..] else {
                    return Err(Error::Malformed {
                        what: "version of k8s.io/kubernetes".into(),
                        why: version,
                    });
                };
                let set = [
                    ("gitVersion", version.as_str()),
                    ("gitMajor", major),
                    ("gitMinor", minor),
                    ("gitCommit", "module"),
                    ("gitTreeState", "clean"),
                    ("buildDate", "1970-01-01T00:00:00Z"),
                ]
                .map(|(name, value)| format!(" -X k8s.io/component-base/version.{name}={value}"));
                format!("{STRIP_SYMBOLS}{}", set.concat())
            }
        })
    }
}

/// The Go that builds the modules: the newest that is installed, or a newer one that it fetches.
struct GoToolchain {
    go: Go,
}

impl GoToolchain {
    fn choose(sources: &Path) -> Result<Self> {
        let required = go_version(sources)?;
        let go = prerequisites::find_go(&required)?;
        if go.toolchain != prerequisites::INSTALLED_GO {
            eprintln!("setup: fetching Go {required}, because the installed one is older");
            prerequisites::fetch_go(&go, sources)?;
        }
        Ok(Self { go })
    }

    fn build(&self, link_flags: &str, cgo: bool) -> Command {
        let mut command = Command::new(&self.go.program);
        command
            .args([
                "build",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags",
                link_flags,
            ])
            .env("GOTOOLCHAIN", &self.go.toolchain)
            .env("CGO_ENABLED", if cgo { "1" } else { "0" });
        command
    }
}

/// Removes the directories of interrupted builds. The caller holds the lock of the cache, so no
/// other build is running.
fn remove_unfinished(root: &Path) -> Result<()> {
    let entries = fs::read_dir(root).while_(|| format!("listing {}", root.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let path = entry.path();
            fs::remove_dir_all(&path).while_(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// The newest Go version that one of the modules requires.
fn go_version(sources: &Path) -> Result<String> {
    let mut newest = (Vec::new(), String::new());
    for module in MODULES.iter().filter(|module| module.kind != Kind::C) {
        let version = required_version(&sources.join(module.name).join("go.mod"), "go")?;
        let numbers = version
            .split('.')
            .filter_map(|part| part.parse::<u32>().ok())
            .collect();
        newest = newest.max((numbers, version));
    }
    Ok(newest.1)
}

/// The version after `name` in a `go.mod`.
fn required_version(file: &Path, name: &str) -> Result<String> {
    fs::read_to_string(file)
        .while_(|| format!("reading {}", file.display()))?
        .lines()
        .map(|line| line.trim().trim_start_matches("require "))
        .find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(' ')?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        })
        .ok_or_else(|| Error::Malformed {
            what: file.display().to_string(),
            why: format!("names no version of {name}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
    }

    #[test]
    fn every_program_is_pinned_by_a_tool_directive_of_its_module() {
        for module in MODULES.iter().filter(|module| module.kind != Kind::C) {
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
