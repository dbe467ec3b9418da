//! What the condition `Priced` says of a workload of either kind.

use bursar_api::conditions::{ConditionState, PRICED, priced};
use bursar_api::spend::SpendSummary;
use bursar_core::calendar::Month;
use bursar_core::pricing::{PricingAttributes, product_labels};

use crate::ledger::Accounts;

/// What a workload cost, and what is not known of it.
pub(crate) struct Spend {
    pub(crate) summary: SpendSummary,
    /// Why a part of it cannot be known.
    pub(crate) doubt: Option<String>,
    /// What the PriceLists have no row for, though it runs.
    pub(crate) unlisted: Option<String>,
    /// No price at all is known for what it would start, and that keeps it from starting.
    pub(crate) unpriced: bool,
}

/// The first open charge that the dearest listed price stands in for, in words: what its node's labels say.
pub(crate) fn unlisted(accounts: &Accounts, month: Month) -> Option<String> {
    let open = &accounts.get(&month)?.open_charges();
    let charge = open
        .values()
        .find(|charge| charge.rates().last().is_some_and(|rate| rate.provisional))?;
    Some(labels(charge.attributes()))
}

fn labels(facts: &PricingAttributes) -> String {
    let product = product_labels(&facts.resource)[0];
    let label = |key: &str, value: Option<&String>| {
        value.map_or_else(
            || format!("no label {key}"),
            |value| format!("{key}={value}"),
        )
    };
    let model = label(product, facts.model.as_ref());
    let machine = label(
        "node.kubernetes.io/instance-type",
        facts.instance_type.as_ref(),
    );
    let region = label("topology.kubernetes.io/region", facts.region.as_ref());
    format!(
        "{} on a node with {model}, {machine}, {region}",
        facts.resource
    )
}

/// The condition.
pub(crate) fn condition(spend: &Spend) -> ConditionState {
    let (status, reason, message) = if let Some(doubt) = &spend.doubt {
        (false, priced::SPEND_UNKNOWN, doubt.clone())
    } else if spend.summary.rate_per_hour == "unknown" || spend.unpriced {
        let message = "no PriceList names its GPUs; its spend is unknown. Add a price: kubectl explain pricelist.spec";
        (false, priced::PRICE_UNKNOWN, message.to_owned())
    } else if let Some(unlisted) = &spend.unlisted {
        let message = format!(
            "no PriceList has a row for {unlisted}; the dearest listed price of a GPU counts until one has. Add a row with the label's \
             value as model or instanceType: kubectl explain pricelist.spec"
        );
        (false, priced::PROVISIONAL, message)
    } else if spend.summary.estimated.is_some() {
        let message = "a part of its spend rests on the dearest listed price or on an estimated end; see spend.estimated";
        (true, priced::ESTIMATED, message.to_owned())
    } else {
        (true, priced::LISTED, "a price is known".to_owned())
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
        let facts = PricingAttributes {
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
            ..StoredCharge::new("u".into(), "p".into(), facts, start)
        })
        .unwrap();
        let mut account = Account::new(month);
        account.open(charge);
        ([(month, std::sync::Arc::new(account))].into(), month)
    }

    fn spend(unlisted: Option<String>) -> Spend {
        Spend {
            summary: SpendSummary::default(),
            doubt: None,
            unlisted,
            unpriced: false,
        }
    }

    #[test]
    fn a_price_that_only_stands_in_is_no_price_and_the_message_names_the_label() {
        let (open, month) = accounts(true);
        let says = condition(&spend(unlisted(&open, month)));
        assert_eq!(
            (says.status, says.reason),
            (Some(false), priced::PROVISIONAL)
        );
        assert!(
            says.message.contains("nvidia.com/gpu.product=B300"),
            "{}",
            says.message
        );
        let (listed, month) = accounts(false);
        assert_eq!(unlisted(&listed, month), None);
    }

    #[test]
    fn estimated_ends_alone_leave_it_priced() {
        let mut ended = spend(None);
        ended.summary.estimated = Some("1.0000".into());
        let says = condition(&ended);
        assert_eq!((says.status, says.reason), (Some(true), priced::ESTIMATED));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named() {
        let mut unknown = spend(None);
        unknown.doubt = Some("SpendRecord ns.infd.chat.2026-11 cannot be read".into());
        let says = condition(&unknown);
        assert_eq!(
            (says.status, says.reason),
            (Some(false), priced::SPEND_UNKNOWN)
        );
        assert!(says.message.contains("ns.infd.chat.2026-11"));
    }
}
