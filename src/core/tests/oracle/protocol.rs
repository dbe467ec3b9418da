//! The settling protocol as the controller follows it (src/controller/src/ledger), over the records and pods of a [`World`]: the same
//! steps in the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bursar_core::calendar::{Interval, Month, midnight_before};
use bursar_core::ledger::{Account, Charge, ChargeEnd};
use bursar_core::pricing::{PriceCatalog, PricingAttributes};
use fastrand::Rng;
use jiff::tz::TimeZone;

use crate::faults::{Flaw, Stop, Tally, Write};
use crate::prices::{self, time};
use crate::rates::{List, Look};
use crate::world::{Ink, Pod, Record, Store, View};

/// A day is booked this long after it is over.
const BOOK_AFTER: i64 = 3600;
/// How far clocks differ at most.
const SKEW: i64 = 5;
/// What a controller's process remembers.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// Its cache of the records is as it was after so many writes.
    pub(crate) records: usize,
    /// Its cache of the pods is as old as this.
    pub(crate) pods: i64,
    /// What it wrote, until its cache has caught up.
    pub(crate) written: BTreeMap<Month, Rc<Record>>,
}

/// One record and the account that will be written to it.
pub(crate) struct MonthAccount {
    pub(crate) record: Option<Rc<Record>>,
    pub(crate) before: Account,
    pub(crate) account: Account,
    pub(crate) ink: BTreeMap<usize, Ink>,
}

type MonthAccounts = BTreeMap<Month, MonthAccount>;

/// One run's view of the world.
pub(crate) struct Run {
    pub(crate) who: usize,
    pub(crate) now: i64,
    pub(crate) list: usize,
    /// Lists are edited about now: which price new amounts begin with depends on whose clock is right, so nobody looks at them.
    pub(crate) edited: bool,
    pub(crate) pods: Vec<View>,
}

/// A history while it is played.
pub(crate) struct World {
    pub(crate) zone: TimeZone,
    pub(crate) pods: Vec<Pod>,
    pub(crate) lists: Vec<List>,
    pub(crate) store: Store,
    pub(crate) tally: Tally,
    pub(crate) now: i64,
    pub(crate) rng: Rng,
    /// Whether anything goes wrong.
    pub(crate) faults: bool,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) core_lists: Vec<PriceCatalog>,
    pub(crate) newest_list: usize,
    pub(crate) processes: [Process; 2],
    pub(crate) nested: bool,
}

impl World {
    pub(crate) fn new(zone: TimeZone, pods: Vec<Pod>, lists: Vec<List>, rng: Rng) -> Self {
        Self {
            zone,
            pods,
            core_lists: lists.iter().map(prices::lists).collect(),
            lists,
            store: Store::new(),
            tally: Tally::default(),
            now: 0,
            rng,
            faults: true,
            flaw: None,
            newest_list: 0,
            processes: Default::default(),
            nested: false,
        }
    }

    /// One process brings the records up to date with what its caches show.
    pub(crate) fn sync(&mut self, who: usize) -> Result<(), Stop> {
        let run = self.run(who);
        let mut pages = self.pages(&run);
        self.carry_forward(&run, &mut pages);
        for view in &run.pods {
            self.update_from_pod(&run, &mut pages, view);
        }
        if !self.has(Flaw::PricesAfterSettling) {
            self.reprice(&run, &mut pages);
        }
        let mut release = Vec::new();
        for view in &run.pods {
            if self.sync_pod(&run, &mut pages, view)? {
                release.push(view.pod);
            }
        }
        self.close_vanished(&run, &mut pages);
        if self.has(Flaw::PricesAfterSettling) {
            self.reprice(&run, &mut pages);
        }
        self.post_days(&run, &mut pages);
        self.forget_gone(&run, &mut pages);
        for (month, page) in &mut pages {
            self.write_page(&run, *month, page)?;
        }
        for pod in release {
            self.release(who, pod)?;
        }
        Ok(())
    }

    fn pages(&self, run: &Run) -> MonthAccounts {
        let process = &self.processes[run.who];
        let cached = self.store.after(process.records).keys();
        let months: BTreeSet<Month> = cached
            .copied()
            .chain([Month::containing(time(run.now), &self.zone)])
            .collect();
        months
            .into_iter()
            .map(|month| (month, self.page(run, month)))
            .collect()
    }

    fn page(&self, run: &Run, month: Month) -> MonthAccount {
        let process = &self.processes[run.who];
        let cached = self.store.after(process.records).get(&month);
        let written = process.written.get(&month);
        let record = cached.into_iter().chain(written);
        let record = record.max_by_key(|record| record.version).cloned();
        let account = record
            .as_ref()
            .map_or_else(|| Account::new(month), |record| record.account.clone());
        MonthAccount {
            before: account.clone(),
            account,
            ink: record
                .as_ref()
                .map(|record| record.ink.clone())
                .unwrap_or_default(),
            record,
        }
    }

    /// Adds the months that stays touch, and carries open charges into the months that have begun.
    fn carry_forward(&self, run: &Run, pages: &mut MonthAccounts) {
        for view in &run.pods {
            for month in months_left(pages, view.pod, self.stay(view, run.now), &self.zone) {
                pages.entry(month).or_insert_with(|| self.page(run, month));
            }
        }
        for (pod, (charge, ink)) in open_charges(pages) {
            let live = self.pods[pod].view(pod, self.now);
            // what a cache shows may have been settled meanwhile, and forgotten
            let runs = match self.has(Flaw::CarriesWhatTheCacheShows) {
                true => !run
                    .pods
                    .iter()
                    .any(|view| view.pod == pod && view.end.is_some()),
                false => live.is_some_and(|live| live.end.is_none()),
            };
            for month in months_left(pages, pod, until_now(&charge, run), &self.zone) {
                pages.entry(month).or_insert_with(|| self.page(run, month));
                if let Some(page) = pages.get_mut(&month).filter(|_| runs)
                    && page.account.carry_forward(&charge, &self.zone)
                {
                    page.ink.insert(pod, ink.clone());
                }
            }
        }
    }

    fn update_from_pod(&self, run: &Run, pages: &mut MonthAccounts, view: &View) {
        for page in pages.values_mut() {
            if let Some(charge) = page.account.open_charge_mut(&uid(view.pod)) {
                let ink = page.ink.entry(view.pod).or_default();
                self.observe(run, charge, ink, view);
            }
        }
    }

    fn observe(&self, run: &Run, charge: &mut Charge, ink: &mut Ink, view: &View) {
        if let Some(ready) = view.ready {
            charge.note_ready(time(ready));
        }
        charge.note_draining(view.leaving.map(time));
        match view.silent {
            Some(since) => charge.note_node_lost(time(since)),
            None if view.end.is_some() => {}
            None => charge.note_node_back(),
        }
        let pod = &self.pods[view.pod];
        let facts = prices::facts(pod.units, pod.share, view.labelled);
        let lists = &self.core_lists[run.list];
        charge.update_attributes(&facts, lists, time(run.now));
        if view.end.is_none() && !run.edited {
            charge.resize(&prices::cores(view.cores), lists, time(run.now));
            ink.cores = view.cores;
        }
        ink.ready |= view.ready.is_some();
        ink.leaving = view.leaving.is_some();
        ink.labelled |= view.labelled && self.lists[run.list].first.is_some();
    }

    /// Gives open charges the prices until now, and ended ones those until their end.
    fn reprice(&self, run: &Run, pages: &mut MonthAccounts) {
        for page in pages.values_mut() {
            for charge in page.account.open_charges_mut() {
                let pod = pod_of(charge.uid());
                let ended = run.pods.iter().find(|view| view.pod == pod);
                let end = ended.and_then(|view| view.end);
                let until = end.map_or(run.now, |end| end.at.as_second());
                charge.reprice(&self.core_lists[run.list], time(until));
                page.ink.entry(pod).or_default().observe(run, until);
            }
        }
    }

    /// A new charge.
    fn charge(&self, run: &Run, view: &View) -> (Charge, Ink) {
        let pod = &self.pods[view.pod];
        let facts = PricingAttributes {
            amounts: prices::cores(view.cores),
            ..prices::facts(pod.units, pod.share, view.labelled)
        };
        let mut charge = Charge::new(uid(view.pod), name(view.pod), facts, time(view.bound));
        let mut ink = Ink {
            labelled: view.labelled,
            cores: view.cores,
            ..Ink::default()
        };
        let now = view
            .end
            .map_or(run.now, |end| end.at.as_second())
            .max(view.bound);
        charge.reprice(&self.core_lists[run.list], time(now));
        ink.observe(run, now);
        self.observe(run, &mut charge, &mut ink, view);
        (charge, ink)
    }

    /// From binding until now. A stay that has ended is settled in every month until now: before its end was known, a process with
    /// another clock or cache may have carried it into any of them, and this write meets that one's.
    fn stay(&self, view: &View, now: i64) -> Interval {
        let end = view.end.map(|end| end.at.as_second());
        let until = match end {
            None => now,
            Some(end) if self.has(Flaw::SettlesMonthsOfTheStayOnly) => end,
            Some(end) => end.max(now + SKEW),
        };
        Interval {
            start: time(view.bound),
            end: time(until),
        }
    }

    /// Opens or settles one pod's charge. True if its finalizer can go once all pages are written.
    fn sync_pod(
        &mut self,
        run: &Run,
        pages: &mut MonthAccounts,
        view: &View,
    ) -> Result<bool, Stop> {
        let months = months_left(pages, view.pod, self.stay(view, run.now), &self.zone);
        let uid = uid(view.pod);
        let done = |page: &MonthAccount| match view.end {
            Some(_) => page.account.settling().contains(&uid),
            None => page.account.contains(&uid),
        };
        if months
            .iter()
            .all(|month| pages.get(month).is_some_and(done))
        {
            return Ok(view.end.is_some() && view.guarded);
        }
        let Some(live) = self.pods[view.pod].view(view.pod, self.now) else {
            return Ok(false);
        };
        if view.end.is_none() && live.end.is_some() && !self.has(Flaw::OpensWhatTheCacheShows) {
            // the cache is behind: it may be settled already
            return Ok(false);
        }
        if !live.guarded {
            if live.deleting || view.end.is_some() {
                if !pages
                    .values()
                    .any(|page| page.account.open_charges().contains_key(&uid))
                {
                    return Ok(false);
                }
            } else {
                self.guard(run.who, view.pod)?;
            }
        }
        let open = pages.values().rev().find_map(|page| {
            let charge = page.account.open_charge(&uid)?;
            Some((charge.clone(), page.ink[&view.pod].clone()))
        });
        let (charge, ink) = open.unwrap_or_else(|| self.charge(run, view));
        for month in &months {
            let Some(page) = pages.get_mut(month) else {
                continue;
            };
            match view.end {
                Some(end) => settle(page, view.pod, &charge, &ink, end, &self.zone),
                None if page.account.carry_forward(&charge, &self.zone) => {
                    page.ink.insert(view.pod, ink.clone());
                }
                None => {}
            }
        }
        Ok(view.end.is_some() && view.guarded)
    }

    /// Settles open charges whose pods are gone though nobody settled them: their end is estimated as now.
    fn close_vanished(&self, run: &Run, pages: &mut MonthAccounts) {
        let cached: BTreeSet<usize> = run.pods.iter().map(|view| view.pod).collect();
        for (pod, (charge, ink)) in open_charges(pages) {
            if cached.contains(&pod) || self.pods[pod].view(pod, self.now).is_some() {
                continue;
            }
            let end = ChargeEnd {
                at: time(run.now).max(charge.start()),
                estimated: true,
            };
            for month in months_left(pages, pod, until_now(&charge, run), &self.zone) {
                if let Some(page) = pages.get_mut(&month) {
                    settle(page, pod, &charge, &ink, end, &self.zone);
                }
            }
        }
    }

    /// Books the days that are over of charges whose pods are known to have outlived them.
    fn post_days(&self, run: &Run, pages: &mut MonthAccounts) {
        let until = midnight_before(time(run.now - BOOK_AFTER), &self.zone);
        let mut due: Vec<(Month, String)> = Vec::new();
        for (month, page) in pages.iter() {
            let next = pages.get(&month.next());
            for charge in page.account.open_charges().values() {
                let carried = until < month.bounds(&self.zone).end
                    || next
                        .is_some_and(|next| next.before.open_charges().contains_key(charge.uid()));
                let begun = charge.unposted_since() < until;
                if charge.node_lost_since().is_none() && begun && carried {
                    due.push((*month, charge.uid().to_owned()));
                }
            }
        }
        for (month, uid) in due {
            let live = self.pods[pod_of(&uid)].view(pod_of(&uid), self.now);
            if live.is_some_and(|live| live.end.is_none())
                && let Some(page) = pages.get_mut(&month)
            {
                page.account.post_days_until(&uid, until, &self.zone);
            }
        }
    }

    /// Forgets settled pods that are gone from a live read.
    fn forget_gone(&self, run: &Run, pages: &mut MonthAccounts) {
        let cached: BTreeSet<usize> = run.pods.iter().map(|view| view.pod).collect();
        for page in pages.values_mut() {
            for uid in page.before.settling() {
                let pod = pod_of(uid);
                if !cached.contains(&pod) && self.pods[pod].view(pod, self.now).is_none() {
                    page.account.forget_settled(uid);
                }
            }
        }
    }

    fn write_page(&mut self, run: &Run, month: Month, page: &mut MonthAccount) -> Result<(), Stop> {
        let changed = page.account != page.before;
        if page.record.is_some() && !changed {
            return Ok(());
        }
        let who = run.who;
        let record = match &page.record {
            Some(record) => Rc::clone(record),
            None => {
                let made =
                    self.call(who, Write::Create, |world| Ok(world.store.create(month)?))?;
                self.remember(who, &made);
                made
            }
        };
        if changed {
            let write = self.purpose(page);
            // what was written before is not forgotten if this fails: the cache may be older still
            let written = self.call(who, write, |world| {
                Ok(world.store.replace(&record, &page.account, &page.ink)?)
            });
            if written.is_err() && self.has(Flaw::ForgetsAfterAConflict) {
                self.processes[who].written.remove(&month);
            }
            self.remember(who, &written?);
        }
        Ok(())
    }

    fn remember(&mut self, who: usize, record: &Rc<Record>) {
        let written = &mut self.processes[who].written;
        written.insert(record.account.month(), Rc::clone(record));
    }

    fn guard(&mut self, who: usize, pod: usize) -> Result<(), Stop> {
        self.call(who, Write::Guard, |world| {
            let live = world.pods[pod].view(pod, world.now);
            // the patch carries the version that was read
            if live.is_none_or(|live| live.guarded || live.deleting) {
                return Err(Stop::Conflict);
            }
            world.pods[pod].guarded = Some(world.now);
            Ok(())
        })
    }

    fn release(&mut self, who: usize, pod: usize) -> Result<(), Stop> {
        let guarded = |world: &Self| {
            let live = world.pods[pod].view(pod, world.now);
            live.is_some_and(|live| live.guarded)
        };
        if !guarded(self) {
            return Ok(());
        }
        self.call(who, Write::Release, |world| {
            if guarded(world) {
                world.pods[pod].released = Some(world.now);
            }
            Ok(())
        })
    }
}

impl Ink {
    fn observe(&mut self, run: &Run, at: i64) {
        self.looks.push(Look {
            at,
            list: run.list,
            labelled: self.labelled,
            cores: self.cores,
        });
    }
}

/// The open charges, each as the latest month has it.
fn open_charges(pages: &MonthAccounts) -> BTreeMap<usize, (Charge, Ink)> {
    let mut open = BTreeMap::new();
    for page in pages.values() {
        for (uid, charge) in page.account.open_charges() {
            let pod = pod_of(uid);
            open.insert(pod, (Charge::clone(charge), page.ink[&pod].clone()));
        }
    }
    open
}

/// Settles the charge in one month.
fn settle(
    page: &mut MonthAccount,
    pod: usize,
    charge: &Charge,
    ink: &Ink,
    end: ChargeEnd,
    zone: &TimeZone,
) {
    let was_open = page.account.open_charges().contains_key(charge.uid());
    if page.account.settle(charge, end, zone) {
        if !was_open {
            page.ink.insert(pod, ink.clone());
        }
        page.ink.entry(pod).or_default().end = Some(end.at.as_second());
    }
}

fn until_now(charge: &Charge, run: &Run) -> Interval {
    Interval {
        start: charge.start(),
        end: time(run.now),
    }
}

/// The months of a stay that still lack the pod's charge or its end: a month before the last record that knows it knows it too, or is
/// done.
fn months_left(
    pages: &MonthAccounts,
    pod: usize,
    stay: Interval,
    zone: &TimeZone,
) -> BTreeSet<Month> {
    let uid = uid(pod);
    let contains = |page: &MonthAccount| page.account.contains(&uid);
    let last = pages.iter().rfind(|(_, page)| contains(page));
    let lacks_end = |month: &Month| pages.get(month).is_some_and(contains);
    stay.months(zone)
        .filter(|month| last.is_none_or(|(last, _)| month > last) || lacks_end(month))
        .collect()
}

pub(crate) fn views(pods: &[Pod], at: i64) -> Vec<View> {
    let views = pods.iter().enumerate();
    views
        .filter_map(|(number, pod)| pod.view(number, at))
        .collect()
}

fn uid(pod: usize) -> String {
    format!("u{pod}")
}

fn name(pod: usize) -> String {
    format!("pod-{pod}")
}

pub(crate) fn pod_of(uid: &str) -> usize {
    uid[1..].parse().unwrap()
}
