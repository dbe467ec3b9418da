//! The checkpoint: how far the gang has come, in a directory that outlives it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is kept between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Steps that are done and are never done again.
    pub(crate) steps: u64,
    /// Attempts that were started.
    pub(crate) attempts: u64,
}

/// Why the checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// The file or its directory.
    #[error("checkpoint {}: {why}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// Not written by a trainer.
    #[error("checkpoint {}: {why}; move it away to start again from step 0", .path.display())]
    Contents {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: serde_json::Error,
    },
}

/// Where the checkpoint lies.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    /// The store in a directory, which is made when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn open(directory: &Path) -> Result<Self, CheckpointError> {
        fs::create_dir_all(directory).map_err(|why| failed(directory, why))?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn file(&self) -> PathBuf {
        self.directory.join("checkpoint.json")
    }

    /// The last checkpoint; the default one when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read, or is not one.
    pub(crate) fn read(&self) -> Result<Checkpoint, CheckpointError> {
        let path = self.file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|why| CheckpointError::Contents { path, why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Checkpoint::default()),
            Err(why) => Err(failed(&path, why)),
        }
    }

    /// Replaces the checkpoint: a reader, and the next attempt after a crash at any moment, find the old one or the new one, whole.
    ///
    /// # Errors
    /// When it cannot be written; the old one then stands.
    pub(crate) fn write(&self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        let (path, draft) = (self.file(), self.directory.join("checkpoint.json.draft"));
        let written = || {
            let mut file = File::create(&draft)?;
            file.write_all(&serde_json::to_vec(&checkpoint)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        written().map_err(|why| failed(&path, why))
    }
}

fn failed(path: &Path, why: io::Error) -> CheckpointError {
    CheckpointError::File {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_checkpoint_is_read_and_none_is_step_zero() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("of/job")).unwrap();
        assert_eq!(store.read().unwrap(), Checkpoint::default());
        for steps in [3, 5] {
            let checkpoint = Checkpoint { steps, attempts: 1 };
            store.write(checkpoint).unwrap();
            assert_eq!(store.read().unwrap(), checkpoint);
        }
    }

    #[test]
    fn a_draft_left_by_a_crash_is_not_a_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let whole = Checkpoint {
            steps: 3,
            attempts: 1,
        };
        store.write(whole).unwrap();
        fs::write(
            directory.path().join("checkpoint.json.draft"),
            "{\"steps\":",
        )
        .unwrap();
        assert_eq!(store.read().unwrap(), whole);
    }

    #[test]
    fn a_file_that_is_no_checkpoint_is_not_taken_for_step_zero() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        fs::write(store.file(), "{}").unwrap();
        let error = store.read().unwrap_err().to_string();
        assert!(
            error.contains("checkpoint.json") && error.contains("move it away"),
            "{error}"
        );
    }
}
