//! Currencies: ISO 4217's codes, and the digits that each has after the point.

/// Funds, precious metals and test codes are left out: nothing is paid in them.
const DIGITS: [(u8, &str); 4] = [
    (
        0,
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    ),
    (
        2,
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE \
         CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW \
         KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK \
         PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS \
         UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

/// All codes.
pub fn codes() -> impl Iterator<Item = &'static str> {
    DIGITS
        .iter()
        .flat_map(|(_, codes)| codes.split_whitespace())
}

/// Digits after the point in amounts of this currency: 2 for USD, 0 for JPY, 3 for KWD. `None` for
/// what is not a code.
pub fn digits(code: &str) -> Option<u8> {
    let row = |(_, codes): &&(u8, &str)| codes.split_whitespace().any(|each| each == code);
    DIGITS.iter().find(row).map(|(digits, _)| *digits)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn currencies_have_their_own_number_of_digits() {
        for (code, expected) in [
            ("USD", Some(2)),
            ("EUR", Some(2)),
            ("JPY", Some(0)),
            ("KWD", Some(3)),
            ("CLF", Some(4)),
            ("usd", None),
            ("XXX", None),
            ("EURO", None),
            ("", None),
        ] {
            assert_eq!(digits(code), expected, "{code}");
        }
    }

    #[test]
    fn every_code_is_three_capitals_and_stands_once() {
        let all: Vec<&str> = codes().collect();
        assert!(
            all.iter()
                .all(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase()))
        );
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
