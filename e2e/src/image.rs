//! The images of a test cluster: what this checkout builds, and what a node needs besides.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::{
    cache,
    error::{Error, Result, While},
    oci::{self, Image},
    tools::Tools,
};

/// kubectl's plugin: its package and its program.
const PLUGIN: (&str, &str) = ("bursar-cli", "kubectl-bursar");
static BUILT_PLUGIN: OnceLock<PathBuf> = OnceLock::new();

/// What the checkout builds into images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Controller and gateway.
    Bursar,
    /// The model server of the tests.
    Engine,
    /// The training worker of the tests.
    Trainer,
    /// The demo's clients.
    Client,
}

impl Program {
    /// Those of the tests.
    pub const TESTED: [Self; 3] = [Self::Bursar, Self::Engine, Self::Trainer];
    /// All of them; the first is what the bundle's image starts.
    const ALL: [Self; 4] = [Self::Bursar, Self::Engine, Self::Trainer, Self::Client];

    fn package(self) -> &'static str {
        match self {
            Self::Bursar => "bursar",
            Self::Engine => "bursar-engine",
            Self::Trainer => "bursar-trainer",
            Self::Client => "bursar-client",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bursar => "bursar",
            Self::Engine => "engine",
            Self::Trainer => "trainer",
            Self::Client => "client",
        }
    }
}

/// Builds programs of this checkout with cargo and writes their images, in the order given: `bursar.local/bursar:dev` and so on.
///
/// # Errors
/// When the build fails or an archive cannot be written.
pub fn from_checkout(programs: &[Program]) -> Result<Vec<Image>> {
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    images(programs, &cargo_build(&packages(programs), &[])?)
}

/// The images of the tests. kubectl's plugin is built with them, so that no scenario waits for cargo in its own time.
///
/// # Errors
/// When the build fails or an archive cannot be written.
pub fn of_the_tests() -> Result<Vec<Image>> {
    let programs = [&packages(&Program::TESTED)[..], &[PLUGIN]].concat();
    let built = cargo_build(&programs, &[])?;
    if let Some(plugin) = built.last() {
        BUILT_PLUGIN.get_or_init(|| plugin.clone());
    }
    images(&Program::TESTED, &built)
}

fn images(programs: &[Program], built: &[PathBuf]) -> Result<Vec<Image>> {
    let images = programs.iter().zip(built);
    images
        .map(|(program, path)| write(program.name(), path))
        .collect()
}

/// Builds all programs of this checkout into one image of this name and tag, each as `/bursar`, `/bursar-engine` and so on.
///
/// # Errors
/// When the build fails or the archive cannot be written.
pub fn bundle(reference: &str) -> Result<Image> {
    let built = cargo_build(&packages(&Program::ALL), &[])?;
    let archive = cache::directory()?.join("images").join("demo.tar");
    let programs: Vec<&Path> = built.iter().map(PathBuf::as_path).collect();
    oci::write(&archive, reference, &programs)
}

/// Builds the operator as it is meant to run, optimized, and writes its image of this name and tag.
///
/// # Errors
/// When the build fails or the archive cannot be written.
pub fn release(reference: &str) -> Result<Image> {
    let built = cargo_build(&packages(&[Program::Bursar]), &["--release"])?;
    let archive = cache::directory()?.join("images").join("release.tar");
    let programs: Vec<&Path> = built.iter().map(PathBuf::as_path).collect();
    oci::write(&archive, reference, &programs)
}

/// Builds kubectl's plugin, unless that was done, and says where it lies.
///
/// # Errors
/// When the build fails.
pub fn kubectl_bursar() -> Result<PathBuf> {
    if let Some(plugin) = BUILT_PLUGIN.get() {
        return Ok(plugin.clone());
    }
    let built = cargo_build(&[PLUGIN], &[])?;
    built.into_iter().next().ok_or_else(|| Error::Malformed {
        what: "cargo build".into(),
        why: "made no program kubectl-bursar".into(),
    })
}

/// Checks that an image is named by a name and a tag: what the chart and the archive need.
///
/// # Errors
/// How to write it.
pub fn check_reference(reference: &str) -> Result<()> {
    let name = reference.rsplit('/').next().unwrap_or_default();
    let tagged = name
        .split_once(':')
        .is_some_and(|(name, tag)| !name.is_empty() && !tag.is_empty());
    if tagged && !reference.contains(['@', ' ']) {
        return Ok(());
    }
    Err(Error::Malformed {
        what: format!("image `{reference}`"),
        why: "write it with a tag and without a digest, as in registry.example/bursar:1".into(),
    })
}

/// Ways to bring an image to where nodes find it.
pub fn ways_to_bring(image: &Image) -> String {
    let (archive, reference) = (image.archive.display(), &image.stable);
    let tag = reference.rsplit(':').next().unwrap_or_default();
    format!(
        "skopeo copy oci-archive:{archive}:{tag} docker://{reference}\n  \
         kind load image-archive {archive}\n  \
         ctr --namespace k8s.io images import {archive}"
    )
}

/// The images without which no pod runs: the sandbox's and the DNS server's.
pub(crate) fn of_the_node(tools: &Tools) -> Result<Vec<Image>> {
    ["pause", "coredns"]
        .into_iter()
        .map(|name| write(name, &tools.program(name)))
        .collect()
}

fn write(name: &str, program: &Path) -> Result<Image> {
    let archive = cache::directory()?
        .join("images")
        .join(format!("{name}.tar"));
    oci::write(&archive, &format!("bursar.local/{name}:dev"), &[program])
}

/// Packages and programs, whose names are the same.
fn packages(programs: &[Program]) -> Vec<(&'static str, &'static str)> {
    let package = |program: &Program| (program.package(), program.package());
    programs.iter().map(package).collect()
}

/// The paths of programs, each given by its package and name, as cargo tells them, which knows of every way to move the target
/// directory.
fn cargo_build(programs: &[(&str, &str)], flags: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args([
        "build",
        "--quiet",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.args(flags);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for (package, program) in programs {
        command.args(["--package", package, "--bin", program]);
    }
    // Without a time limit: how long a compiler takes is no sign of an error, and cargo shows its own progress and errors.
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .while_(|| "starting cargo".into())?;
    if !output.status.success() {
        return Err(Error::Failed {
            what: "cargo build".into(),
            status: output.status.to_string(),
            tail: String::new(),
        });
    }
    let built: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect();
    let path = |(_, program): &(&str, &str)| {
        let found = built.iter().find(|path| path.ends_with(program));
        found.cloned().ok_or_else(|| Error::Malformed {
            what: "cargo build".into(),
            why: format!("made no program {program}"),
        })
    };
    programs.iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_tag() {
        for good in ["a:1", "r.example:5000/x/a:1"] {
            assert!(check_reference(good).is_ok(), "{good}");
        }
        for bad in [
            "a",
            "r.example:5000/a",
            "a@sha256:00",
            ":1",
            "a:",
            "a b:1",
            "",
        ] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }
}
