//! Label selectors and blocks of addresses, as Kubernetes defines them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// What a label takes in addition to its text.
const LABEL_BYTES: usize = 64;

/// Labels, sorted by key. Clones share them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Labels(Arc<[(Box<str>, Box<str>)]>);

impl Labels {
    pub(crate) fn new(labels: &BTreeMap<String, String>) -> Self {
        let labels = labels.iter();
        Self(
            labels
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect(),
        )
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(known, _)| (**known).cmp(key));
        let (_, value) = &self.0[found.ok()?];
        Some(value)
    }

    /// What they take in memory.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |(key, value): &(Box<str>, Box<str>)| key.len() + value.len() + LABEL_BYTES;
        self.0.iter().map(bytes).sum()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    DoesNotExist(String),
    /// It cannot be read: nothing fulfils it.
    Unreadable,
}

/// A label selector. An empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

impl Selector {
    pub(crate) fn new(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter().flatten();
        let labels =
            labels.map(|(key, value)| Requirement::In(key.clone(), [value.clone()].into()));
        let expressions = selector.match_expressions.iter().flatten();
        let expressions = expressions.map(|each| {
            let (key, values) = (each.key.clone(), each.values.iter().flatten());
            let values: BTreeSet<String> = values.cloned().collect();
            match each.operator.as_str() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                _ => Requirement::Unreadable,
            }
        });
        Self(labels.chain(expressions).collect())
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                labels.get(key).is_some_and(|value| values.contains(value))
            }
            // labels without the key match too
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| !values.contains(value))
            }
            Requirement::Exists(key) => labels.get(key).is_some(),
            Requirement::DoesNotExist(key) => labels.get(key).is_none(),
            Requirement::Unreadable => false,
        })
    }

    /// Whether it matches everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of its requirements and their values.
    pub(crate) fn terms(&self) -> usize {
        let values = |requirement: &Requirement| match requirement {
            Requirement::In(_, values) | Requirement::NotIn(_, values) => 1 + values.len(),
            _ => 1,
        };
        self.0.iter().map(values).sum()
    }
}

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cidr {
    /// The bits that are the same in all its addresses; the others are zero.
    network: u128,
    mask: u128,
    is_ipv4: bool,
}

impl Cidr {
    /// The block that is written so, such as `192.0.2.0/24`; `None` if that cannot be read.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let (address, is_ipv4) = bits(address.parse().ok()?);
        let (width, length): (u32, u32) = (if is_ipv4 { 32 } else { 128 }, length.parse().ok()?);
        let host_bits = width.checked_sub(length)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self {
            network: address & mask,
            mask,
            is_ipv4,
        })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let (address, is_ipv4) = bits(address);
        is_ipv4 == self.is_ipv4 && address & self.mask == self.network
    }

    /// The first two addresses of the block.
    pub(crate) fn first_two(&self) -> [IpAddr; 2] {
        [self.network, self.network | 1].map(|bits| match self.is_ipv4 {
            true => IpAddr::from(u32::try_from(bits).unwrap_or(0).to_be_bytes()),
            false => IpAddr::from(bits.to_be_bytes()),
        })
    }
}

/// The bits of an address, and whether it is one of IPv4.
fn bits(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(u32::from(address)), true),
        IpAddr::V6(address) => (u128::from(address), false),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        Labels::new(
            &pairs
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn selectors_match_as_in_kubernetes() {
        let web = labels(&[("app", "web"), ("tier", "front")]);
        let none = labels(&[]);
        for (selector, matches_web, matches_none) in [
            (json!({}), true, true),
            (json!({"matchLabels": {"app": "web"}}), true, false),
            (
                json!({"matchLabels": {"app": "web", "tier": "back"}}),
                false,
                false,
            ),
            (json!({"matchLabels": {"app": ""}}), false, false),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}),
                true,
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]}),
                false,
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
                false,
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}),
                true,
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
                true,
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
                false,
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "exists"}]}),
                false,
                false,
            ),
            (
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]}),
                false,
                false,
            ),
        ] {
            let parsed = Selector::new(&serde_json::from_value(selector.clone()).unwrap());
            assert_eq!(parsed.matches(&web), matches_web, "{selector}");
            assert_eq!(parsed.matches(&none), matches_none, "{selector}");
        }
    }

    #[test]
    fn blocks_have_the_addresses_of_their_family_and_prefix_alone() {
        for (block, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            // host bits do not count
            ("10.1.2.3/24", "10.1.2.255", "10.1.3.0"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
        ] {
            let parsed = Cidr::parse(block).unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{block} {inside}");
            assert!(
                !parsed.contains(outside.parse().unwrap()),
                "{block} {outside}"
            );
        }
        for wrong in [
            "",
            "10.0.0.1",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "a/8",
            "10.0.0.0/-1",
            "10.0.0.0/",
        ] {
            assert_eq!(Cidr::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_block_matches_exactly_the_addresses_with_its_prefix_whatever_they_are() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..5_000 {
            let (address, other, length) = (random.u32(..), random.u32(..), random.u32(0..=32));
            let other = if random.bool() {
                other
            } else {
                address ^ (1 << random.u32(0..32))
            };
            let text = format!("{}/{length}", std::net::Ipv4Addr::from(address));
            let same = (0..length).all(|bit| (address ^ other) & (1 << (31 - bit)) == 0);
            let found = Cidr::parse(&text)
                .unwrap()
                .contains(std::net::Ipv4Addr::from(other).into());
            assert_eq!(found, same, "{text} {}", std::net::Ipv4Addr::from(other));
        }
    }

    #[test]
    fn the_first_two_addresses_of_a_block() {
        let first = |block: &str| {
            Cidr::parse(block)
                .unwrap()
                .first_two()
                .map(|each| each.to_string())
        };
        assert_eq!(first("10.244.3.0/24"), ["10.244.3.0", "10.244.3.1"]);
        assert_eq!(first("fd00:1::/64"), ["fd00:1::", "fd00:1::1"]);
    }
}
