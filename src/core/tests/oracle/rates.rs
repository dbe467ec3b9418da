//! Which rate held when: the oracle's reading of price lists that change, and that somebody looks at only now and then.

use crate::bill::{Hourly, Segment};

/// Watts of a GPU with a label; one without has no known power.
pub(crate) const WATTS: i128 = 700;

/// Prices in nano-units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    /// An hour of the GPU that the pods have.
    pub(crate) gpu: i128,
    /// An hour of the dearest GPU, which counts while nobody knows which one a pod has.
    pub(crate) dearest: i128,
    /// A kilowatt-hour; a multiple of 1000.
    pub(crate) kwh: i128,
    /// An hour of a core, beside a GPU that somebody knows.
    pub(crate) core: i128,
}

impl Price {
    /// An hour of `units` that are each the share `part / whole` of a GPU, and of cores. The dearest is a price of one unit.
    fn hourly(
        &self,
        units: i128,
        (part, whole): (i128, i128),
        cores: i128,
        labelled: bool,
    ) -> Hourly {
        let (compute, power) = match labelled {
            true => (
                self.gpu * units * part / whole + self.core * cores,
                self.kwh * WATTS * 1000 * units * part / whole / 1_000_000,
            ),
            false => (self.dearest * part / whole * units, 0),
        };
        Hourly {
            nanos: [compute, 0, power, 0],
            carbon_mg: 0,
        }
    }
}

/// What the lists say between one edit and the next.
#[derive(Clone, Debug)]
pub(crate) struct List {
    pub(crate) edited: i64,
    /// None while nothing is listed.
    pub(crate) first: Option<Price>,
    /// What comes into force later, in order.
    pub(crate) steps: Vec<(i64, Price)>,
}

impl List {
    fn at(&self, at: i64) -> Option<Price> {
        let steps = self.steps.iter().filter(|(from, _)| *from <= at);
        let in_force = || {
            self.first
                .iter()
                .chain(steps.clone().map(|(_, price)| price))
        };
        // the latest counts; what stands in for it is the dearest of all
        let dearest = in_force().map(|price| price.dearest.max(price.gpu)).max()?;
        in_force().last().map(|price| Price { dearest, ..*price })
    }
}

/// The controller looked, and what it saw was written down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) at: i64,
    /// Which list it saw.
    pub(crate) list: usize,
    /// Whether the node had its labels.
    pub(crate) labelled: bool,
    /// The cores that the pod had.
    pub(crate) cores: u32,
}

/// The rates of a stay. A list counts from its edit until the edit of the next one that was seen, the first one from the start of the
/// stay; what comes into force counts from its instant if somebody looked while the list was the last one. Cores that the pod was
/// first seen with count from the start, others from the look that saw them.
pub(crate) fn timeline(
    lists: &[List],
    looks: &[Look],
    bound: i64,
    units: i128,
    share: (i128, i128),
) -> Vec<Segment> {
    let mut sizes: Vec<(i64, u32)> = Vec::new();
    let mut seen: Vec<Look> = Vec::new();
    for look in looks {
        let Some((since, cores)) = sizes.last().copied() else {
            sizes.push((bound, look.cores));
            seen.push(*look);
            continue;
        };
        // a wrong clock changes nothing that was written before, and an edit that was seen is over
        let before = segments(lists, &seen, &sizes, units, share);
        let last = before.last().map_or(bound, |(from, _)| *from);
        let at = look.at.max(lists[look.list].edited).max(last).max(since);
        if look.cores != cores {
            sizes.push((at, look.cores));
        }
        seen.push(Look { at, ..*look });
    }
    segments(lists, &seen, &sizes, units, share)
}

fn segments(
    lists: &[List],
    looks: &[Look],
    sizes: &[(i64, u32)],
    units: i128,
    share: (i128, i128),
) -> Vec<Segment> {
    let Some((bound, _)) = sizes.first().copied() else {
        return Vec::new();
    };
    let priced = |look: &&Look| lists[look.list].first.is_some();
    let looks: Vec<&Look> = looks.iter().filter(priced).collect();
    // labels that come late count from the start, by the prices of that day
    let labelled = looks.iter().position(|look| look.labelled);
    let looks = &looks[labelled.unwrap_or(0)..];
    let Some(first) = looks.first() else {
        return Vec::new();
    };
    let mut moments = vec![(bound, first.list)];
    for look in looks {
        let list = &lists[look.list];
        let since = list.edited.max(bound);
        moments.retain(|(at, _)| *at < since || *at == bound);
        let steps = list.steps.iter().map(|(from, _)| *from);
        let seen = steps.filter(|from| *from > since && *from <= look.at);
        let edit = (list.edited > bound).then_some(list.edited);
        moments.extend(edit.into_iter().chain(seen).map(|at| (at, look.list)));
    }
    let mut instants: Vec<i64> = moments.iter().map(|(at, _)| *at).collect();
    instants.extend(sizes.iter().map(|(at, _)| *at));
    instants.sort_unstable();
    let mut rates: Vec<Segment> = Vec::new();
    for at in instants {
        let (since, list) = moments.iter().rev().find(|(from, _)| *from <= at).unwrap();
        let (_, cores) = sizes.iter().rev().find(|(from, _)| *from <= at).unwrap();
        let Some(price) = lists[*list].at(*since) else {
            continue;
        };
        let hourly = price.hourly(units, share, (*cores).into(), labelled.is_some());
        if rates.last().is_none_or(|(_, last)| *last != hourly) {
            rates.push((at, hourly));
        }
    }
    rates
}

#[test]
fn a_clock_that_steps_back_sees_what_was_seen_before() {
    let price = |gpu| Price {
        gpu,
        dearest: gpu,
        kwh: 0,
        core: 0,
    };
    let list = |edited, gpu, steps| List {
        edited,
        first: Some(price(gpu)),
        steps,
    };
    let lists = [
        list(0, 3600, vec![(50, price(7200))]),
        list(100, 1800, Vec::new()),
    ];
    let look = |at, list| Look {
        at,
        list,
        labelled: true,
        cores: 0,
    };
    // nobody looks between 48 and the edit, but 52 has been before 48
    let looks = [look(52, 0), look(48, 0), look(110, 1)];
    let rates = timeline(&lists, &looks, 10, 1, (1, 1));
    let rates: Vec<(i64, i128)> = rates
        .iter()
        .map(|(at, rate)| (*at, rate.nanos[0]))
        .collect();
    assert_eq!(rates, [(10, 3600), (50, 7200), (100, 1800)]);
}
