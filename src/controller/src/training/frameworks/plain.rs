//! No framework: how many workers there are, which one this is, and by which name each is found. Schedulers
//! of Dask and trackers of XGBoost are told the name of worker 0.

use k8s_openapi::api::core::v1::EnvVar;

use super::placed_role::PlacedRole;
use super::variables::{index, value};

pub(super) fn environment(placed: PlacedRole<'_>) -> Vec<EnvVar> {
    let mut all = vec![
        value("BURSAR_WORKERS", placed.object.spec.workers()),
        value("BURSAR_FIRST_ADDRESS", placed.first_address()),
    ];
    if placed.role.name.is_empty() {
        all.push(index("BURSAR_ROLE_RANK"));
    }
    all
}
