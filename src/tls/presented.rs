//! A certificate under the policy of a site, ready for handshakes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;

use super::certificate::ServedCertificate;
use super::policy::{Policy, PolicyId};

/// What a connection is answered with.
pub(super) struct Presented {
    certificate: Arc<ServedCertificate>,
    policy: Arc<Policy>,
    config: Arc<ServerConfig>,
}

impl Presented {
    pub(super) fn new(certificate: Arc<ServedCertificate>, policy: Arc<Policy>) -> Self {
        let config = policy.present(certificate.key());
        Self {
            certificate,
            policy,
            config,
        }
    }

    pub(super) fn certificate(&self) -> &Arc<ServedCertificate> {
        &self.certificate
    }

    pub(super) fn policy(&self) -> PolicyId {
        self.policy.id()
    }

    pub(super) fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presented").field(&self.certificate).finish()
    }
}

/// The presented certificates of one table, so that the next table shares what stays: building
/// it costs a lookup for each host, and no connection's configuration is made twice.
#[derive(Default)]
pub(super) struct Presenter {
    /// By the certificate's address, which is its own while this map holds it.
    known: HashMap<(usize, PolicyId), Arc<Presented>>,
    before: HashMap<(usize, PolicyId), Arc<Presented>>,
}

impl Presenter {
    /// Begins another table.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.known);
    }

    /// Forgets what the new table does not have.
    pub(super) fn end(&mut self) {
        self.before = HashMap::new();
    }

    pub(super) fn present(
        &mut self,
        certificate: &Arc<ServedCertificate>,
        policy: &Arc<Policy>,
    ) -> Arc<Presented> {
        let key = (Arc::as_ptr(certificate).addr(), policy.id());
        let known = self.known.entry(key).or_insert_with(|| {
            self.before.remove(&key).unwrap_or_else(|| {
                Arc::new(Presented::new(Arc::clone(certificate), Arc::clone(policy)))
            })
        });
        Arc::clone(known)
    }
}
