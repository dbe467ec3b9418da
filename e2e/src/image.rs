//! The images of a test cluster: what this checkout builds, and what a node needs besides.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{
    cache,
    error::{Error, Result, While},
    oci::{self, Image},
    tools::Tools,
};

/// kubectl's plugin: its package and its program.
const PLUGIN: (&str, &str) = ("bursar-cli", "kubectl-bursar");

/// A program that the checkout builds into an image.
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
    images(programs, &build(&packages(programs))?)
}

/// Programs of this checkout that were built for the tests, and their images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TestPrograms {
    /// The images of [`Program::TESTED`].
    pub images: Vec<Image>,
    programs: Vec<PathBuf>,
}

/// The variable by which the process of a suite, and the demo that it starts, get [`TestPrograms`] as JSON. Nothing is built where it
/// is set.
pub const PROGRAMS: &str = "BURSAR_TEST_PROGRAMS";

impl TestPrograms {
    /// Those that [`PROGRAMS`] names, or else builds all programs of this checkout and writes the images of the tests.
    ///
    /// # Errors
    /// When the build fails or an archive cannot be written.
    pub fn get() -> Result<Self> {
        if let Some(programs) = Self::given() {
            return Ok(programs);
        }
        let all = [&packages(&Program::ALL)[..], &[PLUGIN]].concat();
        // As `cargo test --workspace` selects packages and features (tests give tokio one more), so that it has compiled all of it
        // already. The test program, which runs now, is up to date and not written again.
        let programs = cargo_build(&all, &["--workspace", "--test", "scenarios"])?;
        Ok(Self {
            images: images(&Program::TESTED, &programs)?,
            programs,
        })
    }

    fn given() -> Option<Self> {
        serde_json::from_str(&std::env::var(PROGRAMS).ok()?).ok()
    }

    /// For [`PROGRAMS`].
    ///
    /// # Errors
    /// When a path is not UTF-8.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(Into::into)
            .while_(|| "writing down the programs of the tests".into())
    }
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
    let built = build(&packages(&Program::ALL))?;
    let archive = archive_of(reference)?;
    let programs: Vec<&Path> = built.iter().map(PathBuf::as_path).collect();
    oci::write(&archive, reference, &programs)
}

/// Builds the operator as it is meant to run, optimized, and writes its image of this name and tag.
///
/// # Errors
/// When the build fails or the archive cannot be written.
pub fn release(reference: &str) -> Result<Image> {
    let built = self::programs(&[Program::Bursar], true)?;
    let archive = archive_of(reference)?;
    let programs: Vec<&Path> = built.iter().map(PathBuf::as_path).collect();
    oci::write(&archive, reference, &programs)
}

/// Builds programs of this checkout and says where they lie, in the order given. Optimized ones
/// are built as they are meant to run.
///
/// # Errors
/// When the build fails.
pub fn programs(programs: &[Program], optimized: bool) -> Result<Vec<PathBuf>> {
    let wanted = packages(programs);
    if !optimized {
        return build(&wanted);
    }
    let packages = wanted
        .iter()
        .flat_map(|(package, _)| ["--package", package]);
    let flags: Vec<&str> = ["--release"].into_iter().chain(packages).collect();
    cargo_build(&wanted, &flags)
}

/// Builds kubectl's plugin and says where it lies.
///
/// # Errors
/// When the build fails.
pub fn kubectl_bursar() -> Result<PathBuf> {
    let built = build(&[PLUGIN])?;
    built.into_iter().next().ok_or_else(|| Error::Malformed {
        what: "cargo build".into(),
        why: "made no program kubectl-bursar".into(),
    })
}

/// The archive of an image that callers name: one for each reference, so that two programs which
/// write at the same time do not replace each other's.
fn archive_of(reference: &str) -> Result<PathBuf> {
    let name = reference.replace(['/', ':'], "+");
    Ok(cache::directory()?
        .join("images")
        .join(format!("{name}.tar")))
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
         k3d image import {archive}\n  \
         minikube image load {archive}\n  \
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

/// The paths of programs as tests and the demo run them; the tests' own where there are some.
fn build(programs: &[(&str, &str)]) -> Result<Vec<PathBuf>> {
    if let Some(built) = TestPrograms::given() {
        return select(programs, &built.programs);
    }
    // Which packages are named decides which features their dependencies have: always all, so that nothing is compiled twice.
    let all = Program::ALL.map(Program::package);
    let packages = all.iter().chain([&PLUGIN.0]);
    let flags: Vec<&str> = packages.flat_map(|name| ["--package", name]).collect();
    cargo_build(programs, &flags)
}

/// The paths of programs, each given by its package and name, as cargo tells them, which knows of every way to move the target
/// directory. `flags` name the packages.
fn cargo_build(programs: &[(&str, &str)], flags: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args([
        "build",
        "--quiet",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.args(flags);
    // What cargo tells the program that it runs about its package is part of what build scripts depend on (ring's is one): with it
    // this cargo would compile half of the workspace again, and the next one too.
    for (name, _) in std::env::vars_os() {
        let of_package =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for (_, program) in programs {
        command.args(["--bin", program]);
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
    select(programs, &built)
}

/// The path of each program.
fn select(programs: &[(&str, &str)], built: &[PathBuf]) -> Result<Vec<PathBuf>> {
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
    fn images_of_different_names_have_different_archives() {
        let references = [
            "bursar.local/demo:dev",
            "localhost:9/demo:dev",
            "localhost:9/demo:1",
        ];
        let archives = references.map(|reference| archive_of(reference).unwrap());
        let distinct: std::collections::BTreeSet<&PathBuf> = archives.iter().collect();
        assert_eq!(distinct.len(), references.len(), "{archives:?}");
    }

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
