//! CAA records of a name (RFC 8659): who may issue certificates for it.

use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::resolver::{LookupError, PATIENCE, Resolver, reason};

/// One CAA record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caa {
    /// Whoever does not know the tag must not issue.
    pub critical: bool,
    /// `issue`, `issuewild`, `iodef`, ...; lower case.
    pub tag: String,
    /// What it says, as text.
    pub value: String,
}

impl Resolver {
    /// The CAA records of `name` itself, without climbing to its parents; empty when it has
    /// none or does not exist.
    ///
    /// # Errors
    /// Nobody answered, or not usefully. Cancel-safe.
    pub async fn caa(&self, name: &str) -> Result<Vec<Caa>, LookupError> {
        let dns = self.dns().await.ok_or(LookupError::NoServer)?;
        // With its final dot no search domain is tried.
        let name = format!("{}.", name.trim_end_matches('.'));
        let lookup = dns.lookup(name.as_str(), RecordType::CAA);
        let found = tokio::time::timeout(PATIENCE, lookup)
            .await
            .unwrap_or(Err(NetError::Timeout));
        match found {
            Ok(lookup) => Ok(lookup
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::CAA(caa) => Some(Caa {
                        critical: caa.issuer_critical,
                        tag: caa.tag.to_ascii_lowercase(),
                        value: String::from_utf8_lossy(&caa.value).into_owned(),
                    }),
                    _ => None,
                })
                .collect()),
            Err(error) => match reason(&error) {
                LookupError::NoAddress | LookupError::NoSuchName => Ok(Vec::new()),
                other => Err(other),
            },
        }
    }
}
