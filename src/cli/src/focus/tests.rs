//! The rules of the columns, transcribed from the specification (`specification/columns` of
//! <https://github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec> at tags v1.2 and v1.0, CC BY
//! 4.0), and rows checked against them.

use std::collections::BTreeMap;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::*;
use crate::{samples, spend_records};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    Mandatory,
    Recommended,
    Conditional,
}
use Level::{Conditional, Mandatory, Recommended};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Text,
    Decimal,
    Time,
    Json,
    Currency,
    OneOf(&'static [&'static str]),
}
use Form::{Currency, Decimal, Json, OneOf, Text, Time};

const SERVICES: &[&str] = &[
    "AI and Machine Learning",
    "Analytics",
    "Business Applications",
    "Compute",
    "Databases",
    "Developer Tools",
    "Multicloud",
    "Identity",
    "Integration",
    "Internet of Things",
    "Management and Governance",
    "Media",
    "Migration",
    "Mobile",
    "Networking",
    "Security",
    "Storage",
    "Web",
    "Other",
];
/// Subcategories whose parent is AI and Machine Learning.
const SUBCATEGORIES: &[&str] = &[
    "AI Platforms",
    "Bots",
    "Generative AI",
    "Machine Learning",
    "Natural Language Processing",
    "Other (AI and Machine Learning)",
];

/// Column ID, feature level, whether it allows nulls, data type and format; and the version that
/// introduced it, where not 1.0.
type Rule = (&'static str, Level, bool, Form, Version);

#[rustfmt::skip]
const RULES: &[Rule] = &[
    ("AvailabilityZone", Recommended, true, Text, Version::V1_0),
    ("BilledCost", Mandatory, false, Decimal, Version::V1_0),
    ("BillingAccountId", Mandatory, false, Text, Version::V1_0),
    ("BillingAccountName", Mandatory, true, Text, Version::V1_0),
    ("BillingAccountType", Conditional, false, Text, Version::V1_2),
    ("BillingCurrency", Mandatory, false, Currency, Version::V1_0),
    ("BillingPeriodEnd", Mandatory, false, Time, Version::V1_0),
    ("BillingPeriodStart", Mandatory, false, Time, Version::V1_0),
    ("CapacityReservationId", Conditional, true, Text, Version::V1_2),
    ("CapacityReservationStatus", Conditional, true, OneOf(&["Used", "Unused"]), Version::V1_2),
    ("ChargeCategory", Mandatory, false, OneOf(&["Usage", "Purchase", "Tax", "Credit", "Adjustment"]), Version::V1_0),
    ("ChargeClass", Mandatory, true, OneOf(&["Correction"]), Version::V1_0),
    ("ChargeDescription", Mandatory, true, Text, Version::V1_0),
    ("ChargeFrequency", Recommended, false, OneOf(&["One-Time", "Recurring", "Usage-Based"]), Version::V1_0),
    ("ChargePeriodEnd", Mandatory, false, Time, Version::V1_0),
    ("ChargePeriodStart", Mandatory, false, Time, Version::V1_0),
    ("CommitmentDiscountCategory", Conditional, true, OneOf(&["Spend", "Usage"]), Version::V1_0),
    ("CommitmentDiscountId", Conditional, true, Text, Version::V1_0),
    ("CommitmentDiscountName", Conditional, true, Text, Version::V1_0),
    ("CommitmentDiscountQuantity", Conditional, true, Decimal, Version::V1_2),
    ("CommitmentDiscountStatus", Conditional, true, OneOf(&["Used", "Unused"]), Version::V1_0),
    ("CommitmentDiscountType", Conditional, true, Text, Version::V1_0),
    ("CommitmentDiscountUnit", Conditional, true, Text, Version::V1_2),
    ("ConsumedQuantity", Conditional, true, Decimal, Version::V1_0),
    ("ConsumedUnit", Conditional, true, Text, Version::V1_0),
    ("ContractedCost", Mandatory, false, Decimal, Version::V1_0),
    ("ContractedUnitPrice", Conditional, true, Decimal, Version::V1_0),
    ("EffectiveCost", Mandatory, false, Decimal, Version::V1_0),
    ("InvoiceId", Recommended, true, Text, Version::V1_2),
    ("InvoiceIssuerName", Mandatory, false, Text, Version::V1_0),
    ("ListCost", Mandatory, false, Decimal, Version::V1_0),
    ("ListUnitPrice", Conditional, true, Decimal, Version::V1_0),
    ("PricingCategory", Conditional, true, OneOf(&["Standard", "Dynamic", "Committed", "Other"]), Version::V1_0),
    ("PricingCurrency", Conditional, true, Currency, Version::V1_2),
    ("PricingCurrencyContractedUnitPrice", Conditional, true, Decimal, Version::V1_2),
    ("PricingCurrencyEffectiveCost", Conditional, true, Decimal, Version::V1_2),
    ("PricingCurrencyListUnitPrice", Conditional, true, Decimal, Version::V1_2),
    ("PricingQuantity", Mandatory, true, Decimal, Version::V1_0),
    ("PricingUnit", Mandatory, true, Text, Version::V1_0),
    ("ProviderName", Mandatory, false, Text, Version::V1_0),
    ("PublisherName", Mandatory, false, Text, Version::V1_0),
    ("RegionId", Conditional, true, Text, Version::V1_0),
    ("RegionName", Conditional, true, Text, Version::V1_0),
    ("ResourceId", Conditional, true, Text, Version::V1_0),
    ("ResourceName", Conditional, true, Text, Version::V1_0),
    ("ResourceType", Conditional, true, Text, Version::V1_0),
    ("ServiceCategory", Mandatory, false, OneOf(SERVICES), Version::V1_0),
    ("ServiceName", Mandatory, false, Text, Version::V1_0),
    ("ServiceSubcategory", Recommended, false, OneOf(SUBCATEGORIES), Version::V1_2),
    ("SkuId", Conditional, true, Text, Version::V1_0),
    ("SkuMeter", Conditional, true, Text, Version::V1_2),
    ("SkuPriceDetails", Conditional, true, Json, Version::V1_2),
    ("SkuPriceId", Conditional, true, Text, Version::V1_0),
    ("SubAccountId", Conditional, true, Text, Version::V1_0),
    ("SubAccountName", Conditional, true, Text, Version::V1_0),
    ("SubAccountType", Conditional, true, Text, Version::V1_2),
    ("Tags", Conditional, true, Json, Version::V1_0),
];

/// Columns that the FinOps Foundation's validator asks for in 1.0 by the names of 1.0-preview, and
/// those that 1.0 has for them.
const PREVIEW: [(&str, &str); 5] = [
    ("ChargeType", "ChargeCategory"),
    ("InvoiceIssuer", "InvoiceIssuerName"),
    ("Provider", "ProviderName"),
    ("Publisher", "PublisherName"),
    ("ResourceID", "ResourceId"),
];

const VERSIONS: [Version; 2] = [Version::V1_0, Version::V1_2];

fn accounts() -> Vec<LoadedAccount> {
    apart().0
}

/// The accounts of workloads, and those of nodes.
fn apart() -> (Vec<LoadedAccount>, Vec<LoadedAccount>) {
    spend_records::split_nodes(spend_records::load(&samples::records(), false).unwrap().0)
}

/// A credit of a job and an adjustment of a namespace.
fn corrected() -> Vec<LoadedCorrection> {
    let zone = accounts()[0].zone.clone();
    let month: Month = "2026-11".parse().unwrap();
    let within = month.bounds(&zone);
    let all = samples::corrections();
    crate::spend_corrections::applicable(&all, None, within, Some("USD"), &zone, now()).0
}

fn now() -> Timestamp {
    "2026-11-24T04:00:00Z".parse().unwrap()
}

fn written(version: Version) -> Vec<BTreeMap<String, String>> {
    let (accounts, corrected) = (accounts(), corrected());
    of_csv(&csv(&rows(&accounts, &corrected), version).unwrap())
}

/// The rows of a report of some namespaces.
fn rows<'a>(accounts: &'a [LoadedAccount], corrected: &'a [LoadedCorrection]) -> Vec<FocusRow<'a>> {
    let mut rows = usage_rows(accounts, "cluster-uid", now());
    rows.extend(correction_rows(corrected, "cluster-uid"));
    rows
}

fn of_csv(bytes: &[u8]) -> Vec<BTreeMap<String, String>> {
    let mut reader = ::csv::Reader::from_reader(bytes);
    reader.deserialize().map(Result::unwrap).collect()
}

/// The rows of a report of the whole cluster, with overheads of 30 that are charged to one
/// workload.
fn of_cluster(version: Version, dearer: &str) -> (Vec<BTreeMap<String, String>>, Money) {
    let (mut accounts, nodes) = apart();
    // what pods pay on one day, dearer than the node
    let mut object = serde_json::to_value(&accounts[0].record).unwrap();
    object["status"]["days"][0]["compute"] = dearer.into();
    accounts[0] = LoadedAccount::from_record(&object).remove(0).unwrap();
    let mut bill = spend_records::cluster_bill(accounts.iter().chain(&nodes), now());
    bill.overhead = decimal("30");
    let line = DailyCost {
        cost: bursar_core::money::Cost {
            labour: bill.overhead,
            ..Default::default()
        },
        ..DailyCost::default()
    };
    let borne = [(
        accounts[1].owner.clone(),
        jiff::civil::date(2026, 11, 24),
        line,
    )];
    let corrected = corrected();
    bill.corrections = crate::spend_corrections::sum(&corrected);
    let mut rows = rows(&accounts, &corrected);
    rows.extend(overhead_rows(&accounts, &borne, "cluster-uid", now()));
    rows.extend(unattributed_rows(&accounts, "cluster-uid", now()));
    rows.extend(idle_rows(&nodes, &bill, "cluster-uid"));
    (of_csv(&csv(&rows, version).unwrap()), bill.net())
}

fn decimal(text: &str) -> Money {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn check(value: &str, form: Form, of: &str) {
    let ok = match form {
        Text => true,
        Decimal => value.parse::<Money>().is_ok(),
        Time => value.len() == 20 && value.ends_with('Z') && value.parse::<Timestamp>().is_ok(),
        Currency => value.len() == 3 && value.bytes().all(|byte| byte.is_ascii_uppercase()),
        OneOf(allowed) => allowed.contains(&value),
        Json => {
            let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(value).unwrap();
            object
                .values()
                .all(|value| !value.is_object() && !value.is_array())
        }
    };
    assert!(ok, "{of}: {value:?} is not {form:?}");
}

#[test]
fn every_field_keeps_the_rules_of_its_column() {
    for version in VERSIONS {
        let rows = written(version);
        assert_eq!(rows.len(), 12, "{rows:#?}");
        // one for overheads, one for lost time; idle are an A100 for a day, and compute and power
        // of H100s for five
        let all = of_cluster(version, "164.50").0;
        assert_eq!(all.len(), 12 + 1 + 1 + 1 + 2 * 5, "{all:#?}");
        for row in rows
            .iter()
            .chain(&all)
            .chain(&of_cluster(version, "2000").0)
        {
            for (name, value) in row {
                if PREVIEW.iter().any(|(preview, _)| preview == name) {
                    assert_eq!(version, Version::V1_0, "{name}");
                    continue;
                }
                let Some((_, _, nullable, form, since)) = RULES.iter().find(|rule| rule.0 == name)
                else {
                    assert!(
                        name.starts_with("x_"),
                        "{name} is neither FOCUS's nor a custom column"
                    );
                    continue;
                };
                assert!(*since <= version, "{name} is not in {version:?}");
                assert!(!value.is_empty() || *nullable, "{name} is null");
                if !value.is_empty() {
                    check(value, *form, name);
                }
            }
        }
    }
}

#[test]
fn names_of_the_preview_stand_in_1_0_and_say_what_those_of_1_0_say() {
    for row in written(Version::V1_0) {
        for (preview, name) in PREVIEW {
            assert_eq!(row[preview], row[name], "{preview}");
        }
    }
}

#[test]
fn no_mandatory_column_is_missing_and_custom_ones_stand_last() {
    for version in VERSIONS {
        let names: Vec<&str> = columns::columns(version)
            .map(|column| column.name)
            .collect();
        for (name, level, _, _, since) in RULES {
            let wanted = *level == Mandatory && *since <= version;
            assert!(!wanted || names.contains(name), "{version:?} lacks {name}");
        }
        let first = names
            .iter()
            .position(|name| name.starts_with("x_"))
            .unwrap();
        assert!(
            names[first..].iter().all(|name| name.starts_with("x_")),
            "{names:?}"
        );
    }
}

#[test]
fn what_hangs_together_is_there_together_and_the_product_is_the_cost() {
    let all = of_cluster(Version::V1_2, "2000").0;
    let (overpaid, others): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|row| row["ResourceName"] == "idle" && row["BilledCost"].starts_with('-'));
    assert_eq!(overpaid.len(), 1);
    for row in overpaid {
        assert_eq!(row["ChargeCategory"], "Adjustment");
        for name in [
            "ListUnitPrice",
            "PricingQuantity",
            "PricingUnit",
            "ConsumedQuantity",
            "ConsumedUnit",
        ] {
            assert!(row[name].is_empty(), "{name}: {row:?}");
        }
    }
    for row in written(Version::V1_2).into_iter().chain(others) {
        let of = |name: &str| row[name].as_str();
        for (one, other) in [
            ("PricingQuantity", "PricingUnit"),
            ("ConsumedQuantity", "ConsumedUnit"),
            ("ResourceId", "ResourceType"),
            ("SubAccountId", "SubAccountName"),
            ("SubAccountId", "SubAccountType"),
            ("SkuId", "SkuMeter"),
            ("RegionId", "RegionName"),
        ] {
            assert_eq!(
                of(one).is_empty(),
                of(other).is_empty(),
                "{one} and {other}: {row:?}"
            );
        }
        let is_usage = of("ChargeCategory") == "Usage";
        // not null for usage; nothing was used and nothing has a price in a correction
        for name in [
            "ListUnitPrice",
            "ContractedUnitPrice",
            "PricingQuantity",
            "ConsumedQuantity",
            "PricingCategory",
            "SkuId",
            "SkuPriceId",
        ] {
            assert_eq!(!of(name).is_empty(), is_usage, "{name}: {row:?}");
        }
        let priced = [
            ("ListCost", "ListUnitPrice"),
            ("ContractedCost", "ContractedUnitPrice"),
        ];
        for (cost, price) in priced.into_iter().filter(|_| is_usage) {
            let nanos = |name| decimal(of(name)).nanos();
            let product = nanos(price) * nanos("PricingQuantity") / bursar_core::money::NANOS;
            assert!((product - nanos(cost)).abs() < 1000, "{cost}: {row:?}");
        }
        assert!(
            of("ChargePeriodStart") >= of("BillingPeriodStart")
                && of("ChargePeriodEnd") <= of("BillingPeriodEnd"),
            "{row:?}"
        );
    }
}

#[test]
fn rows_sum_to_the_ledger_with_its_corrections_and_periods_are_the_records_own_days_in_utc() {
    let rows = written(Version::V1_2);
    let sum = |name: &str| rows.iter().map(|row| decimal(&row[name])).sum::<Money>();
    for name in ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"] {
        assert_eq!(sum(name), "1825.918178901".parse().unwrap(), "{name}");
    }
    let of_chat = |row: &&BTreeMap<String, String>| {
        row["ResourceName"] == "chat" && row["x_CostPart"] == "Power"
    };
    let row = rows.iter().find(of_chat).unwrap();
    assert_eq!(
        [
            &row["BillingPeriodStart"],
            &row["BillingPeriodEnd"],
            &row["ChargePeriodStart"],
            &row["ChargePeriodEnd"]
        ],
        [
            "2026-10-31T23:00:00Z",
            "2026-11-30T23:00:00Z",
            "2026-11-19T23:00:00Z",
            "2026-11-20T23:00:00Z"
        ]
    );
    assert_eq!(row["SkuId"], "NVIDIA-H100-80GB-HBM3:Power");
    assert_eq!(row["PricingQuantity"], "24.000000000");
}

#[test]
fn a_file_of_the_cluster_sums_to_its_bill_with_corrections_and_idle_nodes() {
    for dearer in ["164.50", "2000"] {
        let (rows, bill) = of_cluster(Version::V1_2, dearer);
        let sum: Money = rows.iter().map(|row| decimal(&row["BilledCost"])).sum();
        assert_eq!(sum, bill);
    }
    let (rows, _) = of_cluster(Version::V1_2, "164.50");
    let of = |name: &str| rows.iter().find(|row| row["ResourceName"] == name).unwrap();
    let (idle, lost) = (of("idle"), of("unattributed"));
    assert_eq!(
        [
            &idle["ResourceType"],
            &idle["SubAccountId"],
            &idle["ResourceId"]
        ],
        ["Node", "", "Node/idle"]
    );
    assert_eq!(
        [
            &lost["SubAccountId"],
            &lost["ResourceId"],
            &lost["BilledCost"]
        ],
        ["ml", "ml/Node/unattributed", "0.120000000"]
    );
    let labour = rows
        .iter()
        .find(|row| row["SkuId"] == "Overhead:Labour")
        .unwrap();
    assert_eq!(
        [
            &labour["ChargePeriodStart"],
            &labour["ChargePeriodEnd"],
            &labour["ResourceName"]
        ],
        ["2026-10-31T23:00:00Z", "2026-11-24T04:00:00Z", "embed"]
    );
}

#[test]
fn a_correction_has_a_row_of_its_own_that_says_what_it_is_and_why() {
    for version in VERSIONS {
        let mut rows = written(version);
        rows.retain(|row| row["x_CostPart"] == "Correction");
        let of = |name: &str| -> Vec<String> { rows.iter().map(|row| row[name].clone()).collect() };
        assert_eq!(of("ChargeCategory"), ["Credit", "Adjustment"]);
        assert_eq!(
            of("ChargeClass"),
            ["Correction", ""],
            "only what corrects an invoice that was out already is one to FOCUS"
        );
        assert_eq!(of("ChargeFrequency"), ["One-Time", "One-Time"]);
        assert_eq!(of("BilledCost"), ["-40.000000000", "5.500000000"]);
        assert_eq!(
            of("ChargeDescription"),
            ["GPUs that were lost", "the invoice says more"]
        );
        assert_eq!(of("ResourceId"), ["research/TrainingJob/finetune", ""]);
        assert_eq!(of("SubAccountId"), ["research", "gone"]);
        assert_eq!(of("ChargePeriodStart")[0], "2026-11-19T23:00:00Z");
        for tag in [
            r#""bursar.dev/correction":"credit""#,
            r#""bursar.dev/reference":"CASE-7""#,
        ] {
            assert!(of("Tags")[0].contains(tag), "{:?}", of("Tags"));
        }
        for name in ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"] {
            assert_eq!(of(name), of("BilledCost"), "{name}");
        }
    }
}

#[test]
fn a_cost_without_gpu_hours_is_one_unit_of_it() {
    let mut records = samples::records();
    records[3]["status"]["days"][0]["gpuSeconds"] = 0.into();
    let (accounts, _) = spend_records::load(&records, false).unwrap();
    let bytes = csv(&rows(&accounts, &[]), Version::V1_2).unwrap();
    let rows = ::csv::Reader::from_reader(bytes.as_slice())
        .into_deserialize()
        .map(Result::unwrap)
        .collect::<Vec<BTreeMap<String, String>>>();
    let row = rows
        .iter()
        .find(|row| row["x_CostPart"] == "Labour")
        .unwrap();
    assert_eq!(
        [
            &row["PricingUnit"],
            &row["PricingQuantity"],
            &row["ListUnitPrice"]
        ],
        ["Units", "1.000000000", "250.000000000"]
    );
}

#[test]
fn parquet_has_the_same_rows_as_csv() {
    let (accounts, corrected) = (accounts(), corrected());
    let rows = rows(&accounts, &corrected);
    for version in VERSIONS {
        let bytes = parquet(&rows, version).unwrap();
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        let rows: Vec<BTreeMap<String, String>> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| {
                let row = row.unwrap();
                let cell = |(name, field): (&String, &Field)| (name.clone(), read(field));
                row.get_column_iter().map(cell).collect()
            })
            .collect();
        assert_eq!(rows, written(version));
    }
}

/// A field as CSV has it.
fn read(field: &Field) -> String {
    match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::TimestampMicros(micros) => Timestamp::from_microsecond(*micros).unwrap().to_string(),
        Field::Decimal(decimal) => {
            assert_eq!((decimal.precision(), decimal.scale()), (38, 9));
            let nanos = i128::from_be_bytes(decimal.data().try_into().unwrap());
            Money::from_nanos(nanos).rounded(9)
        }
        other => panic!("a field of another type: {other:?}"),
    }
}
