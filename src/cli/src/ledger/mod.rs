//! stub
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// b
    Backup,
}
pub(crate) async fn run<F: Future<Output = Result<kube::Client, crate::read::Error>>>(
    _c: impl FnOnce() -> F,
    _a: &Command,
) -> Result<std::process::ExitCode, crate::read::Error> {
    Ok(std::process::ExitCode::SUCCESS)
}
