//! One page with charts: replicas, queue, spend against the limit, time to the first token.

use std::fmt::Write;

use bursar_core::money::Money;

use crate::chart::{Chart, Scale, Series};
use crate::report::{Report, SampleReport};

/// Colours are those of Okabe and Ito, which people with any colour vision tell apart; on dark
/// ground they are lighter.
const STYLE: &str = "
:root { color-scheme: light dark; --ground: #ffffff; --text: #1b1f24; --faint: #5b6570; --grid: #d8dee4;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #aa4499; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --text: #e6eaee; --faint: #9aa5b1; --grid: #333b44;
  --c0: #56b4e9; --c1: #f0954a; --c2: #35c79a; --c3: #dd8ccb; } }
body { background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p, figcaption { color: var(--faint); }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
.scroll { overflow-x: auto; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--grid); stroke-width: 1; } .axis { stroke: var(--faint); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 4; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.legend { display: flex; flex-wrap: wrap; gap: 0 1.2rem; font-size: .85rem; color: var(--faint); }
.legend svg { display: inline-block; width: 28px; height: 10px; margin-right: .4rem; vertical-align: middle; }
";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn amount(money: Money) -> f64 {
    money.nanos() as f64 / 1e9
}

/// The page of a report.
pub(crate) fn page(report: &Report, name: &str) -> String {
    let mut page = String::new();
    let title = escape(&format!("Simulation {name}"));
    // writing into a string cannot fail
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n"
    );
    let _ = writeln!(
        page,
        "<p>Seed {}, {} to {}: {} requests, {:.2} GPU-hours, {} {}.</p>",
        report.seed,
        report.start,
        report.end,
        report.requests,
        report.gpu_hours,
        report.cost.rounded(2),
        escape(&report.currency)
    );
    page += &figures(report);
    for chart in charts(report) {
        page += &chart.figure();
    }
    page += "</body>\n</html>\n";
    page
}

fn row(cell: &str, cells: &[String]) -> String {
    let cells: String = cells
        .iter()
        .map(|text| format!("<{cell}>{}</{cell}>", escape(text)))
        .collect();
    format!("<tr>{cells}</tr>\n")
}

fn figures(report: &Report) -> String {
    let mut text = "<div class=\"scroll\"><table>\n".to_owned();
    let header = [
        "Service",
        "Requests",
        "Answered",
        "Refused",
        "First token p50",
        "p95",
        "p99",
        "Cold starts",
        "GPU-hours",
        "Cost",
        "Orders",
    ];
    text += &row("th", &header.map(str::to_owned));
    for service in &report.services {
        text += &row("td", &service.cells("–"));
    }
    text += "</table></div>\n";
    if !report.budgets.is_empty() {
        text += "<div class=\"scroll\"><table>\n";
        let header = ["Budget", "Limit", "Spent", "Overshoot", "Exhausted"];
        text += &row("th", &header.map(str::to_owned));
        for budget in &report.budgets {
            let exhausted = budget.exhausted.map(|at| at.to_string());
            let cells = [
                format!("{}/{}", budget.namespace, budget.name),
                budget.limit.rounded(2),
                budget.spent.rounded(2),
                budget.overshoot.rounded(2),
                exhausted.unwrap_or_else(|| "–".to_owned()),
            ];
            text += &row("td", &cells);
        }
        text += "</table></div>\n";
    }
    if report.jobs.submitted > 0 {
        let jobs = &report.jobs;
        let _ = writeln!(
            text,
            "<p>{} of {} jobs finished: {:.2} GPU-hours, {} {}.</p>",
            jobs.finished,
            jobs.submitted,
            jobs.gpu_hours,
            jobs.cost.rounded(2),
            escape(&report.currency)
        );
    }
    text
}

/// A series over all samples.
fn series(
    report: &Report,
    label: impl Into<String>,
    value: impl Fn(&SampleReport) -> Option<f64>,
) -> Series {
    let samples = report.samples.iter();
    let points = samples.map(|sample| (sample.seconds as f64, value(sample)));
    Series {
        label: label.into(),
        points: points.collect(),
        dashed: false,
    }
}

fn dashed(series: Series) -> Series {
    Series {
        dashed: true,
        ..series
    }
}

fn charts(report: &Report) -> Vec<Chart> {
    let mut charts = Vec::new();
    for service in &report.services {
        let key = format!("{}/{}", service.namespace, service.name);
        let of = |sample: &SampleReport| sample.services.get(&key).copied();
        charts.push(Chart {
            title: format!("Replicas of {key}"),
            unit: "replicas".to_owned(),
            scale: Scale::Linear,
            steps: true,
            series: vec![
                series(report, "ready", |sample| Some(f64::from(of(sample)?.ready))),
                dashed(series(report, "ordered", |sample| {
                    Some(f64::from(of(sample)?.ordered))
                })),
            ],
        });
        charts.push(Chart {
            title: format!("Queue of {key}"),
            unit: "requests waiting, running and held".to_owned(),
            scale: Scale::Linear,
            steps: false,
            series: vec![series(report, "queue depth", |sample| {
                Some(of(sample)?.queue_depth as f64)
            })],
        });
        charts.push(Chart {
            title: format!("Time to the first token of {key}"),
            unit: "seconds, logarithmic".to_owned(),
            scale: Scale::Logarithmic,
            steps: false,
            series: vec![
                series(report, "p50", |sample| {
                    Some(of(sample)?.first_token_seconds?[0])
                }),
                dashed(series(report, "p95", |sample| {
                    Some(of(sample)?.first_token_seconds?[1])
                })),
            ],
        });
    }
    for budget in &report.budgets {
        let key = format!("{}/{}", budget.namespace, budget.name);
        let of = |sample: &SampleReport| sample.budgets.get(&key).copied();
        charts.push(Chart {
            title: format!("Spend of {key} against its limit"),
            unit: report.currency.clone(),
            scale: Scale::Linear,
            steps: false,
            series: vec![
                series(report, "spent", |sample| Some(amount(of(sample)?.0))),
                dashed(series(report, "limit", |sample| {
                    Some(amount(of(sample)?.1))
                })),
            ],
        });
    }
    charts.push(Chart {
        title: "GPUs of the cluster".to_owned(),
        unit: "GPUs".to_owned(),
        scale: Scale::Linear,
        steps: true,
        series: vec![
            series(report, "held by pods", |sample| {
                Some(sample.gpus_held as f64)
            }),
            dashed(series(report, "of all nodes", |sample| {
                Some(sample.gpus as f64)
            })),
        ],
    });
    if report.jobs.submitted > 0 {
        charts.push(Chart {
            title: "Workers of training jobs".to_owned(),
            unit: "ready workers".to_owned(),
            scale: Scale::Linear,
            steps: true,
            series: vec![series(report, "workers", |sample| {
                Some(f64::from(sample.workers))
            })],
        });
    }
    charts
}
