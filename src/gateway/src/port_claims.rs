//! Who has which port: of the services that claim one in their statuses, at most one.
//!
//! Controllers give no port to two services, so two that claim one mean that a status was written by
//! somebody else. The service that has the port keeps it. If none has it yet, none gets it: a request
//! that is refused does less harm than one that goes to another tenant.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bursar_api::names::GATEWAY_PORTS;

use crate::service_key::ServiceKey;

/// The claims of all services, and who has which port.
#[derive(Debug, Default)]
pub(crate) struct PortClaims {
    claimed: HashMap<ServiceKey, u16>,
    claimants: BTreeMap<u16, BTreeSet<ServiceKey>>,
    assigned: BTreeMap<u16, ServiceKey>,
    /// Ports whose claims have changed since ports were last assigned.
    changed: BTreeSet<u16>,
}

impl PortClaims {
    /// Sets the port that a service claims. One outside the range of ports is none.
    pub(crate) fn claim(&mut self, service: &ServiceKey, port: Option<u16>) {
        let port = port.filter(|port| GATEWAY_PORTS.contains(port));
        let old = match port {
            Some(port) => self.claimed.insert(service.clone(), port),
            None => self.claimed.remove(service),
        };
        if old == port {
            return;
        }
        if let Some(old) = old {
            self.changed.insert(old);
            if let Some(claimants) = self.claimants.get_mut(&old) {
                claimants.remove(service);
                if claimants.is_empty() {
                    self.claimants.remove(&old);
                }
            }
        }
        if let Some(port) = port {
            self.changed.insert(port);
            let claimants = self.claimants.entry(port).or_default();
            claimants.insert(service.clone());
        }
    }

    /// Assigns the ports whose claims have changed. Returns whether any has another owner now.
    pub(crate) fn assign(&mut self) -> bool {
        let mut is_changed = false;
        for port in std::mem::take(&mut self.changed) {
            let owner = self.owner(port).cloned();
            if self.assigned.get(&port) == owner.as_ref() {
                continue;
            }
            is_changed = true;
            match owner {
                Some(owner) => drop(self.assigned.insert(port, owner)),
                None => drop(self.assigned.remove(&port)),
            }
        }
        is_changed
    }

    fn owner(&self, port: u16) -> Option<&ServiceKey> {
        let claimants = self.claimants.get(&port)?;
        if claimants.len() > 1 {
            tracing::error!(
                port,
                ?claimants,
                "several statuses claim one port; who has it keeps it"
            );
        }
        let incumbent = self.assigned.get(&port);
        let incumbent = incumbent.filter(|incumbent| claimants.contains(*incumbent));
        let only = claimants.first().filter(|_| claimants.len() == 1);
        incumbent.or(only)
    }

    /// The service of each port.
    pub(crate) fn assigned(&self) -> &BTreeMap<u16, ServiceKey> {
        &self.assigned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServiceKey {
        ("ns".to_owned(), name.to_owned())
    }

    fn owner(claims: &PortClaims) -> Option<&str> {
        claims
            .assigned()
            .get(&20_017)
            .map(|(_, name)| name.as_str())
    }

    #[test]
    fn who_has_a_port_keeps_it_though_another_status_claims_it() {
        let mut claims = PortClaims::default();
        claims.claim(&key("chat"), Some(20_017));
        assert!(claims.assign());
        claims.claim(&key("a"), Some(20_017));
        assert!(!claims.assign());
        assert_eq!(owner(&claims), Some("chat"));
        claims.claim(&key("chat"), Some(20_018));
        assert!(claims.assign());
        assert_eq!(owner(&claims), Some("a"));
        assert_eq!(claims.assigned().get(&20_018), Some(&key("chat")));
    }

    #[test]
    fn nobody_has_a_port_that_two_statuses_claim_from_the_beginning() {
        let mut claims = PortClaims::default();
        claims.claim(&key("a"), Some(20_017));
        claims.claim(&key("chat"), Some(20_017));
        assert!(!claims.assign());
        assert_eq!(owner(&claims), None);
        claims.claim(&key("a"), None);
        assert!(claims.assign());
        assert_eq!(owner(&claims), Some("chat"));
    }

    #[test]
    fn a_port_is_given_on_when_its_service_is_gone_and_none_outside_the_range_is_given() {
        let mut claims = PortClaims::default();
        claims.claim(&key("chat"), Some(20_017));
        assert!(claims.assign());
        // in one batch of events
        claims.claim(&key("chat"), None);
        claims.claim(&key("new"), Some(20_017));
        assert!(claims.assign());
        assert_eq!(owner(&claims), Some("new"));
        for port in [8080, 8443, 19_999, 30_000] {
            claims.claim(&key("low"), Some(port));
        }
        assert!(!claims.assign());
        assert_eq!(claims.assigned().len(), 1);
    }
}
