//! Training frameworks for pods of the tests: unpacked into the cache and never installed. Pods mount them, read-only.
//!
//! | directory of `frameworks`, before the hash of what is in it | what |
//! |---|---|
//! | `debian` | Python, PyTorch, Open MPI, MPICH and OpenSSH, as Debian packages with all that they depend on |
//! | `tensorflow`, `jax`, `deepspeed`, `xgboost` | packages of PyPI, in the versions that `e2e/tools/frameworks` names, for Debian's Python |

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result, While},
    oci, process,
    unpacked::Unpacked,
};

const FOLDER: &str = "frameworks";
const PACKAGES: [&str; 13] = [
    "bash",
    "coreutils",
    "dash",
    "hostname",
    "mpich",
    "openmpi-bin",
    "openssh-client",
    "openssh-server",
    "pdsh",
    "python3",
    "python3-mpi4py",
    "python3-pip",
    "python3-torch",
];
/// Users of a Debian system: sshd wants one of its own, and takes no key for an account that is locked.
const PASSWD: &str =
    "root:*:0:0:root:/root:/bin/sh\nsshd:*:100:65534::/run/sshd:/usr/sbin/nologin\n";
const KEY_DIGITS: usize = 12;
/// For a slow network.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Packages of PyPI that a pod mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PythonPackages {
    /// TensorFlow for CPUs.
    TensorFlow,
    /// JAX for CPUs.
    Jax,
    /// DeepSpeed, for Debian's PyTorch.
    DeepSpeed,
    /// XGBoost for CPUs, and Dask.
    XgBoost,
}

impl PythonPackages {
    const ALL: [Self; 4] = [Self::TensorFlow, Self::Jax, Self::DeepSpeed, Self::XgBoost];

    fn name(self) -> &'static str {
        match self {
            Self::TensorFlow => "tensorflow",
            Self::Jax => "jax",
            Self::DeepSpeed => "deepspeed",
            Self::XgBoost => "xgboost",
        }
    }

    /// All packages with their versions: pip adds no dependency, so that the same ones are installed each time.
    fn requirements(self) -> PathBuf {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/frameworks");
        tools.join(self.name()).with_extension("txt")
    }

    /// The name of their directory.
    fn key(self) -> Result<String> {
        let path = self.requirements();
        let text = fs::read(&path).while_(|| format!("reading {}", path.display()))?;
        Ok(key(self.name(), &text))
    }

    /// The directory for `PYTHONPATH`; they are installed when they are not there yet.
    ///
    /// # Errors
    /// When they cannot be downloaded.
    pub fn directory(self) -> Result<PathBuf> {
        let debian = system()?;
        let unpacked = Unpacked::make(FOLDER, &self.key()?, |root| {
            eprintln!("setup: installing {} from PyPI into the cache", self.name());
            let mut pip = debian.command("/usr/bin/python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps"])
                .args(["--no-build-isolation", "--root-user-action", "ignore"])
                .arg("--target")
                .arg(root)
                .arg("--requirement")
                .arg(self.requirements());
            process::run(&mut pip, DOWNLOAD_LIMIT)
                .map_err(|error| unreachable_source("PyPI", &error))?;
            Ok(())
        })?;
        Ok(unpacked.root().to_owned())
    }
}

/// Unpacks all of it that the cache lacks: 900 MB to download, 4 GB on disk.
///
/// # Errors
/// When something cannot be downloaded.
pub fn setup() -> Result<()> {
    for packages in PythonPackages::ALL {
        packages.directory()?;
    }
    Ok(())
}

/// The root directory of a Debian system with Python, PyTorch, Open MPI, MPICH and OpenSSH. Containers that mount its `usr` need nothing else.
///
/// # Errors
/// When its packages cannot be downloaded.
pub fn debian() -> Result<PathBuf> {
    Ok(system()?.root().to_owned())
}

fn system() -> Result<Unpacked> {
    let key = key("debian", PACKAGES.join(" ").as_bytes());
    Unpacked::system(FOLDER, &key, &PACKAGES, finish)
        .map_err(|error| unreachable_source("Debian's packages", &error))
}

/// What the scripts of the packages would add: users, the shell, and the links by which Debian chooses between alternatives.
fn finish(root: &Path) -> Result<()> {
    let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    for (directory, name, target) in [
        ("usr/bin", "sh", "dash"),
        ("usr/bin", "mpirun", "mpirun.openmpi"),
        (&*libraries, "libblas.so.3", "blas/libblas.so.3"),
        (&*libraries, "liblapack.so.3", "lapack/liblapack.so.3"),
    ] {
        let link = root.join(directory).join(name);
        if link.symlink_metadata().is_err() {
            symlink(target, &link).while_(|| format!("linking {}", link.display()))?;
        }
    }
    let passwd = root.join("etc/passwd");
    fs::write(&passwd, PASSWD).while_(|| format!("writing {}", passwd.display()))
}

/// A name that changes with the contents: no checkout gets what another one wanted.
fn key(name: &str, contents: &[u8]) -> String {
    let hash = oci::hex(Sha256::new_with_prefix(contents));
    format!("{name}-{}", &hash[..KEY_DIGITS])
}

fn unreachable_source(source: &str, error: &Error) -> Error {
    Error::Prerequisites(format!(
        "the frameworks are not in the cache, and unpacking them from {source} failed; that needs a network:\n{error}"
    ))
}
