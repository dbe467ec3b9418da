//! The programs of the cluster, built once from the Go modules in `e2e/tools`, each pinned by its `go.mod` and `go.sum`.
//!
//! A module's programs lie in the cache in a directory named by a hash of everything that decides what is built, so a version bump
//! builds anew and an older checkout still finds its own.

use std::{
    fs,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{
    cache,
    error::{Error, Result, While},
    prerequisites, process,
};

/// One program may take this long on a slow machine whose Go caches are empty.
const BUILD_LIMIT: Duration = Duration::from_secs(45 * 60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(5 * 60);
const NO_SYMBOLS: &str = "-s -w";

/// A Go module below `e2e/tools`, and what is built from it.
struct Module {
    name: &'static str,
    /// Packages by the name of their program. `.` is the module's own.
    programs: &'static [(&'static str, &'static str)],
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Static without cgo.
    Go,
    /// As [`Kind::Go`], and told its version: without one kubectl and helm refuse to talk, and feature emulation fails.
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
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("helm", "helm.sh/helm/v4/cmd/helm"),
        ],
    },
    Module {
        name: "node",
        kind: Kind::Go,
        programs: &[
            (
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
            ),
            (
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
            (
                "host-local",
                "github.com/containernetworking/plugins/plugins/ipam/host-local",
            ),
            (
                "loopback",
                "github.com/containernetworking/plugins/plugins/main/loopback",
            ),
            (
                "ptp",
                "github.com/containernetworking/plugins/plugins/main/ptp",
            ),
        ],
    },
    Module {
        name: "coredns",
        kind: Kind::Go,
        programs: &[("coredns", ".")],
    },
    Module {
        name: "runc",
        kind: Kind::Runc,
        programs: &[("runc", "github.com/opencontainers/runc")],
    },
    Module {
        name: "pause",
        kind: Kind::C,
        programs: &[("pause", "pause.c")],
    },
];

/// The built programs.
#[derive(Debug, Clone)]
pub struct Tools {
    directories: Vec<PathBuf>,
}

impl Tools {
    /// What the cache has, if it has all.
    pub fn built() -> Option<Self> {
        let directories = directories(&sources()).ok()?;
        let complete = directories.iter().all(|directory| directory.exists());
        complete.then_some(Self { directories })
    }

    /// Builds what the cache lacks and says on standard error what it builds; with everything there it takes milliseconds.
    ///
    /// # Errors
    /// When the machine lacks what a build needs, or a build fails.
    pub fn build() -> Result<Self> {
        let sources = sources();
        let directories = directories(&sources)?;
        let missing = || {
            MODULES
                .iter()
                .zip(&directories)
                .filter(|(_, directory)| !directory.exists())
        };
        if missing().next().is_some() {
            prerequisites::to_build(&go_version(&sources)?)?;
            let root = root()?;
            let _lock = lock(&root)?;
            // Another process may have built some of them while this one waited.
            let total = missing().map(|(module, _)| module.programs.len()).sum();
            let mut progress = Progress { done: 0, total };
            for (module, directory) in missing() {
                module.build(&sources.join(module.name), &root, directory, &mut progress)?;
            }
        }
        Ok(Self { directories })
    }

    /// Where a program lies; its bare name if it is none of ours.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directories
            .iter()
            .map(|directory| directory.join(name))
            .find(|path| path.exists())
            .unwrap_or(name.into())
    }

    /// The directory of the node's programs, the CNI plugins among them.
    pub fn cni(&self) -> PathBuf {
        self.program("ptp")
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default()
    }

    /// `PATH` with our programs first.
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

fn root() -> Result<PathBuf> {
    let root = cache::directory()?.join("tools");
    fs::create_dir_all(&root).while_(|| format!("creating {}", root.display()))?;
    Ok(root)
}

/// Where each module's programs lie.
fn directories(sources: &Path) -> Result<Vec<PathBuf>> {
    let root = root()?;
    let target = |module: &Module| -> Result<PathBuf> {
        Ok(root.join(format!("{}-{}", module.name, module.key(sources)?)))
    };
    MODULES.iter().map(target).collect()
}

impl Module {
    /// Names everything that decides what is built: the module's files, the packages and the flags.
    fn key(&self, sources: &Path) -> Result<String> {
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
        hash.update(format!(
            "{:?} {}",
            self.programs,
            self.link_flags(&directory)?
        ));
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
        progress: &mut Progress,
    ) -> Result<()> {
        let unfinished = tempfile::Builder::new()
            .prefix(".building-")
            .tempdir_in(root)
            .while_(|| format!("creating a directory in {}", root.display()))?;
        let flags = self.link_flags(sources)?;
        for (name, package) in self.programs {
            let mut command = match self.kind {
                Kind::C => {
                    let mut command = Command::new("gcc");
                    command
                        .args(["-Os", "-static", "-s", "-Wall", "-o"])
                        .arg(unfinished.path().join(name))
                        .arg(package);
                    command
                }
                Kind::Go | Kind::Kubernetes | Kind::Runc => {
                    let mut command = Command::new("go");
                    command.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags]);
                    command.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0");
                    if self.kind == Kind::Runc {
                        link_seccomp(&mut command, root)?;
                        command.args(["-tags", "seccomp netgo osusergo"]);
                    }
                    command
                        .arg("-o")
                        .arg(unfinished.path().join(name))
                        .arg(package);
                    command
                }
            };
            progress.run(name, command.current_dir(sources))?;
        }
        let finished = unfinished.keep();
        fs::rename(&finished, target)
            .while_(|| format!("moving {} to {}", finished.display(), target.display()))
    }

    fn link_flags(&self, sources: &Path) -> Result<String> {
        Ok(match self.kind {
            Kind::Go => NO_SYMBOLS.into(),
            Kind::Runc => format!("{NO_SYMBOLS} -extldflags -static"),
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
                format!("{NO_SYMBOLS}{}", set.concat())
            }
        })
    }
}

/// Says which program of how many is being built, and since when.
struct Progress {
    done: usize,
    total: usize,
}

impl Progress {
    fn run(&mut self, name: &str, command: &mut Command) -> Result<()> {
        self.done += 1;
        let label = format!("tools: building {} of {}: {name}", self.done, self.total);
        let terminal = std::io::stderr().is_terminal();
        if !terminal {
            eprintln!("{label}");
        }
        let mut shown = None;
        let (status, output) = process::run_any(command, BUILD_LIMIT, |elapsed| {
            if terminal && shown != Some(elapsed.as_secs()) {
                shown = Some(elapsed.as_secs());
                eprint!("\r\x1b[K{label} ({} s)", elapsed.as_secs());
                std::io::stderr().flush().ok();
            }
        })?;
        if terminal {
            eprintln!();
        }
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed {
            what: process::words(command),
            status: status.to_string(),
            tail: output.stderr,
        })
    }
}

/// The newest Go that one of the modules asks for.
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

/// The version that stands behind `name` in a `go.mod`.
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

/// One build at a time; a second one waits, and then finds what the first has built.
fn lock(root: &Path) -> Result<fs::File> {
    let path = root.join(".lock");
    let file = fs::File::create(&path).while_(|| format!("opening {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("tools: another process is building; waiting for it");
        file.lock()
            .while_(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

/// Lets cgo find a static libseccomp: the system's, else the one in two Debian packages, which are unpacked and not installed.
fn link_seccomp(command: &mut Command, root: &Path) -> Result<()> {
    command.env("CGO_ENABLED", "1");
    let mut installed = Command::new("pkg-config");
    installed.args(["--variable=libdir", "libseccomp"]);
    if process::run(&mut installed, DOWNLOAD_LIMIT).is_ok_and(|output| {
        Path::new(output.stdout.trim())
            .join("libseccomp.a")
            .exists()
    }) {
        return Ok(());
    }
    let unpacked = root.join("libseccomp");
    if !unpacked.exists() {
        unpack_seccomp(root, &unpacked)?;
    }
    let usr = unpacked.join("usr");
    let library = fs::read_dir(usr.join("lib"))
        .while_(|| format!("listing {}", usr.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|directory| directory.join("libseccomp.a").exists())
        .ok_or_else(|| Error::Malformed {
            what: "package libseccomp-dev".into(),
            why: "holds no libseccomp.a".into(),
        })?;
    command
        .env(
            "CGO_CFLAGS",
            format!("-O2 -I{}", usr.join("include").display()),
        )
        .env("CGO_LDFLAGS", format!("-L{}", library.display()))
        .env("PKG_CONFIG_PATH", library.join("pkgconfig"))
        .env("PKG_CONFIG_SYSROOT_DIR", &unpacked);
    Ok(())
}

fn unpack_seccomp(root: &Path, target: &Path) -> Result<()> {
    let temporary = tempfile::tempdir_in(root)
        .while_(|| format!("creating a directory in {}", root.display()))?;
    let debs = temporary.path().join("debs");
    let files = temporary.path().join("files");
    fs::create_dir_all(&debs).while_(|| format!("creating {}", debs.display()))?;
    let mut download = Command::new("apt-get");
    download
        .args(["download", "-q", "libseccomp-dev", "libseccomp2"])
        .current_dir(&debs);
    process::run(&mut download, DOWNLOAD_LIMIT).map_err(|error| {
        Error::Prerequisites(format!("- a static libseccomp: apt-get install libseccomp-dev\n(downloading it failed: {error})"))
    })?;
    for deb in fs::read_dir(&debs).while_(|| format!("listing {}", debs.display()))? {
        let deb = deb.while_(|| format!("listing {}", debs.display()))?.path();
        process::run(
            Command::new("dpkg").arg("-x").arg(deb).arg(&files),
            DOWNLOAD_LIMIT,
        )?;
    }
    fs::rename(&files, target)
        .while_(|| format!("moving {} to {}", files.display(), target.display()))
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
            for (_, package) in module
                .programs
                .iter()
                .filter(|(_, package)| *package != ".")
            {
                assert!(
                    file.lines()
                        .any(|line| line.trim().trim_start_matches("tool ") == *package),
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
        let key = kubernetes.key(copy.path()).unwrap();
        assert_eq!(key, kubernetes.key(&sources()).unwrap());
        fs::write(directory.join("go.sum"), "").unwrap();
        assert_ne!(key, kubernetes.key(copy.path()).unwrap());
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
