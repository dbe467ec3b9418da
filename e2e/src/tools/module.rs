//! A Go module below `e2e/tools`: where its programs lie in the cache, and how they are built.

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
/// How long Go may take to say where a module's source is, and to fetch it if that is not in its cache any more.
const SOURCE_LIMIT: Duration = Duration::from_secs(300);
/// Begins the name of a directory whose programs are not all built.
const UNFINISHED: &str = ".building-";
const STRIP_SYMBOLS: &str = "-s -w";

/// A Go module below `e2e/tools`, and what is built from it.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: &'static str,
    pub(crate) programs: &'static [Program],
    pub(crate) kind: Kind,
    /// A directory of the source of another module, copied beside the programs: the module's path, and
    /// the directory's within it.
    pub(crate) manifests: Option<(&'static str, &'static str)>,
}

/// A program and its package; `.` is the module's own.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    /// Seconds of its build on two cores, after the programs before it in the list and with Go
    /// caches that were empty at first.
    pub(crate) seconds: u32,
}

impl Program {
    pub(crate) const fn new(name: &'static str, package: &'static str, seconds: u32) -> Self {
        Self {
            name,
            package,
            seconds,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
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

/// The directory of the modules.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools")
}

/// The directory of each module's programs, which is there once they are built.
pub(crate) fn directories(modules: &[Module]) -> Result<Vec<PathBuf>> {
    let (root, sources) = (cache::tools_directory()?, sources());
    let target = |module: &Module| -> Result<PathBuf> {
        Ok(root.join(format!("{}-{}", module.name, module.cache_key(&sources)?)))
    };
    modules.iter().map(target).collect()
}

/// For each program that the cache lacks, how long its build takes on two cores, in seconds.
pub(crate) fn missing(modules: &[Module]) -> Result<Vec<u32>> {
    let directories = directories(modules)?;
    let missing = modules.iter().zip(&directories);
    Ok(missing
        .filter(|(_, directory)| !directory.exists())
        .flat_map(|(module, _)| module.programs)
        .map(|program| program.seconds)
        .collect())
}

/// Builds the programs that the cache lacks, and says on standard error how far it is. The caller holds the lock of the [`cache`].
pub(crate) fn build(modules: &[Module]) -> Result<Vec<PathBuf>> {
    let directories = directories(modules)?;
    let missing: Vec<(&Module, &PathBuf)> = modules
        .iter()
        .zip(&directories)
        .filter(|(_, directory)| !directory.exists())
        .collect();
    if !missing.is_empty() {
        prerequisites::require_packages(&prerequisites::missing_packages(BUILD_PACKAGES))?;
        let (root, sources) = (cache::tools_directory()?, sources());
        remove_unfinished(&root)?;
        let go = GoToolchain::choose(modules, &sources)?;
        let mut progress = Progress::new(self::missing(modules)?);
        for (module, directory) in missing {
            let sources = sources.join(module.name);
            module.build(&sources, &root, directory, &go, &mut progress)?;
        }
        progress.end();
    }
    Ok(directories)
}

impl Module {
    /// A hash of everything that decides what is built: the module's files, the packages and the
    /// flags.
    pub(super) fn cache_key(&self, sources: &Path) -> Result<String> {
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
        if let Some(manifests) = self.manifests {
            hash.update(format!("{manifests:?}"));
        }
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
        if let Some((module, path)) = self.manifests {
            let directory = go.source(module, sources)?.join(path);
            let name = directory.file_name().unwrap_or_default();
            copy_directory(&directory, &unfinished.path().join(name))?;
        }
        let finished = unfinished.keep();
        fs::rename(&finished, target)
            .while_(|| format!("moving {} to {}", finished.display(), target.display()))
    }

    pub(super) fn link_flags(&self, sources: &Path) -> Result<String> {
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
    fn choose(modules: &[Module], sources: &Path) -> Result<Self> {
        let required = go_version(modules)?;
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

    /// The directory of the source of a module that the one in `sources` requires.
    fn source(&self, module: &str, sources: &Path) -> Result<PathBuf> {
        let mut command = Command::new(&self.go.program);
        command
            .args(["mod", "download", "-json", module])
            .env("GOTOOLCHAIN", &self.go.toolchain)
            .env("PATH", prerequisites::path())
            .current_dir(sources);
        let output = process::run(&mut command, SOURCE_LIMIT)?.stdout;
        let answer: serde_json::Value = serde_json::from_str(&output).unwrap_or_default();
        let directory = answer["Dir"].as_str().map(PathBuf::from);
        directory.ok_or_else(|| Error::Malformed {
            what: format!("go mod download -json {module}"),
            why: format!("names no directory: {output}"),
        })
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

/// Copies a directory with what is in it. The copies can be removed, though Go's own are read-only.
fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let copying = || format!("copying {} to {}", from.display(), to.display());
    fs::create_dir(to).while_(copying)?;
    for entry in fs::read_dir(from).while_(copying)? {
        let entry = entry.while_(copying)?;
        let target = to.join(entry.file_name());
        if entry.file_type().while_(copying)?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).while_(copying)?;
        }
    }
    Ok(())
}

/// The newest Go version that one of the modules requires.
pub(crate) fn go_version(modules: &[Module]) -> Result<String> {
    let sources = sources();
    let mut newest = (Vec::new(), String::new());
    for module in modules.iter().filter(|module| module.kind != Kind::C) {
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
