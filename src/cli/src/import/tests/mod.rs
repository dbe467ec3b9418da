//! Manifests that are imported, as their users would write them.

mod cluster;
mod jobs;
mod mutations;
mod samples;
mod services;
mod triggers;

use super::draft::Imported;
use super::report::Fate;
use super::{Error, SourceKind, from_text};

/// All objects of a kind in a text.
fn import_all(kind: SourceKind, text: &str) -> Result<Vec<Imported>, Error> {
    from_text(kind, text, "FILE", (None, None))
}

/// The only object of a kind in a text.
fn import(kind: SourceKind, text: &str) -> Imported {
    let mut imported = import_all(kind, text).unwrap();
    assert_eq!(imported.len(), 1);
    imported.remove(0)
}

impl Imported {
    /// The fields of a fate.
    fn fields(&self, fate: Fate) -> Vec<&str> {
        let findings = self.findings.iter();
        let of_fate = findings.filter(|finding| finding.fate == fate);
        of_fate.map(|finding| finding.field.as_str()).collect()
    }

    /// The reason for a finding about a field.
    fn why(&self, field: &str) -> &str {
        let finding = self.findings.iter().find(|each| each.field == field);
        match finding {
            Some(finding) => &finding.why,
            None => panic!("nothing is said of {field}: {:#?}", self.findings),
        }
    }
}
