//! The name by which a service, or another object of a namespace, is found.

use kube::ResourceExt;

/// A service: the namespace and name of its InferenceDeployment. Also of other objects.
pub(crate) type ServiceKey = (String, String);

/// The namespace and name of an object.
pub(crate) fn service_key(object: &impl ResourceExt) -> ServiceKey {
    (object.namespace().unwrap_or_default(), object.name_any())
}
