//! Who a client is by its certificate, in the words that the upstream is told.

use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::ServerConnection;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::certificate::Leaf;
use super::tickets::hex;

/// The verified certificate of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject as RFC 4514 writes it, most specific part first (`CN=ann,O=Example`); every
    /// byte is visible ASCII or a space. May be empty.
    pub subject: String,
    /// SHA-256 of the certificate, 64 lower-case hexadecimal digits.
    pub fingerprint: String,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl ClientCertificate {
    /// What the handshake verified; `None`: the client showed nothing.
    pub(super) fn of(connection: &ServerConnection) -> Option<Self> {
        let der = connection.peer_certificates()?.first()?;
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self {
            subject: distinguished_name(certificate.subject()),
            fingerprint: hex(digest::digest(&digest::SHA256, der).as_ref()),
            not_after: Leaf::from_der(der).ok()?.not_after,
        })
    }
}

/// A distinguished name by RFC 4514: unlike most printed forms, no value can look like a part
/// of its own.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<String> = name
        .iter()
        .map(|part| {
            let values: Vec<String> = part.iter().map(attribute).collect();
            values.join("+")
        })
        .collect();
    let parts: Vec<&str> = parts.iter().rev().map(String::as_str).collect();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let known = NAMES.iter().find(|(id, _)| *id == oid);
    match (known, attribute.as_str()) {
        (Some((_, name)), Ok(value)) => format!("{name}={}", escaped(value)),
        // RFC 4514 §2.4: what has no name is written as its encoding.
        _ => {
            let value = attribute.attr_value();
            format!("{oid}=#{}", hex(value.data))
        }
    }
}

/// The names of RFC 4514 §3 and one more that clients' certificates often have.
const NAMES: [(&str, &str); 10] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// RFC 4514 §2.4, with everything outside visible ASCII as pairs of digits.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' | b' ' if at == 0 => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            other => {
                text.push('\\');
                text.push_str(&hex(&[other]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn subject(parts: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("made");
        let (_, certificate) = X509Certificate::from_der(made.der()).expect("parsed");
        distinguished_name(certificate.subject())
    }

    #[test]
    fn a_subject_is_written_most_specific_first_and_cannot_be_forged_by_its_values() {
        use DnType::{CommonName, OrganizationName};
        assert_eq!(
            subject(&[(OrganizationName, "Example"), (CommonName, "ann")]),
            "CN=ann,O=Example"
        );
        assert_eq!(
            subject(&[(CommonName, "ann,O=Admins+OU=x")]),
            "CN=ann\\,O\\=Admins\\+OU\\=x"
        );
        assert_eq!(
            subject(&[(CommonName, "a\r\nX-Admin: 1")]),
            "CN=a\\0d\\0aX-Admin: 1"
        );
        assert_eq!(subject(&[(CommonName, " #é ")]), "CN=\\ #\\c3\\a9\\ ");
        assert_eq!(
            subject(&[(DnType::CustomDnType(vec![1, 2, 3, 4]), "x")]),
            "1.2.3.4=#78"
        );
        assert_eq!(subject(&[]), "");
    }
}
