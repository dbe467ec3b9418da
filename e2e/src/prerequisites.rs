//! What the machine must have: root, Debian packages and Go. [`crate::setup()`] installs the
//! packages; an error asks for the rest.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    interrupt, process,
};

/// A Debian package, and a file whose presence shows that it is installed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    name: &'static str,
    brings: InstalledFile,
}

#[derive(Debug, Clone, Copy)]
enum InstalledFile {
    /// A program in `PATH`.
    Program(&'static str),
    /// A library that the C compiler finds.
    Library(&'static str),
}

impl Package {
    const fn program(name: &'static str, program: &'static str) -> Self {
        Self {
            name,
            brings: InstalledFile::Program(program),
        }
    }

    const fn library(name: &'static str, library: &'static str) -> Self {
        Self {
            name,
            brings: InstalledFile::Library(library),
        }
    }
}

/// The packages that booting a cluster needs.
pub(crate) const BOOT_PACKAGES: &[Package] = &[
    Package::program("bash", "bash"),
    Package::program("conntrack", "conntrack"),
    Package::program("iproute2", "ip"),
    Package::program("mount", "mount"),
    Package::program("nftables", "nft"),
    Package::program("openssl", "openssl"),
    Package::program("util-linux", "nsenter"),
    Package::program("util-linux", "setsid"),
    Package::program("util-linux", "unshare"),
];
/// The packages that building the cluster's programs needs, in addition to Go.
pub(crate) const BUILD_PACKAGES: &[Package] = &[
    Package::program("gcc", "gcc"),
    Package::library("libc6-dev", "libc.a"),
    Package::library("libseccomp-dev", "libseccomp.a"),
    Package::program("pkg-config", "pkg-config"),
];

/// The first Go version that can fetch a newer one.
const OLDEST_GO: &str = "1.21";
/// The value of `GOTOOLCHAIN` with which the installed Go is used.
pub(crate) const INSTALLED_GO: &str = "auto";
/// The directories of Debian's programs, some of which are missing in the PATH of many shells.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";
/// The directory into which go.dev/doc/install unpacks Go.
const GO_PATH: &str = "/usr/local/go/bin";

/// Without the option it succeeds even if it could fetch nothing.
const UPDATE: &[&str] = &["update", "-o", "APT::Update::Error-Mode=any"];
const INSTALL: &[&str] = &["install", "--yes", "--no-install-recommends"];
/// What apt-get writes when another one holds a lock.
const LOCKED: &str = "Could not get lock";
const LOCK_LIMIT: Duration = Duration::from_secs(5 * 60);
const LOCK_RETRY: Duration = Duration::from_secs(2);

const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// For a mirror that is slow, and for another installation that has to end first.
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Go is an archive of some 70 MB.
const FETCH_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Checks that this process runs as root.
///
/// # Errors
/// [`Error::Prerequisites`] says what root is needed for.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Prerequisites(
        "- root: the test cluster makes network, mount, PID and cgroup namespaces, and Debian packages may have to be installed. \
         Run the same command as root, best on a virtual machine or a CI runner"
            .into(),
    ))
}

/// The packages that are not installed, each once.
pub(crate) fn missing_packages(packages: &[Package]) -> Vec<&'static str> {
    let mut missing: Vec<&str> = packages
        .iter()
        .filter(|package| match package.brings {
            InstalledFile::Program(program) => !has_program(program),
            InstalledFile::Library(library) => !has_library(library),
        })
        .map(|package| package.name)
        .collect();
    missing.dedup();
    missing
}

/// An error that names the packages, if there are any.
pub(crate) fn require_packages(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Prerequisites(format!(
        "- Debian packages: apt-get install {}\n(`cargo cluster setup`, run as root, installs them)",
        missing.join(" ")
    )))
}

/// Installs Debian packages.
pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    let by_hand = |why: &dyn std::fmt::Display| {
        Error::Prerequisites(format!(
            "- Debian packages: apt-get install {}\n(installing them failed: {why})",
            packages.join(" ")
        ))
    };
    if !has_program("apt-get") {
        return Err(by_hand(
            &"there is no apt-get; install what your distribution has instead",
        ));
    }
    // A fresh image may have no package lists. When one of several sources is unreachable, the
    // others may have the packages.
    let updated = run_apt_get(UPDATE);
    run_apt_get(&[INSTALL, packages].concat())
        .map_err(|error| match updated {
            Ok(_) => by_hand(&error),
            Err(update) => by_hand(&format!("{error}\n{update}")),
        })
        .map(drop)
}

/// Reads which packages there are, from all sources that can be reached.
pub(crate) fn update_package_lists() -> Result<()> {
    run_apt_get(UPDATE).map(drop)
}

fn run_apt_get(args: &[&str]) -> Result<process::Output> {
    let began = Instant::now();
    retry_while_locked(
        || process::run(&mut apt_get(args), INSTALL_LIMIT),
        || {
            let is_in_time = began.elapsed() < LOCK_LIMIT;
            is_in_time && interrupt::sleep(LOCK_RETRY).is_ok()
        },
    )
}

/// Runs apt-get again while another one holds a lock, as apt-daily does after a machine's first
/// boot. apt-get waits for dpkg's lock by itself, and not for those of its lists and archives.
/// `wait` returns whether to go on.
fn retry_while_locked(
    mut run: impl FnMut() -> Result<process::Output>,
    mut wait: impl FnMut() -> bool,
) -> Result<process::Output> {
    loop {
        match run() {
            Err(Error::Failed { tail, .. }) if tail.contains(LOCKED) && wait() => {}
            ended => return ended,
        }
    }
}

/// An `apt-get` that asks no questions, writes English, and waits for another one to end.
pub(crate) fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_SUSPEND", "1")
        .env("PATH", path());
    command
}

/// `PATH` for programs that the harness starts: that of this process, then the system's
/// directories, then Go's.
pub(crate) fn path() -> String {
    let own = env::var("PATH").unwrap_or_default();
    format!("{own}:{SYSTEM_PATH}:{GO_PATH}")
}

fn has_program(program: &str) -> bool {
    env::split_paths(&path()).any(|directory| directory.join(program).is_file())
}

fn has_library(library: &str) -> bool {
    let mut command = Command::new("gcc");
    command
        .arg(format!("-print-file-name={library}"))
        .env("PATH", path());
    // gcc answers with the bare name when it finds none.
    process::run(&mut command, COMMAND_LIMIT)
        .is_ok_and(|output| output.stdout.trim().starts_with('/'))
}

/// An installed Go, and which version it builds with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Go {
    /// The `go` program.
    pub(crate) program: PathBuf,
    /// The value of `GOTOOLCHAIN` with which it builds modules that require a version.
    pub(crate) toolchain: String,
}

/// A `go` program, and the version that it says it has, or nothing if it does not start.
#[derive(Debug)]
struct InstalledGo {
    program: PathBuf,
    version: Option<String>,
}

/// The newest installed Go. The one of a distribution may be older than one that was unpacked into
/// a later directory of PATH.
///
/// # Errors
/// [`Error::Prerequisites`] when Go is missing, or older than the first that fetches another.
pub(crate) fn find_go(required: &str) -> Result<Go> {
    choose_go(installed_go(&path()), required)
}

/// Every `go` program in the directories of `path`.
fn installed_go(path: &str) -> Vec<InstalledGo> {
    let mut found: Vec<InstalledGo> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for directory in env::split_paths(path) {
        let program = directory.join("go");
        let Ok(resolved) = program.canonicalize() else {
            continue;
        };
        let is_program = resolved
            .metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
        if !is_program || seen.contains(&resolved) {
            continue;
        }
        seen.push(resolved);
        let mut command = Command::new(&program);
        // In this directory there is no go.mod for which it would fetch another version.
        command
            .args(["env", "GOVERSION"])
            .env("GOTOOLCHAIN", "local")
            .env("PATH", path)
            .current_dir("/");
        let version = process::run(&mut command, COMMAND_LIMIT)
            .ok()
            .map(|output| output.stdout.trim().to_owned());
        found.push(InstalledGo { program, version });
    }
    found
}

/// Lets Go fetch its toolchain unless it has it.
pub(crate) fn fetch_go(go: &Go, module: &Path) -> Result<()> {
    let mut command = Command::new(&go.program);
    command
        .arg("version")
        .env("GOTOOLCHAIN", &go.toolchain)
        .env("PATH", path())
        .current_dir(module);
    process::run(&mut command, FETCH_LIMIT)
        .map_err(|error| {
            Error::Prerequisites(format!(
                "- Go: the installed one could not fetch the one that is needed: {error}\n  {}",
                where_to_get_go()
            ))
        })
        .map(drop)
}

fn choose_go(installed: Vec<InstalledGo>, required: &str) -> Result<Go> {
    let number = |go: &InstalledGo| go.version.as_deref().map(version);
    // of equal ones the first of PATH
    let newest = installed.iter().rev().max_by_key(|go| number(go));
    if let Some((go, number)) = newest.and_then(|go| Some((go, number(go)?)))
        && number >= version(OLDEST_GO)
    {
        // A newer one is named explicitly. Otherwise Go would fetch one for each version that a
        // module requires.
        let toolchain = if number >= version(required) {
            INSTALLED_GO.into()
        } else {
            format!("go{required}+auto")
        };
        return Ok(Go {
            program: go.program.clone(),
            toolchain,
        });
    }
    let rejected: Vec<String> = installed
        .iter()
        .map(|go| {
            let version = go.version.as_deref().unwrap_or("does not start");
            format!("{version} ({})", go.program.display())
        })
        .collect();
    let problem = if rejected.is_empty() {
        "found none".to_owned()
    } else {
        format!("found {}", rejected.join(", "))
    };
    Err(Error::Prerequisites(format!(
        "- Go {OLDEST_GO} or newer ({problem}): {}",
        where_to_get_go()
    )))
}

fn where_to_get_go() -> String {
    format!(
        "install it from https://go.dev/dl, into {GO_PATH} or another directory of PATH; Debian 13 has one: apt-get install golang-go"
    )
}

/// `go1.26.8` or `1.26` as numbers; what follows a number, as in `1.27rc1`, is ignored.
fn version(text: &str) -> Vec<u32> {
    text.trim()
        .trim_start_matches("devel ")
        .trim_start_matches("go")
        .split('.')
        .map(|part| {
            part.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .unwrap_or(0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version("1.9.9") < version("1.26.0"));
        assert!(version("go1.27rc1") > version("1.26.6"));
        assert!(version("devel go1.27-0a1b2c3") > version("1.26.6"));
    }

    #[test]
    fn an_older_go_fetches_the_one_that_the_modules_ask_for() {
        let choose = |installed| {
            let found = vec![found_go("/usr/bin/go", Some(installed))];
            choose_go(found, "1.26.6").unwrap().toolchain
        };
        for old in ["go1.21.0", "go1.24.4", "go1.26.5"] {
            assert_eq!(choose(old), "go1.26.6+auto", "{old}");
        }
        for new in ["go1.26.6", "go1.26.8", "go1.27rc1"] {
            assert_eq!(choose(new), "auto", "{new}");
        }
    }

    #[test]
    fn a_go_that_fetches_none_is_refused_with_the_place_to_get_one() {
        let old = || found_go("/usr/bin/go", Some("go1.19.8"));
        for (installed, found) in [
            (vec![old()], "found go1.19.8 (/usr/bin/go))"),
            (
                vec![old(), found_go("/shim/go", None)],
                "found go1.19.8 (/usr/bin/go), does not start (/shim/go))",
            ),
            (vec![], "found none)"),
        ] {
            let error = choose_go(installed, "1.26.6").unwrap_err().to_string();
            for words in [found, "- Go 1.21 or newer", "https://go.dev/dl"] {
                assert!(error.contains(words), "{error}");
            }
        }
    }

    fn found_go(program: &str, version: Option<&str>) -> InstalledGo {
        InstalledGo {
            program: program.into(),
            version: version.map(str::to_owned),
        }
    }

    #[test]
    fn the_newest_go_of_all_directories_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let mut path = Vec::new();
        for (directory, script) in [
            ("debian", "#!/bin/sh\necho go1.19.8\n"),
            ("shim", "#!/bin/sh\nexit 1\n"),
            ("unpacked", "#!/bin/sh\necho go1.26.8\n"),
            ("other", "#!/bin/sh\necho go1.22.2\n"),
        ] {
            let directory = root.path().join(directory);
            std::fs::create_dir(&directory).unwrap();
            let program = directory.join("go");
            std::fs::write(&program, script).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.push(directory.display().to_string());
        }
        path.push(path[0].clone());
        path.push("/no/such/directory".into());
        let found = installed_go(&path.join(":"));
        assert_eq!(found.len(), 4, "{found:?}");
        let go = choose_go(found, "1.26.6").unwrap();
        assert_eq!(go.program, root.path().join("unpacked/go"));
        assert_eq!(go.toolchain, INSTALLED_GO);
    }

    #[test]
    fn apt_get_runs_again_while_a_lock_is_held_and_only_then() {
        let failed = |tail: &str| Error::Failed {
            what: "apt-get update".into(),
            status: "exit status: 100".into(),
            tail: tail.into(),
        };
        let locked = || {
            Err(failed(
                "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)",
            ))
        };
        let done = || {
            Ok(process::Output {
                stdout: String::new(),
                stderr: String::new(),
            })
        };
        for (outcomes, waits, runs, is_ok) in [
            (vec![locked(), locked(), done()], 9, 3, true),
            (
                vec![Err(failed("E: Unable to locate package x")), done()],
                9,
                1,
                false,
            ),
            (vec![locked(), locked(), locked(), done()], 2, 3, false),
        ] {
            let (mut outcomes, mut waits, mut count) = (outcomes.into_iter(), 0..waits, 0);
            let run = || {
                count += 1;
                outcomes.next().unwrap()
            };
            let ended = retry_while_locked(run, || waits.next().is_some());
            assert_eq!((count, ended.is_ok()), (runs, is_ok));
        }
    }

    #[test]
    fn only_missing_packages_are_named_and_each_once() {
        let packages = [
            Package::program("coreutils", "ls"),
            Package::program("one", "no-such-program"),
            Package::program("one", "no-other-program"),
            Package::library("libc6-dev", "libc.a"),
            Package::library("two", "libno-such-library.a"),
        ];
        assert_eq!(missing_packages(&packages), ["one", "two"]);
    }

    #[test]
    fn missing_packages_come_with_the_commands_that_install_them() {
        assert!(require_packages(&[]).is_ok());
        let error = require_packages(&["one", "two"]).unwrap_err().to_string();
        for words in ["apt-get install one two", "cargo cluster setup"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
