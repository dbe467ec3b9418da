//! Evicts pods of no workload where a budget has no money for anything: first a warning, and once the
//! notice is over the order.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::budget::{BudgetState, EVICTION_NOTICE, Evictions, Unmanaged};
use crate::model::event::Name;
use crate::model::namespace::KnownBudget;
use crate::model::planned_eviction::{Evicting, PlannedEviction};
use crate::model::state::{Model, count};
use crate::model::timers::TimerKey;
use crate::plan::decisions::{Decisions, EvictionNotice, EvictionOrder};

/// A pod that gets its node once the notice is over has no notice of its own: else whatever makes pods
/// anew would run for all but the moments between them. It stays for so long that its warning goes first.
const LATE_NOTICE: SignedDuration = SignedDuration::from_secs(10);
/// An order that the pod does not show after this long is given again.
const ORDER_EXPIRES: SignedDuration = SignedDuration::from_secs(30);

/// Notes which budgets evict, plans the evictions anew where that has changed, and adds them to where
/// the budgets stand.
pub(super) fn evaluate(
    model: &mut Model,
    name: &Name,
    budget_states: &mut [BudgetState],
    now: Timestamp,
    decisions: &mut Decisions,
) {
    let changes_nothing = model.is_observe_only(name);
    let namespace = model.namespace_mut(name);
    let known = namespace.budgets.iter().zip(&*budget_states);
    let known = known.filter(|_| !changes_nothing);
    let evicting: BTreeMap<Name, Evicting> = known
        .filter(|(_, state)| state.stops_unmanaged())
        .filter(|(_, state)| state.budget.unmanaged != Unmanaged::Leave)
        .map(|((budget, known), state)| {
            let before = namespace.evicting.get(budget);
            let since_before = before.map(|before| before.from);
            let from = since_before.or_else(|| on_record(known, state, now));
            let begins = || now.saturating_add(EVICTION_NOTICE).unwrap_or(now);
            let evicting = Evicting {
                from: from.unwrap_or_else(begins),
                unmanaged: state.budget.unmanaged.clone(),
            };
            (budget.clone(), evicting)
        })
        .collect();
    if namespace.evicting != evicting {
        namespace.evicting = evicting;
        for uid in model.unowned_in(name) {
            plan(model, &uid, now, decisions);
        }
    }
    let Some(namespace) = model.namespaces.get(name) else {
        return;
    };
    // announced terms, which follow those in force, evict nothing
    for (budget, state) in namespace.budgets.keys().zip(budget_states) {
        let Some(evicting) = namespace.evicting.get(budget) else {
            continue;
        };
        // also where another budget evicts it first
        let evicts = |uid: &Name| {
            let pod = model.pods.get(uid);
            pod.is_some_and(|state| evicting.evicts(&state.pod))
        };
        let planned = namespace.evictions.iter();
        let planned = planned.filter(|(uid, _)| evicts(uid));
        let planned = planned.map(|(_, planned)| planned);
        let mut refused = planned.clone().filter_map(|planned| {
            let why = planned.refused.clone()?;
            Some((planned.pod.name.clone(), why))
        });
        state.evictions = Some(Evictions {
            from: evicting.from,
            pods: count(planned.count()),
            refused: refused.next(),
        });
    }
}

/// From when on a budget evicts, as a former leader has written: only of the present exhaustion, and no
/// later than a notice from now.
fn on_record(known: &KnownBudget, state: &BudgetState, now: Timestamp) -> Option<Timestamp> {
    let is_first_look = known.budget_state.is_none();
    let period_start = |latch: Option<crate::budget::Latch>| latch.map(|latch| latch.period_start);
    let is_latch_known = period_start(known.spec.latch) == period_start(state.budget.latch);
    let latest = now.saturating_add(EVICTION_NOTICE).unwrap_or(now);
    let from = known.spec.record.evictions_from;
    from.filter(|_| is_first_look && is_latch_known)
        .map(|from| from.min(latest))
}

/// Plans the eviction of a pod of no workload, or gives it up. A warning goes before each order.
pub(super) fn plan(model: &mut Model, uid: &Name, now: Timestamp, decisions: &mut Decisions) {
    let Some(state) = model.pods.get(uid) else {
        return;
    };
    let key = state.pod.key.clone();
    let known = model.namespaces.get(&key.namespace);
    let wanted = known.and_then(|known| known.evicts(&state.pod));
    let stays = state.pod.deletion.is_none() && state.pod.ended.is_none();
    let namespace = model.namespace_mut(&key.namespace);
    let before = namespace.evictions.remove(uid);
    let order = |evict: bool, budget: &Name| EvictionOrder {
        pod: key.clone(),
        uid: uid.clone(),
        evict,
        budget: budget.clone(),
    };
    let Some((from, budget)) = wanted else {
        if let Some(before) = before {
            if before.ordered.is_some() && stays {
                decisions.evictions.push(order(false, &before.budget));
            }
            model.timers.set(TimerKey::Eviction(uid.clone()), None);
            model.marks.budgets.insert(key.namespace);
        }
        return;
    };
    let is_planned = |planned: &&PlannedEviction| planned.from == from && planned.budget == budget;
    let mut planned = match before.as_ref().filter(is_planned) {
        Some(planned) => planned.clone(),
        None => {
            // another budget gives it longer
            let ordered = before.as_ref().filter(|before| before.ordered.is_some());
            let void = ordered.map(|before| order(false, &before.budget));
            decisions.evictions.extend(void);
            let warned = now.saturating_add(LATE_NOTICE).unwrap_or(now);
            let at = from.max(warned);
            decisions.eviction_notices.push(EvictionNotice {
                pod: key.clone(),
                uid: uid.clone(),
                budget: budget.clone(),
                at,
            });
            PlannedEviction {
                pod: key.clone(),
                budget,
                from,
                at,
                ordered: None,
                refused: None,
            }
        }
    };
    let at = planned.at;
    let expires = |ordered: Timestamp| ordered.saturating_add(ORDER_EXPIRES).unwrap_or(ordered);
    if at <= now
        && planned
            .ordered
            .is_none_or(|ordered| expires(ordered) <= now)
    {
        decisions.evictions.push(order(true, &planned.budget));
        planned.ordered = Some(now);
    }
    let look = planned.ordered.map_or(at, expires);
    let has_changed = before.as_ref() != Some(&planned);
    namespace.evictions.insert(uid.clone(), planned);
    model
        .timers
        .set(TimerKey::Eviction(uid.clone()), Some(look));
    if has_changed {
        model.marks.budgets.insert(key.namespace);
    }
}
