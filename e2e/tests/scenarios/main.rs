//! All scenarios on real clusters: suites, each with a cluster of its own, several at a time ([`bursar_e2e::runner`]). The longest
//! come first.

mod admission;
mod control_plane;
mod demo;
mod example;
mod focus;
mod money;
mod operator;
mod scale;
mod smoke;

use std::process::ExitCode;

use bursar_e2e::runner;

fn main() -> ExitCode {
    let [
        budgets,
        outages,
        requests,
        waiting,
        install,
        signals,
        gangs,
        adoption,
    ] = operator::suites();
    let [demo, demo_local] = demo::suites();
    runner::run(&[
        budgets,
        money::suite(),
        outages,
        demo,
        install,
        requests,
        waiting,
        adoption,
        signals,
        demo_local,
        gangs,
        scale::suite(),
        control_plane::suite(),
        focus::suite(),
        smoke::suite(),
    ])
}
