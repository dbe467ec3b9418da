//! The cgroups of a cluster: one tree a cluster, one branch a node, in every hierarchy that the machine has.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    error::{Error, Result, While},
    process::Identity,
};

/// A cgroup: its directory in each hierarchy. Version 1 has many, version 2 one.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    directories: Vec<PathBuf>,
    unified: bool,
}

impl Cgroup {
    /// The tree of the cluster called `cluster`, below the cgroup of this process; in version 2 below the root, because a cgroup that
    /// holds processes, as ours does, cannot hand controllers down.
    pub(crate) fn of_cluster(cluster: &str) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).while_(|| format!("reading {path}"));
        let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let mounts = mounts.lines().filter_map(Mount::parse).collect::<Vec<_>>();
        let name = format!("bursar-{cluster}");
        let mut directories = Vec::new();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                continue;
            }
            let mount = mounts
                .iter()
                .find(|mount| mount.has(controllers))
                .ok_or_else(|| Error::Malformed {
                    what: "cgroups of this machine".into(),
                    why: format!(
                        "hierarchy `{controllers}` is not mounted; mount it below /sys/fs/cgroup"
                    ),
                })?;
            directories.push(mount.at(path).join(&name));
        }
        let unified = directories.is_empty();
        if unified {
            directories.push(Path::new("/sys/fs/cgroup").join(&name));
        }
        Ok(Self {
            directories,
            unified,
        })
    }

    /// A branch of it.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self {
            directories: self
                .directories
                .iter()
                .map(|directory| directory.join(name))
                .collect(),
            unified: self.unified,
        }
    }

    /// Makes it where it is missing.
    pub(crate) fn create(&self) -> Result<()> {
        for directory in &self.directories {
            let creating = || format!("creating cgroup {}", directory.display());
            if self.unified {
                hand_down(directory.parent().unwrap_or(directory)).while_(creating)?;
            }
            fs::create_dir_all(directory).while_(creating)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(directory, file).while_(creating)?;
            }
        }
        Ok(())
    }

    /// The files to which a process writes `0` to move into it.
    pub(crate) fn entrances(&self) -> Vec<PathBuf> {
        self.directories
            .iter()
            .map(|directory| directory.join("cgroup.procs"))
            .collect()
    }

    pub(crate) fn exists(&self) -> bool {
        self.directories.iter().any(|directory| directory.exists())
    }

    /// Ends the processes of the cgroups below this one whose name contains `name`, and says how many.
    pub(crate) fn kill_below(&self, name: &str) -> usize {
        let mut pids = Vec::new();
        for directory in &self.directories {
            for below in tree(directory)
                .iter()
                .filter(|path| path.to_string_lossy().contains(name))
            {
                pids.extend(processes(below));
            }
        }
        pids.sort_unstable();
        pids.dedup();

        pids.iter()
            .filter_map(|&pid| Identity::of(pid))
            .map(Identity::kill)
            .count()
    }

    /// Ends every process in it and removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        // A process that was killed leaves its cgroup a moment later.
        for _ in 0..100 {
            self.kill_below("");
            let left = self
                .directories
                .iter()
                .flat_map(|directory| tree(directory))
                .filter(|directory| matches!(fs::remove_dir(directory), Err(error) if error.kind() != io::ErrorKind::NotFound))
                .count();
            if left == 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(Error::Malformed {
            what: "cgroups of an earlier cluster".into(),
            why: format!("cannot be removed: {:?}", self.directories),
        })
    }
}

/// Version 2: lets the children of `directory` use its controllers. Some cannot be handed down; those are not needed.
fn hand_down(directory: &Path) -> io::Result<()> {
    for controller in fs::read_to_string(directory.join("cgroup.controllers"))?.split_whitespace() {
        fs::write(
            directory.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )
        .ok();
    }
    Ok(())
}

/// Version 1: a new cpuset is empty and takes no process.
fn inherit(directory: &Path, file: &str) -> io::Result<()> {
    let (own, parent) = (
        directory.join(file),
        directory.parent().unwrap_or(directory).join(file),
    );
    if !own.exists() || !fs::read_to_string(&own)?.trim().is_empty() {
        return Ok(());
    }
    let inherited = fs::read_to_string(&parent)?;
    if inherited.trim().is_empty() {
        inherit(directory.parent().unwrap_or(directory), file)?;
    }
    fs::write(own, fs::read_to_string(parent)?)
}

/// A directory and all below it, the deepest first, so that they can be removed in this order.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|entry| tree(&entry.path()))
        .collect::<Vec<_>>();
    if directory.exists() {
        all.push(directory.to_path_buf());
    }
    all
}

fn processes(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // Zero is a process of a PID namespace that this one does not see.
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|&pid| pid > 0)
        .collect()
}

/// A cgroup version 1 hierarchy of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    options: Vec<&'a str>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut filesystem = filesystem.split(' ');
        let (root, point) = (mount.next()?, mount.next()?);
        (filesystem.next()? == "cgroup").then_some(())?;
        Some(Self {
            root,
            point,
            options: filesystem.nth(1)?.split(',').collect(),
        })
    }

    fn has(&self, controllers: &str) -> bool {
        controllers
            .split(',')
            .all(|controller| self.options.contains(&controller))
    }

    /// Where the cgroup that `/proc/self/cgroup` calls `path` lies.
    fn at(&self, path: &str) -> PathBuf {
        let below = path
            .strip_prefix(self.root)
            .unwrap_or(path)
            .trim_start_matches('/');
        Path::new(self.point).join(below)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::Mount;

    #[test]
    fn a_cgroup_is_found_below_the_mount_that_shows_part_of_its_hierarchy() {
        let line = "36 32 0:29 /docker/1 /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory";
        let mount = Mount::parse(line).unwrap();
        assert!(mount.has("memory") && !mount.has("cpu"));
        assert_eq!(
            mount.at("/docker/1/job"),
            PathBuf::from("/sys/fs/cgroup/memory/job")
        );
    }

    #[test]
    fn other_filesystems_are_no_hierarchies() {
        assert!(
            Mount::parse("30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw").is_none()
        );
    }
}
