use proptest::prelude::*;

use super::*;

const OPENCOST_HEADER: &str = "EndTimestamp,InstanceID,Region,AssetClass,InstanceIDField,InstanceType,MarketPriceHourly,Version";

fn errors(text: &str) -> Vec<String> {
    let error = read(text, "USD").unwrap_err();
    error.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn our_own_columns_come_in_any_order_with_comments_and_a_byte_order_mark() {
    let text = "\u{feff}# the contract\nprice,kind,name,region,capacityType,gpus,watts\n\
        2.10,gpu,NVIDIA-H100-80GB-HBM3,,Spot,,700\n31.50, node ,p5.48xlarge,us-east-1,,8,\n\
        0.125,storageClass,fast,,,,\n0.02,ephemeral,,,,,\n0.04,cpu,,,,,\n0.005,memory,,,,,\n";
    let spec = read(text, "EUR").unwrap();
    assert_eq!(spec.currency, "EUR");
    let (gpu, node) = (&spec.gpus[0], &spec.nodes[0]);
    assert_eq!((gpu.price_per_hour.as_str(), gpu.watts), ("2.1", Some(700)));
    assert_eq!(gpu.capacity_type, Some(CapacityType::Spot));
    assert_eq!(
        (node.gpus, node.region.as_deref()),
        (Some(8), Some("us-east-1"))
    );
    let storage = spec.storage.as_ref().unwrap();
    assert_eq!(storage.persistent[0].price_per_gibibyte_month, "0.125");
    assert_eq!(
        storage.ephemeral_per_gibibyte_month.as_deref(),
        Some("0.02")
    );
    let book = spec.to_core().unwrap();
    assert_eq!(book.core_hour, Some("0.04".parse().unwrap()));
    assert_eq!(book.gib_hour, Some("0.005".parse().unwrap()));
}

#[test]
fn opencosts_file_is_read_by_type_label_and_storage_class() {
    let nodes = format!(
        "{OPENCOST_HEADER}\n,i-1,us-east-1,node,spec.providerID,p5.48xlarge,55.04,v1\n\
         ,i-2,us-east-1,node,spec.providerID,p5.48xlarge,55.04,v1\n\
         ,g5.xlarge,,node,metadata.labels.node.kubernetes.io/instance-type,,1.006,v1\n\
         ,fast,,pv,spec.storageClassName,,0.0001369863014,v1\n"
    );
    let spec = read(&nodes, "USD").unwrap();
    let types: Vec<&str> = spec
        .nodes
        .iter()
        .map(|row| row.instance_type.as_str())
        .collect();
    assert_eq!(types, ["p5.48xlarge", "g5.xlarge"]);
    // 0.1 a month, to the nano-unit an hour
    let volumes = &spec.storage.as_ref().unwrap().persistent;
    assert_eq!(volumes[0].price_per_gibibyte_month, "0.09999978");
    let gpus = format!("{OPENCOST_HEADER}\n,H100,,gpu,nvidia.com/gpu.product,,2.5,\n");
    assert_eq!(read(&gpus, "USD").unwrap().gpus[0].model, "H100");
}

#[test]
fn what_opencost_means_otherwise_is_refused_and_not_guessed() {
    let text = format!(
        "{OPENCOST_HEADER}\n,i-1,,node,spec.providerID,,1,\n,vol-1,,pv,metadata.name,,1,\n,x,,disk,,,1,\n\
         ,p5,,node,,p5,1,\n,H100,,gpu,nvidia.com/gpu.product,,1,\n"
    );
    let errors = errors(&text);
    for (line, part) in [
        (2, "write the InstanceType"),
        (3, "spec.storageClassName"),
        (4, "write node, gpu or pv"),
        (6, "includes its GPUs"),
    ] {
        let start = format!("line {line}: ");
        let found = errors.iter().find(|each| each.starts_with(&start));
        assert!(
            found.is_some_and(|each| each.contains(part)),
            "{line}: {errors:?}"
        );
    }
    assert_eq!(errors.len(), 4);
}

#[test]
fn a_column_that_changes_what_a_line_means_is_used_or_named() {
    // two prices by a label whose values are no models
    let text = include_str!("opencost-gpu-label.csv");
    let found = errors(text);
    assert_eq!(found.len(), 2, "{found:#?}");
    for each in found {
        assert!(
            each.contains("InstanceIDField is \"gpu.nvidia.com/class\""),
            "{each}"
        );
    }
    // a label of which the model is read, and a value that names one
    let by_class =
        format!("{OPENCOST_HEADER}\n,H100_NVLINK_80GB,,gpu,gpu.nvidia.com/model,,1.9,\n");
    let spec = read(&by_class, "USD").unwrap();
    assert_eq!(spec.gpus[0].model, "NVIDIA-H100-80GB-HBM3");
    let lines = [
        (",x,,node,metadata.labels.pool,p5,1,", "InstanceIDField"),
        (
            ",p4,,node,metadata.labels.node.kubernetes.io/instance-type,p5,1,",
            "InstanceType",
        ),
        (",fast,us-east-1,pv,spec.storageClassName,,1,", "Region"),
        (",fast,,pv,spec.storageClassName,p5,1,", "InstanceType"),
        (",H100,,gpu,nvidia.com/gpu.product,p5,1,", "InstanceType"),
        (",H100,,gpu,,,1,", "InstanceIDField"),
        (",vol-1,,pv,metadata.name,,1,", "InstanceIDField"),
    ];
    for (line, column) in lines {
        let found = errors(&format!("{OPENCOST_HEADER}\n{line}\n"));
        let start = format!("line 2: {column} is ");
        assert!(found[0].starts_with(&start), "{line}: {found:?}");
    }
    for (header, part) in [
        (
            format!("{OPENCOST_HEADER},SpotPrice"),
            "no column \"SpotPrice\"",
        ),
        (
            format!("{OPENCOST_HEADER},Region"),
            "\"Region\" is there twice",
        ),
    ] {
        let error = read(&format!("{header}\n"), "USD").unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn wrong_columns_are_refused_with_those_that_would_be_right() {
    for (text, part) in [
        ("", "the columns are"),
        (
            "kind;name;price\ngpu;H100;2\n",
            "the columns are \"kind;name;price\"",
        ),
        ("kind,name\ngpu,H100\n", "write kind,name,price"),
        ("kind,name,price,colour\n", "no column \"colour\""),
        ("kind,name,price,price\n", "\"price\" is there twice"),
        (
            "InstanceID,MarketPriceHourly\n",
            "or OpenCost's EndTimestamp",
        ),
    ] {
        let error = read(text, "USD").unwrap_err();
        assert!(
            matches!(error, ImportError::Header(_)),
            "{text:?}: {error:?}"
        );
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(read("kind,name,price\n", "USD"), Err(ImportError::Empty));
    let currency = read("kind,name,price\ngpu,H100,1\n", "XXX").unwrap_err();
    assert!(currency.to_string().contains("ISO 4217"));
}

#[test]
fn each_bad_line_is_named_with_its_reason() {
    let text = "kind,name,price,capacityType,gpus\n\
        gpu,H100,-1,,\ngpu,H100,\"2,50\",,\ngpu,,2,,\ngpu,H100,2\nnode,p5,2,spot,8\nnode,p5,2,,0\nfpga,x,2,,\n\
        gpu,H100,2,,\ngpu,H100,3,,\ngpu,H100,,,\ncpu,x,1,,\n";
    let found = errors(text);
    let expected = [
        "line 2: price is \"-1\": write a decimal number",
        "line 3: price is \"2,50\": write a decimal number",
        "line 4: name is empty",
        "line 5: it has 3 columns, and the header 5",
        "line 6: capacityType is \"spot\": write OnDemand, Spot or Reserved",
        "line 7: gpus is \"0\": write a whole number from 1 to 1024",
        "line 8: kind is \"fpga\": write gpu, node,",
        "line 10: it says 3 of what line 9 says 2",
        "line 11: price is \"\"",
        "line 12: name is \"x\": leave it empty",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn lines_are_counted_as_an_editor_does() {
    for newline in ["\n", "\r\n"] {
        let lines = [
            "# ours, \"quoted\"",
            "",
            "kind,name,price",
            "",
            "# one",
            "gpu,A,x",
            "",
            "",
            "gpu,B,x",
            "gpu,C,x",
        ];
        let found = errors(&lines.join(newline));
        let numbers: Vec<&str> = found
            .iter()
            .filter_map(|each| each.split(':').next())
            .collect();
        assert_eq!(numbers, ["line 6", "line 9", "line 10"], "{newline:?}");
    }
}

#[test]
fn one_bad_line_among_ten_thousand_is_found_and_nothing_is_taken() {
    let mut text = String::from("kind,name,price\n");
    for i in 0..10_000 {
        let price = if i == 7_000 { "free" } else { "2.5" };
        text.push_str(&format!("node,type-{},{price}\n", i % 900));
    }
    assert_eq!(
        errors(&text),
        ["line 7002: price is \"free\": write a decimal number that is not negative, such as 2.50"]
    );
}

#[test]
fn twenty_bad_lines_are_named_and_the_rest_counted() {
    let text = format!("kind,name,price\n{}", "gpu,H100,x\n".repeat(25));
    let found = errors(&text);
    assert_eq!((found.len(), found[20].as_str()), (21, "and 5 more lines"));
}

#[test]
fn more_prices_than_a_list_takes_are_refused() {
    let rows: String = (0..1001).map(|i| format!("node,t{i},1\n")).collect();
    assert_eq!(
        errors(&format!("kind,name,price\n{rows}")),
        ["line 1002: a PriceList takes 1000 prices of nodes at most: leave some out"]
    );
}

/// A field of a line: what is right somewhere, what is nearly right, and anything else.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "gpu",
            "node",
            "storageClass",
            "ephemeral",
            "cpu",
            "memory",
            "2.10",
            "1e3",
            "-1",
            "0",
            "0.0000000001",
            "99999999999999999999",
            "NaN",
            "Spot",
            "spot",
            "OnDemand",
            "8",
            "us-east-1",
            "NVIDIA-H100-80GB-HBM3",
            "p5.48xlarge",
            "2026-01-01",
            "2026-02-30",
            "nvidia.com/gpu",
            "amd.com/gpu",
            "spec.providerID",
            "metadata.name",
            "metadata.labels.nvidia.com/gpu.product",
            "pv",
            "\"a,b\"",
            "\"",
            "#",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,12}",
        "\\PC{0,300}",
    ]
}

fn table() -> impl Strategy<Value = String> {
    let header = prop_oneof![
        Just(BURSAR_COLUMNS.join(",")),
        Just("price,kind,name".to_owned()),
        Just(OPENCOST_HEADER.to_owned()),
        prop::collection::vec(field(), 0..4).prop_map(|fields| fields.join(",")),
    ];
    let line = prop::collection::vec(field(), 0..12).prop_map(|fields| fields.join(","));
    let end = prop::sample::select(vec!["\n", "\r\n", "\r", "\n\n"]);
    (header, prop::collection::vec(line, 0..12), end).prop_map(|(header, lines, end)| {
        let all: Vec<String> = std::iter::once(header).chain(lines).collect();
        all.join(end)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever somebody imports is a list that the leader reads, or every fault has its line.
    #[test]
    fn any_text_is_a_price_list_that_can_be_read_or_its_faults_are_named(text in table()) {
        match read(&text, "USD") {
            Ok(spec) => {
                prop_assert_eq!(spec.to_core().err().map(|error| error.to_string()), None);
                prop_assert!(spec.gpus.len() <= MAX_GPUS && spec.nodes.len() <= MAX_NODES);
                let names = spec.gpus.iter().map(|row| row.model.as_str());
                let names = names.chain(spec.nodes.iter().map(|row| row.instance_type.as_str()));
                for name in names {
                    prop_assert!(!name.is_empty() && name.chars().count() <= 253, "{}", name);
                }
            }
            Err(ImportError::Lines { errors, .. }) => {
                let text = text.replace("\r\n", "\n");
                let lines = text.split(['\n', '\r']).count() as u64;
                prop_assert!(!errors.is_empty() && errors.len() <= MAX_REPORTED_LINES);
                for error in errors {
                    prop_assert!((2..=lines).contains(&error.line), "{:?}", error);
                    prop_assert!(!error.why.is_empty());
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
