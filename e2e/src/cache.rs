//! Where the harness keeps what is worth keeping: outside the checkout, so that a fresh clone and `cargo clean` cost nothing.

use std::{env, fs, path::PathBuf};

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

/// One process at a time gets a machine ready; another one waits here, and then finds what the first has done.
pub(crate) fn lock() -> Result<fs::File> {
    let directory = tools_directory()?;
    let path = directory.join(".lock");
    let file = fs::File::create(&path).while_(|| format!("opening {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("setup: waiting for another process that gets this machine ready");
        file.lock()
            .while_(|| format!("locking {}", path.display()))?;
    }
    Ok(file)
}

/// Where the cluster's programs lie.
pub(crate) fn tools_directory() -> Result<PathBuf> {
    let tools = directory()?.join("tools");
    fs::create_dir_all(&tools).while_(|| format!("creating {}", tools.display()))?;
    Ok(tools)
}
