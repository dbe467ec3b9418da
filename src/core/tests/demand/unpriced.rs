//! A price that is not known yet is waited for: a price list may come a moment after the service, and
//! a new leader applies the default one itself.

use std::sync::Arc;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::model::event::{Budget, Service};
use bursar_core::plan::LimitedBy;
use bursar_core::pricing::{
    DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
};
use bursar_core::refusal::RefusalReason;
use jiff::tz::TimeZone;

use crate::*;

const GPU: &str = "nvidia.com/gpu";

fn gpu_service(created: i64) -> Event {
    let attributes = PricingAttributes {
        resource: GPU.to_owned(),
        gpus: 1,
        ..PricingAttributes::default()
    };
    let replica = PodShape {
        attributes: Some(attributes),
        ..PodShape::default()
    };
    let service = Service {
        created: at(created),
        replica: Arc::new(replica),
        ..service()
    };
    Event::Service(key(), Some(service))
}

/// What the price lists say; there is none at first.
fn prices(are_there: bool, second: i64) -> Event {
    let row = GpuPrice {
        model: "H100".to_owned(),
        resource: GPU.to_owned(),
        nodes: PriceScope::default(),
        per_hour: "2".parse().unwrap(),
        watts: None,
    };
    let list = DatedPriceList {
        name: "ours".to_owned(),
        effective_from: None,
        list: PriceList {
            currency: "USD".to_owned(),
            gpus: vec![row],
            ..PriceList::default()
        },
    };
    let lists = are_there.then_some(list).into_iter().collect();
    Event::Prices(Arc::new(PriceCatalog::new(lists, at(second))))
}

/// A new leader sees a service at zero that was created at `created`, in a namespace with a budget,
/// and no price list.
fn unpriced(created: i64) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    let budget = Budget {
        limit: "100".parse().unwrap(),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_secs(60),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    let events = [
        prices(false, 0),
        Event::Budget(Key::new("team", "all"), Some(budget)),
        gpu_service(created),
        replicas(0),
        gateway(-60),
        demand(0),
    ];
    assert_eq!(tell(&mut model, 0, events).service_orders, []);
    model
}

/// What a request to the service is told at this second.
fn refusal(model: &mut Model, second: i64) -> Option<RefusalReason> {
    decide(model, at(second));
    let decision = model.service(&key()).unwrap().decision;
    decision.refusal.map(|refusal| refusal.reason)
}

#[test]
fn a_price_that_is_not_known_yet_refuses_nobody_at_first() {
    // the service is new, or the leader is
    for created in [0, -3600] {
        let mut model = unpriced(created);
        assert_eq!(refusal(&mut model, 0), None);
        tell(&mut model, 1, [demand(1)]);
        let decision = model.service(&key()).unwrap().decision;
        assert_eq!(decision.refusal, None);
        assert_eq!(decision.limited_by, Some(LimitedBy::PriceUnknown));
        let orders = tell(&mut model, 5, [prices(true, 5)]).service_orders;
        assert_eq!(
            orders[0].replicas,
            (0, 1),
            "and is started once it is known"
        );
    }
}

#[test]
fn requests_do_not_wait_for_a_price_for_ever() {
    let mut model = unpriced(0);
    tell(&mut model, 1, [demand(1)]);
    assert_eq!(refusal(&mut model, 29), None);
    assert!(model.next_timer().unwrap() <= at(30));
    assert_eq!(refusal(&mut model, 30), Some(RefusalReason::PriceUnknown));
    let decision = model.service(&key()).unwrap().decision;
    assert!(
        decision.reason.contains("no price is known"),
        "{}",
        decision.reason
    );
    tell(&mut model, 40, [demand(0)]);
    tell(&mut model, 50, [demand(1)]);
    assert_eq!(refusal(&mut model, 50), Some(RefusalReason::PriceUnknown));
}

#[test]
fn a_price_list_that_is_replaced_refuses_nobody() {
    let mut model = unpriced(0);
    tell(&mut model, 1, [prices(true, 1)]);
    tell(&mut model, 1000, [prices(false, 1000)]);
    assert_eq!(refusal(&mut model, 1001), None);
    tell(&mut model, 1002, [prices(true, 1002)]);
    assert_eq!(refusal(&mut model, 1100), None);
    tell(&mut model, 2000, [prices(false, 2000)]);
    assert_eq!(refusal(&mut model, 2029), None);
    assert_eq!(refusal(&mut model, 2030), Some(RefusalReason::PriceUnknown));
}
