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
    let (sheets, _) = records::read(&samples::records(), false).unwrap();
    let now = "2026-11-24T04:00:00Z".parse().unwrap();
    String::from_utf8(render(&sheets, &asked(words), "cluster", now).unwrap()).unwrap()
}

#[test]
fn a_table_has_the_currencys_digits_a_sum_and_what_it_rests_on() {
    assert_eq!(printed("--month 2026-11"), "");
}

#[test]
fn a_csv_is_exact() {
    assert_eq!(printed("--month 2026-11 --by gpu,capacity -o csv"), "");
}

#[test]
fn a_json_report_names_its_dimensions_and_its_sum() {
    let text = printed("--month 2026-11 --by owner,day -o json");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["rows"][0]["owner"], serde_json::Value::Null);
    assert_eq!(document["rows"][0]["day"], "2026-11-02");
    assert_eq!(document["total"]["total"], "1859.418178901");
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
    let text = render(&sheets, &asked("--month 2026-11 --by namespace"), "", now).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("2026-11 in JPY") && text.contains(" 1859 "),
        "{text}"
    );
}

#[test]
fn a_month_that_is_none_and_a_word_that_is_no_dimension_are_refused_with_the_form() {
    assert!(refused("--month november").contains("write it as \"2026-11\""));
    assert!(refused("--month 2026-11 --by gpus").contains("\"gpus\" is nothing to group by"));
    assert!(refused("--month 2026-11 -n a -A").contains("cannot be used with"));
}
