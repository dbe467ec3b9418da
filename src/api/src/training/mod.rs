//! TrainingJob: a gang of workers that runs as a whole or waits.

mod adopted;
mod adopted_spec;
mod framework;
mod launcher;

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_core::model::event;
use bursar_core::plan::LimitedBy;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::core::{Rule, validate};
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::inference::TargetRef;
use crate::lenient::Validate;
use crate::names::{MAX_ROLE_JOB_NAME, is_role};
use crate::quantities::FieldError;
use crate::spend::SpendSummary;
use crate::template;

pub use self::adopted::{JobTargetStatus, is_suspend_field};
pub use self::framework::{
    Framework, LAUNCHER, Precision, TENSORFLOW_PORT, VISIBLE_DEVICES, WORKER,
};

/// Workers that all roles may have together.
const MAX_WORKERS: u32 = 1000;

/// A gang of training workers on GPUs. It starts when all of it fits and its namespace's budgets
/// have the money; it is suspended when they have none left, and resumes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "bursar.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    plural = "trainingjobs",
    shortname = "tj",
    category = "bursar",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be at most 50 letters, digits and dashes, and begin with a letter: workers have DNS names made of it"),
    validation = Rule::new("!has(self.spec.roles) || self.spec.roles.all(r, size(self.metadata.name) + size(r.name) <= 58)")
        .message("metadata.name and the name of each role must have at most 58 characters together: workers have DNS names made of both"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.workers.ready", description = "workers that run"),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".status.workers.replicas", description = "workers of the gang", priority = 1),
    printcolumn(name = "Limited-By", type_ = "string", json_path = ".status.limitedBy", description = "what keeps it from running"),
    printcolumn(name = "Total", type_ = "string", json_path = ".status.spend.total", description = "spent in all"),
    printcolumn(name = "Rate/h", type_ = "string", json_path = ".status.spend.ratePerHour", description = "money an hour"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.roles) || (!has(self.replicas) && !has(self.template))")
        .message("roles exclude replicas and template: give replicas and template of the only role, or roles"),
    validation = Rule::new("has(self.targetRef) || has(self.roles) || has(self.replicas)")
        .message("replicas is missing: give replicas and template, or roles, or a targetRef"),
    validation = Rule::new("has(self.targetRef) || has(self.roles) || has(self.template)")
        .message("template is missing: give replicas and template, or roles, or a targetRef"),
    validation = Rule::new("has(self.targetRef) || has(self.framework)")
        .message("framework is missing: it says how the workers find each other; Plain leaves that to them"),
    validation = Rule::new(adopted::RULES[0].0).message(adopted::RULES[0].1),
    validation = Rule::new(adopted::RULES[1].0).message(adopted::RULES[1].1),
    validation = Rule::new(adopted::RULES[2].0).message(adopted::RULES[2].1),
    validation = Rule::new(framework::RULES[0].0).message(framework::RULES[0].1),
    validation = Rule::new(framework::RULES[1].0).message(framework::RULES[1].1),
    validation = Rule::new(framework::RULES[2].0).message(framework::RULES[2].1),
    validation = Rule::new(framework::RULES[3].0).message(framework::RULES[3].1),
    validation = Rule::new(framework::RULES[4].0).message(framework::RULES[4].1),
    validation = Rule::new(framework::RULES[5].0).message(framework::RULES[5].1),
    validation = Rule::new(framework::RULES[6].0).message(framework::RULES[6].1),
    validation = Rule::new(framework::RULES[7].0).message(framework::RULES[7].1),
    validation = Rule::new(framework::RULES[8].0).message(framework::RULES[8].1),
    validation = Rule::new(framework::RULES[9].0).message(framework::RULES[9].1),
    validation = Rule::new(framework::RULES[10].0).message(framework::RULES[10].1),
    validation = Rule::new("!has(self.successPolicy) || (has(self.roles) && self.successPolicy.roles.all(n, self.roles.exists(r, r.name == n)))")
        .message("successPolicy.roles must name roles of the job"),
    validation = Rule::new("has(self.framework) == has(oldSelf.framework) && (!has(self.framework) || self.framework == oldSelf.framework) \
        && has(self.precision) == has(oldSelf.precision) && (!has(self.precision) || self.precision == oldSelf.precision) \
        && has(self.successPolicy) == has(oldSelf.successPolicy) && (!has(self.successPolicy) || self.successPolicy == oldSelf.successPolicy) \
        && has(self.mpi) == has(oldSelf.mpi) && (!has(self.mpi) || self.mpi == oldSelf.mpi) \
        && has(self.replicas) == has(oldSelf.replicas) && (!has(self.replicas) || self.replicas == oldSelf.replicas) \
        && has(self.template) == has(oldSelf.template) && (!has(self.template) || self.template == oldSelf.template) \
        && has(self.roles) == has(oldSelf.roles) && (!has(self.roles) || self.roles == oldSelf.roles)")
        .message("replicas, framework, template, roles, precision, successPolicy and mpi of a TrainingJob cannot change: delete it and create it anew")
)]
pub struct TrainingJobSpec {
    /// How the workers find each other. Needed without a `targetRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<Framework>,
    /// An existing job to hold, start and suspend instead of making one: a Job, JobSet, PyTorchJob, MPIJob,
    /// TrainJob, RayJob, or what else the installation lists. Nothing of it is changed but whether it is
    /// suspended, and that is given back when this resource is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// Workers of a gang whose workers are all alike; with `template`, instead of `roles`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i32", range(max = 1000))]
    #[x_kube(validation = Rule::new("self >= 1").message("replicas must be at least 1"))]
    pub replicas: Option<i32>,
    /// The pod template of one worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "worker_template")]
    pub template: Option<PodTemplateSpec>,
    /// Groups of workers that differ, instead of `replicas` and `template`. All roles start and stop
    /// together. Worker 0 of the first role is the one that the others look for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(
        validation = Rule::new("self.all(r, self.exists_one(other, other.name == r.name))")
            .message("names of roles must differ"),
        validation = Rule::new("!self.all(r, r.name in ['launcher', 'ps', 'evaluator'])")
            .message("one role at least must be none of launcher, ps and evaluator: those may be without GPUs"),
        validation = Rule::new("self.map(r, r.replicas).sum() <= 1000")
            .message("replicas of all roles together must be at most 1000")
    )]
    pub roles: Vec<RoleSpec>,
    /// The number format that the framework is told to compute in, by `BURSAR_PRECISION` and
    /// `ACCELERATE_MIXED_PRECISION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Whose end is the job's. By default a launcher's, a chief's, the workers' of TensorFlow without a
    /// chief, and else that of all roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_policy: Option<SuccessPolicy>,
    /// How a launcher reaches the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpi: Option<MpiSpec>,
    /// How often all workers start again because one of them has failed; with one more failure the
    /// job has failed. Workers that the cluster takes away (condition DisruptionTarget, a deleted pod,
    /// a lost node) count as no failure.
    #[serde(default = "default_restarts")]
    #[schemars(range(max = 100))]
    #[x_kube(validation = Rule::new("self >= 0").message("restarts must not be negative"))]
    pub restarts: i32,
    /// A PriorityClass: the higher goes first in the queue, and its pods carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// Whether it is suspended where a workload of higher priority waits for the money of a budget,
    /// or for GPUs.
    #[serde(default)]
    pub preemption: Preemption,
    /// Keeps it from running; when set on a running job, its workers get SIGTERM and their grace.
    #[serde(default)]
    pub suspend: bool,
    /// Keeps it as it is: if it runs, only budgets and `suspend` stop it; if it does not, it does not
    /// start.
    #[serde(default)]
    pub paused: bool,
}

fn default_restarts() -> i32 {
    3
}

/// Whether a job gives way to workloads of higher priority.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preemption {
    /// It does: it is suspended, and starts again when there is money and room for it.
    #[default]
    Allow,
    /// It runs to its end, unless a budget is exhausted.
    Never,
}

/// Whose end is the job's.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SuccessPolicy {
    /// Once all workers of these roles have ended well, the job has succeeded, and the others are stopped.
    #[schemars(length(min = 1, max = 8), inner(length(max = 20)))]
    pub roles: Vec<String>,
}

/// How a launcher reaches the workers.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MpiSpec {
    /// Processes for each worker in the hostfile; by default the GPUs of a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1024))]
    #[x_kube(validation = Rule::new("self >= 1").message("slotsPerWorker must be at least 1"))]
    pub slots_per_worker: Option<i32>,
    /// The directory of the ssh files: `.ssh` in the home of the user that containers run as.
    #[serde(default = "default_ssh_auth_mount_path")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9._-]+)+$')")
        .message("sshAuthMountPath must be an absolute path of letters, digits, dots, dashes and underscores, such as /home/mpiuser/.ssh"))]
    pub ssh_auth_mount_path: String,
}

impl Default for MpiSpec {
    fn default() -> Self {
        Self {
            slots_per_worker: None,
            ssh_auth_mount_path: default_ssh_auth_mount_path(),
        }
    }
}

fn default_ssh_auth_mount_path() -> String {
    framework::SSH_AUTH_MOUNT_PATH.to_owned()
}

/// Workers of a gang that are alike.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(template::ROLE_GPU_RULE).message(template::ROLE_GPU_MESSAGE).field_path(".template"),
    validation = Rule::new(template::DEVICES_RULE).message(template::DEVICES_MESSAGE).field_path(".template")
)]
pub struct RoleSpec {
    /// Its name.
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')")
        .message("must be at most 20 letters, digits and dashes, and begin with a letter: workers have DNS names made of it"))]
    pub name: String,
    /// Its workers.
    #[schemars(range(max = 1000))]
    #[x_kube(validation = Rule::new("self >= 1").message("replicas must be at least 1"))]
    pub replicas: i32,
    /// The pod template of one worker.
    #[schemars(schema_with = "role_template")]
    pub template: PodTemplateSpec,
}

/// The rules of a worker's pod template, and their messages.
const WORKER_RULES: [(&str, &str); 7] = [
    (template::GPU_COUNT_RULE, template::GPU_COUNT_MESSAGE),
    (template::GPU_RESOURCE_RULE, template::GPU_RESOURCE_MESSAGE),
    (template::LABEL_RULE, template::LABEL_MESSAGE),
    (template::ANNOTATION_RULE, template::ANNOTATION_MESSAGE),
    (template::GRACE_RULE, template::GRACE_MESSAGE),
    (template::HOST_NETWORK_RULE, template::HOST_NETWORK_MESSAGE),
    (
        "!has(self.spec) || !has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Never'",
        "spec.restartPolicy must be Never or left out: restarts counts the gang's restarts",
    ),
];

/// The template of the short form: its workers have GPUs.
fn worker_template(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = role_template(generator);
    let rule = Rule::new(template::GPU_RULE).message(template::GPU_MESSAGE);
    // a rule of two texts becomes JSON without fail
    let _ = validate(&mut schema, rule);
    schema
}

/// The template of a role; whether it has GPUs is a rule of the role.
fn role_template(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = template::schema(generator);
    for (rule, message) in WORKER_RULES {
        // a rule of two texts becomes JSON without fail
        let _ = validate(&mut schema, Rule::new(rule).message(message));
    }
    schema
}

/// Where a TrainingJob stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobPhase {
    /// It waits for room or money.
    #[default]
    Queued,
    /// Its workers are starting.
    Starting,
    /// All workers run.
    Running,
    /// Its workers are stopping.
    Suspending,
    /// Nothing of it runs.
    Suspended,
    /// All workers of the roles whose end is the job's ended well.
    Succeeded,
    /// A worker failed once more than `restarts` allows.
    Failed,
}

/// The observed state of a TrainingJob.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingJobStatus {
    /// The generation that this status is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    pub phase: JobPhase,
    /// The job of `targetRef`; none without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<JobTargetStatus>,
    /// The workers of all its roles.
    pub workers: Workers,
    /// The workers of each role; empty for a job without `roles`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleStatus>,
    /// How often it was started.
    pub attempts: i32,
    /// How often a worker has failed, which each time ends the work of all.
    pub restarts: i32,
    /// Its place in the namespace's queue, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<i32>,
    /// The cause that keeps the job from running.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub limited_by: Option<LimitedBy>,
    /// Why, with the numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it first started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The spend of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend: Option<SpendSummary>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Workers by what they do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Workers {
    /// Workers that it has when all of it runs.
    pub replicas: i32,
    /// Pods that have not ended.
    pub active: i32,
    /// Pods that run.
    pub ready: i32,
    /// Workers that ended well.
    pub succeeded: i32,
    /// Pods that failed.
    pub failed: i32,
}

/// The workers of a role.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleStatus {
    /// The role's name.
    pub name: String,
    /// Its workers.
    #[serde(flatten)]
    pub workers: Workers,
}

/// A role of either form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Role<'a> {
    /// Its name; empty for the only role of the short form.
    pub name: &'a str,
    /// Its workers.
    pub replicas: u32,
    /// The pod template of one worker.
    pub template: &'a PodTemplateSpec,
}

impl TrainingJobSpec {
    /// How the workers find each other; those of a target without Bursar.
    pub fn framework(&self) -> Framework {
        self.framework.unwrap_or(Framework::Plain)
    }

    /// The roles, in their order: those of the long form, or the only one of the short form. None
    /// for a spec that cannot be read, which the API server's rules do not let through.
    pub fn roles(&self) -> Vec<Role<'_>> {
        let count = |replicas: i32| u32::try_from(replicas).unwrap_or(0);
        if let (Some(replicas), Some(template)) = (self.replicas, &self.template) {
            return vec![Role {
                name: "",
                replicas: count(replicas),
                template,
            }];
        }
        let roles = self.roles.iter().map(|role| Role {
            name: &role.name,
            replicas: count(role.replicas),
            template: &role.template,
        });
        roles.collect()
    }

    /// The workers of all roles.
    pub fn workers(&self) -> u32 {
        let workers = self.roles().into_iter().map(|role| role.replicas);
        workers.fold(0, u32::saturating_add)
    }

    /// The name of the job's PriorityClass: its own, or that of the first role whose template names
    /// one.
    pub fn priority_class(&self) -> Option<&str> {
        let own = self.priority_class_name.as_deref();
        own.or_else(|| {
            let mut specs = self
                .roles()
                .into_iter()
                .filter_map(|role| role.template.spec.as_ref());
            specs.find_map(|spec| spec.priority_class_name.as_deref())
        })
    }

    /// The role whose worker starts processes on the others by ssh, if the job has one: that name alone makes
    /// none of a framework without launchers.
    pub fn launcher(&self) -> Option<&RoleSpec> {
        let framework = self.framework();
        let may_have = matches!(
            framework,
            Framework::Mpi | Framework::Horovod | Framework::DeepSpeed
        );
        let mut roles = self.roles.iter().filter(|_| may_have);
        roles.find(|role| role.name == LAUNCHER)
    }

    /// Whether a launcher's workers run the sshd that Bursar starts: their first container says nothing else.
    pub fn runs_sshd(&self) -> bool {
        let roles = self.roles.iter().filter(|role| role.name == WORKER);
        let mut first = roles.map(|role| template::containers(&role.template).first());
        let runs = |first: Option<&Container>| first.is_none_or(template::has_no_command);
        self.launcher().is_some() && first.all(runs)
    }

    /// The roles whose end is the job's; none where that of all is.
    pub fn success_roles(&self) -> Vec<&str> {
        match &self.success_policy {
            Some(policy) => policy.roles.iter().map(String::as_str).collect(),
            None => framework::success_roles(self).to_vec(),
        }
    }

    /// Whether exactly one form is given, and all of it can be read and run.
    fn check(&self, name: &str, namespace: &str) -> Result<(), FieldError> {
        if let Some(target) = &self.target_ref {
            return self.check_target(target);
        }
        if self.framework.is_none() {
            return Err(FieldError::new(
                "spec.framework",
                "is missing, and so is targetRef",
            ));
        }
        self.check_roles(name)?;
        if let Some(policy) = &self.success_policy {
            let is_role = |name: &&String| self.roles.iter().any(|role| role.name == **name);
            if policy.roles.is_empty() || !policy.roles.iter().all(|name| is_role(&name)) {
                let why = "must name roles of the job";
                return Err(FieldError::new("spec.successPolicy.roles", why));
            }
        }
        framework::check(self, name, namespace)?;
        launcher::check(self)
    }

    fn check_roles(&self, name: &str) -> Result<(), FieldError> {
        let error = |field: &str, why: &str| Err(FieldError::new(field, why));
        let positive = |field: String, replicas: i32| match replicas {
            1.. => Ok(()),
            _ => error(&field, "must be at least 1"),
        };
        if self.roles.is_empty() {
            return match (self.replicas, &self.template) {
                (Some(replicas), Some(_)) => positive("spec.replicas".to_owned(), replicas),
                (None, _) => error("spec.replicas", "is missing, and so are roles"),
                (_, None) => error("spec.template", "is missing, and so are roles"),
            };
        }
        if self.replicas.is_some() || self.template.is_some() {
            return error("spec.roles", "excludes replicas and template");
        }
        let mut names = BTreeSet::new();
        for (index, role) in self.roles.iter().enumerate() {
            let field = format!("spec.roles[{index}].name");
            if !is_role(&role.name) {
                let why = "must be at most 20 letters, digits and dashes, and begin with a letter";
                return error(&field, why);
            }
            if name.len() + role.name.len() > MAX_ROLE_JOB_NAME {
                let why = "must have at most 58 characters together with metadata.name";
                return error(&field, why);
            }
            if !names.insert(&role.name) {
                return error(&field, "is the name of another role too");
            }
            positive(format!("spec.roles[{index}].replicas"), role.replicas)?;
        }
        if self.workers() > MAX_WORKERS {
            return error("spec.roles", "must have at most 1000 workers together");
        }
        Ok(())
    }
}

impl TrainingJob {
    /// How often a worker has failed, as the status has on record.
    pub fn restarts(&self) -> u32 {
        let restarts = self.status.as_ref().map_or(0, |status| status.restarts);
        u32::try_from(restarts).unwrap_or(0)
    }

    /// The roles of which all workers have ended well, as the status has on record.
    pub fn ended_well(&self) -> BTreeSet<event::Name> {
        let Some(status) = &self.status else {
            return BTreeSet::new();
        };
        let has_ended = |role: &Role<'_>| {
            let named = status.roles.iter().find(|found| found.name == role.name);
            let workers = match role.name {
                "" => Some(&status.workers),
                _ => named.map(|found| &found.workers),
            };
            let succeeded = workers.map_or(0, |workers| workers.succeeded);
            role.replicas > 0 && u32::try_from(succeeded).is_ok_and(|many| many >= role.replicas)
        };
        let roles = self.spec.roles().into_iter().filter(has_ended);
        roles.map(|role| role.name.into()).collect()
    }

    /// What decisions read of the job. `priority` is the value of its PriorityClass, and what that
    /// counts beside other namespaces; `seed` is a number of its own, and `shape` says what a pod of
    /// a template asks for.
    ///
    /// # Errors
    /// The first field that cannot be read.
    pub fn to_core(
        &self,
        (priority, cluster_priority): (i32, i32),
        seed: u64,
        mut shape: impl FnMut(&PodTemplateSpec) -> Arc<event::PodShape>,
    ) -> Result<event::Job, FieldError> {
        self.validate()?;
        let roles = self.spec.roles().into_iter().map(|role| event::Role {
            name: role.name.into(),
            replicas: role.replicas,
            worker: shape(role.template),
            grace_seconds: template::grace_seconds(role.template),
        });
        self.job_of((priority, cluster_priority), seed, roles.collect())
    }

    /// The job with these roles.
    fn job_of(
        &self,
        (priority, cluster_priority): (i32, i32),
        seed: u64,
        roles: Vec<event::Role>,
    ) -> Result<event::Job, FieldError> {
        let created = self.creation_timestamp().ok_or_else(|| {
            FieldError::new(
                "metadata.creationTimestamp",
                "is missing: the API server sets it",
            )
        })?;
        Ok(event::Job {
            created: created.0,
            priority,
            cluster_priority,
            preemption_allowed: self.spec.preemption == Preemption::Allow,
            suspend: self.spec.suspend,
            paused: self.spec.paused,
            seed,
            restarts: u32::try_from(self.spec.restarts).unwrap_or(0),
            restart_count: self.restarts(),
            ended_well: self.ended_well(),
            success_roles: self
                .spec
                .success_roles()
                .into_iter()
                .map(Into::into)
                .collect(),
            // a rendezvous waits for all ranks; plain workers may be independent of each other
            resumes_whole: self.spec.framework() != Framework::Plain,
            is_adopted: self.spec.target_ref.is_some(),
            roles,
        })
    }
}

impl Validate for TrainingJob {
    fn validate(&self) -> Result<(), FieldError> {
        let namespace = self.namespace().unwrap_or_default();
        self.spec.check(&self.name_any(), &namespace)
    }
}

#[cfg(test)]
mod tests;
