//! The order of operations on cgroup file systems, recorded on a directory tree that refuses what
//! the kernel refuses.

use std::cell::RefCell;

use super::*;

const ALL: &str = "cpuset cpu io memory hugetlb pids rdma";
const WANTED: &str = "+cpu +cpuset +memory +pids +io";

/// A directory tree in place of the cgroup file systems. It records the operations and keeps these
/// rules of the kernel: a new cgroup has the controllers that the one above enables for its
/// children; a cgroup has either processes or enabled controllers, unless it is the machine's root;
/// only a cgroup without processes and children can be removed.
struct Tree {
    root: tempfile::TempDir,
    done: RefCell<Vec<String>>,
    /// Processes that start another one just before they are moved.
    forking: RefCell<Vec<(i32, i32)>>,
}

impl Tree {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            done: RefCell::default(),
            forking: RefCell::default(),
        }
    }

    /// Version 2, as the machine's own root shows it.
    fn version_2(controllers: &str) -> Self {
        let tree = Self::new();
        for (file, text) in [("cgroup.controllers", controllers), (SUBTREE_CONTROL, "")] {
            fs::write(tree.at(file), text).unwrap();
        }
        fs::write(tree.at(PROCS), "1\n2\n").unwrap();
        tree
    }

    /// Version 1 with two hierarchies.
    fn version_1() -> Self {
        let tree = Self::new();
        for file in ["cpuset/cgroup.procs", "memory/cgroup.procs"] {
            let file = tree.at(file);
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(file, "1\n").unwrap();
        }
        fs::write(tree.at("cpuset/cpuset.cpus"), "0-3").unwrap();
        fs::write(tree.at("cpuset/cpuset.mems"), "0").unwrap();
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn is_version_2(&self) -> bool {
        self.at("cgroup.controllers").exists()
    }

    fn cluster(&self, own: &str, systemd: bool) -> Result<Cgroup> {
        let root = self.root.path().display();
        let mounts = if self.is_version_2() {
            format!("30 23 0:26 / {root} rw shared:4 - cgroup2 cgroup2 rw,nsdelegate")
        } else {
            format!(
                "36 32 0:29 / {root}/cpuset rw - cgroup cgroup rw,cpuset\n\
                 37 32 0:30 / {root}/memory rw - cgroup cgroup rw,memory\n\
                 38 32 0:31 / {root}/unified rw - cgroup2 cgroup2 rw"
            )
        };
        Cgroup::locate("demo", own, &mounts, systemd)
    }

    /// A cgroup that was there before; its making is not recorded.
    fn existing(&self, path: &str, enabled: &str, processes: &str) {
        self.create_dir(&self.at(path)).unwrap();
        self.set(path, SUBTREE_CONTROL, enabled);
        self.set(path, PROCS, processes);
        self.done.borrow_mut().clear();
    }

    fn set(&self, path: &str, file: &str, text: &str) {
        fs::write(self.at(path).join(file), text).unwrap();
    }

    fn record(&self, what: &str, path: &Path, text: &str) {
        let path = path.strip_prefix(self.root.path()).unwrap();
        let line = format!("{what} {} {text}", path.display());
        self.done.borrow_mut().push(line.trim_end().to_owned());
    }

    /// The operations since the last call.
    fn done(&self) -> Vec<String> {
        self.done.take()
    }

    /// Takes a process out of its cgroup and returns that cgroup.
    fn take(&self, pid: i32) -> Option<PathBuf> {
        let found = subtree(self.root.path())
            .into_iter()
            .find(|directory| processes(self, directory).contains(&pid))?;
        let left: String = processes(self, &found)
            .iter()
            .filter(|&&other| other != pid)
            .map(|other| format!("{other}\n"))
            .collect();
        fs::write(found.join(PROCS), left).unwrap();
        Some(found)
    }
}

fn words(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn busy() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::EBUSY)
}

impl CgroupFs for Tree {
    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir(directory)?;
        self.record("mkdir", directory, "");
        let above = directory.parent().unwrap();
        fs::write(directory.join(PROCS), "")?;
        if self.is_version_2() {
            fs::copy(
                above.join(SUBTREE_CONTROL),
                directory.join("cgroup.controllers"),
            )?;
            fs::write(directory.join(SUBTREE_CONTROL), "")?;
            fs::write(directory.join("cgroup.type"), "domain\n")?;
        } else if above.join("cpuset.cpus").exists() {
            fs::write(directory.join("cpuset.cpus"), "\n")?;
            fs::write(directory.join("cpuset.mems"), "\n")?;
        }
        Ok(())
    }

    fn remove_dir(&self, directory: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(directory)?.flatten();
        let is_directory = |entry: fs::DirEntry| entry.path().is_dir();
        if !processes(self, directory).is_empty() || entries.any(is_directory) {
            return Err(busy());
        }
        self.record("rmdir", directory, "");
        fs::remove_dir_all(directory)
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        fs::read_to_string(file)
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        let directory = file.parent().unwrap();
        let is_root = !directory.join("cgroup.type").exists();
        let enabled = words(&directory.join(SUBTREE_CONTROL));
        match file.file_name().unwrap().to_str().unwrap() {
            SUBTREE_CONTROL => {
                if !is_root && !processes(self, directory).is_empty() {
                    return Err(busy());
                }
                let has = words(&directory.join("cgroup.controllers"));
                let new: Vec<_> = text.split(' ').map(|word| word.replace('+', "")).collect();
                if new.iter().any(|controller| !has.contains(controller)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                fs::write(file, [enabled, new].concat().join(" "))?;
            }
            PROCS => {
                if self.is_version_2() && !is_root && !enabled.is_empty() {
                    return Err(busy());
                }
                let pid = text.parse().unwrap();
                let Some(from) = self.take(pid) else {
                    return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
                };
                if let Some((_, child)) = self.forking.borrow().iter().find(|(of, _)| *of == pid) {
                    fs::write(from.join(PROCS), format!("{child}\n"))?;
                }
                let mut inside = fs::read_to_string(file)?;
                inside += &format!("{pid}\n");
                fs::write(file, inside)?;
            }
            _ => fs::write(file, text)?,
        }
        self.record("write", file, text);
        Ok(())
    }

    fn kill(&self, pid: i32) -> bool {
        self.done.borrow_mut().push(format!("kill {pid}"));
        self.take(pid).is_some()
    }
}

fn enabled(path: &str) -> String {
    let file = Path::new(path).join(SUBTREE_CONTROL);
    format!("write {} {WANTED}", file.display())
}

#[test]
fn version_2_enables_controllers_from_the_root_down_before_it_makes_the_cgroup_below() {
    let tree = Tree::version_2(ALL);
    let cluster = tree.cluster("0::/some/where\n", false).unwrap();
    let node = cluster.child("node-0");
    node.create_in(&tree).unwrap();
    assert_eq!(
        tree.done(),
        [
            enabled(""),
            "mkdir bursar-demo".into(),
            enabled("bursar-demo"),
            "mkdir bursar-demo/node-0".into(),
        ]
    );
    cluster.child("node-1").create_in(&tree).unwrap();
    assert_eq!(tree.done(), ["mkdir bursar-demo/node-1"]);
}

#[test]
fn a_node_of_version_2_enables_its_controllers_after_its_processes_are_in_a_leaf() {
    let tree = Tree::version_2(ALL);
    let node = tree.cluster("0::/\n", false).unwrap().child("node-0");
    node.create_in(&tree).unwrap();
    tree.set("bursar-demo/node-0", PROCS, "70\n71\n");
    tree.forking.borrow_mut().push((71, 72));
    tree.done();

    let programs = node.delegate_in(&tree).unwrap();
    assert_eq!(
        tree.done(),
        [
            "mkdir bursar-demo/node-0/system".to_owned(),
            "write bursar-demo/node-0/system/cgroup.procs 70".into(),
            "write bursar-demo/node-0/system/cgroup.procs 71".into(),
            "write bursar-demo/node-0/system/cgroup.procs 72".into(),
            enabled("bursar-demo/node-0"),
        ]
    );
    let procs = tree.at("bursar-demo/node-0/system/cgroup.procs");
    assert_eq!(programs.procs_files(), [procs]);
    // The kubelet's cgroups next to the leaf have the controllers that it demands.
    tree.create_dir(&tree.at("bursar-demo/node-0/kubepods"))
        .unwrap();
    let controllers = words(&tree.at("bursar-demo/node-0/kubepods/cgroup.controllers"));
    assert_eq!(controllers, CONTROLLERS);
}

#[test]
fn where_systemd_manages_the_machine_the_cluster_lies_in_the_slice_of_its_process() {
    let tree = Tree::version_2(ALL);
    // systemd has enabled some and owns these cgroups.
    tree.set("", SUBTREE_CONTROL, "cpu io memory pids");
    tree.existing("user.slice", "memory pids", "");
    tree.existing("user.slice/user-0.slice", "memory pids", "");
    tree.existing("user.slice/user-0.slice/session-3.scope", "", "50\n");
    let own = "0::/user.slice/user-0.slice/session-3.scope\n";
    let cluster = tree.cluster(own, true).unwrap();
    // The kernel adds these when the controllers are enabled above.
    tree.set("user.slice", "cgroup.controllers", ALL);
    tree.set("user.slice/user-0.slice", "cgroup.controllers", ALL);
    cluster.child("node-0").create_in(&tree).unwrap();
    assert_eq!(
        tree.done(),
        [
            "write cgroup.subtree_control +cpuset".to_owned(),
            "write user.slice/cgroup.subtree_control +cpu +cpuset +io".into(),
            "write user.slice/user-0.slice/cgroup.subtree_control +cpu +cpuset +io".into(),
            "mkdir user.slice/user-0.slice/bursar-demo".into(),
            enabled("user.slice/user-0.slice/bursar-demo"),
            "mkdir user.slice/user-0.slice/bursar-demo/node-0".into(),
        ]
    );
    for (own, base) in [
        ("/system.slice/runner.service", "system.slice"),
        ("/init.scope", ""),
        ("/", ""),
        ("/a.slice/b.service/c.slice/d", "a.slice/b.service/c.slice"),
    ] {
        let cluster = tree.cluster(&format!("0::{own}\n"), true).unwrap();
        let expected = tree.at(base).join("bursar-demo");
        assert_eq!(cluster.directories, [expected], "{own}");
    }
}

#[test]
fn a_container_moves_what_runs_in_its_root_to_a_leaf() {
    let tree = Tree::version_2(ALL);
    tree.set("", "cgroup.type", "domain\n");
    let node = tree.cluster("0::/\n", false).unwrap().child("node-0");
    node.create_in(&tree).unwrap();
    assert_eq!(
        tree.done(),
        [
            "mkdir init".to_owned(),
            "write init/cgroup.procs 1".into(),
            "write init/cgroup.procs 2".into(),
            enabled(""),
            "mkdir bursar-demo".into(),
            enabled("bursar-demo"),
            "mkdir bursar-demo/node-0".into(),
        ]
    );
}

#[test]
fn a_controller_that_the_kubelet_needs_and_the_machine_lacks_is_named() {
    // As on a machine that has the others in version 1.
    let tree = Tree::version_2("hugetlb cpu memory pids");
    let cluster = tree.cluster("0::/\n", false).unwrap();
    let error = cluster.create_in(&tree).unwrap_err().to_string();
    assert!(error.contains("no controller `cpuset`"), "{error}");
    assert_eq!(tree.done(), [""; 0]);
}

#[test]
fn version_1_fills_each_cpuset_before_it_makes_the_one_below() {
    let tree = Tree::version_1();
    let own = "3:cpuset:/\n4:memory:/\n0::/\n";
    let node = tree.cluster(own, false).unwrap().child("node-0");
    node.create_in(&tree).unwrap();
    let expected = [
        "mkdir cpuset/bursar-demo",
        "write cpuset/bursar-demo/cpuset.cpus 0-3",
        "write cpuset/bursar-demo/cpuset.mems 0",
        "mkdir cpuset/bursar-demo/node-0",
        "write cpuset/bursar-demo/node-0/cpuset.cpus 0-3",
        "write cpuset/bursar-demo/node-0/cpuset.mems 0",
        "mkdir memory/bursar-demo",
        "mkdir memory/bursar-demo/node-0",
    ];
    assert_eq!(tree.done(), expected);
    node.create_in(&tree).unwrap();
    assert_eq!(tree.done(), [""; 0], "all is there");
    // The node's programs and pods share it: version 1 has no rule against that.
    assert_eq!(node.delegate_in(&tree).unwrap(), node);
    assert_eq!(tree.done(), [""; 0]);
}

#[test]
fn removal_ends_what_runs_and_takes_the_deepest_first() {
    let version_2 = Tree::version_2(ALL);
    let cluster = version_2.cluster("0::/\n", false).unwrap();
    let node = cluster.child("node-0");
    node.create_in(&version_2).unwrap();
    node.delegate_in(&version_2).unwrap();
    version_2
        .create_dir(&version_2.at("bursar-demo/node-0/pods"))
        .unwrap();
    version_2.set("bursar-demo/node-0/pods", PROCS, "80\n");
    version_2.done();
    cluster.remove_in(&version_2).unwrap();
    assert_eq!(
        version_2.done(),
        [
            "kill 80",
            "rmdir bursar-demo/node-0/pods",
            "rmdir bursar-demo/node-0",
            "rmdir bursar-demo",
        ]
    );
    assert_eq!(processes(&version_2, version_2.root.path()), [1, 2]);

    let version_1 = Tree::version_1();
    let cluster = version_1
        .cluster("3:cpuset:/\n4:memory:/\n", false)
        .unwrap();
    cluster.child("node-0").create_in(&version_1).unwrap();
    version_1.set("memory/bursar-demo/node-0", PROCS, "81\n");
    version_1.done();
    cluster.remove_in(&version_1).unwrap();
    assert_eq!(
        version_1.done(),
        [
            "kill 81",
            "rmdir cpuset/bursar-demo/node-0",
            "rmdir cpuset/bursar-demo",
            "rmdir memory/bursar-demo/node-0",
            "rmdir memory/bursar-demo",
        ]
    );
    assert!(!cluster.exists());
}

#[test]
fn only_processes_of_the_cgroups_of_that_name_are_killed() {
    let tree = Tree::version_2(ALL);
    let cluster = tree.cluster("0::/\n", false).unwrap();
    for (name, pid) in [("abc", "90\n"), ("abd", "91\n")] {
        cluster.child(name).create_in(&tree).unwrap();
        tree.set(&format!("bursar-demo/{name}"), PROCS, pid);
    }
    assert_eq!(cluster.kill_matching_in(&tree, "abc"), 1);
    assert_eq!(processes(&tree, &tree.at("bursar-demo/abd")), [91]);
}

#[test]
fn a_cgroup_is_found_below_the_mount_that_shows_part_of_its_hierarchy() {
    let line =
        "36 32 0:29 /docker/1 /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory";
    let mount = Mount::parse(line).unwrap();
    assert!(mount.has("memory") && !mount.has("cpu"));
    assert_eq!(
        mount.at("/docker/1/job"),
        PathBuf::from("/sys/fs/cgroup/memory/job")
    );
}

#[test]
fn a_hierarchy_that_is_not_mounted_is_named() {
    let mounts = "30 23 0:26 / /proc rw - proc proc rw";
    let locate = |own| {
        Cgroup::locate("x", own, mounts, false)
            .unwrap_err()
            .to_string()
    };
    assert!(locate("4:memory:/\n").contains("hierarchy `memory` is not mounted"));
    assert!(locate("0::/\n").contains("version 2 is not mounted"));
}

#[test]
fn a_version_1_hierarchy_without_a_nodes_controllers_leaves_a_machine_at_version_2() {
    let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n\
                  31 23 0:27 / /sys/fs/net_cls rw - cgroup cgroup rw,net_cls,net_prio\n\
                  32 23 0:28 / /sys/fs/memory rw - cgroup cgroup rw,memory";
    let locate = |own| Cgroup::locate("x", own, mounts, false).unwrap();
    for own in [
        "2:net_cls,net_prio:/\n0::/\n",
        "1:name=systemd:/init.scope\n0::/\n",
    ] {
        let cluster = locate(own);
        assert_eq!(
            cluster.directories,
            [PathBuf::from("/sys/fs/cgroup/bursar-x")],
            "{own}"
        );
        assert_eq!(cluster.unified, Some(PathBuf::from("/sys/fs/cgroup")));
    }
    let version_1 = locate("3:memory:/\n2:net_cls,net_prio:/\n0::/\n");
    assert_eq!(version_1.unified, None);
    assert_eq!(version_1.directories.len(), 2);
}
