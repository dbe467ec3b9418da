use clap::Parser;

use super::*;
use crate::samples;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    asked: Asked,
}

fn asked(words: &str) -> Asked {
    let words = ["report"].into_iter().chain(words.split_whitespace());
    Line::try_parse_from(words)
        .unwrap_or_else(|error| panic!("{error}"))
        .asked
}

fn refused(words: &str) -> String {
    let words = ["report"].into_iter().chain(words.split_whitespace());
    match Line::try_parse_from(words) {
        Ok(_) => panic!("taken"),
        Err(error) => error.to_string(),
    }
}

fn printed(words: &str) -> String {
    of(&samples::records(), words)
}

fn of(objects: &[Value], words: &str) -> String {
    let (sheets, _) = records::read(objects, false).unwrap();
    let now = "2026-11-24T04:00:00Z".parse().unwrap();
    String::from_utf8(render(&sheets, &[], &asked(words), "cluster", now).unwrap()).unwrap()
}

#[test]
fn a_table_has_the_currencys_digits_a_sum_and_what_it_rests_on() {
    assert_eq!(
        printed("--month 2026-11"),
        "\
NAMESPACE  WORKLOAD     GPU-HOURS  COMPUTE  STORAGE  POWER  LABOUR     TOTAL  WASTE
ml         infd/chat        40.00   274.58     0.00  14.27    0.00    288.85    16%
ml         infd/embed        1.00     0.56     0.01   0.00    0.00      0.57    49%
research   infd/lab          2.00     0.00     0.00   0.00    0.00   unknown      -
research   tj/finetune     194.00  1321.00     0.00   0.00  250.00  1571.00+     0%
TOTAL                      237.00  1596.14     0.01  14.27  250.00  1860.42+     2%

2026-11 in USD, as of 2026-11-24T04:00:00Z
estimated: 8.10 USD rest on a provisional price or an end that was not seen
unpriced (+): the amounts lack 4.00 GPU-hours that no price is known for
unattributed: time on lost nodes cost 0.12 USD more
"
    );
}

#[test]
fn a_folded_month_is_reported_as_before_byte_for_byte() {
    let (own, folded) = (samples::closed(), samples::folded());
    for words in [
        "",
        "--by namespace",
        "--by workload,gpu,capacity,region,day,owner -o csv",
        "-o json",
        "-o focus-csv",
        "-o focus-csv --focus-version 1.0",
    ] {
        let words = format!("--month 2026-11 {words}");
        assert_eq!(of(&folded, &words), of(&own, &words), "{words}");
    }
}

#[test]
fn a_csv_is_exact() {
    let text = printed("--month 2026-11 --by gpu,capacity -o csv");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "month,currency,gpu,capacity,compute,storage,power,labour,total,starting,idle,draining,waste,estimated,unattributed,\
         gpuHours,unpricedGpuHours,idleSeconds,requests,inputTokens,outputTokens,carbonKilograms"
    );
    assert_eq!(
        lines[3],
        "2026-11,USD,NVIDIA-H100-80GB-HBM3,OnDemand,1595.580000000,0.000000000,14.265678901,250.000000000,1859.845678901,\
         4.483333333,40.100000000,1.050000000,45.633333333,8.100000000,0.000000000,232.000000000,0.000000000,0,91000,41000000,\
         7000000,12.500000"
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
    let (sheets, _) = records::read(&records, false).unwrap();
    let now = "2026-11-24T04:00:00Z".parse().unwrap();
    let text = render(
        &sheets,
        &[],
        &asked("--month 2026-11 --by namespace"),
        "",
        now,
    )
    .unwrap();
    let text = String::from_utf8(text).unwrap();
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
    let (sheets, _) = records::read(&samples::records(), false).unwrap();
    let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    let prices = Prices::of([&list], Some("USD".into()), now);
    let borne = overheads(&sheets, &prices, "2026-11".parse().unwrap(), now);
    let whole: Money = borne.iter().map(|(_, _, line)| line.cost.labour).sum();
    assert_eq!(whole, "3000".parse().unwrap());
    let months: Vec<String> = borne.iter().map(|(_, date, _)| date.to_string()).collect();
    assert!(months.iter().all(|date| date == "2026-11-30"), "{months:?}");
    let text = render(
        &sheets,
        &borne,
        &asked("--month 2026-11 --by namespace"),
        "",
        now,
    )
    .unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("LABOUR") && text.contains("3250.00"),
        "{text}"
    );
}
