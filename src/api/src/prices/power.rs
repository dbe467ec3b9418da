//! The price and the emissions of electricity.

use std::sync::LazyLock;

use bursar_core::pricing;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantities::{self, AMOUNT_MESSAGE, AMOUNT_RULE, FieldError};

/// The price and the emissions of electricity.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Power {
    /// Money a kilowatt-hour. "0" where the price of a GPU or node includes it and only the carbon
    /// is wanted.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_kilowatt_hour: String,
    /// Power usage effectiveness: watts that the building draws for each watt of the GPUs.
    #[serde(default = "default_pue")]
    #[schemars(length(max = 6))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9]([.][0-9]{1,3})?$')")
        .message(r#"pue must be a number from 1 to 9.999, such as "1.12""#))]
    pub pue: String,
    /// Prices by the hour; hours outside its periods cost `pricePerKilowattHour`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tariff: Option<Tariff>,
    /// The emissions of a kilowatt-hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carbon: Option<Carbon>,
}

fn default_pue() -> String {
    "1".to_owned()
}

/// Prices by the hour of the day and the day of the week.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(format!("self.periods.all(p, self.periods.all(q, p == q || !{}))", overlap("p", "q")))
    .message(Message::Expression(overlap_message())))]
pub struct Tariff {
    /// The zone that its hours are in.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(zone_rule()).message("timeZone must be a name of the IANA time zone database, such as Europe/Berlin"))]
    pub time_zone: String,
    /// Hours with a price of their own. No two may overlap.
    #[schemars(length(min = 1, max = 24))]
    pub periods: Vec<TariffPeriod>,
}

/// Hours with a price of their own.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TariffPeriod {
    /// The days on which the period starts.
    #[schemars(length(min = 1, max = 7))]
    pub days: Vec<Day>,
    /// The hour and minute at which the period starts, as `22:00`.
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new(CLOCK_RULE).message(r#"from must be a time of the day, such as "07:00""#))]
    pub from: String,
    /// The hour and minute at which the period ends, as `06:00`; on the next day if that is not
    /// after `from`.
    #[schemars(length(max = 5))]
    #[x_kube(validation = Rule::new(CLOCK_RULE).message(r#"to must be a time of the day, such as "22:00"; midnight is "00:00""#))]
    pub to: String,
    /// Money a kilowatt-hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_kilowatt_hour: String,
}

const CLOCK_RULE: &str = "self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')";

/// A day of the week.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl From<Day> for Weekday {
    fn from(day: Day) -> Self {
        match day {
            Day::Mon => Self::Monday,
            Day::Tue => Self::Tuesday,
            Day::Wed => Self::Wednesday,
            Day::Thu => Self::Thursday,
            Day::Fri => Self::Friday,
            Day::Sat => Self::Saturday,
            Day::Sun => Self::Sunday,
        }
    }
}

/// The emissions of a kilowatt-hour.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Carbon {
    /// Grams of CO2e a kilowatt-hour, in regions that are not named.
    #[schemars(range(max = 10_000))]
    #[x_kube(validation = Rule::new("self >= 0").message("gramsPerKilowattHour must not be negative"))]
    pub grams_per_kilowatt_hour: i32,
    /// Regions with a value of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub regions: Vec<RegionCarbon>,
}

/// The emissions of a kilowatt-hour in one region.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RegionCarbon {
    /// The region, as the node's label `topology.kubernetes.io/region` gives it.
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// Grams of CO2e a kilowatt-hour.
    #[schemars(range(max = 10_000))]
    #[x_kube(validation = Rule::new("self >= 0").message("gramsPerKilowattHour must not be negative"))]
    pub grams_per_kilowatt_hour: i32,
}

/// CEL: the name of a time zone. The list is that of the database which Bursar is built with.
pub(crate) fn zone_rule() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let zones: Vec<String> = jiff::tz::db()
            .available()
            .map(|zone| format!("'{}'", zone.as_str()))
            .collect();
        format!("self in [{}]", zones.join(","))
    });
    &RULE
}

/// CEL: period `p` shares an hour with `q` on a day on which `q` starts, or with the part of `q`
/// that is past midnight. Asked of both orders, that is every overlap.
fn overlap(p: &str, q: &str) -> String {
    let until = |each: &str| format!("({each}.to > {each}.from ? {each}.to : '24:00')");
    format!(
        "({p}.days.exists(d, d in {q}.days) && {p}.from < {} && {q}.from < {} || {q}.to <= {q}.from && {p}.from < {q}.to && \
         {q}.days.exists(d, {{'Mon':'Tue','Tue':'Wed','Wed':'Thu','Thu':'Fri','Fri':'Sat','Sat':'Sun','Sun':'Mon'}}[d] in {p}.days))",
        until(q),
        until(p)
    )
}

/// CEL: the first two periods that overlap with another. Written twice by index, as the API server
/// cannot bound what `join` costs.
fn overlap_message() -> String {
    let nth = |i: usize| {
        format!(
            "self.periods.map(p, self.periods.exists(q, p != q && ({} || {})), p.days[0] + ' ' + p.from + '-' + p.to)[{i}]",
            overlap("p", "q"),
            overlap("q", "p")
        )
    };
    let message = "periods must not overlap; let one end where the other begins";
    format!("'{message}: ' + {} + ' and ' + {}", nth(0), nth(1))
}

impl Power {
    pub(super) fn to_core(&self) -> Result<pricing::Power, FieldError> {
        // thousandths: the amount's nano-units over a million
        let pue = quantities::amount("spec.power.pue", &self.pue)?.nanos() / 1_000_000;
        let base = quantities::amount(
            "spec.power.pricePerKilowattHour",
            &self.price_per_kilowatt_hour,
        )?;
        let tariff = match &self.tariff {
            None => pricing::Tariff::flat(base),
            Some(tariff) => {
                let zone = TimeZone::get(&tariff.time_zone)
                    .map_err(|error| FieldError::new("spec.power.tariff.timeZone", error))?;
                let periods = tariff.periods.iter().enumerate().map(TariffPeriod::to_core);
                pricing::Tariff::new(base, zone, periods.collect::<Result<_, _>>()?)
                    .map_err(|overlap| FieldError::new("spec.power.tariff", overlap))?
            }
        };
        Ok(pricing::Power {
            tariff,
            pue_milli: u32::try_from(pue)
                .map_err(|_| FieldError::new("spec.power.pue", "must be from 1 to 9.999"))?,
            carbon: self.carbon.as_ref().map(Carbon::to_core),
        })
    }
}

impl TariffPeriod {
    fn to_core((i, period): (usize, &Self)) -> Result<pricing::TariffPeriod, FieldError> {
        let field = |name: &str| format!("spec.power.tariff.periods[{i}].{name}");
        let clock = |name: &str, text: &str| -> Result<Time, FieldError> {
            Time::strptime("%H:%M", text).map_err(|error| FieldError::new(field(name), error))
        };
        Ok(pricing::TariffPeriod {
            days: period.days.iter().map(|day| (*day).into()).collect(),
            from: clock("from", &period.from)?,
            to: clock("to", &period.to)?,
            per_kwh: quantities::amount(
                &field("pricePerKilowattHour"),
                &period.price_per_kilowatt_hour,
            )?,
        })
    }
}

impl Carbon {
    fn to_core(&self) -> pricing::Carbon {
        let grams = |number: i32| number.max(0).unsigned_abs();
        pricing::Carbon {
            grams_per_kwh: grams(self.grams_per_kilowatt_hour),
            regions: self
                .regions
                .iter()
                .map(|row| (row.region.clone(), grams(row.grams_per_kilowatt_hour)))
                .collect(),
        }
    }
}
