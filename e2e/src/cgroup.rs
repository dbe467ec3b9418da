//! The cgroups of a cluster: one tree for each cluster, one branch for each node, in every
//! hierarchy that the machine has.
//!
//! Version 1 has a hierarchy for each controller. Version 2 has one for all, and two of its rules
//! decide the order of what is done here. A cgroup has the controllers that its parent enables for
//! its children. A cgroup with processes in it cannot enable any, unless it is the root of the
//! machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, While},
    process::Identity,
};

/// The controllers that a node uses. A kubelet does not start without the first four.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "io"];
const REQUIRED: usize = 4;
const PROCS: &str = "cgroup.procs";
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";
/// The leaf for a node's own programs; those of its pods are in `kubepods`.
const NODE_LEAF: &str = "system";
/// The leaf for what a container runs in its root. Other programs that run in containers use this
/// name too.
const CONTAINER_LEAF: &str = "init";
/// While processes are moved they can start others, which have to be moved too.
const MOVES: u32 = 100;

/// A cgroup: its directory in each hierarchy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cgroup {
    directories: Vec<PathBuf>,
    /// Version 2: where the hierarchy is mounted.
    unified: Option<PathBuf>,
}

impl Cgroup {
    /// The tree of the cluster called `cluster`.
    ///
    /// In version 1 it lies below the cgroup of this process. In version 2 that cgroup has
    /// processes and cannot enable controllers, so the tree lies below the root, or below the slice
    /// of this process where systemd manages the machine.
    pub(crate) fn for_cluster(cluster: &str) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).while_(|| format!("reading {path}"));
        // As sd_booted(3) does.
        let systemd = Path::new("/run/systemd/system").is_dir();
        let (own, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        Self::locate(cluster, &own, &mounts, systemd)
    }

    /// [`Self::for_cluster`] from the contents of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    fn locate(cluster: &str, own: &str, mounts: &str, systemd: bool) -> Result<Self> {
        let mounts: Vec<Mount<'_>> = mounts.lines().filter_map(Mount::parse).collect();
        let name = format!("bursar-{cluster}");
        let not_mounted = |hierarchy: &str| Error::Malformed {
            what: "cgroups of this machine".into(),
            why: format!("{hierarchy} is not mounted; mount it below /sys/fs/cgroup"),
        };
        let mut hierarchies = Vec::new();
        let mut unified = "/";
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            if controllers.is_empty() {
                unified = path;
                continue;
            }
            hierarchies.push((controllers, path));
        }
        // A machine of version 2 may have a hierarchy of version 1 without the controllers of a
        // node, as `net_cls` or `name=systemd`. A controller is in one hierarchy only.
        let has_required = hierarchies
            .iter()
            .flat_map(|(controllers, _)| controllers.split(','))
            .any(|controller| CONTROLLERS[..REQUIRED].contains(&controller));
        if has_required {
            let directories = hierarchies
                .into_iter()
                .map(|(controllers, path)| {
                    let mount = mounts.iter().find(|mount| mount.has(controllers));
                    let mount =
                        mount.ok_or_else(|| not_mounted(&format!("hierarchy `{controllers}`")))?;
                    Ok(mount.at(path).join(&name))
                })
                .collect::<Result<_>>()?;
            return Ok(Self {
                directories,
                unified: None,
            });
        }
        let mount = mounts
            .iter()
            .find(|mount| mount.is_unified)
            .ok_or_else(|| not_mounted("version 2"))?;
        let base = if systemd { systemd_slice(unified) } else { "/" };
        Ok(Self {
            directories: vec![mount.at(base).join(&name)],
            unified: Some(PathBuf::from(mount.point)),
        })
    }

    /// The cgroup of this name below it.
    pub(crate) fn child(&self, name: &str) -> Self {
        Self {
            directories: self
                .directories
                .iter()
                .map(|directory| directory.join(name))
                .collect(),
            unified: self.unified.clone(),
        }
    }

    /// Makes it and those above it, in the hierarchies where they are missing.
    pub(crate) fn create(&self) -> Result<()> {
        self.create_in(&KernelFs)
    }

    fn create_in(&self, cgroupfs: &dyn CgroupFs) -> Result<()> {
        for directory in &self.directories {
            match &self.unified {
                Some(root) => create_unified(cgroupfs, root, directory)?,
                None => create_version_1(cgroupfs, directory)
                    .while_(|| format!("creating cgroup {}", directory.display()))?,
            }
        }
        Ok(())
    }

    /// Prepares a node's cgroup for the cgroups of its pods: moves the processes in it to a leaf
    /// and enables its controllers. Returns the cgroup in which the node's other programs are to be
    /// started. The node must have its namespaces by then.
    ///
    /// The node's start script cannot do it, because the `nsenter` that started the node is in the
    /// same cgroup, but outside the node's PID namespace.
    pub(crate) fn delegate(&self) -> Result<Self> {
        self.delegate_in(&KernelFs)
    }

    fn delegate_in(&self, cgroupfs: &dyn CgroupFs) -> Result<Self> {
        if self.unified.is_none() {
            return Ok(self.clone());
        }
        for directory in &self.directories {
            move_processes(cgroupfs, directory, NODE_LEAF)?;
            enable_controllers(cgroupfs, directory)?;
        }
        Ok(self.child(NODE_LEAF))
    }

    /// The files to which a process writes `0` to move into it.
    pub(crate) fn procs_files(&self) -> Vec<PathBuf> {
        self.directories
            .iter()
            .map(|directory| directory.join(PROCS))
            .collect()
    }

    pub(crate) fn exists(&self) -> bool {
        self.directories.iter().any(|directory| directory.exists())
    }

    /// Ends the processes of the cgroups below this one whose name contains `name`, and says how
    /// many.
    pub(crate) fn kill_matching(&self, name: &str) -> usize {
        self.kill_matching_in(&KernelFs, name)
    }

    fn kill_matching_in(&self, cgroupfs: &dyn CgroupFs, name: &str) -> usize {
        let mut pids = Vec::new();
        for directory in &self.directories {
            for below in subtree(directory)
                .iter()
                .filter(|path| path.to_string_lossy().contains(name))
            {
                pids.extend(processes(cgroupfs, below));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().filter(|&pid| cgroupfs.kill(pid)).count()
    }

    /// Ends every process in it and removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        self.remove_in(&KernelFs)
    }

    fn remove_in(&self, cgroupfs: &dyn CgroupFs) -> Result<()> {
        // A process that was killed leaves its cgroup a moment later.
        for _ in 0..100 {
            self.kill_matching_in(cgroupfs, "");
            let left = self
                .directories
                .iter()
                .flat_map(|directory| subtree(directory))
                .filter(|directory| matches!(cgroupfs.remove_dir(directory), Err(error) if error.kind() != io::ErrorKind::NotFound))
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

/// The operations on cgroup file systems. Tests have an implementation that records them.
trait CgroupFs {
    fn create_dir(&self, directory: &Path) -> io::Result<()>;
    fn remove_dir(&self, directory: &Path) -> io::Result<()>;
    fn read(&self, file: &Path) -> io::Result<String>;
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;
    /// Kills a process; `false` if there is none.
    fn kill(&self, pid: i32) -> bool;
}

/// The cgroup file systems of this machine.
struct KernelFs;

impl CgroupFs for KernelFs {
    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir(directory)
    }

    fn remove_dir(&self, directory: &Path) -> io::Result<()> {
        fs::remove_dir(directory)
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        fs::read_to_string(file)
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        fs::write(file, text)
    }

    fn kill(&self, pid: i32) -> bool {
        Identity::of(pid).map(Identity::kill).is_some()
    }
}

/// Makes a directory unless it is there.
fn create_dir_if_missing(cgroupfs: &dyn CgroupFs, directory: &Path) -> io::Result<()> {
    match cgroupfs.create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes a cgroup of version 1 and fills its cpuset, which is empty at first and then takes no
/// process.
fn create_version_1(cgroupfs: &dyn CgroupFs, directory: &Path) -> io::Result<()> {
    if let Some(parent) = directory.parent().filter(|parent| !parent.exists()) {
        create_version_1(cgroupfs, parent)?;
    }
    create_dir_if_missing(cgroupfs, directory)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(cgroupfs, directory, file)?;
    }
    Ok(())
}

/// Version 1: fills a cpuset's file from that of the cgroup above it.
fn inherit(cgroupfs: &dyn CgroupFs, directory: &Path, file: &str) -> io::Result<()> {
    let (own, above) = (
        directory.join(file),
        directory.parent().unwrap_or(directory),
    );
    if !own.exists() || !cgroupfs.read(&own)?.trim().is_empty() {
        return Ok(());
    }
    let from = above.join(file);
    if cgroupfs.read(&from)?.trim().is_empty() {
        inherit(cgroupfs, above, file)?;
    }
    cgroupfs.write(&own, &cgroupfs.read(&from)?)
}

/// Makes a cgroup of version 2, and first enables the controllers in each cgroup between `root`,
/// where the hierarchy is mounted, and `directory`.
fn create_unified(cgroupfs: &dyn CgroupFs, root: &Path, directory: &Path) -> Result<()> {
    let mut above: Vec<&Path> = directory
        .ancestors()
        .skip(1)
        .take_while(|above| above.starts_with(root))
        .collect();
    above.reverse();
    // The root of the machine may have both processes and enabled controllers, the root that a
    // container sees may not. Only the root of the machine lacks this file.
    if root.join("cgroup.type").exists() && above.contains(&root) {
        move_processes(cgroupfs, root, CONTAINER_LEAF)?;
    }
    for above in above {
        create_dir_if_missing(cgroupfs, above)
            .while_(|| format!("creating cgroup {}", above.display()))?;
        enable_controllers(cgroupfs, above)?;
    }
    create_dir_if_missing(cgroupfs, directory)
        .while_(|| format!("creating cgroup {}", directory.display()))
}

/// Version 2: enables the controllers of `directory` for its children.
fn enable_controllers(cgroupfs: &dyn CgroupFs, directory: &Path) -> Result<()> {
    let words = |file: &str| -> Result<Vec<String>> {
        let file = directory.join(file);
        let text = cgroupfs
            .read(&file)
            .while_(|| format!("reading {}", file.display()))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let (has, enabled) = (words("cgroup.controllers")?, words(SUBTREE_CONTROL)?);
    let is_in = |words: &[String], controller: &str| words.iter().any(|word| word == controller);
    if let Some(missing) = CONTROLLERS[..REQUIRED]
        .iter()
        .find(|controller| !is_in(&has, controller))
    {
        return Err(Error::Malformed {
            what: format!("cgroup {}", directory.display()),
            why: format!("has no controller `{missing}`, without which no kubelet starts"),
        });
    }
    // systemd may have enabled some, and owns this setting.
    let new: Vec<String> = CONTROLLERS
        .iter()
        .filter(|controller| is_in(&has, controller) && !is_in(&enabled, controller))
        .map(|controller| format!("+{controller}"))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    cgroupfs
        .write(&directory.join(SUBTREE_CONTROL), &new.join(" "))
        .while_(|| format!("enabling the controllers of cgroup {}", directory.display()))
}

/// Version 2: moves the processes of `directory` to a leaf of it, so that its controllers can be
/// enabled.
fn move_processes(cgroupfs: &dyn CgroupFs, directory: &Path, leaf: &str) -> Result<()> {
    let leaf = directory.join(leaf);
    let moving = || format!("moving the processes of cgroup {}", directory.display());
    for _ in 0..MOVES {
        let pids = processes(cgroupfs, directory);
        if pids.is_empty() {
            return Ok(());
        }
        create_dir_if_missing(cgroupfs, &leaf).while_(moving)?;
        for pid in pids {
            match cgroupfs.write(&leaf.join(PROCS), &pid.to_string()) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
                other => other.while_(moving)?,
            }
        }
    }
    Err(Error::Malformed {
        what: moving(),
        why: "new processes keep appearing".into(),
    })
}

/// The innermost systemd slice around a cgroup, or the root. Slices have no processes of their own.
fn systemd_slice(path: &str) -> &str {
    Path::new(path)
        .ancestors()
        .find(|above| above.extension().is_some_and(|suffix| suffix == "slice"))
        .and_then(Path::to_str)
        .unwrap_or("/")
}

/// A directory and all below it, the deepest first: the order in which they can be removed.
fn subtree(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|entry| subtree(&entry.path()))
        .collect::<Vec<_>>();
    if directory.exists() {
        all.push(directory.to_path_buf());
    }
    all
}

fn processes(cgroupfs: &dyn CgroupFs, directory: &Path) -> Vec<i32> {
    let text = cgroupfs.read(&directory.join(PROCS)).unwrap_or_default();
    // Zero is a process of a PID namespace that this one does not see.
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|&pid| pid > 0)
        .collect()
}

/// A cgroup hierarchy of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    is_unified: bool,
    options: Vec<&'a str>,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut filesystem = filesystem.split(' ');
        let (root, point) = (mount.next()?, mount.next()?);
        let kind = filesystem.next()?;
        matches!(kind, "cgroup" | "cgroup2").then_some(())?;
        Some(Self {
            root,
            point,
            is_unified: kind == "cgroup2",
            options: filesystem.nth(1)?.split(',').collect(),
        })
    }

    /// Whether it is a hierarchy of version 1 with these controllers.
    fn has(&self, controllers: &str) -> bool {
        !self.is_unified
            && controllers
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
mod tests;
