//! The key pair by which a job's launcher and workers know each other. ECDSA on P-256: OpenSSH reads it in
//! PKCS #8, the form in which it is made.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

use crate::api_calls::ApiError;

/// The type of the key, by RFC 5656.
const KEY_TYPE: &str = "ecdsa-sha2-nistp256";
const CURVE: &str = "nistp256";
/// The width of the lines of PEM, by RFC 7468.
const PEM_COLUMNS: usize = 64;

pub(super) struct SshKeys {
    /// The private key, as PEM.
    pub(super) private_pem: String,
    /// The public key, as a line of `authorized_keys` without its end.
    pub(super) public_line: String,
}

/// A key pair that nobody has.
///
/// # Errors
/// The operating system gave no randomness.
pub(super) fn generate() -> Result<SshKeys, ApiError> {
    let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
    let failure = |_| ApiError::NoRandomness;
    let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(failure)?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref(), &random)
        .map_err(|_| ApiError::NoRandomness)?;
    Ok(SshKeys {
        private_pem: pem(private.as_ref()),
        public_line: public_line(pair.public_key().as_ref()),
    })
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    for line in text.as_bytes().chunks(PEM_COLUMNS) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

/// The type, the curve and the point, each behind its length: RFC 5656, section 3.1.
fn public_line(point: &[u8]) -> String {
    let mut blob = Vec::new();
    for part in [KEY_TYPE.as_bytes(), CURVE.as_bytes(), point] {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        blob.extend(length.to_be_bytes());
        blob.extend(part);
    }
    format!("{KEY_TYPE} {} bursar", STANDARD.encode(blob))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `ssh-keygen -y` says of a key that OpenSSL made.
    #[test]
    fn a_public_key_is_written_as_openssh_writes_it() {
        let line = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABB";
        let keys = generate().unwrap();
        // type, curve and the length of the point
        assert!(
            keys.public_line.starts_with(&line[..line.len() - 4]),
            "{}",
            keys.public_line
        );
        let text = keys.public_line.split(' ').nth(1).unwrap();
        let blob = STANDARD.decode(text).unwrap();
        assert_eq!(blob.len(), 4 + 19 + 4 + 8 + 4 + 65);
        assert_eq!(blob[39], 4, "an uncompressed point");
    }

    #[test]
    fn no_two_jobs_have_the_same_key() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one.private_pem, other.private_pem);
        assert!(one.private_pem.lines().all(|line| line.len() <= 64));
    }
}
