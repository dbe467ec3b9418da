//! The images of a test cluster: what this checkout builds, and what a node needs besides.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    cache,
    error::{Error, Result, While},
    oci::{self, Image},
    tools::Tools,
};

/// What the checkout builds into images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Controller and gateway.
    Bursar,
    /// The model server of the tests.
    Engine,
    /// The training worker of the tests.
    Trainer,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bursar, Self::Engine, Self::Trainer];

    fn package(self) -> &'static str {
        match self {
            Self::Bursar => "bursar",
            Self::Engine => "bursar-engine",
            Self::Trainer => "bursar-trainer",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bursar => "bursar",
            Self::Engine => "engine",
            Self::Trainer => "trainer",
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
    let built = cargo_build(programs)?;
    programs
        .iter()
        .map(|program| {
            let path = built
                .iter()
                .find(|path| path.ends_with(program.package()))
                .ok_or_else(|| Error::Malformed {
                    what: "cargo build".into(),
                    why: format!("made no program {}", program.package()),
                })?;
            write(program.name(), path)
        })
        .collect()
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
    oci::write(&archive, &format!("bursar.local/{name}:dev"), program)
}

/// Asks cargo for the programs' paths, which know of every way to move the target directory.
fn cargo_build(programs: &[Program]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args([
        "build",
        "--quiet",
        "--message-format",
        "json-render-diagnostics",
    ]);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for program in programs {
        command.args(["--package", program.package(), "--bin", program.package()]);
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
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect())
}
