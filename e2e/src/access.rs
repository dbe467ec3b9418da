//! kubectl, helm and a client for a cluster: one of ours, or somebody's.

use std::{
    env,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::{Error, Result, While},
    process,
    tools::Tools,
};

const KUBECTL_LIMIT: Duration = Duration::from_secs(60);

/// A way to a cluster.
pub trait Access {
    /// The file that says where the API server is, and who asks.
    fn kubeconfig(&self) -> PathBuf;

    /// A command that reaches the API server, with the cluster's programs in `PATH` and `KUBECONFIG` set.
    fn command(&self, program: &str) -> Command;

    /// Runs kubectl and returns what it writes.
    ///
    /// # Errors
    /// When it fails or takes longer than a minute. For longer waits use [`Self::command`] with [`process::run`].
    fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command("kubectl");
        Ok(process::run(command.args(args), KUBECTL_LIMIT)?.stdout)
    }

    /// Runs helm and returns what it writes.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    fn helm(&self, args: &[&str], limit: Duration) -> Result<String> {
        let mut command = self.command("helm");
        Ok(process::run(command.args(args), limit)?.stdout)
    }

    /// Applies manifests on the server's side.
    ///
    /// # Errors
    /// When the API server refuses one; the error holds its answer.
    fn apply(&self, manifests: &str) -> Result<String> {
        let mut file =
            tempfile::NamedTempFile::new().while_(|| "creating a temporary file".into())?;
        std::io::Write::write_all(&mut file, manifests.as_bytes())
            .while_(|| "writing a temporary file".into())?;
        self.kubectl(&[
            "apply",
            "--server-side",
            "-f",
            &file.path().display().to_string(),
        ])
    }
}

/// A client of the API server that a kubeconfig names. For one of our clusters the process must be in its network
/// ([`crate::Cluster::join`]).
///
/// # Errors
/// When the kubeconfig cannot be read.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let client = async {
        let file =
            kube::config::Kubeconfig::read_from(kubeconfig).map_err(|error| error.to_string())?;
        let config =
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                .await
                .map_err(|error| error.to_string())?;
        kube::Client::try_from(config).map_err(|error| error.to_string())
    };
    client.await.map_err(Error::Client)
}

/// A cluster that is not ours.
#[derive(Debug, Clone)]
pub struct Foreign {
    kubeconfig: PathBuf,
    path: String,
}

impl Foreign {
    /// The cluster of this kubeconfig. kubectl and helm are the caller's, or those that were built for our own clusters.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = kubeconfig
            .canonicalize()
            .while_(|| format!("looking for {}", kubeconfig.display()))?;
        let mut path = env::var("PATH").unwrap_or_default();
        if let Some(tools) = Tools::built() {
            path = format!("{path}:{}", tools.path());
        }
        Ok(Self { kubeconfig, path })
    }
}

impl Access for Foreign {
    fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    fn command(&self, program: &str) -> Command {
        let found = env::split_paths(&self.path)
            .map(|directory| directory.join(program))
            .find(|path| path.is_file());
        let mut command = Command::new(found.unwrap_or_else(|| program.into()));
        // Ctrl-C reaches every program of the terminal's process group: a removal that has begun must not end half-way
        command
            .process_group(0)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PATH", &self.path);
        command
    }
}
