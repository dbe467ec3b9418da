use bursar_api::explanation::Explanation;
use bursar_api::prices::EffectivePrices;
use bursar_api::{PriceList, SpendCorrection, SpendRecord};
use bursar_apitest::Server;
use bursar_core::calendar::Month;
use bursar_core::money::Money;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::namespace_costs::LedgerSettings;
use super::*;
use crate::explain::leader::Source;
use crate::format::terminal::TEXT_WIDTH;
use crate::{samples, spend_records};

/// Shows what is printed of the sample ledger.
const DOCS: &str = include_str!("../../../../../docs/reports.md");

fn now() -> Timestamp {
    "2026-11-24T04:00:00Z".parse().unwrap()
}

/// The list that prices the sample's nodes.
fn contract() -> PriceList {
    serde_json::from_value(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "PriceList", "metadata": {"name": "contract"},
        "spec": {
            "currency": "USD",
            "nodes": [{"instanceType": "p5.48xlarge", "gpus": 8, "pricePerHour": "55.04"}],
            "gpus": [{"model": "NVIDIA-H100-80GB-HBM3", "pricePerHour": "7", "watts": 600}],
            "power": {"pricePerKilowattHour": "0.16", "pue": "1.25"},
        },
    }))
    .unwrap()
}

fn costs(records: &[Value]) -> NamespaceCosts {
    let (mut accounts, _) = spend_records::load(records, false).unwrap();
    accounts.sort_by_key(|loaded| loaded.account.month());
    let prices = EffectivePrices::from_lists([&contract()], Some("USD".into()), now());
    NamespaceCosts {
        settings: accounts.last().and_then(LedgerSettings::of_account),
        accounts,
        skipped: Vec::new(),
        corrections: Vec::new(),
        prices: Ok(prices),
        overhead: None,
    }
}

#[test]
fn a_share_of_overheads_is_shown_apart_from_what_is_spent() {
    let costs = NamespaceCosts {
        overhead: Some("12.5000".into()),
        ..costs(&samples::records())
    };
    let text = printed(&costs, &SpecDetails::Job, "research", "finetune");
    assert!(
        text.contains("\n  overheads      12.5000, as the status says"),
        "{text}"
    );
}

fn terms() -> RevenueTerms {
    RevenueTerms {
        per_million_output_tokens: "40".parse().unwrap(),
        per_month: "300".parse().unwrap(),
        ..RevenueTerms::default()
    }
}

fn answer(kind: ObjectKind, namespace: &str, name: &str) -> Answer {
    Answer {
        object: ObjectRef {
            kind,
            name: name.into(),
        },
        namespace: namespace.into(),
        source: Source::Decision(Explanation::default()),
    }
}

fn printed(costs: &NamespaceCosts, details: &SpecDetails, namespace: &str, name: &str) -> String {
    let kind = match details {
        SpecDetails::Service(_) => ObjectKind::Service,
        SpecDetails::Job => ObjectKind::Job,
        SpecDetails::Budget(_) => ObjectKind::Budget,
    };
    let mut page = Description::new(TEXT_WIDTH);
    describe(
        &mut page,
        costs,
        details,
        &answer(kind, namespace, name),
        now(),
    );
    let text = page.into_text();
    for line in text.lines() {
        assert!(line.chars().count() <= TEXT_WIDTH, "too long: {line}");
        assert_eq!(line, line.trim_end());
    }
    text
}

/// The sum of a column of the table, and the sum that the table shows.
fn column(text: &str, title: &str) -> (Money, Money) {
    let mut lines = text.lines().skip_while(|line| !line.contains("GPU-H "));
    let titles: Vec<&str> = lines.next().unwrap().split("  ").map(str::trim).collect();
    let titles: Vec<&str> = titles
        .into_iter()
        .filter(|title| !title.is_empty())
        .collect();
    let at = titles.iter().position(|each| *each == title).unwrap();
    let rows = lines.take_while(|line| !line.is_empty()).map(|line| {
        let cells = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        match cells.collect::<Vec<_>>()[at] {
            "unknown" => Money::ZERO,
            amount => amount.trim_end_matches('+').parse().unwrap(),
        }
    });
    let mut rows: Vec<Money> = rows.collect();
    let sum = rows.pop().unwrap();
    (rows.into_iter().sum(), sum)
}

#[test]
fn every_figure_of_a_service_is_traced_to_pods_days_and_prices() {
    let text = printed(
        &costs(&samples::records()),
        &SpecDetails::Service(Ok(Some(terms()))),
        "ml",
        "chat",
    );
    assert!(
        DOCS.contains(&text),
        "docs/reports.md does not show\n{text}"
    );
}

#[test]
fn the_parts_that_are_printed_sum_to_the_month_and_to_today_to_the_last_nano_unit() {
    let mut records = samples::records();
    // the embedder has run on so many days that not all are named
    let day = records[1]["status"]["days"][0].clone();
    let days = (1..=23).map(|date| {
        let mut day = day.clone();
        day["date"] = format!("2026-11-{date:02}").into();
        day["compute"] = format!("0.{date:09}").into();
        day
    });
    records[1]["status"]["days"] = days.chain([day.clone()]).collect();
    let costs = costs(&records);
    for (namespace, details, name) in [
        ("ml", SpecDetails::Service(Ok(None)), "chat"),
        ("ml", SpecDetails::Service(Ok(None)), "embed"),
        ("research", SpecDetails::Service(Ok(None)), "lab"),
        ("research", SpecDetails::Job, "finetune"),
    ] {
        let text = printed(&costs, &details, namespace, name);
        let loaded = costs
            .accounts
            .iter()
            .find(|loaded| loaded.record.spec.name == name)
            .unwrap();
        let month = Month::containing(now(), &loaded.zone).bounds(&loaded.zone);
        let whole = loaded.account.sum(month, now(), &loaded.zone);
        let today = Period::Daily.bounds(now(), &loaded.zone);
        let today = loaded.account.sum(today, now(), &loaded.zone).cost.total();
        for (title, figure) in [
            ("MONTH", whole.cost.total()),
            ("TODAY", today),
            ("WASTE", whole.waste()),
        ] {
            assert_eq!(column(&text, title), (figure, figure), "{title} of {text}");
        }
    }
    let text = printed(&costs, &SpecDetails::Service(Ok(None)), "ml", "embed");
    assert!(text.contains("  before 2026-11-18 "), "{text}");
}

#[test]
fn the_total_includes_earlier_months() {
    let mut records = samples::records();
    let mut october = records[3].clone();
    for day in october["status"]["days"].as_array_mut().unwrap() {
        let date = day["date"].as_str().unwrap().replace("-11-", "-10-");
        day["date"] = date.into();
    }
    october["spec"]["month"] = "2026-10".into();
    records.push(october);
    let text = printed(&costs(&records), &SpecDetails::Job, "research", "finetune");
    assert!(
        text.contains("  total          3142.00+ = 1571.00+ this month + 1571.00+ in 2026-10\n"),
        "{text}"
    );
}

#[test]
fn what_is_not_known_is_said_with_its_cause() {
    let mut records = samples::records();
    let text = printed(
        &costs(&records),
        &SpecDetails::Service(Ok(None)),
        "research",
        "lab",
    );
    for part in [
        "unknown: no price is known for 1 of 1 pod",
        "month unknown total unknown this month",
        "no PriceList has a price for AMD-Instinct-MI300X",
        "the amounts lack 2.000 GPU-hours of AMD-Instinct-MI300X",
    ] {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(part), "{part:?} is not in\n{text}");
    }
    let open = &mut records[0]["status"]["open"][0];
    open["rates"][0]["provisional"] = true.into();
    open["lost"] = "2026-11-24T03:00:00Z".into();
    let mut costs = costs(&records);
    costs.prices = Err("pricelists is forbidden (403)".into());
    let terms = SpecDetails::Service(Err("forbidden (403)".into()));
    let text = printed(&costs, &terms, "ml", "chat");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "provisional",
        "not been heard of since 2026-11-24T03:00:00Z",
        "7.00 in addition to the month",
        "PriceLists that cannot be read: pricelists is forbidden (403)",
        "reading its terms: forbidden (403)",
    ] {
        assert!(words.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn a_price_that_the_lists_no_longer_give_is_not_explained_by_them() {
    let mut records = samples::records();
    records[0]["status"]["open"][0]["rates"][0]["compute"] = "6.00".into();
    let text = printed(
        &costs(&records),
        &SpecDetails::Service(Ok(None)),
        "ml",
        "chat",
    );
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("costs 6.12 an hour")
            && words.contains("the PriceLists say 7.00 an hour now"),
        "{text}"
    );
}

#[test]
fn the_workloads_and_pods_that_a_budget_paid_for_sum_to_its_spent() {
    let costs = costs(&samples::records());
    let text = printed(
        &costs,
        &SpecDetails::Budget(Ok(Period::Monthly)),
        "ml",
        "team",
    );
    assert!(
        DOCS.contains(&text),
        "docs/reports.md does not show\n{text}"
    );
    let today = printed(
        &costs,
        &SpecDetails::Budget(Ok(Period::Daily)),
        "ml",
        "team",
    );
    let (parts, spent) = column(&today, "COST");
    assert_eq!((parts, spent), (spent, "35.5725".parse().unwrap()));
}

/// The sample ledger with its corrections.
fn with_corrections() -> NamespaceCosts {
    NamespaceCosts {
        corrections: samples::corrections(),
        ..costs(&samples::records())
    }
}

#[test]
fn a_record_made_before_any_price_was_known_is_not_left_out() {
    let mut records = samples::records();
    records[0]["spec"]["currency"] = "".into();
    assert_eq!(
        budget_of(&costs(&records), "ml"),
        budget_of(&costs(&samples::records()), "ml")
    );
    let chat = |records: &[Value]| {
        printed(
            &costs(records),
            &SpecDetails::Service(Ok(None)),
            "ml",
            "chat",
        )
    };
    let unnamed = chat(&records);
    assert!(unnamed.starts_with("\nmoney in USD, "), "{unnamed}");
    assert_eq!(unnamed, chat(&samples::records()));
}

fn budget_of(costs: &NamespaceCosts, namespace: &str) -> String {
    let details = SpecDetails::Budget(Ok(Period::Monthly));
    printed(costs, &details, namespace, "team")
}

#[test]
fn corrections_that_count_are_parts_of_what_a_budget_spent_with_their_reasons() {
    let text = budget_of(&with_corrections(), "research");
    let (parts, spent) = column(&text, "COST");
    assert_eq!((parts, spent), (spent, "1531".parse().unwrap()), "{text}");
    for part in [
        "\n  spent          1531.00+ since 2026-10-31T23:00:00Z, by:\n",
        "\n  correction credit                 -    -40.00\n",
        "\n  SpendCorrection credit of 2026-11-20 for tj/finetune: GPUs that were lost\n    (CASE-7)\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let none = budget_of(&with_corrections(), "ml");
    assert!(!none.contains("correction"), "none of its own counts");
}

#[test]
fn a_budget_without_records_has_spent_its_corrections_and_unknown_is_not_zero() {
    let text = budget_of(&with_corrections(), "gone");
    let (parts, spent) = column(&text, "COST");
    assert_eq!((parts, spent), (spent, "5.50".parse().unwrap()), "{text}");
    let nothing = |costs: &NamespaceCosts, namespace: &str| {
        let text = budget_of(costs, namespace);
        text.lines().nth(3).unwrap().trim().to_owned()
    };
    let costs = NamespaceCosts {
        settings: None,
        ..with_corrections()
    };
    let unknown = nothing(&costs, "gone");
    assert!(unknown.starts_with("spent          unknown: "), "{unknown}");
    assert_eq!(
        nothing(&costs, "empty"),
        "spent          0.00: nothing of this namespace is on record"
    );
    let costs = NamespaceCosts {
        skipped: vec!["SpendRecord empty.infd.chat.2026-11".into()],
        ..costs
    };
    let unknown = nothing(&costs, "empty");
    assert!(unknown.starts_with("spent          unknown: "), "{unknown}");
}

#[test]
fn corrections_of_a_workload_are_added_to_its_month_as_net() {
    let text = printed(
        &with_corrections(),
        &SpecDetails::Job,
        "research",
        "finetune",
    );
    assert!(
        text.ends_with(
            "
  corrections    -40.00 this month, in addition to what is spent, of:
    by           -40.00: SpendCorrection credit of 2026-11-20 for tj/finetune:
                 GPUs that were lost (CASE-7)
  net            1531.00+ = 1571.00+ - 40.00
"
        ),
        "{text}"
    );
    let lab = printed(
        &with_corrections(),
        &SpecDetails::Service(Ok(None)),
        "research",
        "lab",
    );
    assert!(!lab.contains("correction"), "it is another workload's");
}

#[test]
fn savings_at_zero_replicas_are_shown_with_their_rate() {
    let mut records = samples::records();
    let mut resting = records[1]["status"]["hardware"][0].clone();
    resting["since"] = "2026-11-24T02:00:00Z".into();
    resting["perHour"] = "0.50".into();
    records[1]["status"]["resting"] = resting;
    let text = printed(
        &costs(&records),
        &SpecDetails::Service(Ok(None)),
        "ml",
        "embed",
    );
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("saved 1.00 in addition to the month"),
        "{text}"
    );
    assert!(
        words.contains("since 2026-11-24T02:00:00Z at 0.50 an hour"),
        "{text}"
    );
}

#[tokio::test]
async fn records_prices_and_the_budgets_period_are_read_from_the_cluster() {
    let client = Server::new(&["ml", "research", "gone"]).client();
    let params = PostParams::default();
    for record in samples::records() {
        let record: SpendRecord = serde_json::from_value(record).unwrap();
        let api: Api<SpendRecord> = Api::all(client.clone());
        let made = api.create(&params, &record).await.unwrap();
        let filled = SpendRecord {
            metadata: made.metadata,
            ..record
        };
        let name = filled.metadata.name.clone().unwrap();
        api.replace_status(&name, &params, &filled).await.unwrap();
    }
    let lists: Api<PriceList> = Api::all(client.clone());
    lists.create(&params, &contract()).await.unwrap();
    let budget = serde_json::from_value(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "BudgetPolicy", "metadata": {"name": "team"},
        "spec": {"limit": "500", "period": "Daily"},
    }));
    let budget: BudgetPolicy = budget.unwrap();
    for namespace in ["ml", "gone"] {
        let budgets: Api<BudgetPolicy> = Api::namespaced(client.clone(), namespace);
        budgets.create(&params, &budget).await.unwrap();
    }
    let corrections: Api<SpendCorrection> = Api::all(client.clone());
    for correction in samples::corrections() {
        let correction = serde_json::from_value(correction).unwrap();
        corrections.create(&params, &correction).await.unwrap();
    }

    let text = explain(
        &client,
        &answer(ObjectKind::Budget, "ml", "team"),
        now(),
        TEXT_WIDTH,
    )
    .await;
    assert!(
        text.contains("  spent          35.5725 since 2026-11-23T23:00:00Z"),
        "{text}"
    );
    // the accounts of other namespaces say in which currency and time zone
    let text = explain(
        &client,
        &answer(ObjectKind::Budget, "gone", "team"),
        now(),
        TEXT_WIDTH,
    )
    .await;
    assert!(
        text.contains("  spent          5.50 since 2026-11-23T23:00:00Z"),
        "{text}"
    );
    let text = explain(
        &client,
        &answer(ObjectKind::Service, "ml", "chat"),
        now(),
        TEXT_WIDTH,
    )
    .await;
    assert!(
        text.contains("PriceList contract, node p5.48xlarge"),
        "{text}"
    );
    // the service itself is gone, and its terms with it
    assert!(text.contains("  revenue        not traced"), "{text}");
    assert!(!text.contains("finetune"), "{text}");
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_is_said_and_hides_nothing_else() {
    let unreachable = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = Client::try_from(unreachable).unwrap();
    let text = explain(
        &client,
        &answer(ObjectKind::Service, "ml", "chat"),
        now(),
        TEXT_WIDTH,
    )
    .await;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.starts_with("money not traced reading SpendRecords: "),
        "{text}"
    );
    assert!(words.contains("bursar-spend-viewer"), "{text}");
}
