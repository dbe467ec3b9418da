//! Debian packages that are unpacked into the cache. What belongs to them is laid over `/usr` and `/etc` in a mount namespace of
//! each program's own, so that it finds its files where they would be, and nobody else does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    cache,
    error::{Result, While},
    prerequisites, process,
};

/// For a slow mirror.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(10 * 60);
/// A machine that is busy with other builds and tests has stopped one package for more than a minute.
const COMMAND_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Begins the name of a directory that is not complete.
const UNFINISHED: &str = ".unpacking-";
/// Begins the lines of packages in what `apt-get --simulate install` writes.
const TO_INSTALL: &str = "Inst ";
/// With it apt takes the machine for one without any package.
const NOTHING_INSTALLED: [&str; 2] = ["-o", "Dir::State::status=/dev/null"];
/// Directories of packages that are below `/usr` on the machine.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// The directories that programs find the packages' files in.
const OVERLAID: [&str; 2] = ["usr", "etc"];

/// A shell script that lays a directory over the machine's, and then becomes the program.
const ENTER_OVERLAY: &str = r#"root=$1; shift
for directory in usr etc; do mount -t overlay overlay -o "ro,lowerdir=$root/$directory:/$directory" "/$directory" || exit; done
exec "$@""#;

/// Files in the cache, as they would be below `/`.
#[derive(Debug)]
pub(crate) struct Unpacked {
    root: PathBuf,
}

/// Which dependencies of packages are unpacked with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dependencies {
    /// Those that are not installed: the others are found on the machine.
    NotInstalled,
    /// All of them, down to the C library.
    All,
}

impl Unpacked {
    /// Makes `FOLDER/NAME` in the cache unless it is there: `fill` gets its directory, which is empty.
    pub(crate) fn make(
        folder: &str,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let folder = make_directory(&cache::directory()?, folder)?;
        let root = folder.join(name);
        if root.exists() {
            return Ok(Self { root });
        }
        let _lock = cache::lock()?;
        // Another process may have done it while this one waited.
        if !root.exists() {
            let unfinished = folder.join(format!("{UNFINISHED}{name}"));
            if unfinished.exists() {
                fs::remove_dir_all(&unfinished)
                    .while_(|| format!("removing {}", unfinished.display()))?;
            }
            make_directory(&folder, &format!("{UNFINISHED}{name}"))?;
            fill(&unfinished)?;
            fs::rename(&unfinished, &root).while_(|| format!("finishing {}", root.display()))?;
        }
        Ok(Self { root })
    }

    /// Unpacks the Debian packages of a server, and those of their dependencies that are not installed.
    pub(crate) fn packages(name: &str, packages: &[&str]) -> Result<Self> {
        Self::make("servers", name, |root| {
            unpack(packages, Dependencies::NotInstalled, root)
        })
    }

    /// Unpacks Debian packages with all that they depend on, so that containers need nothing else below `/usr`; then `finish` adds
    /// what an installation would have.
    pub(crate) fn system(
        folder: &str,
        name: &str,
        packages: &[&str],
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        Self::make(folder, name, |root| {
            unpack(packages, Dependencies::All, root)?;
            finish(root)
        })
    }

    /// The directory with the files.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A command that finds the files where they would be if they were installed. All processes that it starts end with it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
            ])
            .args(["sh", "-c", ENTER_OVERLAY, "sh"])
            .arg(&self.root)
            .arg(program)
            .env("PATH", prerequisites::path());
        command
    }
}

/// Makes a directory in `parent`.
pub(crate) fn make_directory(parent: &Path, name: &str) -> Result<PathBuf> {
    let directory = parent.join(name);
    fs::create_dir_all(&directory).while_(|| format!("creating {}", directory.display()))?;
    Ok(directory)
}

/// Downloads packages with their dependencies, and unpacks them below `root`.
fn unpack(packages: &[&str], dependencies: Dependencies, root: &Path) -> Result<()> {
    eprintln!(
        "setup: unpacking Debian's {} into the cache",
        packages.join(", ")
    );
    let archives = make_directory(root, "archives")?;
    if let Err(error) = download(packages, dependencies, &archives) {
        // a fresh image has no package lists, and an old one names packages that are gone
        prerequisites::update_package_lists().map_err(|_| error)?;
        download(packages, dependencies, &archives)?;
    }
    for directory in OVERLAID {
        make_directory(root, directory)?;
    }
    let entries = fs::read_dir(&archives).while_(|| format!("listing {}", archives.display()))?;
    for archive in entries {
        let archive = archive
            .while_(|| format!("listing {}", archives.display()))?
            .path();
        let mut extract = Command::new("dpkg-deb");
        extract.arg("--extract").args([&archive, root]);
        process::run(&mut extract, COMMAND_LIMIT)?;
    }
    for directory in MERGED
        .iter()
        .filter(|directory| root.join(directory).exists())
    {
        let merged = make_directory(&root.join("usr"), directory)?;
        let mut copy = Command::new("cp");
        copy.arg("--archive")
            .args([&root.join(directory).join("."), &merged]);
        process::run(&mut copy, COMMAND_LIMIT)?;
    }
    fs::remove_dir_all(&archives).while_(|| format!("removing {}", archives.display()))
}

fn download(packages: &[&str], dependencies: Dependencies, directory: &Path) -> Result<()> {
    let installed: &[&str] = match dependencies {
        Dependencies::NotInstalled => &[],
        Dependencies::All => &NOTHING_INSTALLED,
    };
    let simulate = ["--simulate", "--no-install-recommends", "install"];
    let mut simulate = prerequisites::apt_get(&[installed, &simulate, packages].concat());
    let output = process::run(&mut simulate, COMMAND_LIMIT)?;
    let names = to_install(&output.stdout);
    if names.is_empty() {
        // all of it is installed
        return Ok(());
    }
    let as_root = ["-o", "APT::Sandbox::User=root", "download"];
    let mut download = prerequisites::apt_get(&[installed, &as_root].concat());
    download.args(names).current_dir(directory);
    process::run(&mut download, DOWNLOAD_LIMIT).map(drop)
}

/// The names of packages in the output of a simulated installation.
fn to_install(output: &str) -> Vec<&str> {
    let lines = output
        .lines()
        .filter_map(|line| line.strip_prefix(TO_INSTALL));
    lines
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_of_an_installation_are_those_that_apt_would_install() {
        let output = "NOTE: This is only a simulation!\n\
            Inst libjemalloc2 (5.3.0-1 Debian:12.11/oldstable [amd64])\n\
            Inst redis-server [1.0] (5:7.0.15-1 Debian-Security:12 [amd64])\n\
            Conf redis-server (5:7.0.15-1 Debian-Security:12 [amd64])\n";
        assert_eq!(to_install(output), ["libjemalloc2", "redis-server"]);
    }
}
