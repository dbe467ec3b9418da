//! What PriceLists' statuses say.

use bursar_api::PriceList;
use bursar_apitest::faults::Faults;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use super::leader::{Leader, View};
use super::world::World;
use crate::pricing::price_lists::sync_once;

async fn sync(leader: &mut Leader, world: &World, now: Timestamp) {
    leader.fill_caches(&View::of(world));
    sync_once(&leader.context, now).await.unwrap();
}

/// `name reason` of every list.
fn reasons(world: &World) -> Vec<String> {
    let lists: Vec<PriceList> = world.server.objects();
    let reason = |list: &PriceList| {
        list.status
            .as_ref()
            .map(|status| status.conditions[0].reason.clone())
    };
    lists
        .iter()
        .map(|list| format!("{} {}", list.name_any(), reason(list).unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn a_list_says_whether_its_prices_count() {
    let world = World::new().await;
    for (name, currency, from) in [
        ("later", "USD", Some("2026-12-01T00:00:00Z")),
        ("other", "EUR", None),
        ("zulu", "USD", None),
    ] {
        let spec = json!({"currency": currency, "effectiveFrom": from, "gpus": [{"model": "H100", "pricePerHour": "1"}]});
        world
            .create_all::<PriceList>(json!({"metadata": {"name": name}, "spec": spec}))
            .await;
    }
    let mut leader = Leader::new(&world, Faults::default());
    sync(&mut leader, &world, world.now).await;
    // `other` stands before `ours` and `zulu`, and its currency is what counts from then on
    assert_eq!(
        reasons(&world),
        [
            "later Pending",
            "other InForce",
            "ours Refused",
            "zulu Refused"
        ]
    );
    let writes = leader.faults.writes();
    sync(&mut leader, &world, world.now).await;
    assert_eq!(
        leader.faults.writes(),
        writes,
        "what is true already is not written again"
    );
    sync(&mut leader, &world, "2026-12-01T00:00:00Z".parse().unwrap()).await;
    assert_eq!(
        reasons(&world),
        [
            "later InForce",
            "other Refused",
            "ours InForce",
            "zulu InForce"
        ]
    );
}
