use std::collections::BTreeMap;

use bursar_api::PriceList;
use bursar_api::SpendRecord;
use bursar_apitest::Server;
use bursar_core::cost_report::CostOwner;
use clap::Parser;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;

use super::input::LedgerObjects;
use super::revenue::RevenueTermsByOwner;
use super::*;
use crate::ledger::backup;
use crate::samples;

#[derive(Parser)]
struct TestArgs {
    #[command(flatten)]
    args: ReportArgs,
}

fn parsed(words: &str) -> ReportArgs {
    let words = ["report"].into_iter().chain(words.split_whitespace());
    TestArgs::try_parse_from(words)
        .unwrap_or_else(|error| panic!("{error}"))
        .args
}

fn refused(words: &str) -> String {
    let words = ["report"].into_iter().chain(words.split_whitespace());
    match TestArgs::try_parse_from(words) {
        Ok(_) => panic!("taken"),
        Err(error) => error.to_string(),
    }
}

fn printed(words: &str) -> String {
    printed_at("2026-11-24T04:00:00Z", &RevenueTermsByOwner::new(), words)
}

fn printed_at(now: &str, revenue_terms: &RevenueTermsByOwner, words: &str) -> String {
    of(&samples::records(), now, revenue_terms, words)
}

fn of(objects: &[Value], now: &str, revenue_terms: &RevenueTermsByOwner, words: &str) -> String {
    let source = LedgerObjects {
        records: objects.to_vec(),
        revenue_terms: revenue_terms.clone(),
        ..LedgerObjects::default()
    };
    rendered(source, now, words).0
}

const NOW: &str = "2026-11-24T04:00:00Z";

/// The report of this source, and what it leaves out. Without -A it has all namespaces too, and no
/// bill.
fn rendered(source: LedgerObjects, now: &str, words: &str) -> (String, Vec<String>) {
    let (args, now) = (parsed(words), now.parse().unwrap());
    let month = args.month.unwrap();
    let (mut read, left_out) = source.parse(&args, month, now).unwrap();
    read.cluster = read.cluster.filter(|_| args.scope.all_namespaces);
    let text = render(&read, &args, month, "cluster", now).unwrap();
    (String::from_utf8(text).unwrap(), left_out)
}

/// One service is revenue_terms by use and by the month.
fn revenue_terms() -> RevenueTermsByOwner {
    let holder = CostOwner {
        namespace: "ml".into(),
        workload: "infd/chat".into(),
    };
    let terms = bursar_core::unit_economics::RevenueTerms {
        per_million_output_tokens: "40".parse().unwrap(),
        per_month: "300".parse().unwrap(),
        ..Default::default()
    };
    [(holder, terms)].into()
}

#[test]
fn units_have_their_cost_where_something_was_served() {
    assert_eq!(
        printed("--month 2026-11 --units"),
        "\
NAMESPACE  WORKLOAD        TOTAL  REQUESTS  TOKENS-IN  TOKENS-OUT  PER-REQUEST   PER-1M-IN   PER-1M-OUT
ml         infd/chat      288.85     91000   41000000     7000000     0.003174    4.186169    16.744677
ml         infd/embed       0.57         0          0           0            -           -            -
research   infd/lab      unknown         0          0           0            -           -            -
research   tj/finetune  1571.00+         0          0           0            -           -            -
TOTAL                   1860.42+     91000   41000000     7000000    0.020444+  26.962582+  107.850329+

2026-11 in USD, as of 2026-11-24T04:00:00Z
estimated: 8.10 USD rest on a provisional price or an end that was not seen
unpriced (+): the amounts lack 4.00 GPU-hours that no price is known for
unattributed: time on lost nodes cost 0.12 USD more
"
    );
}

#[test]
fn revenue_is_shown_for_services_with_terms_only() {
    let at = "2026-11-24T04:00:00Z";
    assert_eq!(
        printed_at(at, &revenue_terms(), "--month 2026-11"),
        "\
NAMESPACE  WORKLOAD     GPU-HOURS  COMPUTE  STORAGE  POWER  LABOUR     TOTAL  WASTE  REVENUE  MARGIN
ml         infd/chat        40.00   274.58     0.00  14.27    0.00    288.85    16%   512.08  223.24
ml         infd/embed        1.00     0.56     0.01   0.00    0.00      0.57    49%        -       -
research   infd/lab          2.00     0.00     0.00   0.00    0.00   unknown      -        -       -
research   tj/finetune     194.00  1321.00     0.00   0.00  250.00  1571.00+     0%        -       -
TOTAL                      237.00  1596.14     0.01  14.27  250.00  1860.42+     2%   512.08  223.24

2026-11 in USD, as of 2026-11-24T04:00:00Z
estimated: 8.10 USD rest on a provisional price or an end that was not seen
unpriced (+): the amounts lack 4.00 GPU-hours that no price is known for
unattributed: time on lost nodes cost 0.12 USD more
"
    );
    let text = printed_at(at, &revenue_terms(), "--month 2026-11 --by day -o csv");
    assert!(
        text.lines().skip(1).all(|line| line.ends_with(",,")),
        "{text}"
    );
}

#[test]
fn a_margin_is_not_known_while_the_cost_is_not() {
    let mut revenue_terms = revenue_terms();
    let terms = revenue_terms.values().next().copied().unwrap();
    let lab = CostOwner {
        namespace: "research".into(),
        workload: "infd/lab".into(),
    };
    revenue_terms.insert(lab, terms);
    let text = printed_at(
        "2026-11-24T04:00:00Z",
        &revenue_terms,
        "--month 2026-11 -o csv",
    );
    let lab = text.lines().find(|line| line.contains("infd/lab")).unwrap();
    assert!(lab.ends_with(",232.083333333,"), "{lab}");
}

#[test]
fn a_past_month_earned_what_is_paid_for_the_whole_month() {
    let text = printed_at(
        "2027-01-10T00:00:00Z",
        &revenue_terms(),
        "--month 2026-11 -o json",
    );
    let document: Value = serde_json::from_str(&text).unwrap();
    let rows = document["rows"].as_array().unwrap();
    let chat = rows
        .iter()
        .find(|row| row["workload"] == "infd/chat")
        .unwrap();
    // 7 million tokens at 40, and 300
    assert_eq!(chat["revenue"], "580.000000000");
    assert_eq!(document["total"]["revenue"], "580.000000000");
    let cost: Money = chat["total"].as_str().unwrap().parse().unwrap();
    let margin: Money = chat["margin"].as_str().unwrap().parse().unwrap();
    assert_eq!(margin + cost, "580".parse().unwrap());
    let job = rows
        .iter()
        .find(|row| row["workload"] == "tj/finetune")
        .unwrap();
    assert_eq!(
        (&job["revenue"], &job["costPerRequest"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn a_table_has_the_currencys_digits_a_sum_and_what_it_rests_on() {
    assert_eq!(
        printed("--month 2026-11 -A"),
        "\
NAMESPACE  WORKLOAD     GPU-HOURS  COMPUTE  STORAGE  POWER  LABOUR     TOTAL  WASTE
ml         infd/chat        40.00   274.58     0.00  14.27    0.00    288.85    16%
ml         infd/embed        1.00     0.56     0.01   0.00    0.00      0.57    49%
research   infd/lab          2.00     0.00     0.00   0.00    0.00   unknown      -
research   tj/finetune     194.00  1321.00     0.00   0.00  250.00  1571.00+     0%
TOTAL                      237.00  1596.14     0.01  14.27  250.00  1860.42+     2%

CLUSTER         AMOUNT  GPU-HOURS
workloads     1860.42+     237.00
unmanaged         0.00       0.00
idle          5367.60+     783.00
unattributed      0.12          -
total         7228.14+    1020.00

2026-11 in USD, as of 2026-11-24T04:00:00Z
estimated: 8.10 USD rest on a provisional price or an end that was not seen
unpriced (+): the amounts lack 4.00 GPU-hours that no price is known for
unattributed: time on lost nodes cost 0.12 USD more
"
    );
}

#[test]
fn a_folded_month_is_reported_as_before_byte_for_byte() {
    let (own, folded) = (samples::closed(), samples::consolidated());
    for words in [
        "",
        "--by namespace",
        "-A --by gpu,day",
        "--units",
        "--by workload,gpu,capacity,region,day,owner -o csv",
        "-o json",
        "-o focus-csv",
        "-o focus-csv --focus-version 1.0",
    ] {
        let words = format!("--month 2026-11 {words}");
        let report = |records| of(records, "2026-12-05T00:00:00Z", &revenue_terms(), &words);
        assert_eq!(report(&folded), report(&own), "{words}");
    }
}

#[test]
fn a_csv_is_exact() {
    let text = printed("--month 2026-11 --by gpu,capacity -o csv");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "month,currency,gpu,capacity,compute,storage,power,labour,total,starting,idle,draining,waste,estimated,unattributed,saved,\
         gpuHours,unpricedGpuHours,idleSeconds,requests,inputTokens,outputTokens,\
         costPerRequest,costPerMillionInputTokens,costPerMillionOutputTokens,carbonKilograms,corrections,net,revenue,margin"
    );
    assert_eq!(
        lines[3],
        "2026-11,USD,NVIDIA-H100-80GB-HBM3,OnDemand,1595.580000000,0.000000000,14.265678901,250.000000000,1859.845678901,\
         4.483333333,40.100000000,1.050000000,45.633333333,8.100000000,0.000000000,0.000000000,232.000000000,0.000000000,0,91000,41000000,\
         7000000,0.020437864,26.954285201,107.817140805,12.500000,\
         0.000000000,1859.845678901,,"
    );
    assert!(
        lines[1].starts_with("2026-11,USD,AMD-Instinct-MI300X,,0.000000000"),
        "what is not known is empty: {}",
        lines[1]
    );
}

#[test]
fn a_json_report_names_its_dimensions_and_its_sum() {
    let text = printed("--month 2026-11 --by owner,day -o json");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["rows"][0]["owner"], serde_json::Value::Null);
    assert_eq!(document["rows"][0]["day"], "2026-11-02");
    assert_eq!(document["total"]["total"], "1860.418178901");
    assert_eq!(document["total"]["inputTokens"], 41_000_000);
}

#[test]
fn a_currency_without_decimals_has_none_in_the_table() {
    let mut records = samples::records();
    for record in &mut records {
        record["spec"]["currency"] = "JPY".into();
    }
    let text = of(
        &records,
        NOW,
        &RevenueTermsByOwner::new(),
        "--month 2026-11 --by namespace",
    );
    assert!(
        text.contains("2026-11 in JPY") && text.contains(" 1860+ "),
        "{text}"
    );
}

#[test]
fn a_month_that_is_none_and_a_word_that_is_no_dimension_are_refused_with_the_form() {
    assert!(refused("--month november").contains("write it as \"2026-11\""));
    assert!(refused("--month 2026-11 --by gpus").contains("\"gpus\" is nothing to group by"));
    assert!(refused("--month 2026-11 -n a -A").contains("cannot be used with"));
}

#[test]
fn overheads_are_labour_of_all_who_used_gpus() {
    let list: PriceList = serde_json::from_value(serde_json::json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "PriceList", "metadata": {"name": "people"},
        "spec": {"currency": "USD", "overheads": [
            {"name": "people", "part": "Labour", "pricePerMonth": "3000", "shareBy": "GpuHours"},
        ]},
    }))
    .unwrap();
    let source = LedgerObjects {
        records: samples::records(),
        lists: vec![list],
        ..LedgerObjects::default()
    };
    let over = "2026-12-01T00:00:00Z";
    let words = "--month 2026-11 --by namespace,day -A --overheads -o csv";
    let (exact, _) = rendered(source.clone(), over, words);
    let mut rows = ::csv::Reader::from_reader(exact.as_bytes());
    let rows: Vec<BTreeMap<String, String>> = rows.deserialize().map(Result::unwrap).collect();
    let labour = |is_counted: fn(&str) -> bool| -> String {
        let rows = rows.iter().filter(|row| is_counted(&row["day"]));
        let amounts = rows.map(|row| row["labour"].parse::<Money>().unwrap());
        amounts.sum::<Money>().to_string()
    };
    assert_eq!(labour(|day| day == "2026-11-30"), "3000.00");
    assert_eq!(
        labour(|day| day != "2026-11-30"),
        "250.00",
        "the sample's own"
    );
    let words = "--month 2026-11 --by namespace -A --overheads";
    let (text, _) = rendered(source, over, words);
    for part in [
        "LABOUR",
        "3250.00",
        "\noverhead        3000.00          -\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn the_docs_show_the_bill_and_idle_nodes_as_they_are() {
    let docs = include_str!("../../../../docs/reports.md");
    let bill = printed("--month 2026-11 -A");
    let rows = printed("--month 2026-11 --by gpu -A");
    let (rows, _) = rows.split_once("\nTOTAL").unwrap();
    for text in [bill.as_str(), rows] {
        assert!(docs.contains(text), "docs/reports.md does not show\n{text}");
    }
}

#[test]
fn idle_nodes_are_a_column_when_grouped_by_hardware_or_day() {
    let text = printed("--month 2026-11 --by gpu -A");
    let mut lines = text.lines();
    let column = |line: &str| line.split_whitespace().last().unwrap().to_owned();
    assert_eq!(column(lines.next().unwrap()), "IDLE-NODES");
    let idle: Vec<String> = lines.take(5).map(column).collect();
    assert_eq!(idle, ["unknown", "0.44", "5367.15", "0.00", "5367.60+"]);
    let by_day = printed("--month 2026-11 --by day -A");
    let idle = by_day
        .lines()
        .find(|line| line.starts_with("2026-11-21"))
        .unwrap();
    assert_eq!(column(idle), "1344.00");
    // a namespace has none, and one namespace's report knows nothing of the cluster
    assert!(!printed("--month 2026-11 --by namespace,gpu -A").contains("IDLE-NODES"));
    assert!(!printed("--month 2026-11 --by gpu").contains("IDLE-NODES"));
    let document: Value =
        serde_json::from_str(&printed("--month 2026-11 --by day -A -o json")).unwrap();
    let days = document["rows"].as_array().unwrap();
    assert!(days.iter().all(|row| row["day"] != "2026-11-21"));
}

#[test]
fn the_bill_of_the_cluster_is_exact_in_json_and_what_is_not_known_is_null() {
    let bill = |text: &str| serde_json::from_str::<Value>(text).unwrap()["cluster"].clone();
    let cluster = bill(&printed("--month 2026-11 -o json -A"));
    assert_eq!(cluster["idle"], "5367.596821099");
    assert_eq!(cluster["total"], "7228.135000000");
    assert_eq!(cluster["overhead"], Value::Null, "nobody asked for it");
    assert_eq!(cluster["hardware"][2]["region"], "us-east-1");
    assert_eq!(cluster["hardware"][2]["idleGpuHours"], "768.000000000");
    let records = &samples::records()[..4];
    let cluster = bill(&of(
        records,
        NOW,
        &RevenueTermsByOwner::new(),
        "--month 2026-11 -o json -A",
    ));
    assert_eq!(cluster["idle"], Value::Null, "no node has an account");
    assert_eq!(cluster["total"], "1860.538178901");
    assert_eq!(bill(&printed("--month 2026-11 -o json")), Value::Null);
}

/// A report with the corrections of the sample.
fn with_corrections(words: &str) -> String {
    let source = LedgerObjects {
        records: samples::records(),
        corrections: samples::corrections(),
        ..LedgerObjects::default()
    };
    let (text, left_out) = rendered(source, NOW, words);
    assert_eq!(left_out.len(), 1);
    assert!(
        left_out[0].contains("in-euros") && left_out[0].contains("kept in USD"),
        "{left_out:?}"
    );
    text
}

#[test]
fn net_is_the_cost_with_corrections() {
    let docs = include_str!("../../../../docs/reports.md");
    let text = with_corrections("--month 2026-11 -A");
    let (text, _) = text.split_once("\n2026-11 in USD").unwrap();
    assert!(docs.contains(text), "docs/reports.md does not show\n{text}");
    let csv = with_corrections("--month 2026-11 --by gpu -o csv");
    assert!(
        csv.lines().any(|line| line.starts_with("2026-11,USD,,0.")
            && line.ends_with(",-34.500000000,-34.500000000,,")),
        "{csv}"
    );
    let json: Value =
        serde_json::from_str(&with_corrections("--month 2026-11 -A -o json")).unwrap();
    assert_eq!(json["total"]["net"], "1825.918178901");
    let bill = ["total", "corrections", "net"].map(|name| &json["cluster"][name]);
    let exact = ["7228.135000000", "-34.500000000", "7193.635000000"];
    assert_eq!(bill, exact, "what was charged stays as it was");
    assert_eq!(json["rows"][0]["workload"], Value::Null);
}

#[tokio::test]
async fn a_report_without_a_month_is_of_this_month_in_the_accounts_time_zone() {
    let mut record = samples::records().remove(0);
    record["metadata"]["name"] = "ml.infd.chat.2026-12".into();
    record["metadata"]["labels"]["bursar.dev/month"] = "2026-12".into();
    record["spec"]["month"] = "2026-12".into();
    record["spec"]["timeZone"] = "Pacific/Kiritimati".into();
    record["status"] = Value::Null;
    let client = Server::new(&["ml"]).client();
    let month_at = async |now: &str, words: &str| {
        let (now, client) = (now.parse().unwrap(), client.clone());
        let loaded = input::load(|| async { Ok(client.clone()) }, &parsed(words), now).await;
        loaded.unwrap().1.to_string()
    };
    // 12:00 in UTC is 02:00 of the next day there
    let now = "2026-11-30T12:00:00Z";
    assert_eq!(month_at(now, "-A").await, "2026-11", "UTC without records");
    let records: Api<SpendRecord> = Api::all(client.clone());
    let typed = serde_json::from_value(record.clone()).unwrap();
    records
        .create(&PostParams::default(), &typed)
        .await
        .unwrap();
    assert_eq!(month_at(now, "-A").await, "2026-12");
    assert_eq!(month_at(now, "-A --month 2026-10").await, "2026-10");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.jsonl");
    let bytes = backup::encode(&[record], now.parse().unwrap()).unwrap();
    backup::write_file(Some(&path), &bytes).unwrap();
    let words = format!("--from {}", path.display());
    assert_eq!(month_at(now, &words).await, "2026-12");
    assert_eq!(month_at("2026-11-30T09:00:00Z", &words).await, "2026-11");
}
