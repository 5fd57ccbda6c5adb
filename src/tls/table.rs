//! The certificate table: a pure map from what a ClientHello says to a certificate.
//!
//! Invariants: keys are in the form of [`host_form`]; a host is either served with one
//! certificate or turned off; a published table never changes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::certificate::ServedCertificate;
use super::policy::PolicyId;
use super::presented::Presented;
use crate::model::HostPattern;

/// What the table says of one host.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Served with this certificate.
    Certificate(Arc<Presented>),
    /// A site with `tls = "off"`: not served here, not even by the default site.
    Off,
}

/// The certificate for one connection.
#[derive(Debug)]
pub(super) struct Picked<'a> {
    pub(super) presented: &'a Arc<Presented>,
    /// The default site's, because nothing matched.
    pub(super) default: bool,
}

/// A snapshot of which certificate answers which name.
#[derive(Debug, Default)]
pub(super) struct Table {
    exact: HashMap<Box<str>, Entry>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Entry>,
    default: Option<Arc<Presented>>,
}

impl Table {
    /// Adds a host. Of the sites that a host has on different ports, the last one with TLS wins: a
    /// handshake does not know which of them it is for.
    pub(super) fn insert(&mut self, host: &HostPattern, entry: Entry) {
        let known = match host {
            HostPattern::Exact(host) => self.exact.entry(host.as_str().into()),
            HostPattern::Wildcard(rest) => self.wildcard.entry(rest.as_str().into()),
        };
        match entry {
            Entry::Off => known.or_insert(Entry::Off),
            certificate => known.insert_entry(certificate).into_mut(),
        };
    }

    /// Sets what answers when nothing matches.
    pub(super) fn set_default(&mut self, presented: Arc<Presented>) {
        self.default = Some(presented);
    }

    /// What is known of `host`, which is in the form of [`host_form`].
    pub(super) fn entry(&self, host: &str) -> Option<&Entry> {
        self.exact.get(host).or_else(|| {
            let (label, rest) = host.split_once('.')?;
            (!label.is_empty()).then(|| self.wildcard.get(rest))?
        })
    }

    /// The certificate for a connection; `None`: refuse. `local` is the address it came to.
    pub(super) fn pick(&self, sni: Option<&str>, local: Option<IpAddr>) -> Option<Picked<'_>> {
        let entry = match (sni, local) {
            (Some(sni), _) => self.entry(&host_form(sni)),
            (None, Some(ip)) => self.entry(&ip.to_canonical().to_string()),
            (None, None) => None,
        };
        match entry {
            Some(Entry::Certificate(presented)) => Some(Picked {
                presented,
                default: false,
            }),
            Some(Entry::Off) => None,
            None => self.default.as_ref().map(|presented| Picked {
                presented,
                default: true,
            }),
        }
    }

    /// The policy of the default site, if it has TLS.
    pub(super) fn default_policy(&self) -> Option<PolicyId> {
        self.default.as_ref().map(|presented| presented.policy())
    }

    /// Every certificate once, in no order.
    pub(super) fn certificates(&self) -> Vec<&Arc<ServedCertificate>> {
        let mut all: Vec<_> = self
            .exact
            .values()
            .chain(self.wildcard.values())
            .filter_map(|entry| match entry {
                Entry::Certificate(presented) => Some(presented),
                Entry::Off => None,
            })
            .chain(&self.default)
            .map(|presented| presented.certificate())
            .collect();
        all.sort_by_key(|certificate| Arc::as_ptr(certificate));
        all.dedup_by(|a, b| Arc::ptr_eq(a, b));
        all
    }
}

/// The form in which hosts are compared: lower case, no brackets, no trailing dot, addresses
/// as Rust prints them. Borrows for nearly every host that clients send.
pub(super) fn host_form(host: &str) -> Cow<'_, str> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host));
    if bare.contains(':')
        && let Ok(ip) = bare.parse::<IpAddr>()
    {
        return Cow::Owned(ip.to_string());
    }
    if bare.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(bare.to_ascii_lowercase());
    }
    Cow::Borrowed(bare)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::certificate::{Pair, Source};
    use super::super::policy::Policy;
    use super::super::tickets::TicketKeys;
    use super::*;
    use crate::clock;
    use crate::config::TlsVersion;

    static CERTIFICATE: LazyLock<Arc<Presented>> = LazyLock::new(|| {
        let made = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("made");
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let file = Path::new("");
        let pair = Pair::from_pem((file, cert.as_bytes()), (file, key.as_bytes()));
        let certificate =
            ServedCertificate::new(pair.expect("a pair"), Vec::new(), Source::Internal);
        let keys = TicketKeys::open(Path::new("/nowhere"), clock::wall()).expect("keys");
        let policy = Policy::new(TlsVersion::V1_2, None, &Arc::new(keys)).expect("a policy");
        Arc::new(Presented::new(Arc::new(certificate), Arc::new(policy)))
    });

    #[test]
    fn a_site_without_tls_on_another_port_turns_nothing_off() {
        let host: HostPattern = "a.test".parse().expect("a host");
        let certificate = || Entry::Certificate(Arc::clone(&CERTIFICATE));
        for entries in [[Entry::Off, certificate()], [certificate(), Entry::Off]] {
            let mut table = Table::default();
            for entry in entries {
                table.insert(&host, entry);
            }
            assert!(table.pick(Some("a.test"), None).is_some());
        }
    }

    fn host() -> impl Strategy<Value = String> {
        proptest::collection::vec("[abAB]", 1..4).prop_map(|labels| labels.join("."))
    }

    proptest! {
        /// Exact names hold a certificate and wildcards are off here, which tells them apart.
        #[test]
        fn a_lookup_is_exact_then_one_label(
            exact in proptest::collection::vec(host(), 0..4),
            wildcard in proptest::collection::vec(host(), 0..4),
            asked in host(),
        ) {
            let mut table = Table::default();
            for name in &exact {
                let entry = Entry::Certificate(Arc::clone(&CERTIFICATE));
                table.insert(&HostPattern::Exact(name.to_lowercase()), entry);
            }
            for name in &wildcard {
                table.insert(&HostPattern::Wildcard(name.to_lowercase()), Entry::Off);
            }
            let same = |name: &String| name.eq_ignore_ascii_case(&asked);
            let below = |name: &String| {
                asked.len() > name.len()
                    && asked.split('.').count() == name.split('.').count() + 1
                    && asked.to_lowercase().ends_with(&format!(".{}", name.to_lowercase()))
            };
            let found = match table.entry(&host_form(&asked)) {
                Some(Entry::Certificate(_)) => "exact",
                Some(Entry::Off) => "wildcard",
                None => "nothing",
            };
            let expected = if exact.iter().any(same) {
                "exact"
            } else if wildcard.iter().any(below) {
                "wildcard"
            } else {
                "nothing"
            };
            prop_assert_eq!(found, expected);
            prop_assert_eq!(table.pick(Some(&asked), None).is_some(), found == "exact");
        }
    }

    #[test]
    fn hosts_have_one_form() {
        for (written, form) in [
            ("Example.COM.", "example.com"),
            ("[2001:DB8:0::1]", "2001:db8::1"),
            ("2001:db8::0:1", "2001:db8::1"),
            ("192.0.2.1", "192.0.2.1"),
            ("", ""),
        ] {
            assert_eq!(host_form(written), form);
            assert_eq!(host_form(form), form);
        }
    }
}
