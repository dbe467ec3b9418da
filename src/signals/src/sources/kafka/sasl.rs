//! Authentication with a broker: PLAIN, and SCRAM (RFC 5802) with SHA-256 and SHA-512.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use super::super::error::{SourceError, SourceErrorKind, quoted};
use super::wire::{Api, Connection, Encoder};
use crate::credentials::Credentials;

/// How a broker is told who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sasl {
    /// The password is sent, and should be over TLS only.
    Plain,
    /// SCRAM-SHA-256: the password is proved.
    ScramSha256,
    /// SCRAM-SHA-512: the password is proved.
    ScramSha512,
}

/// Kafka's own bound. Each iteration costs a hash, and a hostile broker says how many there are.
const MAX_ITERATIONS: u32 = 16_384;

/// The algorithms of a SCRAM mechanism.
#[derive(Clone, Copy)]
struct Algorithms {
    pbkdf2: pbkdf2::Algorithm,
    hmac: hmac::Algorithm,
    digest: &'static digest::Algorithm,
}

impl Sasl {
    fn mechanism(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// Authenticates a new connection.
    pub(super) async fn authenticate(
        self,
        connection: &mut Connection,
        credentials: &Credentials,
    ) -> Result<(), SourceError> {
        let mechanism = self.mechanism();
        let (Some(username), Some(password)) = (&credentials.username, &credentials.password)
        else {
            let why = format!("{mechanism} needs username and password");
            return Err(unauthorized(connection, &why));
        };
        let request = Encoder::default().string(mechanism);
        let (error, offered) = connection
            .call(Api::SASL_HANDSHAKE, request, |fields| {
                Ok((fields.int16()?, fields.array(|fields| fields.string())?))
            })
            .await?;
        if error != 0 {
            let why = format!("it offers {}, not {mechanism}", quoted(&offered.join(", ")));
            return Err(unauthorized(connection, &why));
        }
        let algorithms = match self {
            Self::Plain => {
                let response = format!("\0{username}\0{password}");
                return step(connection, response.as_bytes()).await.map(drop);
            }
            Self::ScramSha256 => Algorithms {
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
                hmac: hmac::HMAC_SHA256,
                digest: &digest::SHA256,
            },
            Self::ScramSha512 => Algorithms {
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
                hmac: hmac::HMAC_SHA512,
                digest: &digest::SHA512,
            },
        };
        let mut nonce = [0; 18];
        let random = SystemRandom::new().fill(&mut nonce);
        random
            .map_err(|_| SourceError::protocol(&connection.broker, "no random number is left"))?;
        let exchange = Scram::new(algorithms, username, password, STANDARD.encode(nonce));
        let challenge = step(connection, exchange.first_message().as_bytes()).await?;
        let (last_message, verifier) = exchange
            .answer(&challenge)
            .map_err(|why| SourceError::protocol(&connection.broker, why))?;
        let outcome = step(connection, last_message.as_bytes()).await?;
        match verifier.accepts(&outcome) {
            true => Ok(()),
            false => {
                let why = "the broker does not know the password either";
                Err(unauthorized(connection, why))
            }
        }
    }
}

/// Sends bytes of a mechanism, and returns the broker's.
async fn step(connection: &mut Connection, bytes: &[u8]) -> Result<Vec<u8>, SourceError> {
    let request = Encoder::default().blob(bytes);
    let (error, said, answer) = connection
        .call(Api::SASL_AUTHENTICATE, request, |fields| {
            let (error, said) = (fields.int16()?, fields.nullable_string()?);
            Ok((error, said, fields.blob()?.to_vec()))
        })
        .await?;
    match error {
        0 => Ok(answer),
        _ => Err(unauthorized(connection, &said.unwrap_or_default())),
    }
}

fn unauthorized(connection: &Connection, why: &str) -> SourceError {
    let message = format!(
        "{} refuses the credentials: {}; check username and password in the Secret",
        connection.broker,
        quoted(why)
    );
    SourceError::new(SourceErrorKind::Unauthorized, message)
}

/// The client's side of an exchange.
struct Scram<'a> {
    algorithms: Algorithms,
    password: &'a str,
    first_message_bare: String,
    nonce: String,
}

/// What only a server that knows the password can say in the end.
struct Verifier {
    key: hmac::Key,
    message: String,
}

/// Without channel binding, which Kafka does not have.
const HEADER: &str = "n,,";

impl<'a> Scram<'a> {
    fn new(algorithms: Algorithms, username: &str, password: &'a str, nonce: String) -> Self {
        let username = username.replace('=', "=3D").replace(',', "=2C");
        Self {
            algorithms,
            password,
            first_message_bare: format!("n={username},r={nonce}"),
            nonce,
        }
    }

    fn first_message(&self) -> String {
        format!("{HEADER}{}", self.first_message_bare)
    }

    /// The last message of the client, after the server's first.
    fn answer(&self, challenge: &[u8]) -> Result<(String, Verifier), &'static str> {
        let challenge =
            std::str::from_utf8(challenge).map_err(|_| "SCRAM's challenge is no text")?;
        let mut parts = challenge.split(',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name));
        let (Some(nonce), Some(salt), Some(iterations)) = (part("r="), part("s="), part("i="))
        else {
            return Err("SCRAM's challenge is malformed");
        };
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("SCRAM's challenge does not continue the nonce");
        }
        let salt = STANDARD
            .decode(salt)
            .map_err(|_| "SCRAM's salt is malformed")?;
        let iterations = iterations.parse().ok().filter(|count: &NonZeroU32| {
            // more is more work than a password needs
            count.get() <= MAX_ITERATIONS
        });
        let iterations = iterations.ok_or("SCRAM's iterations are not from 1 to 16,384")?;

        let Algorithms {
            pbkdf2,
            hmac,
            digest,
        } = self.algorithms;
        let mut salted = vec![0; digest.output_len()];
        pbkdf2::derive(
            pbkdf2,
            iterations,
            &salt,
            self.password.as_bytes(),
            &mut salted,
        );
        let salted = hmac::Key::new(hmac, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(digest, client_key.as_ref());
        let server_key = hmac::sign(&salted, b"Server Key");

        let last_message_bare = format!("c={},r={nonce}", STANDARD.encode(HEADER));
        let message = format!(
            "{},{challenge},{last_message_bare}",
            self.first_message_bare
        );
        let stored_key = hmac::Key::new(hmac, stored_key.as_ref());
        let signature = hmac::sign(&stored_key, message.as_bytes());
        let proof = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = proof.map(|(key, signature)| key ^ signature).collect();
        let last_message = format!("{last_message_bare},p={}", STANDARD.encode(proof));
        let key = hmac::Key::new(hmac, server_key.as_ref());
        Ok((last_message, Verifier { key, message }))
    }
}

impl Verifier {
    fn accepts(&self, outcome: &[u8]) -> bool {
        let signature = outcome.strip_prefix(b"v=");
        let signature = signature.and_then(|text| STANDARD.decode(text).ok());
        signature.is_some_and(|signature| {
            hmac::verify(&self.key, self.message.as_bytes(), &signature).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: Algorithms = Algorithms {
        pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
        hmac: hmac::HMAC_SHA256,
        digest: &digest::SHA256,
    };
    const CHALLENGE: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    #[test]
    fn the_exchange_is_that_of_the_standards_example() {
        // RFC 7677, section 3
        let scram = Scram::new(SHA256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(scram.first_message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, verifier) = scram.answer(CHALLENGE).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(last, expected);
        assert!(verifier.accepts(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
        assert!(!verifier.accepts(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
        assert!(!verifier.accepts(b"e=other-error"));
        assert!(!verifier.accepts(b""));
    }

    #[test]
    fn a_challenge_that_is_wrong_or_too_much_work_is_refused() {
        let scram = Scram::new(SHA256, "user", "pencil", "abc".into());
        for (challenge, why) in [
            ("r=abcdef,s=AAAA,i=1000000000", "16,384"),
            ("r=abcdef,s=AAAA,i=0", "16,384"),
            ("r=abcdef,s=AAAA,i=-1", "16,384"),
            ("r=xyz,s=AAAA,i=4096", "nonce"),
            ("r=abc,s=AAAA,i=4096", "nonce"),
            ("r=abcdef,s=?,i=4096", "salt"),
            ("e=unknown-user", "malformed"),
            ("", "malformed"),
        ] {
            let error = scram.answer(challenge.as_bytes()).err().unwrap();
            assert!(error.contains(why), "{challenge}: {error}");
        }
        assert!(scram.answer(&[0xff]).is_err());
    }

    #[test]
    fn a_username_is_escaped() {
        let scram = Scram::new(SHA256, "a=b,c", "", "n".into());
        assert_eq!(scram.first_message(), "n,,n=a=3Db=2Cc,r=n");
    }
}
