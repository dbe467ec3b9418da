//! The directory for what is slow to make. It is outside the checkout, so that a fresh clone and
//! `cargo clean` do not lose it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result, While};

/// `$BURSAR_CACHE`, else `$XDG_CACHE_HOME/bursar`, else `~/.cache/bursar`; created if missing.
///
/// # Errors
/// When none of the three variables is set, or the directory cannot be made.
pub fn directory() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = set("BURSAR_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("bursar")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/bursar")))
        .ok_or_else(|| {
            Error::Prerequisites(
                "set HOME or BURSAR_CACHE: the harness needs a place for what it builds".into(),
            )
        })?;
    fs::create_dir_all(&directory).while_(|| format!("creating {}", directory.display()))?;
    directory
        .canonicalize()
        .while_(|| format!("resolving {}", directory.display()))
}

/// Held while a machine is set up. Another process that sets it up waits here, and then finds that
/// all is done.
pub(crate) fn lock() -> Result<fs::File> {
    lock_file(&tools_directory()?.join(".lock"))
}

fn lock_file(path: &Path) -> Result<fs::File> {
    let file = fs::File::create(path).while_(|| format!("opening {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("setup: waiting for another process that sets this machine up");
        file.lock()
            .while_(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

/// The directory of the cluster's programs.
pub(crate) fn tools_directory() -> Result<PathBuf> {
    let tools = directory()?.join("tools");
    fs::create_dir_all(&tools).while_(|| format!("creating {}", tools.display()))?;
    Ok(tools)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn a_second_set_up_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = lock_file(&path).unwrap();
        assert!(fs::File::open(&path).unwrap().try_lock().is_err());
        let (send, second) = mpsc::channel();
        let waiting = thread::spawn(move || send.send(lock_file(&path).is_ok()));
        assert!(second.try_recv().is_err());
        drop(first);
        assert_eq!(second.recv_timeout(Duration::from_secs(30)), Ok(true));
        waiting.join().unwrap().unwrap();
    }
}
