//! Configuration files with places to fill in, written `@NAME@`.

use crate::error::{Error, Result};

/// Fills in `values`; a place that is left over is an error, because a component would read it as a value.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let filled = values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| {
            text.replace(&format!("@{name}@"), value)
        });
    let is_name =
        |word: &&str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    match filled.split('@').skip(1).find(is_name) {
        Some(place) => Err(Error::Malformed {
            what: "configuration template".into(),
            why: format!("no value for @{place}@"),
        }),
        None => Ok(filled),
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn a_place_without_a_value_is_an_error() {
        assert_eq!(fill("a: @A@", &[("A", "1")]).unwrap(), "a: 1");
        assert!(
            fill("a: @A@, b: @B@", &[("A", "1")])
                .unwrap_err()
                .to_string()
                .contains("@B@")
        );
    }
}
