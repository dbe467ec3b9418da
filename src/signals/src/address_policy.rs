//! Which addresses a source of signals may have. Tenants name hosts, and the controller may reach
//! what they may not: the metadata service of the cloud, kubelets, the API server.

use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Decides about each address before a connection to it is made.
pub trait AddressPolicy: Send + Sync + Debug {
    /// Why no connection to this address may be made, as in "a loopback address"; `None` if it
    /// may. An IPv6 address that stands for an IPv4 address is asked for in both forms.
    fn refuses(&self, address: IpAddr) -> Option<&'static str>;
}

/// Addresses with a common prefix, as in `10.0.0.0/8` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network; write an address and the bits of its prefix, as in 10.0.0.0/8")]
pub struct InvalidNetwork(String);

impl Network {
    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (differing, bits) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(u32::from(ours) ^ u32::from(theirs)), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (u128::from(ours) ^ u128::from(theirs), 128),
            _ => return false,
        };
        let beyond_prefix = bits - u32::from(self.prefix);
        differing.checked_shr(beyond_prefix).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.chars().take(60).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(invalid());
        }
        Ok(Self { address, prefix })
    }
}

/// Refuses addresses that no source of signals has in any cluster, unless they are allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandardPolicy {
    /// Networks whose addresses are never refused.
    pub allowed: Vec<Network>,
}

impl AddressPolicy for StandardPolicy {
    fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        if self.allowed.iter().any(|network| network.contains(address)) {
            return None;
        }
        match address {
            IpAddr::V4(address) => special_v4(address),
            IpAddr::V6(address) => special_v6(address),
        }
    }
}

/// Addresses of metadata services that are not link-local: Alibaba Cloud, Azure, AWS and Google
/// Cloud.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
];
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
const METADATA: &str = "the address of a cloud's metadata service";
const LOOPBACK: &str = "a loopback address";
const LINK_LOCAL: &str = "a link-local address";
const MULTICAST: &str = "a multicast address";
const UNSPECIFIED: &str = "an address of no host";

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        _ if METADATA_V4.contains(&address) => Some(METADATA),
        [0, ..] => Some(UNSPECIFIED),
        [127, ..] => Some(LOOPBACK),
        [169, 254, ..] => Some(LINK_LOCAL),
        [224..=239, ..] => Some(MULTICAST),
        [240..=255, ..] => Some("a broadcast or reserved address"),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    match address.segments() {
        _ if METADATA_V6.contains(&address) => Some(METADATA),
        _ if address.is_unspecified() => Some(UNSPECIFIED),
        _ if address.is_loopback() => Some(LOOPBACK),
        [0xfe80..=0xfebf, ..] => Some(LINK_LOCAL),
        [0xff00..=0xffff, ..] => Some(MULTICAST),
        _ => None,
    }
}

/// The reason of the policy against an address in any of its forms.
pub(crate) fn refusal(policy: &dyn AddressPolicy, address: IpAddr) -> Option<&'static str> {
    let embedded = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => embedded_v4(address).map(IpAddr::V4),
    };
    let mut forms = [Some(address), embedded].into_iter().flatten();
    forms.find_map(|form| policy.refuses(form))
}

/// The IPv4 address to which packets for this address may go in the end: in IPv4-mapped,
/// IPv4-compatible, NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056) form.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        // `::` and `::1` are no IPv4-compatible addresses
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => (high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x64, 0xff9b, 1, _, _, _, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(address: &str) -> Option<&'static str> {
        refusal(&StandardPolicy::default(), address.parse().unwrap())
    }

    #[test]
    fn special_addresses_are_refused_in_every_form() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:2:3:4:a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
        ] {
            assert!(reason(address).is_some(), "{address} is not refused");
        }
    }

    #[test]
    fn addresses_of_pods_services_and_the_internet_are_not_refused() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(reason(address), None, "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_refused_and_nothing_next_to_it_is() {
        let policy = StandardPolicy {
            allowed: vec!["127.0.0.0/31".parse().unwrap(), "::1/128".parse().unwrap()],
        };
        let reason = |address: &str| refusal(&policy, address.parse().unwrap());
        assert_eq!(reason("127.0.0.1"), None);
        assert_eq!(reason("::1"), None);
        assert_eq!(reason("127.0.0.2"), Some(LOOPBACK));
        assert_eq!(reason("169.254.169.254"), Some(LINK_LOCAL));
    }

    #[test]
    fn a_network_is_an_address_with_a_prefix() {
        let contains = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(contains("fd00::/8", "fdff::1"));
        for text in [
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "a/8",
            "10.0.0.0/-1",
            "",
        ] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
