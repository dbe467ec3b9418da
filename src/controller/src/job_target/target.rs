//! A job that is adopted, as it was last read: its pods, whether it is suspended, how it has ended, and who else
//! decides over that.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::conditions::{Reason, target_ready};
use bursar_api::inference::TargetRef;
use bursar_api::lenient::bounded_text;
use bursar_api::names::{GROUP, SUSPENDED_ANNOTATION};
use bursar_core::model::Name;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde::Deserialize;
use serde_json::Value;

use super::path::FieldPath;
use super::table::{EndMark, JobKind, Largest, PodSetName, PodSetPaths, is_name};
use crate::scale_target::TargetProblem;

/// Pods that a job may have at a time, as many as a gang of Bursar's own.
const MAX_PODS: u64 = 1000;
/// Pod sets of one job.
const MAX_POD_SETS: usize = 32;
/// The label by which Kueue queues a job.
const KUEUE_QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
const KUEUE_DOMAIN: &str = "kueue.x-k8s.io/";

/// A job, as last read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobTarget {
    pub(crate) uid: Name,
    pub(crate) name: String,
    pub(crate) resource: ApiResource,
    pub(crate) suspended: bool,
    /// The field by which it is suspended.
    pub(crate) suspend: FieldPath,
    /// Whether Bursar has last suspended it or let it run, if it has done either.
    pub(crate) last_order: Option<bool>,
    /// The label of pods that names their pod set.
    pub(crate) pod_set_label: Option<String>,
    pub(crate) pod_sets: Vec<PodSet>,
    pub(crate) end: Option<TargetEnd>,
}

/// Pods of a job that are alike.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodSet {
    pub(crate) name: String,
    /// How many run at a time.
    pub(crate) count: u32,
    /// How many must end well.
    pub(crate) completions: u32,
    pub(crate) template: Arc<PodTemplateSpec>,
    is_unlabelled: bool,
}

/// How a job has ended, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetEnd {
    pub(crate) succeeded: bool,
    pub(crate) why: String,
}

impl PodSet {
    /// How many of its pods need no room any more, once so many have ended well.
    pub(crate) fn ended(&self, succeeded: u32) -> u32 {
        let left = self.completions.saturating_sub(succeeded);
        self.count.saturating_sub(left)
    }
}

impl JobTarget {
    /// The pod set of a pod, by the value of the label that names it.
    pub(crate) fn pod_set(&self, label: Option<&str>) -> Option<&PodSet> {
        let mut sets = self.pod_sets.iter();
        match (self.pod_set_label.is_some(), label) {
            (false, _) => self.pod_sets.first().filter(|_| self.pod_sets.len() == 1),
            (true, Some(label)) => sets.find(|set| set.name.eq_ignore_ascii_case(label)),
            (true, None) => sets.find(|set| set.is_unlabelled),
        }
    }

    /// Somebody has suspended it after Bursar let it run.
    pub(crate) fn is_suspended_by_others(&self) -> bool {
        self.suspended && self.last_order == Some(false) && self.end.is_none()
    }

    /// Somebody has let it run after Bursar suspended it.
    pub(crate) fn is_resumed_by_others(&self) -> bool {
        !self.suspended && self.last_order == Some(true) && self.end.is_none()
    }
}

/// What a job says of itself, but for its pods.
pub(super) fn target(found: &DynamicObject, kind: &JobKind) -> JobTarget {
    let object = &found.data;
    let last_order = found.annotations().get(SUSPENDED_ANNOTATION);
    JobTarget {
        uid: found.uid().unwrap_or_default().into(),
        name: found.name_any(),
        resource: kind.resource(),
        suspended: kind.suspend.get(object).and_then(Value::as_bool) == Some(true),
        suspend: kind.suspend.clone(),
        last_order: last_order.and_then(|value| value.parse().ok()),
        pod_set_label: None,
        pod_sets: Vec::new(),
        end: end(object, kind),
    }
}

/// Who else starts and suspends a job.
///
/// # Errors
/// Somebody does.
pub(super) fn check_manager(
    found: &DynamicObject,
    kind: &JobKind,
    reference: &TargetRef,
) -> Result<(), TargetProblem> {
    let problem = |reason: Reason, why: String| Err(TargetProblem::new(reason, why));
    let mut owners = found.owner_references().iter();
    if let Some(owner) = owners.find(|owner| owner.controller == Some(true)) {
        let group = owner.api_version.split('/').next().unwrap_or_default();
        let (kind, name) = (bounded_text(&owner.kind), bounded_text(&owner.name));
        if group == GROUP {
            let why =
                format!("{reference} was made by Bursar for {kind} {name}: delete this resource");
            return problem(target_ready::MADE_BY_BURSAR, why);
        }
        let why = format!(
            "{reference} belongs to {kind} {name}, which starts and suspends it: name that one in targetRef if its kind is listed"
        );
        return problem(target_ready::OWNED_BY_OTHER, why);
    }
    if let Some(queue) = found.labels().get(KUEUE_QUEUE_LABEL) {
        let queue = bounded_text(queue);
        let why = format!(
            "Kueue starts and suspends {reference}, by its label {KUEUE_QUEUE_LABEL}: {queue}"
        );
        return problem(target_ready::MANAGED_BY_KUEUE, why);
    }
    let Some((path, own)) = &kind.managed_by else {
        return Ok(());
    };
    match path.get(&found.data).and_then(Value::as_str) {
        None | Some("") => Ok(()),
        Some(by) if by == own => Ok(()),
        Some(by) => {
            let reason = match by.starts_with(KUEUE_DOMAIN) {
                true => target_ready::MANAGED_BY_KUEUE,
                false => target_ready::MANAGED_BY_OTHER,
            };
            let by = bounded_text(by);
            let why = format!("{by} starts and suspends {reference}, by its {path}");
            problem(reason, why)
        }
    }
}

/// Whether the controller of a job takes it suspended.
///
/// # Errors
/// It would refuse it, and leave its pods as they are.
pub(super) fn check_suspendable(
    object: &Value,
    kind: &JobKind,
    reference: &TargetRef,
) -> Result<(), TargetProblem> {
    let Some(requirement) = kind.unmet(object) else {
        return Ok(());
    };
    let why = format!(
        "{reference} cannot be suspended: its controller takes {} only {requirement}: change it, or create it anew",
        kind.suspend
    );
    Err(TargetProblem::new(target_ready::NOT_SUSPENDABLE, why))
}

/// The pods of a job, by the object that has its templates.
///
/// # Errors
/// It has none, or they cannot be read.
pub(super) fn pod_sets(
    object: &Value,
    kind: &JobKind,
    reference: &TargetRef,
) -> Result<Vec<PodSet>, TargetProblem> {
    let refused = |why: String| TargetProblem::new(target_ready::NO_TEMPLATES, why);
    let mut sets: Vec<PodSet> = Vec::new();
    let mut names = BTreeSet::new();
    for paths in &kind.pod_sets {
        for (key, element) in paths.at.each(object) {
            let set = pod_set(paths, (key, element), reference).map_err(refused)?;
            let Some(mut set) = set.filter(|set| set.count > 0) else {
                continue;
            };
            if !names.insert(set.name.clone()) {
                set.name = format!("pods-{}", sets.len());
                names.insert(set.name.clone());
            }
            sets.push(set);
        }
    }
    let pods = sets.iter().map(|set| u64::from(set.count)).sum::<u64>();
    if sets.is_empty() {
        return Err(refused(format!(
            "{reference} has no pod template where jobs of its kind have them: give it one"
        )));
    }
    if sets.len() > MAX_POD_SETS || pods > MAX_PODS {
        let number = sets.len();
        return Err(refused(format!(
            "{reference} has {pods} pods of {number} templates: at most {MAX_PODS} of {MAX_POD_SETS} can start together"
        )));
    }
    Ok(sets)
}

fn pod_set(
    paths: &PodSetPaths,
    (key, element): (Option<&str>, &Value),
    reference: &TargetRef,
) -> Result<Option<PodSet>, String> {
    let Some(template) = paths.template.get(element).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let template = PodTemplateSpec::deserialize(template).map_err(|error| {
        let why = bounded_text(&error.to_string());
        format!("a pod template of {reference} cannot be read: {why}")
    })?;
    let name = match &paths.name {
        PodSetName::Fixed(name) => Some(name.as_str()),
        PodSetName::Field(path) => path.get(element).and_then(Value::as_str),
        PodSetName::Key => key,
    };
    let name = name.map(str::to_ascii_lowercase);
    let count = product(&paths.count, element, reference)?;
    let is_given = |paths: &Largest| {
        let mut values = paths.iter().filter_map(|path| path.get(element));
        values.any(|value| !value.is_null())
    };
    let completions = match paths.completions.last().is_some_and(is_given) {
        true => product(&paths.completions, element, reference)?,
        false => count,
    };
    Ok(Some(PodSet {
        name: name
            .filter(|name| is_name(name))
            .unwrap_or_else(|| "pods".to_owned()),
        // no more run than have to end
        count: count.min(completions),
        completions,
        template: Arc::new(template),
        is_unlabelled: paths.is_unlabelled,
    }))
}

/// The product of numbers, of each of which the largest that is there counts; one that is missing is 1.
fn product(counts: &[Largest], element: &Value, reference: &TargetRef) -> Result<u32, String> {
    let mut all: u32 = 1;
    for paths in counts {
        let mut largest = None;
        for path in paths {
            let Some(value) = path.get(element).filter(|value| !value.is_null()) else {
                continue;
            };
            let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
            let number =
                number.ok_or_else(|| format!("{path} of {reference} is no number of pods"))?;
            largest = largest.max(Some(number));
        }
        all = all.saturating_mul(largest.unwrap_or(1));
    }
    Ok(all)
}

/// How it has ended, if it has.
fn end(object: &Value, kind: &JobKind) -> Option<TargetEnd> {
    let reason = |marks: &[EndMark]| marks.iter().find_map(|mark| end_reason(object, mark));
    // a failure may follow a success that did not count, and not the other way round
    let failed = reason(&kind.failed).map(|why| TargetEnd {
        succeeded: false,
        why,
    });
    failed.or_else(|| {
        reason(&kind.succeeded).map(|why| TargetEnd {
            succeeded: true,
            why,
        })
    })
}

/// What says that it has ended, if this does.
fn end_reason(object: &Value, mark: &EndMark) -> Option<String> {
    match mark {
        EndMark::Condition(kind) => {
            let conditions = object.pointer("/status/conditions")?.as_array()?;
            let is_it =
                |condition: &&Value| condition["type"] == **kind && condition["status"] == "True";
            let found = conditions.iter().find(is_it)?;
            let text = |field: &str| found[field].as_str().unwrap_or_default();
            Some(bounded_text(&format!(
                "{kind}: {} {}",
                text("reason"),
                text("message")
            )))
        }
        EndMark::Field(path, values) => {
            let found = path.get(object)?.as_str()?;
            let message = object.pointer("/status/message").and_then(Value::as_str);
            let is_it = values.iter().any(|value| value == found);
            is_it.then(|| bounded_text(&format!("{path}: {found} {}", message.unwrap_or_default())))
        }
    }
}
