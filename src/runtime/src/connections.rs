//! How many connections a port has, and from whom.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most connections of a port at a time.
const MAX_CONNECTIONS: usize = 1024;
/// The most of one address, so that no pod alone keeps others out.
const MAX_OF_ADDRESS: usize = 16;

/// The connections of a port. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    all: Connections,
    address: IpAddr,
}

impl Connections {
    /// Counts one more from an address; `None` if it or the port has too many.
    pub(crate) fn count(&self, address: IpAddr) -> Option<Connection> {
        let mut numbers = self.lock();
        let own = numbers.get(&address).copied().unwrap_or(0);
        let all: usize = numbers.values().sum();
        if own >= MAX_OF_ADDRESS || all >= MAX_CONNECTIONS {
            return None;
        }
        numbers.insert(address, own + 1);
        Some(Connection {
            all: self.clone(),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut numbers = self.all.lock();
        if let Some(own) = numbers.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                numbers.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from([10, 0, (number / 256) as u8, (number % 256) as u8])
    }

    #[test]
    fn one_address_has_a_share_and_all_have_a_bound() {
        let connections = Connections::default();
        let mut kept = Vec::new();
        for number in 0..MAX_CONNECTIONS / MAX_OF_ADDRESS {
            for _ in 0..MAX_OF_ADDRESS {
                kept.push(connections.count(address(number)).unwrap());
            }
            assert!(connections.count(address(number)).is_none());
        }
        assert!(connections.count(address(9_999)).is_none());
        drop(kept.pop());
        let last = connections.count(address(9_999));
        assert!(last.is_some());
        drop((last, kept));
        assert!(connections.lock().is_empty());
    }
}
