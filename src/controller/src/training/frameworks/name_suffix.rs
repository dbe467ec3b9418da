//! The end of the names of a job's files, which nobody can foresee.

use std::sync::OnceLock;

use bursar_api::TrainingJob;
use bursar_api::names::LAUNCHER_FILES_ANNOTATION;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use ring::hmac;
use ring::rand::SystemRandom;

use crate::api_calls::ApiError;

/// 128 bits, as hexadecimal digits.
const DIGITS: usize = 32;

/// The end of the names of a job's Secret and ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameSuffix(String);

impl NameSuffix {
    /// The one that a Job has on record. Whoever may edit Jobs can write anything there: what is no suffix
    /// is none.
    pub(crate) fn on_record(job: &Job) -> Option<Self> {
        let text = job.annotations().get(LAUNCHER_FILES_ANNOTATION)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == DIGITS && text.bytes().all(is_digit)).then(|| Self(text.clone()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Makes suffixes by a key of this process that is nowhere else. A job's is the same each time, so that a start
/// that is refused again and again leaves no more than one Secret behind.
#[derive(Debug, Default)]
pub(crate) struct SuffixKey(OnceLock<hmac::Key>);

impl SuffixKey {
    /// The suffix of a job's files until one is on record.
    ///
    /// # Errors
    /// The operating system gave no randomness for the key.
    pub(crate) fn suffix(&self, object: &TrainingJob) -> Result<NameSuffix, ApiError> {
        let key = match self.0.get() {
            Some(key) => key,
            None => {
                let made = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
                let made = made.map_err(|_| ApiError::NoRandomness)?;
                self.0.get_or_init(|| made)
            }
        };
        let uid = object.uid().unwrap_or_default();
        let tag = hmac::sign(key, uid.as_bytes());
        let bytes = tag.as_ref().iter().take(DIGITS / 2);
        Ok(NameSuffix(
            bytes.map(|byte| format!("{byte:02x}")).collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_a_suffix_is_believed_to_be_on_record() {
        let on_record = |text: &str| {
            let annotations = json!({LAUNCHER_FILES_ANNOTATION: text});
            let job = json!({"metadata": {"annotations": annotations}});
            NameSuffix::on_record(&serde_json::from_value(job).unwrap())
        };
        let object = json!({"metadata": {"uid": "u"}, "spec": {"framework": "MPI"}});
        let object = serde_json::from_value(object).unwrap();
        let suffix = SuffixKey::default().suffix(&object).unwrap();
        assert_eq!(on_record(suffix.as_str()), Some(suffix.clone()));
        for text in [
            "",
            "0123",
            &"a".repeat(33),
            &"A".repeat(32),
            &"-".repeat(32),
        ] {
            assert_eq!(on_record(text), None, "{text}");
        }
    }
}
