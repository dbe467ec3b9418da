//! What became of the fields of an imported manifest.

use std::cell::RefCell;
use std::fmt;

use bursar_api::lenient::bounded_text;

/// The most findings that are written out; the rest is counted.
const MAX_FINDINGS: usize = 500;

/// What became of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Bursar needs it, and the source does not say it: somebody has to fill it in.
    Missing,
    /// It is there with another value or meaning.
    Changed,
    /// It is not there any more.
    Dropped,
    /// It is there, and something is worth knowing about it.
    Note,
}

impl Fate {
    /// How a comment begins.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "fill in",
            Self::Changed => "changed",
            Self::Dropped => "dropped",
            Self::Note => "note",
        }
    }
}

/// A field, what became of it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) fate: Fate,
    /// The path of the field: of the source if it was dropped, else of the result.
    pub(crate) field: String,
    pub(crate) why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fate, field, why) = (self.fate.as_str(), &self.field, &self.why);
        write!(formatter, "{fate}: {field}: {why}")
    }
}

/// All findings about one manifest. It is shared by the parts of a converter.
#[derive(Debug, Default)]
pub(crate) struct Report {
    findings: RefCell<Vec<Finding>>,
}

impl Report {
    /// The source's `field` is not in the result.
    pub(crate) fn dropped(&self, field: impl AsRef<str>, why: impl AsRef<str>) {
        self.add(Fate::Dropped, field.as_ref(), why.as_ref());
    }

    /// The result's `field` differs from the source in value or meaning.
    pub(crate) fn changed(&self, field: impl AsRef<str>, why: impl AsRef<str>) {
        self.add(Fate::Changed, field.as_ref(), why.as_ref());
    }

    /// The result's `field` has to be filled in.
    pub(crate) fn missing(&self, field: impl AsRef<str>, why: impl AsRef<str>) {
        self.add(Fate::Missing, field.as_ref(), why.as_ref());
    }

    /// Something is worth knowing about the result's `field`.
    pub(crate) fn note(&self, field: impl AsRef<str>, why: impl AsRef<str>) {
        self.add(Fate::Note, field.as_ref(), why.as_ref());
    }

    fn add(&self, fate: Fate, field: &str, why: &str) {
        let finding = Finding {
            fate,
            field: bounded_text(field),
            why: bounded_line(why),
        };
        let mut findings = self.findings.borrow_mut();
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// True if somebody has to fill in this field of the result, or one in or around it.
    pub(crate) fn is_missing(&self, field: &str) -> bool {
        let findings = self.findings.borrow();
        let mut missing = findings
            .iter()
            .filter(|finding| finding.fate == Fate::Missing);
        missing.any(|finding| is_within(&finding.field, field) || is_within(field, &finding.field))
    }

    /// The findings, those first that ask for work. Of very many, the last are counted in one.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings.into_inner();
        findings.sort_by_key(|finding| finding.fate);
        let more = findings.len().saturating_sub(MAX_FINDINGS);
        if more > 0 {
            findings.truncate(MAX_FINDINGS);
            findings.push(Finding {
                fate: Fate::Dropped,
                field: "...".to_owned(),
                why: format!("{more} further fields are not listed here"),
            });
        }
        findings
    }
}

/// Whether a path is another one or leads into it.
fn is_within(path: &str, other: &str) -> bool {
    let rest = path.strip_prefix(other);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A reason on one line. Our own are longer than a foreign text may be.
fn bounded_line(why: &str) -> String {
    const MAX_REASON: usize = 600;
    match why.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{} ...", why[..end].trim_end()),
        None => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_work_comes_first() {
        let report = Report::default();
        report.note("a", "known");
        report.dropped("b", "gone");
        report.missing("c", "to do");
        let fates: Vec<Fate> = (report.into_findings().iter())
            .map(|finding| finding.fate)
            .collect();
        assert_eq!(fates, [Fate::Missing, Fate::Dropped, Fate::Note]);
    }

    #[test]
    fn a_field_is_missing_with_what_is_in_or_around_it() {
        let report = Report::default();
        report.missing("spec.engine", "unknown");
        report.missing("spec.signals[0].target", "unknown");
        for (field, missing) in [
            ("spec.engine", true),
            ("spec.engineOptions.port", false),
            ("spec.signals", true),
            ("spec.signals[0].target.x", true),
            ("spec.signals[1]", false),
        ] {
            assert_eq!(report.is_missing(field), missing, "{field}");
        }
    }

    #[test]
    fn a_manifest_of_any_size_has_a_bounded_report() {
        let report = Report::default();
        for index in 0..MAX_FINDINGS + 7 {
            report.dropped(format!("spec.f{index}"), "x".repeat(10_000));
        }
        let findings = report.into_findings();
        assert_eq!(findings.len(), MAX_FINDINGS + 1);
        assert!(findings.iter().all(|finding| finding.why.len() < 700));
        assert!(findings[MAX_FINDINGS].why.starts_with("7 further"));
    }
}
