//! Hashes of passwords: only whether they are of a form that can be verified, and how strong.
//!
//! A hash is a secret too: no message shows it.

use super::Value;
use crate::config::Secret;
use crate::config::parse::value::{self, Parsed};
use crate::config::step::Hashed;

/// What `proxyctl config` prints in place of a hash. Read back, so that its output is a valid
/// file; no password matches it.
pub(in crate::config) const MASKED: [&str; 2] = ["$argon2id$***", "$2b$***"];

/// `$argon2id$v=19$m=...,t=...,p=...$SALT$HASH` or `$2b$COST$...`.
pub(super) fn read(value: &Value) -> Parsed<Hashed> {
    let text = value::text(value)?;
    let make = "proxyctl hash-password makes one";
    if text.starts_with("$argon2id$") {
        return match argon2(&text) {
            Some(_) => Hashed::read(&text).map_err(|error| error.to_string()),
            None if text == MASKED[0] => Ok(Hashed::Argon2(Secret::new(text))),
            None => Err(format!("not a whole argon2id hash; {make}")),
        };
    }
    if ["$2a$", "$2b$", "$2y$"]
        .iter()
        .any(|kind| text.starts_with(kind))
    {
        return match cost(&text) {
            Some(_) => Hashed::read(&text).map_err(|error| error.to_string()),
            None if text == MASKED[1] => Ok(Hashed::Bcrypt(Secret::new(text))),
            None => Err(format!("not a whole bcrypt hash; {make}")),
        };
    }
    let kind = match text.split('$').nth(1) {
        Some("apr1" | "1") => "an MD5 hash",
        Some("argon2i" | "argon2d") => "another kind of argon2",
        Some("5" | "6") => "a crypt(3) hash",
        _ if text.starts_with("{SHA}") => "a SHA-1 hash",
        _ => "no hash of a password",
    };
    Err(format!(
        "{kind}; only argon2id and bcrypt are verified: {make}"
    ))
}

/// What is too weak about it (OWASP Password Storage, 2023: argon2id with 19 MiB and two passes,
/// bcrypt with cost 10 at least).
pub(super) fn weakness(hash: &Hashed) -> Option<String> {
    match hash {
        Hashed::Argon2(hash) | Hashed::Bcrypt(hash) if MASKED.contains(&hash.reveal()) => {
            Some("was masked by proxyctl config: no password matches it".to_owned())
        }
        Hashed::Argon2(hash) => {
            let (memory, passes) = argon2(hash.reveal())?;
            let weak = memory < 7 * 1024 || u64::from(memory) * u64::from(passes) < 35 * 1024;
            weak.then(|| {
                format!(
                    "m={memory},t={passes} can be guessed at fast; at least m=19456,t=2 is usual"
                )
            })
        }
        Hashed::Bcrypt(hash) => {
            let cost = cost(hash.reveal())?;
            (cost < 10).then(|| format!("cost {cost} can be guessed at fast; at least 10 is usual"))
        }
    }
}

/// Memory in KiB and passes of an argon2id hash in PHC form.
fn argon2(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix("$argon2id$")?.split('$');
    let mut part = parts.next()?;
    if let Some(version) = part.strip_prefix("v=") {
        version
            .parse::<u32>()
            .ok()
            .filter(|version| *version == 19)?;
        part = parts.next()?;
    }
    let (mut memory, mut passes, mut lanes) = (None, None, None);
    for parameter in part.split(',') {
        let (name, value) = parameter.split_once('=')?;
        let slot = match name {
            "m" => &mut memory,
            "t" => &mut passes,
            "p" => &mut lanes,
            _ => return None,
        };
        *slot = Some(value.parse().ok().filter(|value| *value > 0)?);
    }
    let base64 = |text: &str, least: usize| {
        text.len() >= least
            && (text.bytes()).all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b))
    };
    let (salt, hash) = (parts.next()?, parts.next()?);
    let lanes: u32 = lanes?;
    let whole = parts.next().is_none() && base64(salt, 8) && base64(hash, 16) && lanes <= 255;
    whole.then_some((memory?, passes?))
}

/// Cost of a bcrypt hash.
fn cost(text: &str) -> Option<u32> {
    let (cost, rest) = text.get(4..)?.split_once('$')?;
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b"./".contains(&b);
    let whole = cost.len() == 2 && rest.len() == 53 && rest.bytes().all(base64);
    let cost = cost.parse().ok()?;
    (whole && (4..=31).contains(&cost)).then_some(cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let value = Value::Text {
            text: text.to_owned(),
            is_variable: false,
        };
        match read(&value) {
            Ok(hash) => weakness(&hash).unwrap_or_else(|| "strong".to_owned()),
            Err(error) => error,
        }
    }

    #[test]
    fn only_whole_hashes_that_can_be_verified_are_taken_and_weak_ones_are_told() {
        let bcrypt = |cost: &str| {
            format!(
                "$2a${cost}${}",
                "N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"
            )
        };
        let cases = [
            (
                "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA".to_owned(),
                "strong",
            ),
            (
                "$argon2id$v=19$m=4096,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA".to_owned(),
                "guessed",
            ),
            (
                "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ".to_owned(),
                "not a whole argon2id",
            ),
            (
                "$argon2id$v=16$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA".to_owned(),
                "not a whole",
            ),
            (
                "$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA".to_owned(),
                "another kind",
            ),
            (bcrypt("12"), "strong"),
            (bcrypt("04"), "cost 4"),
            (bcrypt("03"), "not a whole bcrypt"),
            (bcrypt("1"), "not a whole bcrypt"),
            ("$2b$12$short".to_owned(), "not a whole bcrypt"),
            ("$2b$".to_owned(), "not a whole bcrypt"),
            ("$apr1$salt$hash".to_owned(), "MD5"),
            ("{SHA}abc=".to_owned(), "SHA-1"),
            ("hunter2".to_owned(), "no hash"),
            ("$argon2id$***".to_owned(), "masked"),
            ("$2b$***".to_owned(), "masked"),
        ];
        for (hash, wanted) in cases {
            let said = said(&hash);
            assert!(said.contains(wanted), "{hash}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
