//! What the machine must have: root, Debian packages and Go. [`crate::setup()`] installs the
//! packages; an error asks for the rest.

use std::{env, path::Path, process::Command, time::Duration};

use crate::{
    error::{Error, Result},
    process,
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
    let updated = process::run(&mut apt_get(&["update"]), INSTALL_LIMIT);
    let mut command = apt_get(&["install", "--yes", "--no-install-recommends"]);
    process::run(command.args(packages), INSTALL_LIMIT)
        .map_err(|error| match updated {
            Ok(_) => by_hand(&error),
            Err(update) => by_hand(&format!("{error}\n{update}")),
        })
        .map(drop)
}

/// An `apt-get` that asks no questions and waits for another one to end.
fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "DPkg::Lock::Timeout=300"])
        .args(args)
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

/// The value of `GOTOOLCHAIN` with which the installed Go builds modules that require this version
/// of Go.
///
/// # Errors
/// [`Error::Prerequisites`] when Go is missing, or older than the first that fetches another.
pub(crate) fn go_toolchain(required: &str) -> Result<String> {
    let mut command = Command::new("go");
    // In this directory there is no go.mod for which it would fetch another version.
    command
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .env("PATH", path())
        .current_dir("/");
    let installed = process::run(&mut command, COMMAND_LIMIT)
        .ok()
        .map(|output| output.stdout);
    choose_toolchain(installed.as_deref(), required)
}

/// Lets Go fetch this toolchain unless it has it.
pub(crate) fn fetch_go(toolchain: &str, module: &Path) -> Result<()> {
    let mut command = Command::new("go");
    command
        .arg("version")
        .env("GOTOOLCHAIN", toolchain)
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

fn choose_toolchain(installed: Option<&str>, required: &str) -> Result<String> {
    let problem = match installed.map(version) {
        // A newer one is named explicitly. Otherwise Go would fetch one for each version that a
        // module requires.
        Some(installed) if installed >= version(required) => return Ok(INSTALLED_GO.into()),
        Some(installed) if installed >= version(OLDEST_GO) => {
            return Ok(format!("go{required}+auto"));
        }
        Some(_) => format!("found {}", installed.unwrap_or_default().trim()),
        None => "found none".into(),
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
        let choose = |installed: &str| choose_toolchain(Some(installed), "1.26.6").unwrap();
        for old in ["go1.21.0\n", "go1.24.4", "go1.26.5"] {
            assert_eq!(choose(old), "go1.26.6+auto", "{old}");
        }
        for new in ["go1.26.6\n", "go1.26.8", "go1.27rc1"] {
            assert_eq!(choose(new), "auto", "{new}");
        }
    }

    #[test]
    fn a_go_that_fetches_none_is_refused_with_the_place_to_get_one() {
        for (installed, found) in [
            (Some("go1.19.8\n"), "found go1.19.8)"),
            (Some("go1.20.14"), "found go1.20.14)"),
            (None, "found none)"),
        ] {
            let error = choose_toolchain(installed, "1.26.6")
                .unwrap_err()
                .to_string();
            for words in [found, "- Go 1.21 or newer", "https://go.dev/dl"] {
                assert!(error.contains(words), "{error}");
            }
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
