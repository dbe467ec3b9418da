use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::{Weekday, time};
use jiff::tz::TimeZone;

use super::*;
use crate::pricing::overhead::{OverheadCategory, ShareBy};
use crate::pricing::price_list::{Carbon, GpuPrice, NodePrice, PriceScope, VolumePrice};
use crate::pricing::tariff::{Tariff, TariffPeriod};
use crate::pricing::{CapacityType, ResourceAmounts};

const NOW: &str = "2026-11-24T00:00:00Z";

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn gpu(model: &str, resource: &str, price: &str) -> GpuPrice {
    GpuPrice {
        model: model.into(),
        resource: resource.into(),
        nodes: PriceScope::default(),
        per_hour: money(price),
        watts: None,
    }
}

fn node(instance_type: &str, gpus: Option<u32>, price: &str) -> NodePrice {
    NodePrice {
        instance_type: instance_type.into(),
        resource: "nvidia.com/gpu".into(),
        gpus,
        nodes: PriceScope::default(),
        per_hour: money(price),
    }
}

fn placed(
    row: GpuPrice,
    capacity_type: Option<CapacityType>,
    region: Option<&str>,
    zone: Option<&str>,
) -> GpuPrice {
    GpuPrice {
        nodes: PriceScope {
            capacity_type,
            region: region.map(Into::into),
            zone: zone.map(Into::into),
        },
        ..row
    }
}

fn list(name: &str, from: Option<&str>, book: PriceList) -> DatedPriceList {
    DatedPriceList {
        name: name.into(),
        effective_from: from.map(at),
        list: book,
    }
}

fn lists(lists: Vec<DatedPriceList>) -> PriceCatalog {
    PriceCatalog::new(lists, Timestamp::UNIX_EPOCH)
}

fn one(book: PriceList) -> PriceCatalog {
    lists(vec![list("ours", None, book)])
}

/// Two of the resource on a node that has eight.
fn facts(resource: &str, labels: &[(&str, &str)]) -> PricingAttributes {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let pod = PricingAttributes {
        resource: resource.into(),
        gpus: 2,
        ..PricingAttributes::default()
    };
    pod.on_node("node-1", 8, &labels)
}

const H100: (&str, &str) = ("nvidia.com/gpu.product", "H100");
const P5: (&str, &str) = ("node.kubernetes.io/instance-type", "p5.48xlarge");
const SPOT: (&str, &str) = ("karpenter.sh/capacity-type", "spot");
const REGION: (&str, &str) = ("topology.kubernetes.io/region", "us-east-1");
const ZONE: (&str, &str) = ("topology.kubernetes.io/zone", "us-east-1a");

fn compute(lists: &PriceCatalog, facts: &PricingAttributes) -> Money {
    lists.price(facts, at(NOW)).rate().unwrap().cost.compute
}

#[test]
fn the_more_a_row_says_the_earlier_it_is_taken() {
    let row = |price| gpu("H100", "nvidia.com/gpu", price);
    let spot = Some(CapacityType::Spot);
    let lists = one(PriceList {
        gpus: vec![
            row("5"),
            placed(row("2"), spot, None, None),
            placed(row("4"), None, Some("us-east-1"), None),
            placed(row("1.5"), spot, Some("us-east-1"), None),
            placed(row("3"), None, None, Some("us-east-1a")),
            placed(row("1"), spot, Some("us-east-1"), Some("us-east-1a")),
            placed(row("9"), Some(CapacityType::Reserved), None, None),
        ],
        ..PriceList::default()
    });
    for (labels, price) in [
        (vec![H100], "10"),
        (vec![H100, SPOT], "4"),
        (vec![H100, REGION], "8"),
        (vec![H100, REGION, SPOT], "3"),
        (vec![H100, ZONE], "6"),
        (vec![H100, REGION, ZONE], "6"),
        (vec![H100, REGION, ZONE, SPOT], "2"),
    ] {
        let facts = facts("nvidia.com/gpu", &labels);
        assert_eq!(compute(&lists, &facts), money(price), "{labels:?}");
    }
}

#[test]
fn a_node_price_is_shared_by_its_gpus_and_includes_processors() {
    let mut facts = facts("nvidia.com/gpu", &[H100, P5]);
    (facts.amounts.cpu_milli, facts.amounts.memory_mib) = (1_500, 3 * 1024);
    let book = PriceList {
        gpus: vec![gpu("H100", "nvidia.com/gpu", "5")],
        core_hour: Some(money("0.04")),
        gib_hour: Some(money("0.01")),
        ..PriceList::default()
    };
    let with_node = PriceList {
        nodes: vec![node("p5.48xlarge", Some(8), "55.04")],
        ..book.clone()
    };
    assert_eq!(compute(&one(with_node), &facts), money("13.76"));
    // 2 x 5, 1.5 x 0.04 and 3 x 0.01
    assert_eq!(compute(&one(book), &facts), money("10.09"));
}

#[test]
fn a_fraction_costs_its_fraction_and_an_exact_row_goes_before() {
    let physical = PriceList {
        gpus: vec![gpu("H100", "nvidia.com/gpu", "7")],
        ..PriceList::default()
    };
    let exact = PriceList {
        gpus: vec![
            placed(
                gpu("H100", "nvidia.com/gpu", "7"),
                None,
                Some("us-east-1"),
                None,
            ),
            gpu("H100", "nvidia.com/mig-3g.40gb", "2.5"),
        ],
        ..PriceList::default()
    };
    let slice = facts("nvidia.com/mig-3g.40gb", &[H100, REGION]);
    assert_eq!(compute(&one(physical.clone()), &slice), money("6"));
    assert_eq!(compute(&one(exact), &slice), money("5"));
    let replicas = ("nvidia.com/gpu.replicas", "4");
    let shared = facts("nvidia.com/gpu.shared", &[H100, replicas]);
    assert_eq!(compute(&one(physical), &shared), money("3.5"));
}

#[test]
fn fractions_of_a_node_sum_to_the_node() {
    let slices = |gpus| PriceList {
        nodes: vec![node("p5.48xlarge", gpus, "70")],
        ..PriceList::default()
    };
    // one GPU, cut into two of 3g and one of 1g
    let part = |profile: &str, node_gpus, gpus| {
        let pod = PricingAttributes {
            gpus: 1,
            node_gpus,
            ..facts(&format!("nvidia.com/mig-{profile}"), &[H100, P5])
        };
        compute(&one(slices(gpus)), &pod)
    };
    for gpus in [Some(1), None] {
        assert_eq!(part("3g.40gb", 2, gpus), money("30"), "{gpus:?}");
        assert_eq!(part("1g.10gb", 1, gpus), money("10"), "{gpus:?}");
    }
}

#[test]
fn a_missing_price_is_the_dearest_listed_and_never_zero() {
    let lists = one(PriceList {
        gpus: vec![gpu("H100", "nvidia.com/gpu", "5")],
        nodes: vec![node("p5.48xlarge", Some(8), "56")],
        ..PriceList::default()
    });
    let cost = |price: &str| Cost {
        compute: money(price),
        ..Cost::ZERO
    };
    let b300 = ("nvidia.com/gpu.product", "B300");
    for (resource, price) in [("nvidia.com/gpu", "14"), ("nvidia.com/mig-3g.40gb", "6")] {
        assert_eq!(
            lists.price(&facts(resource, &[b300]), at(NOW)),
            PriceLookup::Provisional(cost(price).into())
        );
    }
    assert_eq!(
        lists.highest_price("nvidia.com/mig-3g.40gb", at(NOW)),
        Some(money("3"))
    );
    assert_eq!(
        lists.price(&facts("amd.com/gpu", &[]), at(NOW)),
        PriceLookup::Unknown
    );
    assert_eq!(lists.highest_price("amd.com/gpu", at(NOW)), None);
}

#[test]
fn the_first_list_that_knows_the_machine_sets_its_price() {
    let default = list(
        DEFAULT_LIST,
        None,
        PriceList {
            currency: "USD".into(),
            nodes: vec![node("p5.48xlarge", Some(8), "55.04")],
            gpus: vec![GpuPrice {
                watts: Some(700),
                ..gpu("H100", "nvidia.com/gpu", "9")
            }],
            ..PriceList::default()
        },
    );
    let ours = |name: &str, from, price| {
        let gpus = vec![gpu("H100", "nvidia.com/gpu", price)];
        list(
            name,
            from,
            PriceList {
                currency: "USD".into(),
                gpus,
                ..PriceList::default()
            },
        )
    };
    let later = Some("2026-12-01T00:00:00Z");
    let all = lists(vec![
        default,
        ours("zulu", None, "2"),
        ours("alpha", later, "1"),
    ]);
    let node = facts("nvidia.com/gpu", &[H100, P5]);
    let price = |when| all.price(&node, at(when)).rate().unwrap().cost.compute;
    assert_eq!(price("2026-11-30T23:59:59Z"), money("4"));
    assert_eq!(price("2026-12-01T00:00:00Z"), money("2"));
    assert_eq!(all.next_change(at(NOW)), later.map(at));
    assert_eq!(all.next_change(at("2026-12-01T00:00:00Z")), None);
    assert_eq!(all.currency, "USD");
}

fn electricity(tariff: Tariff) -> PriceList {
    PriceList {
        gpus: vec![GpuPrice {
            watts: Some(700),
            ..gpu("H100", "nvidia.com/gpu", "5")
        }],
        power: Some(Power {
            tariff,
            pue_milli: 1120,
            carbon: Some(Carbon {
                grams_per_kwh: 400,
                regions: vec![("eu-north-1".into(), 20)],
            }),
        }),
        ..PriceList::default()
    }
}

#[test]
fn power_and_carbon_are_watts_times_pue() {
    let lists = one(electricity(Tariff::flat(money("0.10"))));
    let quote = |facts: &PricingAttributes| lists.price(facts, at(NOW)).rate().unwrap();
    let whole = quote(&facts("nvidia.com/gpu", &[H100]));
    // 2 x 0.7 kW x 1.12 = 1.568 kW
    assert_eq!(whole.cost.power, money("0.1568"));
    assert_eq!(whole.carbon_mg, 627_200);
    let north = ("topology.kubernetes.io/region", "eu-north-1");
    let slice = quote(&facts("nvidia.com/mig-1g.10gb", &[H100, north]));
    assert_eq!(slice.cost.power, money("0.0224"));
    assert_eq!(slice.carbon_mg, 4_480);
}

#[test]
fn devices_of_a_driver_are_priced_by_the_rows_of_the_gpu_behind_it() {
    let lists = one(PriceList {
        gpus: vec![
            gpu("H100", "nvidia.com/gpu", "7"),
            gpu("MI300X", "amd.com/gpu", "4"),
            gpu("Max-1100", "gpu.intel.com/xe", "2"),
        ],
        ..PriceList::default()
    });
    for (driver, model, profile, price) in [
        ("gpu.nvidia.com", "H100", None, "14"),
        ("gpu.nvidia.com", "H100", Some("3g.40gb"), "6"),
        ("gpu.amd.com", "MI300X", None, "8"),
        ("gpu.intel.com", "Max-1100", None, "4"),
    ] {
        let facts = facts(driver, &[]).with_product(Some(model), profile);
        assert_eq!(compute(&lists, &facts), money(price), "{driver} {model}");
    }
    let unlisted = facts("gpu.nvidia.com", &[]).with_product(Some("H400"), None);
    assert!(
        matches!(lists.price(&unlisted, at(NOW)), PriceLookup::Provisional(quote) if quote.cost.compute == money("14"))
    );
    let other = facts("gpu.example.com", &[]).with_product(Some("H100"), None);
    assert_eq!(lists.price(&other, at(NOW)), PriceLookup::Unknown);
}

#[test]
fn watts_that_were_measured_stand_for_those_of_the_model() {
    let book = |power| PriceList {
        gpus: vec![GpuPrice {
            watts: Some(700),
            ..gpu("H100", "nvidia.com/gpu", "5")
        }],
        power,
        ..PriceList::default()
    };
    let power = Power {
        tariff: Tariff::flat(money("0.2")),
        pue_milli: 1_500,
        carbon: Some(Carbon {
            grams_per_kwh: 400,
            regions: Vec::new(),
        }),
    };
    let mut pod = PricingAttributes {
        gpus: 2,
        ..facts("nvidia.com/gpu", &[H100])
    };
    let charged = one(book(Some(power)));
    let quote = |pod: &PricingAttributes| charged.price(pod, at(NOW)).rate().unwrap();
    assert_eq!(quote(&pod).cost.power, money("0.42"), "2 x 0.7 x 1.5 x 0.2");
    pod.amounts.watts = Some(300);
    // of all its GPUs together: 0.3 x 1.5 = 0.45 kWh
    assert_eq!(quote(&pod).cost.power, money("0.09"));
    assert_eq!(quote(&pod).carbon_mg, 180_000);
    // more than two boards of 700 W can draw is none
    pod.amounts.watts = Some(1_400);
    assert_eq!(quote(&pod).cost.power, money("0.42"));
    pod.amounts.watts = Some(u32::MAX);
    assert_eq!(quote(&pod).cost.power, money("0.42"));
    pod.amounts.watts = Some(300);
    let free = one(book(None)).price(&pod, at(NOW)).rate().unwrap();
    assert_eq!((free.cost.power, free.carbon_mg), (Money::ZERO, 0));
}

#[test]
fn storage_is_charged_by_class_and_a_month_is_730_hours() {
    let lists = one(PriceList {
        gpus: vec![gpu("H100", "nvidia.com/gpu", "5")],
        ephemeral_gib_month: Some(money("0.73")),
        volumes: vec![VolumePrice {
            storage_class: "fast".into(),
            per_gib_month: money("1.46"),
        }],
        ..PriceList::default()
    });
    let pod = PricingAttributes {
        amounts: ResourceAmounts {
            ephemeral_mib: 10 * 1024,
            volumes: [("fast".to_owned(), 100), ("free".to_owned(), 7)].into(),
            ..ResourceAmounts::default()
        },
        ..facts("nvidia.com/gpu", &[H100])
    };
    let cost = lists.price(&pod, at(NOW)).rate().unwrap().cost;
    assert_eq!((cost.compute, cost.storage), (money("10"), money("0.21")));
}

#[test]
fn an_overhead_of_an_earlier_list_replaces_its_namesake() {
    let overhead = |name: &str, price| Overhead {
        name: name.into(),
        part: OverheadCategory::Labour,
        per_month: money(price),
        share_by: ShareBy::Cost,
    };
    let with = |overheads| PriceList {
        overheads,
        ..PriceList::default()
    };
    let all = lists(vec![
        list(
            DEFAULT_LIST,
            None,
            with(vec![overhead("people", "9"), overhead("rent", "3")]),
        ),
        list("ours", None, with(vec![overhead("people", "5")])),
        list(
            "next",
            Some("2027-01-01T00:00:00Z"),
            with(vec![overhead("people", "6")]),
        ),
    ]);
    let of = |when| -> Vec<String> {
        let all = all.overheads(at(when));
        all.iter()
            .map(|each| format!("{} {}", each.name, each.per_month))
            .collect()
    };
    assert_eq!(of(NOW), ["people 5.00", "rent 3.00"]);
    assert_eq!(of("2027-01-01T00:00:00Z"), ["people 6.00", "rent 3.00"]);
}

/// docs/prices.md: 100 GPUs x 1000, storage 500, 100 x 500 kWh x 0.1, 5 x 5000 labour.
#[test]
fn the_worked_example_is_130_500() {
    let lists = one(PriceList {
        gpus: vec![GpuPrice {
            watts: Some(500),
            ..gpu("H100", "nvidia.com/gpu", "1")
        }],
        volumes: vec![VolumePrice {
            storage_class: "fast".into(),
            per_gib_month: money("1"),
        }],
        power: Some(Power {
            tariff: Tariff::flat(money("0.1")),
            pue_milli: 1000,
            carbon: None,
        }),
        overheads: vec![Overhead {
            name: "people".into(),
            part: OverheadCategory::Labour,
            per_month: money("25000"),
            share_by: ShareBy::GpuHours,
        }],
        ..PriceList::default()
    });
    let pod = PricingAttributes {
        gpus: 100,
        amounts: ResourceAmounts {
            volumes: [("fast".to_owned(), 365)].into(),
            ..ResourceAmounts::default()
        },
        ..facts("nvidia.com/gpu", &[H100])
    };
    let hour = lists.price(&pod, at(NOW)).rate().unwrap().cost;
    let stay = hour.map(|part| part.cost_for_seconds(1000 * 3600));
    let labour = lists
        .overheads(at(NOW))
        .iter()
        .map(|each| each.per_month)
        .sum();
    let cost = Cost { labour, ..stay };
    let expected = ["100000", "500", "5000", "25000"].map(money);
    assert_eq!(
        [cost.compute, cost.storage, cost.power, cost.labour],
        expected
    );
    assert_eq!(cost.total(), money("130500"));
}

/// Cheaper from 22:00 to 6:00 after weekdays.
fn nights(price: &str) -> Tariff {
    let period = TariffPeriod {
        days: vec![Weekday::Monday, Weekday::Tuesday],
        from: time(22, 0, 0, 0),
        to: time(6, 0, 0, 0),
        per_kwh: money(price),
    };
    Tariff::new(money("0.1"), TimeZone::UTC, vec![period]).unwrap()
}

#[test]
fn changes_are_those_of_the_tariff_that_counts_at_the_time() {
    // Tuesday at midnight a list begins to count, whose power has no tariff
    let begins = "2026-11-24T00:00:00Z";
    let all = lists(vec![
        list("ours", None, electricity(nights("0.05"))),
        list("a", Some(begins), electricity(Tariff::flat(money("0.2")))),
    ]);
    let (monday, later) = (at("2026-11-23T00:00:00Z"), at("2026-12-24T00:00:00Z"));
    let expected = ["2026-11-23T22:00:00Z", begins].map(at);
    assert_eq!(all.changes(monday, later), expected);
    assert_eq!(all.changes(monday, expected[0]), expected[..1]);
    assert_eq!(all.changes(expected[0], expected[0]), []);
    let pod = facts("nvidia.com/gpu", &[H100]);
    let power = |when| all.price(&pod, at(when)).rate().unwrap().cost.power;
    let hours = ["2026-11-23T21:59:59Z", "2026-11-23T22:00:00Z", begins].map(power);
    assert_eq!(hours, ["0.1568", "0.0784", "0.3136"].map(money));
}

#[test]
fn changes_are_bounded_over_any_span() {
    let lists = one(electricity(nights("0.05")));
    let all = lists.changes(Timestamp::UNIX_EPOCH, Timestamp::MAX);
    assert_eq!(all.len(), MAX_CHANGES);
}

#[test]
fn the_terms_of_a_price_name_their_lists_and_sum_to_it() {
    let own = PriceList {
        nodes: vec![node("p5.48xlarge", Some(8), "31.50")],
        ..PriceList::default()
    };
    let shipped = PriceList {
        gpus: vec![GpuPrice {
            watts: Some(700),
            ..gpu("H100", "nvidia.com/gpu", "9")
        }],
        core_hour: Some(money("1")),
        ..electricity(Tariff::flat(money("0.20")))
    };
    let lists = lists(vec![
        list("contract", None, own),
        list(DEFAULT_LIST, None, shipped),
    ]);
    let pod = PricingAttributes {
        amounts: ResourceAmounts {
            cpu_milli: 4000,
            ..ResourceAmounts::default()
        },
        ..facts("nvidia.com/gpu", &[H100, P5])
    };
    let terms = lists.breakdown(&pod, at(NOW)).unwrap().terms;
    let said: Vec<_> = terms
        .iter()
        .map(|term| (term.list, term.per_hour))
        .collect();
    let PriceLookup::Listed(quote) = lists.price(&pod, at(NOW)) else {
        panic!("not listed");
    };
    // a node's price includes its processors
    assert_eq!(
        said,
        [("contract", money("7.875")), ("default", money("0.3136"))]
    );
    assert_eq!(quote.cost.power, money("0.3136"));
    assert!(
        matches!(&terms[0].row, PriceRow::Node { units, .. } if (units.part, units.whole) == (2, 8))
    );
    let elsewhere = PricingAttributes {
        instance_type: None,
        ..pod
    };
    let terms = lists.breakdown(&elsewhere, at(NOW)).unwrap().terms;
    assert!(matches!(terms[1].row, PriceRow::Cores { .. }), "{terms:?}");
    let sum: Money = terms.iter().map(|term| term.per_hour).sum();
    assert_eq!(
        Some(sum),
        lists
            .price(&elsewhere, at(NOW))
            .rate()
            .map(|quote| quote.cost.total())
    );
}

#[test]
fn a_pod_of_several_kinds_of_gpus_costs_the_sum_of_all() {
    let catalog = one(PriceList {
        gpus: vec![
            gpu("H100", "nvidia.com/gpu", "7"),
            gpu("MI300X", "amd.com/gpu", "3"),
        ],
        ..PriceList::default()
    });
    let small = facts("nvidia.com/mig-1g.10gb", &[H100]);
    let large = facts("nvidia.com/mig-3g.40gb", &[H100]);
    let amd = facts("amd.com/gpu", &[("amd.com/gpu.product-name", "MI300X")]);
    let compute = |attributes: &PricingAttributes| {
        let quote = catalog.price(attributes, at(NOW)).rate()?;
        Some(quote.cost.compute)
    };
    let parts = [&small, &large, &amd].map(|kind| compute(kind).unwrap());
    assert_eq!(parts, [money("2"), money("6"), money("6")]);
    let all = small.clone().with_other_gpus([large, amd]);
    assert_eq!(compute(&all), Some(money("14")));
    assert_eq!(
        all.gpu_seconds(at(NOW), at("2026-11-24T00:00:07Z")),
        2 + 6 + 14
    );
}

#[test]
fn a_kind_of_gpus_without_a_price_takes_none_from_the_others_whichever_is_first() {
    let catalog = one(PriceList {
        gpus: vec![gpu("H100", "nvidia.com/gpu", "7")],
        ..PriceList::default()
    });
    let (h100, gaudi) = (
        facts("nvidia.com/gpu", &[H100]),
        facts("habana.ai/gaudi", &[]),
    );
    for pod in [
        h100.clone().with_other_gpus([gaudi.clone()]),
        gaudi.clone().with_other_gpus([h100]),
    ] {
        // what is known is not all of it
        let PriceLookup::Provisional(quote) = catalog.price(&pod, at(NOW)) else {
            panic!("{:?}", catalog.price(&pod, at(NOW)));
        };
        assert_eq!(quote.cost.compute, money("14"));
        let breakdown = catalog.breakdown(&pod, at(NOW)).unwrap();
        assert_eq!(breakdown.unlisted, ["habana.ai/gaudi"]);
    }
    assert_eq!(catalog.price(&gaudi, at(NOW)), PriceLookup::Unknown);
}

#[test]
fn a_pod_on_a_machine_with_a_sixth_of_a_gpu_pays_the_whole_machine() {
    let machine = "Standard_NV6ads_A10_v5";
    let catalog = one(PriceList {
        nodes: vec![node(machine, None, "0.454")],
        ..PriceList::default()
    });
    let labels = [(
        "node.kubernetes.io/instance-type".to_owned(),
        machine.to_owned(),
    )];
    let pod = PricingAttributes {
        resource: "nvidia.com/gpu".into(),
        gpus: 1,
        ..PricingAttributes::default()
    };
    let pod = pod.on_node("node-1", 1, &labels.into());
    let quote = catalog.price(&pod, at(NOW)).rate().unwrap();
    assert_eq!(quote.cost.compute, money("0.454"));
}
