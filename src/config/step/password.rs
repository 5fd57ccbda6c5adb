//! Hashes of passwords: read from a file, made for it, compared with what a client sends.
//!
//! Argon2id (RFC 9106) and bcrypt, each in the text form that every other program writes. Hashing
//! takes a tenth of a second by design, so it belongs on a thread that may block.

use argon2::password_hash::rand_core::{OsRng, RngCore as _};
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params};

use crate::config::Secret;

/// Longest password that bcrypt looks at whole, in bytes; it ignores what follows.
const BCRYPT_BYTES: usize = 72;

/// What RFC 9106 §3.1 recommends.
const SALT_BYTES: usize = 16;

/// Most memory that one check may take, in KiB. Far above any advice, below what hurts.
const MEMORY_KIB: u32 = 1 << 20;

/// A password's hash in PHC or modular crypt form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hashed {
    /// `$argon2id$...` (RFC 9106).
    Argon2(Secret),
    /// `$2a$`, `$2b$`, `$2y$` (Provos, Mazières 1999).
    Bcrypt(Secret),
}

/// Why a text is no hash, or a password cannot be hashed. Says nothing of either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It begins like neither.
    #[error(
        "is no password hash: expected `$argon2id$...` or `$2b$...`, as `proxyctl hash-password` \
         prints it"
    )]
    Unknown,
    /// It begins like one and goes on otherwise.
    #[error("is a damaged {0} hash")]
    Damaged(&'static str),
    /// A check would take more than a GiB of memory.
    #[error("takes more than 1 GiB of memory for a check")]
    Memory,
    /// The password is longer than bcrypt looks at.
    #[error("bcrypt ignores what follows the first {BCRYPT_BYTES} bytes of a password")]
    TooLong,
    /// The system gave no random bytes, or no memory.
    #[error("the password cannot be hashed on this machine")]
    System,
}

impl Hashed {
    /// Reads the text form.
    ///
    /// # Errors
    /// It is not the text form of either kind.
    pub fn read(text: &str) -> Result<Self, HashError> {
        if text.starts_with("$argon2id$") {
            let damaged = HashError::Damaged("argon2id");
            let hash = PasswordHash::new(text).map_err(|_| damaged)?;
            let params = Params::try_from(&hash).map_err(|_| damaged)?;
            if hash.salt.is_none() || hash.hash.is_none() {
                return Err(damaged);
            }
            if params.m_cost() > MEMORY_KIB {
                return Err(HashError::Memory);
            }
            return Ok(Self::Argon2(Secret::new(text)));
        }
        if ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            let parts: Result<bcrypt::HashParts, _> = text.parse();
            let cost = parts.map_err(|_| HashError::Damaged("bcrypt"))?.get_cost();
            let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'/';
            let rest = text.get(7..).unwrap_or_default();
            if text.len() != 60 || !(4..=31).contains(&cost) || !rest.bytes().all(alphabet) {
                return Err(HashError::Damaged("bcrypt"));
            }
            return Ok(Self::Bcrypt(Secret::new(text)));
        }
        Err(HashError::Unknown)
    }

    /// Hashes with argon2id: 19 MiB, 2 passes, 1 lane (RFC 9106 §4 leaves the numbers open; these
    /// are the least that OWASP advises).
    ///
    /// # Errors
    /// No random bytes for the salt.
    pub fn argon2(password: &[u8]) -> Result<Self, HashError> {
        let mut salt = [0; SALT_BYTES];
        let filled = OsRng.try_fill_bytes(&mut salt);
        filled.map_err(|_| HashError::System)?;
        let salt = SaltString::encode_b64(&salt).map_err(|_| HashError::System)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, Params::DEFAULT);
        let hash = argon2.hash_password(password, &salt);
        let hash = hash.map_err(|_| HashError::System)?;
        Ok(Self::Argon2(Secret::new(hash.to_string())))
    }

    /// Hashes with bcrypt of cost 12.
    ///
    /// # Errors
    /// The password is above 72 bytes, or there are no random bytes for the salt.
    pub fn bcrypt(password: &[u8]) -> Result<Self, HashError> {
        if password.len() > BCRYPT_BYTES - 1 {
            return Err(HashError::TooLong);
        }
        let hash = bcrypt::hash(password, bcrypt::DEFAULT_COST).map_err(|_| HashError::System)?;
        Ok(Self::Bcrypt(Secret::new(hash)))
    }

    /// Whether it is the hash of `password`. Blocks for as long as the hash was made to cost;
    /// compares in constant time.
    #[must_use]
    pub fn matches(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2(text) => PasswordHash::new(text.reveal())
                .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok()),
            Self::Bcrypt(text) => bcrypt::verify(password, text.reveal()).unwrap_or(false),
        }
    }

    /// The text form.
    #[must_use]
    pub const fn text(&self) -> &Secret {
        match self {
            Self::Argon2(text) | Self::Bcrypt(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_that_is_made_is_read_back_and_fits_its_password_alone() {
        for made in [
            Hashed::argon2(b"correct horse"),
            Hashed::bcrypt(b"correct horse"),
        ] {
            let made = made.expect("a hash");
            let read = Hashed::read(made.text().reveal()).expect("its text form");
            assert_eq!(read, made);
            assert!(read.matches(b"correct horse"));
            assert!(!read.matches(b"correct horsf"));
            assert!(!read.matches(b""));
        }
        let twice = [Hashed::argon2(b"x"), Hashed::argon2(b"x")];
        assert_ne!(twice[0], twice[1], "each has its own salt");
    }

    #[test]
    fn hashes_of_other_programs_are_checked() {
        // Caddy's documentation of `basic_auth`; the argon2 reference implementation's own tests.
        let bcrypt = "$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG";
        assert!(matches!(Hashed::read(bcrypt), Ok(Hashed::Bcrypt(_))));
        let argon2 =
            "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
        assert!(Hashed::read(argon2).expect("a hash").matches(b"password"));
    }

    #[test]
    fn what_is_no_hash_is_told_without_showing_it() {
        for (text, error) in [
            ("hunter2", HashError::Unknown),
            (
                "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65",
                HashError::Unknown,
            ),
            ("$5$abc", HashError::Unknown),
            (
                "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ",
                HashError::Damaged("argon2id"),
            ),
            ("$argon2id$nonsense", HashError::Damaged("argon2id")),
            ("$2b$12$short", HashError::Damaged("bcrypt")),
            (
                "$argon2id$v=19$m=4000000,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
                HashError::Memory,
            ),
        ] {
            let found = Hashed::read(text).expect_err(text);
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains(text));
        }
    }

    #[test]
    fn a_password_that_bcrypt_would_cut_is_refused() {
        assert_eq!(Hashed::bcrypt(&[b'x'; 73]), Err(HashError::TooLong));
        assert!(
            Hashed::argon2(&[b'x'; 73])
                .expect("a hash")
                .matches(&[b'x'; 73])
        );
    }
}
