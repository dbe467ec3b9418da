//! Sets a machine up: installs Debian packages and builds the cluster's programs. `cargo demo`, the
//! tests on a cluster and `e2e/setup` all call it.

use crate::{
    cache,
    error::Result,
    prerequisites::{self, BOOT_PACKAGES, BUILD_PACKAGES},
    tools::Tools,
};

/// Installs the missing Debian packages, builds the programs that the cache lacks, and says on
/// standard error beforehand what it will do. When nothing is missing it says nothing, writes
/// nothing and takes milliseconds.
///
/// Several processes may call it at once: one does the work and the others wait.
///
/// # Errors
/// Without root, without Go, or when an installation or a build fails.
pub fn setup() -> Result<Tools> {
    // Before anything takes long: without root no cluster starts.
    prerequisites::require_root()?;
    if let (Some(tools), true) = (Tools::built(), missing_packages(true).is_empty()) {
        return Ok(tools);
    }
    let _lock = cache::lock()?;
    // Another process may have done some of it while this one waited.
    let plan = SetupPlan {
        packages: missing_packages(Tools::built().is_some()),
        programs: Tools::missing()?,
    };
    if !plan.programs.is_empty() {
        Tools::check_go()?;
    }
    eprint!("{}", plan.announcement(&cache::directory()?.display()));
    if !plan.packages.is_empty() {
        prerequisites::install_packages(&plan.packages)?;
    }
    Tools::build_locked()
}

/// The compiler and the libraries are needed only until the programs are built.
fn missing_packages(built: bool) -> Vec<&'static str> {
    let to_build = if built { &[] } else { BUILD_PACKAGES };
    prerequisites::missing_packages(&[BOOT_PACKAGES, to_build].concat())
}

/// What is missing.
struct SetupPlan {
    packages: Vec<&'static str>,
    /// For each missing program, the seconds that its build takes on two cores.
    programs: Vec<u32>,
}

impl SetupPlan {
    /// What will be done, how long it takes and what it needs; empty if nothing is missing.
    fn announcement(&self, cache: &dyn std::fmt::Display) -> String {
        let mut text = String::new();
        if !self.packages.is_empty() {
            text += &format!(
                "setup: installing these Debian packages with apt-get: {}\n",
                self.packages.join(", ")
            );
        }
        if !self.programs.is_empty() {
            let minutes = self.programs.iter().sum::<u32>().div_ceil(60);
            text += &format!(
                "setup: building {} programs of a Kubernetes cluster from their Go modules, once\n  \
                 time    {minutes} min on two cores; then 2 min to compile Bursar, and 5 min for a demo\n  \
                 disk    1 GB in {cache},\n          \
                 7 GB in Go's caches (`go clean -cache -modcache` empties them),\n          \
                 3 GB in Bursar's target directory\n  \
                 memory  3 GB to build, 2 GB for the cluster of a demo\n  \
                 Nothing is left running: a cluster ends with the command that started it.\n",
                self.programs.len()
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement(packages: &[&'static str], programs: &[u32]) -> String {
        let plan = SetupPlan {
            packages: packages.to_vec(),
            programs: programs.to_vec(),
        };
        plan.announcement(&"/cache")
    }

    #[test]
    fn a_first_run_says_what_it_installs_and_what_it_takes() {
        let text = announcement(&["conntrack", "nftables"], &[660, 60, 1]);
        for words in [
            "conntrack, nftables",
            "3 programs",
            "in /cache",
            "13 min on two cores",
            "disk ",
            "memory ",
            "Nothing is left running",
        ] {
            assert!(text.contains(words), "no `{words}` in:\n{text}");
        }
    }

    #[test]
    fn only_what_is_missing_is_announced() {
        assert_eq!(announcement(&[], &[]), "");
        assert!(!announcement(&["conntrack"], &[]).contains("programs"));
        assert!(!announcement(&[], &[3]).contains("apt-get"));
    }
}
