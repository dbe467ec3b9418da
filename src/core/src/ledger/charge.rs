//! The charge of one pod's lifetime: its pricing attributes, its rates, and its stages.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::daily_cost::DailyCost;
use super::engine_usage::{EngineCounters, EngineUsage};
use super::invalid::InvalidAccount;
use crate::calendar::Interval;
use crate::money::{Cost, Money};
use crate::pricing::{
    HourlyRate, OtherGpus, PriceCatalog, PriceLookup, PricingAttributes, ResourceAmounts,
};

/// How far one controller's clock may lag behind another's.
const MAX_CLOCK_LAG: SignedDuration = SignedDuration::from_secs(60);

/// A pod's UID.
pub type Uid = String;

/// A rate and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RatePeriod {
    /// When it began.
    pub from: Timestamp,
    /// The cost and the emissions of an hour.
    pub quote: HourlyRate,
    /// True if the dearest price stands in, because none matched.
    pub provisional: bool,
}

/// Amounts that a pod had before they changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousAmounts {
    /// When they changed.
    pub until: Timestamp,
    /// The amounts until then.
    pub amounts: ResourceAmounts,
}

/// The charge of one pod while it occupies a node, or of a whole node.
///
/// `rates` and `previous_amounts` are in the order of time, `posted_until` never goes back, and
/// UID, pod and start never change: that is why its fields are private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge(StoredCharge);

/// When and how a charge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChargeEnd {
    /// The last container's end.
    pub at: Timestamp,
    /// The kubelet gave no such time; `at` is when the end was seen.
    pub estimated: bool,
}

/// A new node has all its labels after this long.
const LABELS_COME_WITHIN: SignedDuration = SignedDuration::from_mins(15);
/// As many changes of amounts on days that are not posted are taken whenever they come.
pub(super) const QUICK_CHANGES: usize = 32;
/// The time between any two changes after them.
pub(super) const SLOW_CHANGE: SignedDuration = SignedDuration::from_mins(15);

/// So many other kinds of GPUs are kept apart, and since when each is held. A pod's claims may come to
/// it one by one.
const MAX_OTHER_GPUS: usize = 16;

/// The fields of a charge, which [`Charge::restore`] checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCharge {
    /// The pod's UID; a key of its own for a node.
    pub uid: Uid,
    /// The pod's name, or the node's.
    pub pod: String,
    /// The owner that made the pod, where that is not Bursar: `Kind/name`.
    pub owner: Option<String>,
    /// The attributes that it is priced by.
    pub attributes: PricingAttributes,
    /// The amounts that it had before those in `attributes`, in the order of time.
    pub previous_amounts: Vec<PreviousAmounts>,
    /// Devices of the pod are charged to another pod, or were.
    pub shares_devices: bool,
    /// When the pod was bound to its node.
    pub start: Timestamp,
    /// The instant until which the account's days have the cost, if some days were posted.
    pub posted_until: Option<Timestamp>,
    /// The rates in the order of time; none while no price is known.
    pub rates: Vec<RatePeriod>,
    /// When the pod was first ready.
    pub ready_since: Option<Timestamp>,
    /// Since when the pod has been draining or terminating.
    pub draining_since: Option<Timestamp>,
    /// Since when nothing has been heard of the node.
    pub node_lost_since: Option<Timestamp>,
    /// The engine's usage by day, of days that are not posted.
    pub usage: BTreeMap<Date, EngineUsage>,
    /// The engine's counters as `usage` has them.
    pub counters: EngineCounters,
}

impl StoredCharge {
    /// The fields of a charge that begins, without a price yet.
    pub fn new(uid: Uid, pod: String, attributes: PricingAttributes, start: Timestamp) -> Self {
        Self {
            uid,
            pod,
            owner: None,
            attributes,
            previous_amounts: Vec::new(),
            shares_devices: false,
            start,
            posted_until: None,
            rates: Vec::new(),
            ready_since: None,
            draining_since: None,
            node_lost_since: None,
            usage: BTreeMap::new(),
            counters: EngineCounters::default(),
        }
    }
}

impl Charge {
    /// A charge that begins, without a price yet: [`Charge::reprice`] gives it one, which counts
    /// from the start.
    pub fn new(uid: Uid, pod: String, attributes: PricingAttributes, start: Timestamp) -> Self {
        Self(StoredCharge::new(uid, pod, attributes, start))
    }

    /// The charge that was stored.
    ///
    /// # Errors
    /// The first field whose value no charge can have.
    pub fn restore(stored: StoredCharge) -> Result<Self, InvalidAccount> {
        let uid = || stored.uid.clone();
        // two instants within one second are the same once they are stored
        if !stored.rates.is_sorted_by_key(|rate| rate.from) {
            return Err(InvalidAccount::RatesOutOfOrder { uid: uid() });
        }
        let amounts = &stored.previous_amounts;
        if !amounts.is_sorted_by_key(|previous| previous.until) {
            return Err(InvalidAccount::AmountsOutOfOrder { uid: uid() });
        }
        if stored
            .posted_until
            .is_some_and(|posted| posted < stored.start)
        {
            return Err(InvalidAccount::PostedBeforeStart { uid: uid() });
        }
        Ok(Self(stored))
    }

    /// The pod's UID; a key of its own for a node.
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// The pod's name, or the node's.
    pub fn pod(&self) -> &str {
        &self.0.pod
    }

    /// The owner that made the pod, where that is not Bursar: `Kind/name`.
    pub fn owner(&self) -> Option<&str> {
        self.0.owner.as_deref()
    }

    /// The attributes that it is priced by.
    pub fn attributes(&self) -> &PricingAttributes {
        &self.0.attributes
    }

    /// The amounts that it had before those in [`Charge::attributes`], in the order of time.
    pub fn previous_amounts(&self) -> &[PreviousAmounts] {
        &self.0.previous_amounts
    }

    /// Whether devices of the pod are charged to another pod, or were: when it is charged for them,
    /// that is from then on.
    pub fn shares_devices(&self) -> bool {
        self.0.shares_devices
    }

    /// When the pod was bound to its node.
    pub fn start(&self) -> Timestamp {
        self.0.start
    }

    /// The instant until which the account's days have the cost, if some days were posted.
    pub fn posted_until(&self) -> Option<Timestamp> {
        self.0.posted_until
    }

    /// The first instant whose cost is not posted.
    pub fn unposted_since(&self) -> Timestamp {
        self.0.posted_until.unwrap_or(self.0.start)
    }

    /// The rates in the order of time; none while no price is known.
    pub fn rates(&self) -> &[RatePeriod] {
        &self.0.rates
    }

    /// When the pod was first ready: until then it was starting.
    pub fn ready_since(&self) -> Option<Timestamp> {
        self.0.ready_since
    }

    /// Since when the pod has been draining or terminating.
    pub fn draining_since(&self) -> Option<Timestamp> {
        self.0.draining_since
    }

    /// Since when nothing has been heard of the node.
    pub fn node_lost_since(&self) -> Option<Timestamp> {
        self.0.node_lost_since
    }

    /// The engine's usage by day, of days that are not posted.
    pub fn usage(&self) -> &BTreeMap<Date, EngineUsage> {
        &self.0.usage
    }

    /// The engine's counters as [`Charge::usage`] has them.
    pub fn counters(&self) -> EngineCounters {
        self.0.counters
    }

    /// The charge of a pod that this owner made: `Kind/name`.
    pub fn with_owner(self, owner: String) -> Self {
        Self(StoredCharge {
            owner: Some(owner),
            ..self.0
        })
    }

    /// The charge without its rates, for an account in another currency: it is priced anew there,
    /// from its start.
    pub fn unpriced(self) -> Self {
        Self(StoredCharge {
            rates: Vec::new(),
            ..self.0
        })
    }

    /// Notes that devices of the pod are charged to another pod.
    pub fn note_shared_devices(&mut self) {
        self.0.shares_devices = true;
    }

    /// Notes that the pod was ready at `at`. The first time counts.
    pub fn note_ready(&mut self, at: Timestamp) {
        self.0.ready_since.get_or_insert(at);
    }

    /// Notes since when the pod has been draining or terminating; `None` if it is not, or not any
    /// more.
    pub fn note_draining(&mut self, since: Option<Timestamp>) {
        self.0.draining_since = since;
    }

    /// Notes that the pod's node says since when nothing has been heard of it.
    pub fn note_node_lost(&mut self, since: Timestamp) {
        self.0.node_lost_since = Some(since);
    }

    /// Notes at `now` that the pod's Node is gone, which cannot say since when. An earlier time
    /// that is known stays.
    pub fn note_node_gone(&mut self, now: Timestamp) {
        self.0.node_lost_since.get_or_insert(now);
    }

    /// Notes that the pod's node was heard of again: it was never lost.
    pub fn note_node_back(&mut self) {
        self.0.node_lost_since = None;
    }

    /// True if the charges differ in nothing but usage, which changes all the time.
    pub(super) fn equals_but_for_usage(&self, other: &Self) -> bool {
        // whoever adds a field says here whether it is usage
        let StoredCharge {
            uid,
            pod,
            owner,
            attributes,
            previous_amounts,
            shares_devices,
            start,
            posted_until,
            rates,
            ready_since,
            draining_since,
            node_lost_since,
            usage: _,
            counters: _,
        } = &self.0;
        let other = &other.0;
        *uid == other.uid
            && *pod == other.pod
            && *owner == other.owner
            && *attributes == other.attributes
            && *previous_amounts == other.previous_amounts
            && *shares_devices == other.shares_devices
            && *start == other.start
            && *posted_until == other.posted_until
            && *rates == other.rates
            && *ready_since == other.ready_since
            && *draining_since == other.draining_since
            && *node_lost_since == other.node_lost_since
    }

    /// The cost within `part`.
    pub fn cost(&self, part: Interval) -> Cost {
        if part.is_empty() {
            return Cost::ZERO;
        }
        self.cost_until(part.end) - self.cost_until(part.start)
    }

    /// The cost and the emissions of an hour at this moment; `None` while no price is known.
    pub fn rate(&self) -> Option<HourlyRate> {
        self.0.rates.last().map(|rate| rate.quote)
    }

    /// Brings the rates up to date with the price lists until `now`. True if this changed the
    /// charge.
    ///
    /// The first price counts from the start of the charge, whenever it becomes known. After that a
    /// rate changes at the instant at which a list says so (its `effectiveFrom`, an hour of the
    /// tariff), also when that instant has passed; an edit counts from the API server's time of it.
    /// Between the last look and an edit that came while nobody looked, the last rate goes on.
    pub fn reprice(&mut self, catalog: &PriceCatalog, now: Timestamp) -> bool {
        let mut changed = false;
        if self.0.rates.is_empty() {
            changed |= self.set_first_rates(self.0.start, catalog, now);
        }
        let last = self.0.rates.last().map_or(self.0.start, |last| last.from);
        let edited = catalog.last_edited();
        let resized = self.changes().max();
        // a clock that stepped back, or lags behind another one, changes no instant. A change of
        // amounts counts too: it began no rate of its own where the price did not depend on it
        let now = now.max(last).max(edited).max(resized.unwrap_or(last));
        let settled = last.max(edited).max(self.unposted_since());
        // a rate that begins at that very second may be by another edit
        let same_second = last == edited && self.unposted_since() <= edited;
        let edit = (last < edited || same_second).then_some(edited);
        // the instants in between, and now itself: a list may have been deleted
        let resized = self.changes();
        let resized = resized.filter(|at| (settled..now).contains(at));
        let instants: BTreeSet<Timestamp> = edit
            .into_iter()
            .chain(catalog.changes(settled, now))
            .chain(resized)
            .chain([now])
            .collect();
        for at in instants {
            changed |= self.set_rate_from(&catalog.price(&self.attributes_at(at), at), at);
        }
        changed
    }

    /// The first rates from `from` on, by what the lists say of that instant or, if they say
    /// nothing of it, of `now`. Until their last edit nobody knows what else they said, so only the
    /// pod's amounts change.
    fn set_first_rates(&mut self, from: Timestamp, catalog: &PriceCatalog, now: Timestamp) -> bool {
        let unknown = catalog.price(&self.attributes_at(from), from) == PriceLookup::Unknown;
        let by = if unknown { now } else { from };
        let until = catalog.last_edited().max(by);
        let resized = self.changes();
        let resized = resized.filter(|at| (from..until).contains(at));
        let instants: BTreeSet<Timestamp> = [from].into_iter().chain(resized).collect();
        let mut changed = false;
        for at in instants {
            changed |= self.set_rate_from(&catalog.price(&self.attributes_at(at), by), at);
        }
        changed
    }

    /// Takes amounts that the pod has from `at` on; the cost before `at` stays as it is. True if
    /// this changed the charge. After [`QUICK_CHANGES`] that are not posted, changes count no sooner
    /// than [`SLOW_CHANGE`] after each other: a user can resize a pod at any time, and each change is
    /// kept.
    pub fn resize(
        &mut self,
        amounts: &ResourceAmounts,
        catalog: &PriceCatalog,
        at: Timestamp,
    ) -> bool {
        if self.0.attributes.amounts == *amounts {
            return false;
        }
        let unposted_since = self.unposted_since();
        let last = self
            .0
            .rates
            .last()
            .map_or(unposted_since, |last| last.from.max(unposted_since));
        let changed = self.0.previous_amounts.last().map(|earlier| earlier.until);
        if self.0.previous_amounts.len() >= QUICK_CHANGES
            && changed.is_some_and(|changed| at.duration_since(changed) < SLOW_CHANGE)
        {
            return false;
        }
        // a clock that stepped back, or lags behind the API server's, changes nothing of what was
        let at = at
            .max(last)
            .max(catalog.last_edited())
            .max(changed.unwrap_or(unposted_since));
        let before = mem::replace(&mut self.0.attributes.amounts, amounts.clone());
        // amounts that would have lasted no time are not kept
        if at > unposted_since && changed != Some(at) {
            self.0.previous_amounts.push(PreviousAmounts {
                until: at,
                amounts: before,
            });
        }
        self.reprice(catalog, at);
        true
    }

    /// The instants at which the pod's amounts changed, or GPUs came to it.
    fn changes(&self) -> impl Iterator<Item = Timestamp> {
        let resized = self.0.previous_amounts.iter().map(|earlier| earlier.until);
        let others = self.0.attributes.other_gpus.iter();
        resized.chain(others.filter_map(|other| other.since))
    }

    /// The attributes that it was priced by at `at`.
    fn attributes_at(&self, at: Timestamp) -> Cow<'_, PricingAttributes> {
        let attributes = &self.0.attributes;
        let mut earlier = self.0.previous_amounts.iter();
        let earlier = earlier.find(|earlier| at < earlier.until);
        let held_all = attributes.other_gpus.iter().all(|gpus| gpus.is_held_at(at));
        if earlier.is_none() && held_all {
            return Cow::Borrowed(attributes);
        }
        let mut attributes = attributes.clone();
        attributes.other_gpus.retain(|gpus| gpus.is_held_at(at));
        if let Some(earlier) = earlier {
            attributes.amounts = earlier.amounts.clone();
        }
        Cow::Owned(attributes)
    }

    /// Takes GPUs of the pod that the charge lacks. Where another pod was charged for them until now
    /// ([`Charge::shares_devices`]), they count from `now`. Else they were not seen before, and count
    /// from the start, or from the first instant that is not posted. GPUs that are not observed any
    /// more still count. True if this changed the charge.
    pub fn take_gpus(
        &mut self,
        observed: &PricingAttributes,
        catalog: &PriceCatalog,
        now: Timestamp,
    ) -> bool {
        let beyond = self.0.attributes.gpus_beyond(observed);
        if beyond.is_empty() {
            return false;
        }
        let unposted_since = self.unposted_since();
        let last = self.0.rates.last().map(|last| last.from);
        // a clock that stepped back, or lags behind the API server's, changes nothing of what was
        let now = now.max(unposted_since).max(last.unwrap_or(now));
        if self.0.shares_devices {
            let changed = self.changes().max();
            let at = now
                .max(catalog.last_edited())
                .max(changed.unwrap_or(unposted_since));
            self.hold(beyond, Some(at));
            self.reprice(catalog, at);
            return true;
        }
        self.hold(beyond, self.0.posted_until);
        self.price_unposted_anew(catalog, now);
        true
    }

    fn hold(&mut self, gpus: Vec<OtherGpus>, since: Option<Timestamp>) {
        let others = &mut self.0.attributes.other_gpus;
        for gpus in gpus {
            let is_full = others.len() >= MAX_OTHER_GPUS;
            let mut known = others.iter_mut();
            // rather a little too early than not at all
            match known.rfind(|known| is_full && known.is_same_kind(&gpus)) {
                Some(known) => known.gpus += gpus.gpus,
                None => others.push(OtherGpus { since, ..gpus }),
            }
        }
    }

    /// Takes the rates back of all that is not posted, and prices it by the attributes as they are.
    fn price_unposted_anew(&mut self, catalog: &PriceCatalog, now: Timestamp) {
        let unposted_since = self.unposted_since();
        self.0.rates.retain(|rate| rate.from < unposted_since);
        if !self.0.rates.is_empty() {
            self.set_first_rates(unposted_since, catalog, now);
        }
        self.reprice(catalog, now);
    }

    /// Takes attributes that came late: labels of a node that had none, or not all, when the pod was bound.
    /// They count from the start, or from the first instant that is not posted, for the amounts that the
    /// pod had at each time. True if this changed the charge.
    pub fn update_attributes(
        &mut self,
        attributes: &PricingAttributes,
        catalog: &PriceCatalog,
        now: Timestamp,
    ) -> bool {
        let attributes = self.0.attributes.relabelled(attributes);
        // a clock that lags behind another one takes no change of the price back
        let now = (self.0.rates.last()).map_or(now, |last| now.max(last.from));
        if !(self.is_vague() || self.may_miss_labels(now))
            || self.0.attributes == attributes
            || !attributes.say_no_less_than(&self.0.attributes)
            || !catalog.has_rows(&attributes, now)
        {
            return false;
        }
        self.0.attributes = attributes;
        self.price_unposted_anew(catalog, now);
        true
    }

    /// Whether labels that come late would price it anew, however late.
    fn is_vague(&self) -> bool {
        self.0.rates.last().is_none_or(|rate| rate.provisional)
    }

    /// Whether its node may still lack labels: the type of its machine prices it, and feature discovery, which
    /// says what part of a GPU each unit is, may only begin.
    fn may_miss_labels(&self, now: Timestamp) -> bool {
        now.duration_since(self.0.start) < LABELS_COME_WITHIN
    }

    /// Takes the price lists' answer at `at`. Unknown is not zero: the last known rate goes on.
    fn set_rate_from(&mut self, priced: &PriceLookup, at: Timestamp) -> bool {
        let Some(quote) = priced.rate() else {
            return false;
        };
        let new = RatePeriod {
            from: at.max(self.0.start),
            quote,
            provisional: matches!(priced, PriceLookup::Provisional(_)),
        };
        // a rate that would have lasted no time is replaced
        let replaced = self.0.rates.pop_if(|last| new.from <= last.from);
        if let Some(last) = self.0.rates.last_mut()
            && last.quote == quote
        {
            let changed = replaced.is_some() || last.provisional != new.provisional;
            last.provisional = new.provisional;
            return changed;
        }
        self.0.rates.push(new);
        replaced != Some(new)
    }

    /// Adds what the engine did until its counters were read on `day`, and seconds in which it was
    /// idle.
    pub fn add_usage(&mut self, day: Date, counters: Option<EngineCounters>, idle_seconds: i64) {
        let mut used = EngineUsage {
            idle_seconds,
            ..EngineUsage::default()
        };
        if let Some(counters) = counters {
            used += self.0.counters.usage_until(counters);
            self.0.counters = counters;
        }
        if used != EngineUsage::default() {
            *self.0.usage.entry(day).or_default() += used;
        }
    }

    /// The part of the pod's lifetime until `end` that is not posted.
    pub(super) fn unposted(&self, end: Timestamp) -> Interval {
        let start = self.unposted_since();
        Interval {
            start,
            end: end.max(start),
        }
    }

    /// Notes that the cost until `until` is posted, and drops what no sum from then on will need.
    pub(super) fn note_posted(&mut self, until: Timestamp, zone: &TimeZone) {
        self.0.posted_until = self.0.posted_until.max(Some(until));
        self.drop_before(until, zone);
    }

    /// Drops rates, amounts and usage that no sum from `until` on will need.
    pub(super) fn drop_before(&mut self, until: Timestamp, zone: &TimeZone) {
        // a clock that lags behind may yet replace what has just begun, so that what was before
        // goes on
        let certain = until.checked_sub(MAX_CLOCK_LAG).unwrap_or(until);
        let current = self.0.rates.iter().rposition(|rate| rate.from <= certain);
        self.0.rates.drain(..current.unwrap_or(0));
        // labels that come late price anew all that is not posted, some of which may be in an
        // earlier month's account
        let over = if self.is_vague() {
            self.unposted_since()
        } else {
            certain
        };
        self.0
            .previous_amounts
            .retain(|earlier| earlier.until > over);
        let day = zone.to_datetime(until).date();
        self.0.usage = self.0.usage.split_off(&day);
    }

    /// The costs, so far, of the days that `part` touches.
    pub(super) fn daily_costs(
        &self,
        part: Interval,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Date, DailyCost)> {
        part.days(zone).map(|(day, part)| {
            (
                day,
                self.cost_of_day(day, part, self.0.node_lost_since, false),
            )
        })
    }

    /// The cost of a part of one day, where nothing has been heard of the node since `lost`.
    pub(super) fn cost_of_day(
        &self,
        day: Date,
        part: Interval,
        lost: Option<Timestamp>,
        estimated: bool,
    ) -> DailyCost {
        let (kept, lost) = part.split(lost.unwrap_or(Timestamp::MAX));
        let (staying, draining) = kept.split(self.0.draining_since.unwrap_or(Timestamp::MAX));
        let (starting, serving) = staying.split(self.0.ready_since.unwrap_or(Timestamp::MAX));
        let cost = self.cost(kept);
        let used = self.0.usage.get(&day).copied().unwrap_or_default();
        let idle_seconds = used.idle_seconds.min(serving.seconds());
        let idle = match idle_seconds {
            0 => Money::ZERO,
            _ => (self.cost(serving).total()).proportion(idle_seconds, serving.seconds()),
        };
        let gpu_seconds = self.gpu_seconds_until(kept.end) - self.gpu_seconds_until(kept.start);
        DailyCost {
            cost,
            estimated: if estimated || self.is_provisional_in(kept) {
                cost.total()
            } else {
                Money::ZERO
            },
            starting: self.cost(starting).total(),
            idle,
            draining: self.cost(draining).total(),
            unattributed: self.cost(lost).total(),
            saved: Money::ZERO,
            carbon_mg: self.carbon_until(kept.end) - self.carbon_until(kept.start),
            gpu_seconds,
            unpriced_gpu_seconds: if self.0.rates.is_empty() {
                gpu_seconds
            } else {
                0
            },
            usage: EngineUsage {
                idle_seconds,
                ..used
            },
        }
    }

    fn cost_until(&self, at: Timestamp) -> Cost {
        self.spans(at)
            .map(|(rate, seconds)| rate.quote.cost.map(|part| part.cost_for_seconds(seconds)))
            .sum()
    }

    /// Physical GPUs times seconds: a unit may be a part of one.
    fn gpu_seconds_until(&self, at: Timestamp) -> i64 {
        self.0.attributes.gpu_seconds(self.0.start, at)
    }

    fn carbon_until(&self, at: Timestamp) -> i64 {
        self.spans(at)
            .map(|(rate, seconds)| rate.quote.carbon_mg_for(seconds))
            .sum()
    }

    /// Each rate with the whole seconds that it lasted until `at`.
    fn spans(&self, at: Timestamp) -> impl Iterator<Item = (&RatePeriod, i64)> {
        self.with_ends().map(move |(rate, end)| {
            (
                rate,
                (at.min(end).as_second() - rate.from.as_second()).max(0),
            )
        })
    }

    fn with_ends(&self) -> impl Iterator<Item = (&RatePeriod, Timestamp)> {
        let ends = self
            .0
            .rates
            .iter()
            .skip(1)
            .map(|rate| rate.from)
            .chain([Timestamp::MAX]);
        self.0.rates.iter().zip(ends)
    }

    fn is_provisional_in(&self, part: Interval) -> bool {
        self.with_ends().any(|(rate, end)| {
            let span = Interval {
                start: rate.from,
                end,
            };
            rate.provisional && part.intersection(span).is_some()
        })
    }
}
