//! The revenue of a service.

use bursar_core::money::Money;
use bursar_core::unit_economics;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantities::{self, AMOUNT_MESSAGE, AMOUNT_RULE, FieldError};

/// The revenue of a service: any of these together.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Revenue {
    /// Prices by use, as an API has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiPrice>,
    /// Subscribers, who pay by the month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<Subscription>,
    /// Prices that advertisers pay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ads: Option<Ads>,
    /// A contract that is paid by the month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Contract>,
}

/// A price by use, in the price list's currency.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ApiPrice {
    /// Money a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub per_request: Option<String>,
    /// Money a million tokens read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub per_million_input_tokens: Option<String>,
    /// Money a million tokens written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub per_million_output_tokens: Option<String>,
}

/// Subscribers and the price that each pays.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Number of subscribers.
    #[schemars(range(max = 1_000_000_000))]
    #[x_kube(validation = Rule::new("self >= 0").message("subscribers must not be negative"))]
    pub subscribers: i32,
    /// Money a month from each.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_month: String,
}

/// The price that advertisers pay.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Ads {
    /// Money a thousand requests.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub per_thousand_requests: String,
}

/// The price under a contract.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Contract {
    /// Money a month.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_month: String,
}

/// The revenue of a service this month, and whether it covers the cost.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Earnings {
    /// Money earned this month until now; amounts by the month count by the elapsed part.
    pub revenue: String,
    /// Money: `revenue` less `monthToDate`; absent while a part of that has no price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// The part of its time that a ready replica must be busy, in percent, for what is paid by use
    /// to cover the rest of the cost. Absent where nothing is paid by use, and while a part of the
    /// cost has no price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_even_utilization: Option<String>,
}

impl Revenue {
    /// The core's terms.
    ///
    /// # Errors
    /// The first amount that cannot be read; the API server's rules let none through.
    pub fn to_core(&self) -> Result<unit_economics::RevenueTerms, FieldError> {
        let amount = |field: &str, text: Option<&String>| {
            text.map_or(Ok(Money::ZERO), |text| {
                quantities::amount(&format!("spec.revenue.{field}"), text)
            })
        };
        let api = self.api.clone().unwrap_or_default();
        let ads = self.ads.as_ref().map(|ads| &ads.per_thousand_requests);
        let contract = self
            .contract
            .as_ref()
            .map(|contract| &contract.price_per_month);
        let subscription = self.subscription.as_ref();
        let fee = amount(
            "subscription.pricePerMonth",
            subscription.map(|each| &each.price_per_month),
        )?;
        let subscribers = subscription
            .and_then(|each| u32::try_from(each.subscribers).ok())
            .unwrap_or(0);
        Ok(unit_economics::RevenueTerms {
            per_request: amount("api.perRequest", api.per_request.as_ref())?,
            per_million_input_tokens: amount(
                "api.perMillionInputTokens",
                api.per_million_input_tokens.as_ref(),
            )?,
            per_million_output_tokens: amount(
                "api.perMillionOutputTokens",
                api.per_million_output_tokens.as_ref(),
            )?,
            per_thousand_requests: amount("ads.perThousandRequests", ads)?,
            per_month: fee.times(subscribers) + amount("contract.pricePerMonth", contract)?,
        })
    }
}
