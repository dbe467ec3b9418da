//! The objects by which requests are routed. The fields that route are read apart from all others, so
//! that nothing else in an object keeps it from being routed, and templates are not kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bursar_api::InferenceDeployment;
use bursar_api::caller_peers::CallerPeer;
use bursar_api::engine::{self, Engine};
use bursar_api::lenient::{Lenient, Unreadable};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::PartialObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// An object, and fields of it that are read apart from it.
#[derive(Debug, Clone)]
pub(crate) struct Routed<K, F> {
    object: K,
    fields: F,
}

/// An InferenceDeployment. What does not route may be unreadable.
pub(crate) type RoutedService = Routed<Lenient<InferenceDeployment>, ServiceFields>;

/// A pod of a service: its metadata and what its kubelet reports.
pub(crate) type ServingPod = Routed<PartialObjectMeta<Pod>, PodFields>;

impl<'de, K: DeserializeOwned, F: DeserializeOwned + Default> Deserialize<'de> for Routed<K, F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self {
            object: serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?,
            fields: serde_json::from_str(text.get()).unwrap_or_default(),
        })
    }
}

impl<K, F> Routed<K, F> {
    /// The fields that are read apart.
    pub(crate) fn fields(&self) -> &F {
        &self.fields
    }
}

impl<K: Resource, F> Resource for Routed<K, F> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        self.object.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.object.meta_mut()
    }
}

/// The fields of an InferenceDeployment by which it is routed, each of any type.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct ServiceFields {
    #[serde(default)]
    spec: SpecFields,
    #[serde(default)]
    status: StatusFields,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecFields {
    #[serde(default)]
    engine: Value,
    #[serde(default)]
    engine_options: Value,
    activation: Option<AllowFromField>,
    template: Option<TemplateFields>,
    #[serde(default)]
    target_ref: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AllowFromField {
    #[serde(default)]
    allow_from: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct TemplateFields {
    metadata: Option<LabelsField>,
    spec: Option<ContainerFields>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct LabelsField {
    #[serde(default)]
    labels: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerFields {
    #[serde(default)]
    containers: Vec<PortsField>,
    #[serde(default)]
    init_containers: Vec<PortsField>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct PortsField {
    #[serde(default)]
    ports: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct StatusFields {
    #[serde(default)]
    activation: Value,
    #[serde(default)]
    target: Value,
}

impl RoutedService {
    /// The object, if it can be read.
    pub(crate) fn readable(&self) -> Option<&InferenceDeployment> {
        match &self.object {
            Lenient::Readable(object) => Some(object),
            Lenient::Unreadable(_) => None,
        }
    }

    /// Why it cannot be read, if it cannot.
    pub(crate) fn unreadable(&self) -> Option<&Unreadable> {
        match &self.object {
            Lenient::Readable(_) => None,
            Lenient::Unreadable(unreadable) => Some(unreadable),
        }
    }

    /// The port on which its replicas take requests.
    pub(crate) fn engine_port(&self) -> Option<u16> {
        let spec = &self.fields.spec;
        let option = spec.engine_options["port"].as_i64();
        let option = option.and_then(|port| i32::try_from(port).ok());
        let engine: Engine = serde_json::from_value(spec.engine.clone()).ok()?;
        engine::port(engine, option)
    }

    /// Who may reach it, if it says so.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn allow_from(&self) -> Result<Option<Vec<CallerPeer>>, serde_json::Error> {
        let activation = self.fields.spec.activation.as_ref();
        match activation.map(|activation| &activation.allow_from) {
            None | Some(Value::Null) => Ok(None),
            Some(peers) => serde_json::from_value(peers.clone()).map(Some),
        }
    }

    /// The labels of its template, or of that of its target.
    pub(crate) fn template_labels(&self) -> BTreeMap<String, String> {
        let template = self.fields.spec.template.as_ref();
        let metadata = template.and_then(|template| template.metadata.as_ref());
        let own = metadata.and_then(|metadata| metadata.labels.as_object());
        let of_target = || self.fields.status.target["podLabels"].as_object();
        let labels = own.or_else(of_target);
        let labels = labels.into_iter().flatten();
        let texts =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        texts.collect()
    }

    /// The names that containers of its template give to this port of TCP.
    pub(crate) fn port_names(&self, number: u16) -> BTreeSet<String> {
        let template = self.fields.spec.template.as_ref();
        let spec = template.and_then(|template| template.spec.as_ref());
        let containers = spec.map(|spec| spec.containers.iter().chain(&spec.init_containers));
        let ports = containers.into_iter().flatten();
        let ports = ports
            .filter_map(|container| container.ports.as_array())
            .flatten();
        let named = ports.filter(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            port["containerPort"].as_u64() == Some(number.into()) && protocol == "TCP"
        });
        let names = named.filter_map(|port| port["name"].as_str());
        let of_target = self.fields.status.target["portNames"].as_array();
        let of_target = of_target.into_iter().flatten().filter_map(Value::as_str);
        let of_target = of_target.filter(|_| self.engine_port() == Some(number));
        names.chain(of_target).map(str::to_owned).collect()
    }

    /// The port that its status claims on every gateway. A target that was not read has none: whom
    /// NetworkPolicies let reach its pods is not known.
    pub(crate) fn gateway_port(&self) -> Option<u16> {
        let has_target = !self.fields.spec.target_ref.is_null();
        if has_target && !self.fields.status.target["uid"].is_string() {
            return None;
        }
        let port = self.fields.status.activation.get("port")?.as_u64()?;
        u16::try_from(port).ok()
    }
}

/// What a kubelet reports of a pod, as far as it routes.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct PodFields {
    #[serde(default)]
    status: PodStatusFields,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct PodStatusFields {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(default)]
    conditions: Vec<PodConditionFields>,
}

#[derive(Debug, Clone, Deserialize)]
struct PodConditionFields {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl ServingPod {
    /// The address at which it takes requests, if it is ready for them. The address of a pod that
    /// has ended may be another pod's by now.
    pub(crate) fn ready_address(&self) -> Option<IpAddr> {
        let status = &self.fields.status;
        let mut conditions = status.conditions.iter();
        let is_ready = conditions.any(|each| each.kind == "Ready" && each.status == "True");
        let runs = status.phase.as_deref() == Some("Running");
        let stays = self.meta().deletion_timestamp.is_none();
        status.pod_ip.filter(|_| is_ready && runs && stays)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_has_the_labels_of_its_status_and_no_port_before_they_are_known() {
        let service = |target: Value| -> RoutedService {
            let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "old"});
            serde_json::from_value(json!({
                "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
                "metadata": {"name": "chat", "namespace": "team"},
                "spec": {"engine": "vLLM", "maxReplicas": 1, "targetRef": reference},
                "status": {"activation": {"port": 20_000}, "target": target},
            }))
            .unwrap()
        };
        assert_eq!(service(Value::Null).gateway_port(), None);
        let target = json!({"uid": "u", "podLabels": {"app": "old"}, "portNames": ["web"]});
        let known = service(target);
        assert_eq!(known.gateway_port(), Some(20_000));
        let labels = [("app".to_owned(), "old".to_owned())];
        assert_eq!(known.template_labels(), labels.into());
        assert_eq!(known.port_names(8000), ["web".to_owned()].into());
        assert!(known.port_names(8001).is_empty());
    }
}
