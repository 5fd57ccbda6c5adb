//! What another proxy left behind, for the sites that would otherwise wait for an order.

use tracing::{info, warn};

use crate::clock;
use crate::config::{Site, Tls};
use crate::model::HostPattern;
use crate::tls;
use crate::tls::adopt::{Account, Legacy, Places};

/// The certificates and accounts of Caddy and certbot on this machine. They are read once, before
/// root is given up; a site that comes later may still need one.
#[derive(Debug, Default)]
pub(super) struct Adoption(Legacy);

impl Adoption {
    /// Reads what is in the usual places. Blocks.
    pub(super) fn read() -> Self {
        Self(Legacy::read(&usual_places()))
    }

    /// ACME accounts, for [`crate::acme`].
    pub(super) fn accounts(&self) -> Vec<Account> {
        self.0.accounts.clone()
    }

    /// Serves what fits the sites of `new` that are not in `old`.
    pub(super) fn serve(&self, store: &tls::Store, old: &[Site], new: &[Site]) {
        let known = certified(old);
        let mut hosts = certified(new);
        hosts.retain(|host| !known.contains(host));
        if hosts.is_empty() {
            return;
        }
        if known.is_empty() {
            for error in &self.0.unusable {
                warn!(%error, "a certificate of another program cannot be adopted");
            }
        }
        for adopted in store.adopt(self.0.fitting(&hosts, clock::wall())) {
            let names: Vec<_> = adopted.names.iter().map(ToString::to_string).collect();
            let not_after = clock::rfc3339(adopted.not_after);
            info!(names = names.join(" "), issuer = adopted.issuer, %not_after, source = ?adopted.source, "certificate adopted");
        }
    }
}

/// Where other programs keep theirs, as the environment of this process says.
pub(super) fn usual_places() -> Places {
    Places::usual(|name| std::env::var_os(name).map(Into::into))
}

/// The hosts that want a certificate of a public CA.
fn certified(sites: &[Site]) -> Vec<HostPattern> {
    let auto = sites.iter().filter(|site| site.tls == Tls::Auto);
    auto.flat_map(|site| site.hosts.iter().cloned()).collect()
}
