//! The journal: what was really computed, for a test to compare with what should have been.
//!
//! A rank writes `{"rank":0,"attempt":2,"step":7}` when it has computed step 7, before it tells anybody. At the start of an attempt it
//! writes `{"rank":0,"attempt":2,"from":7}`: steps from 7 on that earlier attempts wrote were never committed, and do not count. So
//! after any crash the lines that count hold each step once, and after a SIGTERM no line is ever struck out.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The journal cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("journal {}: {why}", .path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    why: io::Error,
}

#[derive(Serialize)]
struct Line {
    rank: u32,
    attempt: u64,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    From(u64),
    Step(u64),
}

/// One rank's end of a journal in one attempt. Ranks may share a file: a line is one write at its end.
pub(crate) struct Journal {
    out: Option<Box<dyn Write>>,
    path: PathBuf,
    rank: u32,
    attempt: u64,
}

impl Journal {
    /// Opens it and marks where the attempt starts. `-` is standard output; without a path nothing is written.
    ///
    /// # Errors
    /// When the file cannot be opened or written.
    pub(crate) fn open(
        path: Option<&Path>,
        rank: u32,
        attempt: u64,
        from: u64,
    ) -> Result<Self, JournalError> {
        let open = |path: &Path| -> Result<Box<dyn Write>, JournalError> {
            if path == Path::new("-") {
                return Ok(Box::new(io::stdout()));
            }
            let opened = OpenOptions::new().create(true).append(true).open(path);
            let file = opened.map_err(|why| JournalError {
                path: path.to_owned(),
                why,
            })?;
            Ok(Box::new(file))
        };
        let mut journal = Self {
            out: path.map(open).transpose()?,
            path: path.map(Path::to_owned).unwrap_or_default(),
            rank,
            attempt,
        };
        journal.write(Entry::From(from))?;
        Ok(journal)
    }

    /// Notes a step that this rank has computed.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub(crate) fn step(&mut self, step: u64) -> Result<(), JournalError> {
        self.write(Entry::Step(step))
    }

    fn write(&mut self, entry: Entry) -> Result<(), JournalError> {
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        let (rank, attempt) = (self.rank, self.attempt);
        let written = serde_json::to_string(&Line {
            rank,
            attempt,
            entry,
        })
        .map_err(io::Error::from)
        .and_then(|line| out.write_all(format!("{line}\n").as_bytes()));
        written.map_err(|why| JournalError {
            path: self.path.clone(),
            why,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_with_rank_attempt_and_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        Journal::open(Some(&path), 0, 1, 0)
            .unwrap()
            .step(0)
            .unwrap();
        Journal::open(Some(&path), 1, 2, 1)
            .unwrap()
            .step(1)
            .unwrap();
        let lines = [
            r#"{"rank":0,"attempt":1,"from":0}"#,
            r#"{"rank":0,"attempt":1,"step":0}"#,
            r#"{"rank":1,"attempt":2,"from":1}"#,
            r#"{"rank":1,"attempt":2,"step":1}"#,
        ];
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            lines.join("\n") + "\n"
        );
    }
}
