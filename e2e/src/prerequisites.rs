//! What the machine must have. What it lacks is named together with the command that installs it.

use std::{env, process::Command, time::Duration};

use crate::{
    error::{Error, Result},
    process,
};

/// A program, and the Debian package that holds it.
const TO_BUILD: &[(&str, &str)] = &[("gcc", "gcc"), ("pkg-config", "pkg-config")];
const TO_BOOT: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("setsid", "util-linux"),
    ("unshare", "util-linux"),
];

/// Where Debian keeps programs for root, which the PATH of a shell may lack.
pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Checks what building the tools needs: gcc with the static C library, and Go of at least the version that the modules ask for.
///
/// # Errors
/// [`Error::Prerequisites`] names everything that is missing.
pub fn to_build(go_version: &str) -> Result<()> {
    let mut missing = missing_programs(TO_BUILD);
    if !has_static_libc() {
        missing.push("- the C library to link with: apt-get install libc6-dev".into());
    }
    if let Some(problem) = go_problem(go_version) {
        missing.push(problem);
    }
    report(missing)
}

/// Checks what booting a cluster needs: root and the programs that make namespaces, bridges and packet filters.
///
/// # Errors
/// [`Error::Prerequisites`] names everything that is missing.
pub fn to_boot() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Prerequisites(
            "- root: a cluster needs network, mount, PID and cgroup namespaces. Run the same command as root (it is meant for a \
             virtual machine or a CI runner)"
                .into(),
        ));
    }
    report(missing_programs(TO_BOOT))
}

/// `PATH` for what the harness starts: the caller's, then the system's directories for root.
pub(crate) fn path() -> String {
    format!("{}:{SYSTEM_PATH}", env::var("PATH").unwrap_or_default())
}

fn missing_programs(programs: &[(&str, &str)]) -> Vec<String> {
    let path = path();
    programs
        .iter()
        .filter(|(program, _)| {
            !env::split_paths(&path).any(|directory| directory.join(program).is_file())
        })
        .map(|(program, package)| format!("- {program}: apt-get install {package}"))
        .collect()
}

fn has_static_libc() -> bool {
    let mut command = Command::new("gcc");
    command.arg("-print-file-name=libc.a");
    // gcc answers with the bare name when it finds none.
    process::run(&mut command, Duration::from_secs(30))
        .is_ok_and(|output| output.stdout.trim().starts_with('/'))
}

fn go_problem(wanted: &str) -> Option<String> {
    let install = format!(
        "- Go {wanted} or newer: install it from https://go.dev/dl and put its bin directory into PATH"
    );
    let mut command = Command::new("go");
    command
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local");
    let Ok(output) = process::run(&mut command, Duration::from_secs(30)) else {
        return Some(install);
    };
    let found = output.stdout.trim().trim_start_matches("go").to_owned();
    (version(&found) < version(wanted)).then(|| format!("{install} (found {found})"))
}

/// `1.26.8` as numbers; what follows a number, as in `1.27rc1`, is ignored.
fn version(text: &str) -> Vec<u32> {
    text.split('.')
        .map(|part| {
            part.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .unwrap_or(0)
        })
        .collect()
}

fn report(missing: Vec<String>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Prerequisites(format!(
        "{}\n(`e2e/setup`, run as root, installs what Debian packages have)",
        missing.join("\n")
    )))
}

#[cfg(test)]
mod tests {
    use super::{missing_programs, version};

    #[test]
    fn versions_compare_by_number() {
        assert!(version("1.9.9") < version("1.26.0"));
        assert!(version("1.27rc1") > version("1.26.6"));
    }

    #[test]
    fn a_missing_program_comes_with_the_command_that_installs_it() {
        assert_eq!(
            missing_programs(&[("no-such-program", "package")]),
            ["- no-such-program: apt-get install package"]
        );
    }
}
