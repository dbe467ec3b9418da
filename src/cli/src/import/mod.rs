//! `kubectl bursar import`: manifests of other autoscalers and job controllers as Bursar's.
//!
//! Each field of a source is used or reported: a converter takes the fields that it knows, and
//! those that are left are reported by themselves ([`fields::Fields`]). What nobody can know from
//! the source is left out and named. A converter sees values only; `cluster` fetches those that it
//! refers to first.
//!
//! | module | subject |
//! |---|---|
//! | `fields`, `report` | which fields were used, and what became of the others |
//! | `draft`, `yaml` | the manifest that is made, and how it is written |
//! | `objects`, `cluster` | what is read, from a file or from the cluster |
//! | `hpa`, `scaledobject`, `deployment` | sources that become an InferenceDeployment |
//! | `target`, `container`, `engine_guess` | the workload that such a service scales |
//! | `behavior`, `signals` | what an HPA and a ScaledObject have in common |
//! | `pytorchjob`, `mpijob`, `trainjob`, `job` | sources that become a TrainingJob |
//! | `training`, `pod_template` | what these have in common |

mod behavior;
mod cluster;
mod container;
mod deployment;
mod draft;
mod engine_guess;
mod fields;
mod hpa;
mod job;
mod mpijob;
mod objects;
mod pod_template;
mod pytorchjob;
mod report;
mod scaledobject;
mod signals;
mod target;
#[cfg(test)]
mod tests;
mod training;
mod trainjob;
mod yaml;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bursar_api::lenient::bounded_text;
use clap::{Args, ValueEnum};
use kube::Client;
use serde_json::Value;

use crate::client::ClientError;

use draft::Imported;
use objects::{MAX_FILE, Objects, ReadError, is_kind, metadata, string};
use report::Report;

/// The exit code of an import that is not whole.
const NOT_WHOLE: u8 = 3;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Kind of the source.
    kind: SourceKind,
    /// Name of the source, in the cluster; or of the only one to take from the file.
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// Namespace of the source [default: the kubeconfig's].
    #[arg(long, short)]
    namespace: Option<String>,
    /// Read the source, and what it refers to, from this file instead of the cluster; - is standard
    /// input.
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// Have the API server check the result as well, and change nothing.
    #[arg(long, value_enum, value_name = "server")]
    dry_run: Option<DryRun>,
}

/// Who checks the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DryRun {
    Server,
}

/// A kind that is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum SourceKind {
    /// HorizontalPodAutoscaler (autoscaling/v2).
    Hpa,
    /// ScaledObject of KEDA.
    ScaledObject,
    /// Deployment.
    Deployment,
    /// StatefulSet.
    StatefulSet,
    /// PyTorchJob of Kubeflow.
    PyTorchJob,
    /// MPIJob of Kubeflow, v1 or v2beta1.
    MpiJob,
    /// TrainJob of Kubeflow Trainer.
    TrainJob,
    /// Job.
    Job,
}

impl SourceKind {
    /// Its group and kind.
    fn group_kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Hpa => ("autoscaling", "HorizontalPodAutoscaler"),
            Self::ScaledObject => ("keda.sh", "ScaledObject"),
            Self::Deployment => ("apps", "Deployment"),
            Self::StatefulSet => ("apps", "StatefulSet"),
            Self::PyTorchJob => ("kubeflow.org", "PyTorchJob"),
            Self::MpiJob => ("kubeflow.org", "MPIJob"),
            Self::TrainJob => (trainjob::GROUP, "TrainJob"),
            Self::Job => ("batch", "Job"),
        }
    }

    /// The versions that are asked for in a cluster, the newest first.
    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Hpa => &["v2"],
            Self::ScaledObject | Self::TrainJob => &["v1alpha1"],
            Self::MpiJob => &["v2beta1", "v1"],
            Self::Deployment | Self::StatefulSet | Self::PyTorchJob | Self::Job => &["v1"],
        }
    }

    /// The manifest that an object becomes, with what is to be known about it.
    fn convert(self, object: &Value, objects: &Objects) -> Imported {
        let report = Report::default();
        let manifest = match self {
            Self::Hpa => hpa::convert(object, objects, &report),
            Self::ScaledObject => scaledobject::convert(object, objects, &report),
            Self::Deployment | Self::StatefulSet => deployment::convert(object, objects, &report),
            Self::PyTorchJob => pytorchjob::convert(object, &report),
            Self::MpiJob => mpijob::convert(object, &report),
            Self::TrainJob => trainjob::convert(object, objects, &report),
            Self::Job => job::convert(object, &report),
        };
        Imported {
            source: bounded_text(&describe(object)),
            manifest,
            findings: report.into_findings(),
        }
    }
}

/// An object's kind, name and version.
fn describe(object: &Value) -> String {
    let kind = string(object, "kind").unwrap_or("?");
    let name = metadata(object, "name").or_else(|| metadata(object, "generateName"));
    let version = string(object, "apiVersion").unwrap_or("?");
    let path = match (metadata(object, "namespace"), name.unwrap_or("?")) {
        (Some(namespace), name) => format!("{namespace}/{name}"),
        (None, name) => name.to_owned(),
    };
    format!("{kind} {path} ({version})")
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("reading {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{path} has more than {MAX_FILE} bytes: give it in parts")]
    TooLarge { path: String },
    #[error("reading {path}: {source}")]
    Objects { path: String, source: ReadError },
    #[error("{path} has no {kind}{seen}")]
    None {
        path: String,
        kind: String,
        seen: String,
    },
    #[error("{0}")]
    Api(String),
}

/// Runs an import: the manifests go to standard output, and refusals of a dry run to standard
/// error. A client is made only for what needs the cluster.
///
/// # Errors
/// The source cannot be read, or is not there.
pub(crate) async fn run<F>(client: impl Fn() -> F, args: &ImportArgs) -> Result<ExitCode, Error>
where
    F: Future<Output = Result<Client, ClientError>>,
{
    let imported = match (&args.file, &args.name) {
        (Some(path), name) => {
            from_file(args.kind, path, name.as_deref(), args.namespace.as_deref())?
        }
        (None, name) => {
            let name = name.as_deref().unwrap_or_default();
            cluster::import(&client().await?, args.kind, name, args.namespace.as_deref()).await?
        }
    };
    let texts: Vec<String> = imported.iter().map(Imported::yaml).collect();
    print!("{}", texts.join("---\n"));
    if args.dry_run.is_some() {
        let client = client().await?;
        let mut refused = false;
        for each in &imported {
            let why = cluster::dry_run(&client, &each.manifest, args.namespace.as_deref()).await;
            if let Err(why) = why {
                eprintln!("refused: {}: {why}", each.source);
                refused = true;
            }
        }
        if refused {
            return Ok(ExitCode::FAILURE);
        }
    }
    match imported.iter().all(Imported::is_whole) {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::from(NOT_WHOLE)),
    }
}

/// All objects of a kind in a file, or the one with a name.
fn from_file(
    kind: SourceKind,
    path: &Path,
    name: Option<&str>,
    namespace: Option<&str>,
) -> Result<Vec<Imported>, Error> {
    let shown = match path.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => path.display().to_string(),
    };
    let text = if path.to_str() == Some("-") {
        read(io::stdin().lock(), &shown)?
    } else {
        let file = File::open(path).map_err(|source| Error::File {
            path: shown.clone(),
            source,
        })?;
        read(file, &shown)?
    };
    from_text(kind, &text, &shown, (name, namespace))
}

/// A text of bounded length.
fn read(reader: impl Read, path: &str) -> Result<String, Error> {
    let mut text = String::new();
    let path = path.to_owned();
    match reader.take(MAX_FILE + 1).read_to_string(&mut text) {
        Ok(read) if read as u64 > MAX_FILE => Err(Error::TooLarge { path }),
        Ok(_) => Ok(text),
        Err(source) => Err(Error::File { path, source }),
    }
}

/// All objects of a kind in a text, or those with a name or in a namespace.
fn from_text(
    kind: SourceKind,
    text: &str,
    path: &str,
    (name, namespace): (Option<&str>, Option<&str>),
) -> Result<Vec<Imported>, Error> {
    let objects = Objects::from_text(text).map_err(|source| Error::Objects {
        path: path.to_owned(),
        source,
    })?;
    let (group, kind_name) = kind.group_kind();
    let is_meant = |object: &&Value| {
        is_kind(object, group, kind_name)
            && name.is_none_or(|name| metadata(object, "name") == Some(name))
            && objects::is_in(object, namespace)
    };
    let found = objects.all.iter().filter(is_meant);
    let imported: Vec<Imported> = found.map(|object| kind.convert(object, &objects)).collect();
    if !imported.is_empty() {
        return Ok(imported);
    }
    let what = match name {
        Some(name) => format!("{kind_name} {name}"),
        None => kind_name.to_owned(),
    };
    Err(Error::None {
        path: path.to_owned(),
        kind: what,
        seen: seen(kind, &objects),
    })
}

/// What a file has instead.
fn seen(kind: SourceKind, objects: &Objects) -> String {
    let refusal = objects
        .all
        .iter()
        .find_map(scaledobject::scaled_job_refusal);
    if let (SourceKind::ScaledObject, Some(refusal)) = (kind, refusal) {
        return format!(": {refusal}");
    }
    let kind_of = |object: &Value| {
        let kind = string(object, "kind")?;
        let version = string(object, "apiVersion").unwrap_or("?");
        Some(format!("{kind} of {version}"))
    };
    let mut kinds: Vec<String> = objects.all.iter().filter_map(kind_of).collect();
    kinds.sort_unstable();
    kinds.dedup();
    match kinds.is_empty() {
        true => ": it has no Kubernetes objects".to_owned(),
        false => bounded_text(&format!(", but {}", kinds.join(", "))),
    }
}
