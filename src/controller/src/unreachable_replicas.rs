//! Ready replicas to which gateways cannot connect. No decision reads this: it is for a condition of the
//! service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bursar_api::conditions::{ConditionState, REPLICAS_REACHABLE, replicas_reachable};
use bursar_core::model::Key;
use bursar_signals::demand::{MAX_CONNECT_ERROR, Message};

use crate::lock::lock;

/// The last error of connecting of each gateway, by its UID, for each service.
#[derive(Debug, Default)]
pub(crate) struct UnreachableReplicas(Mutex<BTreeMap<Key, BTreeMap<String, String>>>);

impl UnreachableReplicas {
    /// Takes what a gateway says. Returns the services of which another thing is to be said.
    pub(crate) fn note(&self, message: &Message) -> BTreeSet<Key> {
        let services = message.services.iter();
        let errors = services.filter_map(|service| {
            let error = service.connect_error.as_ref()?;
            let error: String = error.chars().take(MAX_CONNECT_ERROR).collect();
            Some((Key::new(&service.namespace, &service.name), error))
        });
        let mut new: BTreeMap<Key, String> = errors.collect();
        let mut changed = BTreeSet::new();
        let mut all = lock(&self.0);
        all.retain(|service, errors| {
            let before = errors.get(&message.gateway).cloned();
            let now = new.remove(service);
            if before != now {
                changed.insert(service.clone());
            }
            match now {
                Some(error) => drop(errors.insert(message.gateway.clone(), error)),
                None => drop(errors.remove(&message.gateway)),
            }
            !errors.is_empty()
        });
        for (service, error) in new {
            changed.insert(service.clone());
            all.insert(service, [(message.gateway.clone(), error)].into());
        }
        changed
    }

    /// Forgets what gateways have said that are gone. Returns the services that this concerns.
    pub(crate) fn retain_gateways<T>(&self, gateways: &BTreeMap<String, T>) -> BTreeSet<Key> {
        let mut changed = BTreeSet::new();
        lock(&self.0).retain(|service, errors| {
            let before = errors.len();
            errors.retain(|gateway, _| gateways.contains_key(gateway));
            if errors.len() != before {
                changed.insert(service.clone());
            }
            !errors.is_empty()
        });
        changed
    }

    /// The condition of a service, if gateways cannot connect to a replica that is ready. `namespace` is
    /// the operator's.
    pub(crate) fn condition(&self, service: &Key, namespace: &str) -> Option<ConditionState> {
        let all = lock(&self.0);
        let error = all.get(service)?.values().next()?;
        Some(ConditionState {
            kind: REPLICAS_REACHABLE,
            status: Some(false),
            reason: replicas_reachable::GATEWAY_CANNOT_CONNECT,
            message: format!(
                "a replica is ready, and the gateway cannot connect: {error}. Requests that gateways hold \
                 wait, and get 504 after holdTimeout. A NetworkPolicy must admit the namespace {namespace}"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use bursar_signals::demand::ServiceDemand;

    use super::*;

    fn message(gateway: &str, errors: &[(&str, Option<&str>)]) -> Message {
        let services = errors.iter().map(|(namespace, error)| ServiceDemand {
            namespace: (*namespace).to_owned(),
            name: "chat".to_owned(),
            held: 1,
            in_flight: 0,
            forwarded: 0,
            first_held_at: None,
            connect_error: error.map(str::to_owned),
        });
        Message {
            gateway: gateway.to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
            services: services.collect(),
        }
    }

    #[test]
    fn each_service_is_told_of_its_own_replicas_while_a_gateway_says_so() {
        let unreachable = UnreachableReplicas::default();
        let keys = |namespaces: &[&str]| -> BTreeSet<Key> {
            namespaces.iter().map(|it| Key::new(it, "chat")).collect()
        };
        let note = |gateway: &str, errors: &[(&str, Option<&str>)]| {
            unreachable.note(&message(gateway, errors))
        };
        let said = |namespace: &str| {
            let condition = unreachable.condition(&Key::new(namespace, "chat"), "bursar-system");
            condition.map(|condition| condition.message)
        };
        let long = "x".repeat(9_000);
        let changed = note(
            "a",
            &[
                ("blue", Some(&long)),
                ("green", Some("refused")),
                ("red", None),
            ],
        );
        assert_eq!(changed, keys(&["blue", "green"]));
        let blue = said("blue").unwrap();
        assert!(
            blue.starts_with("a replica is ready, and the gateway cannot connect: xxx"),
            "{blue}"
        );
        assert!(blue.len() < 500 && !blue.contains("refused"), "{blue}");
        assert!(said("green").unwrap().contains("refused. Requests"));
        assert_eq!(said("red"), None);
        assert_eq!(
            note("a", &[("blue", Some(&long)), ("green", Some("refused"))]),
            keys(&[])
        );
        assert_eq!(note("b", &[("green", Some("timeout"))]), keys(&["green"]));
        // it reaches them again, and the other one does not
        assert_eq!(note("a", &[]), keys(&["blue", "green"]));
        assert_eq!(said("blue"), None);
        assert!(said("green").unwrap().contains("timeout"));
        let left: BTreeMap<String, ()> = [("a".to_owned(), ())].into();
        assert_eq!(unreachable.retain_gateways(&left), keys(&["green"]));
        assert_eq!(said("green"), None);
        assert_eq!(unreachable.retain_gateways(&left), keys(&[]));
    }
}
