//! The figures of one workload, as its status and `kubectl bursar top` show them, with their sums.

use std::collections::{BTreeMap, BTreeSet};

use bursar_api::prices::EffectivePrices;
use bursar_core::calendar::{Interval, Month};
use bursar_core::cost_report::{CostOwner, gpu_name};
use bursar_core::ledger::{Account, Charge, DailyCost};
use bursar_core::money::Money;
use bursar_core::spend_forecast::SpendForecast;
use bursar_core::unit_economics::RevenueTerms;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::namespace_costs::{NamespaceCosts, accounts_in_currency, add_heading};
use super::{charge, corrections, revenue};
use crate::format::amounts::{exact_amounts, hours, mark_unpriced, waste_percent};
use crate::format::description::Description;
use crate::spend_records::LoadedAccount;

/// Days that are named; those before them are one sum.
const DAYS: usize = 7;

/// A part of a month's spend: that of a running pod, or of a day.
struct CostPart {
    name: String,
    /// The part of it that was spent today.
    today: DailyCost,
    /// The whole part.
    all: DailyCost,
}

/// Describes the money of one workload; `terms` is set for a kind that can earn.
pub(super) fn describe(
    page: &mut Description,
    costs: &NamespaceCosts,
    owner: &CostOwner,
    terms: Option<&Result<Option<RevenueTerms>, String>>,
    now: Timestamp,
) {
    let mine = costs
        .accounts
        .iter()
        .filter(|loaded| loaded.owner == *owner);
    let mine: Vec<&LoadedAccount> = mine.collect();
    let last = mine.iter().rev().find_map(|loaded| loaded.currency());
    let settings = costs
        .settings
        .as_ref()
        .map(|settings| settings.currency.as_str());
    add_heading(page, last.or(settings), now);
    let accounts = accounts_in_currency(page, &mine, last);
    let spent = match accounts.last() {
        Some(last) => describe_accounts(page, &accounts, &last.zone, &costs.prices, terms, now),
        None => {
            page.row(
                "spent",
                match costs.skipped.is_empty() {
                    true => "nothing: no pod of it has been charged",
                    false => "unknown: a record of its namespace cannot be read",
                },
            );
            DailyCost::default()
        }
    };
    corrections::describe_net(page, costs, owner, &spent, now);
}

/// Describes accounts; returns what was spent this month.
fn describe_accounts(
    page: &mut Description,
    accounts: &[&LoadedAccount],
    zone: &TimeZone,
    prices: &Result<EffectivePrices, String>,
    terms: Option<&Result<Option<RevenueTerms>, String>>,
    now: Timestamp,
) -> DailyCost {
    let month = Month::containing(now, zone);
    let accounts: Vec<&Account> = accounts.iter().map(|loaded| &loaded.account).collect();
    let current: Vec<&Account> = accounts
        .iter()
        .copied()
        .filter(|account| account.month() == month)
        .collect();
    describe_rate(page, &current, prices, now);

    let parts = cost_parts(&current, now, zone);
    let today: DailyCost = parts.iter().map(|part| part.today).sum();
    let spent: DailyCost = parts.iter().map(|part| part.all).sum();
    add_parts_table(page, parts, &today, &spent);

    let sum = |within: Interval| -> DailyCost {
        let each = accounts.iter();
        each.map(|account| account.sum(within, now, zone)).sum()
    };
    page.row(
        "today",
        &mark_unpriced(&today, today.cost.total().to_string()),
    );
    page.row("month", &component_sum(&spent));
    let months: BTreeSet<Month> = accounts.iter().map(|account| account.month()).collect();
    let before: Vec<(Month, DailyCost)> = months
        .iter()
        .rev()
        .filter(|each| **each != month)
        .map(|each| (*each, sum(each.bounds(zone))))
        .collect();
    describe_total(page, &spent, &before);
    if spent.cost.total() != Money::ZERO {
        page.row(
            "waste",
            &format!(
                "{}, {} of the month: starting {}, idle {}, draining {}",
                spent.waste(),
                waste_percent(&spent),
                spent.starting,
                spent.idle,
                spent.draining
            ),
        );
    }
    if let Some(forecast) = SpendForecast::of(accounts.iter().copied(), now, zone) {
        page.row("forecast", &describe_forecast(&forecast));
    }
    revenue::units(page, &spent);
    match terms {
        Some(Ok(Some(terms))) => revenue::revenue(page, terms, &spent, month.bounds(zone), now),
        Some(Err(why)) => page.row("revenue", &format!("not traced: reading its terms: {why}")),
        Some(Ok(None)) | None => {}
    }
    let saved = sum(month.bounds(zone)).saved;
    if saved != Money::ZERO {
        page.row("saved", &describe_savings(saved, &current));
    }
    describe_uncertainty(page, &current, &spent, now, zone);
    spent
}

fn describe_rate(
    page: &mut Description,
    current: &[&Account],
    prices: &Result<EffectivePrices, String>,
    now: Timestamp,
) {
    let open = current
        .iter()
        .flat_map(|account| account.open_charges().values());
    let open = open.map(AsRef::as_ref);
    let charges: Vec<&Charge> = open
        .filter(|charge: &&Charge| charge.start() <= now)
        .collect();
    let known: Vec<Money> = charges
        .iter()
        .filter_map(|charge| Some(charge.rate()?.cost.total()))
        .collect();
    let sum: Money = known.iter().copied().sum();
    let pods = match charges.len() {
        1 => "1 pod".to_owned(),
        count => format!("{count} pods"),
    };
    let text = match charges.len() - known.len() {
        _ if charges.is_empty() => "0.00 an hour: no pod of it holds a node".to_owned(),
        0 => format!("{sum} an hour, of {pods}"),
        unpriced => format!(
            "unknown: no price is known for {unpriced} of {pods}; the others cost {sum} an hour"
        ),
    };
    page.row("rate", &text);
    charge::describe(page, &charges, prices, now);
}

/// The parts of the month: the costs of running pods that are not posted yet, then the posted days,
/// newest first.
fn cost_parts(current: &[&Account], now: Timestamp, zone: &TimeZone) -> Vec<CostPart> {
    let date = zone.to_datetime(now).date();
    let part = |name: String, days: &[(Date, DailyCost)]| CostPart {
        name,
        today: days
            .iter()
            .filter(|(day, _)| *day == date)
            .map(|(_, line)| *line)
            .sum(),
        all: days.iter().map(|(_, line)| *line).sum(),
    };
    let mut running: BTreeMap<(&str, &str), Vec<(Date, DailyCost)>> = BTreeMap::new();
    let mut booked: BTreeMap<Date, DailyCost> = BTreeMap::new();
    for account in current {
        let month = account.month().bounds(zone);
        for (charge, day, line) in account.unposted_costs(month, now, zone) {
            let pod = (charge.pod(), charge.uid());
            running.entry(pod).or_default().push((day, line));
        }
        for (day, lines) in account.days() {
            *booked.entry(*day).or_default() += lines.iter().map(|(_, line)| *line).sum();
        }
    }
    let mut parts: Vec<CostPart> = running
        .iter()
        .map(|((pod, _), days)| part((*pod).to_owned(), days))
        .collect();
    let booked: Vec<(Date, DailyCost)> = booked.into_iter().rev().collect();
    let (named, earlier) = booked.split_at(booked.len().min(DAYS));
    parts.extend(named.iter().map(|day| part(day.0.to_string(), &[*day])));
    if let Some((last, _)) = named.last().filter(|_| !earlier.is_empty()) {
        parts.push(part(format!("before {last}"), earlier));
    }
    parts
}

fn add_parts_table(
    page: &mut Description,
    mut parts: Vec<CostPart>,
    today: &DailyCost,
    all: &DailyCost,
) {
    if parts.is_empty() {
        page.line("");
        return;
    }
    parts.push(CostPart {
        name: "MONTH".into(),
        today: *today,
        all: *all,
    });
    let column = |amount: fn(&CostPart) -> Money| {
        exact_amounts(&parts.iter().map(amount).collect::<Vec<_>>())
    };
    let today = column(|part| part.today.cost.total());
    let month = column(|part| part.all.cost.total());
    let waste = column(|part| part.all.waste());
    let amounts = today.into_iter().zip(month).zip(waste);
    let rows: Vec<Vec<String>> = parts
        .iter()
        .zip(amounts)
        .map(|(part, ((today, month), waste))| {
            vec![
                part.name.clone(),
                hours(part.all.gpu_seconds, 2),
                mark_unpriced(&part.today, today),
                mark_unpriced(&part.all, month),
                waste,
            ]
        })
        .collect();
    page.table(&["POD OR DAY", "GPU-H", "TODAY", "MONTH", "WASTE"], &rows);
}

fn component_sum(line: &DailyCost) -> String {
    let cost = &line.cost;
    let parts = [
        ("compute", cost.compute),
        ("storage", cost.storage),
        ("power", cost.power),
        ("labour", cost.labour),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, amount)| *amount != Money::ZERO)
        .map(|(name, amount)| format!("{name} {amount}"))
        .collect();
    let total = mark_unpriced(line, cost.total().to_string());
    if parts.is_empty() {
        return total;
    }
    format!("{total} = {}", parts.join(" + "))
}

/// Describes the total of all months on record.
fn describe_total(page: &mut Description, spent: &DailyCost, before: &[(Month, DailyCost)]) {
    let mut all = *spent;
    let of = |line: &DailyCost| mark_unpriced(line, line.cost.total().to_string());
    let mut text = format!("{} this month", of(spent));
    for (month, line) in before {
        all += *line;
        text.push_str(&format!(" + {} in {month}", of(line)));
    }
    if before.is_empty() {
        page.row("total", &format!("{text}, its first"));
    } else {
        page.row("total", &format!("{} = {text}", of(&all)));
    }
    let hours = format!(
        "{} this month, {} in all",
        hours(spent.gpu_seconds, 3),
        hours(all.gpu_seconds, 3)
    );
    page.row("GPU-hours", &hours);
}

fn describe_forecast(forecast: &SpendForecast) -> String {
    let (spent, window) = (forecast.spent, forecast.window);
    if !forecast.has_enough_history() {
        return format!("{spent}, as spent: its first hour is no pace");
    }
    format!(
        "{} = {spent} + {} x {} s / {} s: this month, and what is left of it at the pace since {:.0}",
        forecast.month_end(),
        forecast.paced,
        forecast.left,
        window.seconds(),
        window.start
    )
}

fn describe_savings(saved: Money, current: &[&Account]) -> String {
    let text =
        format!("{saved} in addition to the month: a replica's cost while the service had none");
    match current
        .iter()
        .find_map(|account| account.zero_replica_period())
    {
        Some(rest) => format!(
            "{text}, as since {:.0} at {} an hour",
            rest.since, rest.per_hour
        ),
        None => text,
    }
}

/// Describes the parts of the month that are not a listed price for an exact time.
fn describe_uncertainty(
    page: &mut Description,
    current: &[&Account],
    spent: &DailyCost,
    now: Timestamp,
    zone: &TimeZone,
) {
    if spent.estimated != Money::ZERO {
        page.row(
            "estimated",
            &format!(
                "{} of the month: days on which a price was provisional, or an end was not seen",
                spent.estimated
            ),
        );
    }
    if spent.unpriced_gpu_seconds != 0 {
        let lines = current
            .iter()
            .flat_map(|account| account.daily_costs(now, zone));
        let unpriced: BTreeSet<String> = lines
            .filter(|(_, line)| line.unpriced_gpu_seconds != 0)
            .map(|((_, sku), _)| gpu_name(&sku))
            .collect();
        let names: Vec<String> = unpriced.into_iter().collect();
        page.row(
            "unpriced",
            &format!(
                "the amounts lack {} GPU-hours of {}, which no PriceList had a price for",
                hours(spent.unpriced_gpu_seconds, 3),
                names.join(" and ")
            ),
        );
    }
    if spent.unattributed != Money::ZERO {
        page.row(
            "unattributed",
            &format!(
                "{} in addition to the month: time on nodes after they became unreachable",
                spent.unattributed
            ),
        );
    }
}
