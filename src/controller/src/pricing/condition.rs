//! The condition `Priced` of a workload of either kind.

use bursar_api::conditions::{ConditionState, PRICED, priced as reason};
use bursar_api::spend::SpendSummary;
use bursar_core::calendar::Month;
use bursar_core::pricing::{PricingAttributes, product_labels};

use crate::ledger::Accounts;

/// The spend of a workload, and what is not known of it.
pub(crate) struct PricingState {
    pub(crate) summary: SpendSummary,
    /// Why a part of the spend is not known.
    pub(crate) doubt: Option<String>,
    /// Hardware that runs and that the PriceLists have no row for.
    pub(crate) unlisted: Option<String>,
    /// True if the workload cannot start because no price is known for it.
    pub(crate) unpriced: bool,
}

/// The node labels of the first open charge for which the highest listed price stands in.
pub(crate) fn unlisted(accounts: &Accounts, month: Month) -> Option<String> {
    let open = &accounts.get(&month)?.open_charges();
    let charge = open
        .values()
        .find(|charge| charge.rates().last().is_some_and(|rate| rate.provisional))?;
    Some(labels(charge.attributes()))
}

fn labels(attributes: &PricingAttributes) -> String {
    let product = product_labels(&attributes.resource)[0];
    let label = |key: &str, value: Option<&String>| {
        value.map_or_else(
            || format!("no label {key}"),
            |value| format!("{key}={value}"),
        )
    };
    let model = match &attributes.model {
        // it may be from any of the labels that name models
        Some(model) => format!("model {model}"),
        None => format!("no label {product}"),
    };
    let machine = label(
        "node.kubernetes.io/instance-type",
        attributes.instance_type.as_ref(),
    );
    let region = label("topology.kubernetes.io/region", attributes.region.as_ref());
    format!(
        "{} on a node with {model}, {machine}, {region}",
        attributes.resource
    )
}

/// The condition `Priced`.
pub(crate) fn priced(spend: &PricingState) -> ConditionState {
    let (status, reason, message) = if let Some(doubt) = &spend.doubt {
        (false, reason::SPEND_UNKNOWN, doubt.clone())
    } else if spend.summary.rate_per_hour == "unknown" || spend.unpriced {
        let message = "no PriceList names its GPUs; its spend is unknown. Add a price: kubectl explain pricelist.spec";
        (false, reason::PRICE_UNKNOWN, message.to_owned())
    } else if let Some(unlisted) = &spend.unlisted {
        let message = format!(
            "no PriceList has a row for {unlisted}; the dearest listed price of a GPU counts until one has. Add a row with the label's \
             value as model or instanceType: kubectl explain pricelist.spec"
        );
        (false, reason::PROVISIONAL, message)
    } else if spend.summary.estimated.is_some() {
        let message = "a part of its spend rests on the dearest listed price or on an estimated end; see spend.estimated";
        (true, reason::ESTIMATED, message.to_owned())
    } else {
        (true, reason::LISTED, "a price is known".to_owned())
    };
    ConditionState {
        kind: PRICED,
        status: Some(status),
        reason,
        message,
    }
}

#[cfg(test)]
mod tests {
    use bursar_core::ledger::{Account, Charge, RatePeriod, StoredCharge};
    use bursar_core::pricing::HourlyRate;
    use jiff::Timestamp;

    use super::*;

    fn accounts(provisional: bool) -> (Accounts, Month) {
        let start: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let month: Month = "2026-11".parse().unwrap();
        let attributes = PricingAttributes {
            resource: "nvidia.com/gpu".into(),
            gpus: 1,
            model: Some("B300".into()),
            ..PricingAttributes::default()
        };
        let rate = RatePeriod {
            from: start,
            quote: HourlyRate::default(),
            provisional,
        };
        let charge = Charge::restore(StoredCharge {
            rates: vec![rate],
            ..StoredCharge::new("u".into(), "p".into(), attributes, start)
        })
        .unwrap();
        let mut account = Account::new(month);
        account.open(charge);
        ([(month, std::sync::Arc::new(account))].into(), month)
    }

    fn spend(unlisted: Option<String>) -> PricingState {
        PricingState {
            summary: SpendSummary::default(),
            doubt: None,
            unlisted,
            unpriced: false,
        }
    }

    #[test]
    fn a_price_that_only_stands_in_is_no_price_and_the_message_names_the_model() {
        let (open, month) = accounts(true);
        let condition = super::priced(&spend(unlisted(&open, month)));
        assert_eq!(
            (condition.status, condition.reason),
            (Some(false), reason::PROVISIONAL)
        );
        assert!(
            condition.message.contains("a node with model B300"),
            "{}",
            condition.message
        );
        let (listed, month) = accounts(false);
        assert_eq!(unlisted(&listed, month), None);
    }

    #[test]
    fn estimated_ends_alone_leave_it_priced() {
        let mut ended = spend(None);
        ended.summary.estimated = Some("1.0000".into());
        let condition = super::priced(&ended);
        assert_eq!(
            (condition.status, condition.reason),
            (Some(true), reason::ESTIMATED)
        );
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named() {
        let mut unknown = spend(None);
        unknown.doubt = Some("SpendRecord ns.infd.chat.2026-11 cannot be read".into());
        let condition = super::priced(&unknown);
        assert_eq!(
            (condition.status, condition.reason),
            (Some(false), reason::SPEND_UNKNOWN)
        );
        assert!(condition.message.contains("ns.infd.chat.2026-11"));
    }
}
