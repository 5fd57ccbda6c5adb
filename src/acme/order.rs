//! One attempt at one CA: account, order, challenges, certificate (RFC 8555 §7).
//!
//! What a later attempt needs is on disk before the next step: the account's key before the
//! account is made, the account before the first order, an order's URL and key before its first
//! challenge. So an attempt that was cut off, or that ran into its deadline, goes on with the same
//! account and order instead of spending others. Between the request for a new order and its
//! answer there is no URL to keep: what is cut off there is asked for again, and Let's Encrypt
//! then gives the order that is pending.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    ExternalAccountKey, Identifier, Key, NewAccount, NewOrder, Order, OrderStatus, Problem,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::sync::Mutex;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::challenges::{Challenges, Proof, Solver, solver};
use super::directory::{Directory, certificate_id};
use super::issuer::{Issuer, eab_key};
use super::names::NameSet;
use super::plan::{Attempt, FailureKind, Method};
use super::preflight::Stop;
use super::shelf::{AccountKey, Pending, Shelf};
use super::wire::Wire;
use crate::tls::adopt;

/// What one attempt works with.
pub(super) struct Work<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) issuer: &'a Issuer,
    pub(super) directory: &'a Directory,
    pub(super) wire: &'a Wire,
    pub(super) shelf: &'a Shelf,
    /// Held while an account is looked for and made.
    pub(super) accounts: &'a Mutex<()>,
    /// Those of another program.
    pub(super) adopted: &'a [adopt::Account],
    pub(super) challenges: &'a Arc<Challenges>,
    /// For the validations, and again for the certificate.
    pub(super) patience: Duration,
}

/// What a CA delivered: private key and chain, PEM.
pub(super) struct Delivered {
    pub(super) key: String,
    pub(super) chain: String,
}

/// Repeats a request whose nonce was refused (RFC 8555 §6.5): such a request had no effect.
/// instant-acme itself tries three times.
macro_rules! with_fresh_nonce {
    ($request:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            match $request {
                Err(error) if is_bad_nonce(&error) && tries < NONCE_TRIES => {}
                other => break other,
            }
        }
    }};
}

impl Work<'_> {
    /// Makes the order, or goes on with the one that was cut off. A delivered order stays on disk
    /// until [`Self::done`], so that a crash before its certificate is stored costs no second one.
    ///
    /// # Errors
    /// What it means for the next attempt, and why. Not cancel-safe as to proofs: they stay
    /// shown until the process ends or the next order for the name.
    pub(super) async fn run(&self) -> Result<Delivered, Stop> {
        let account = self.account().await?;
        let (mut order, key) = self.order(&account).await?;
        let delivered = self.finish(&account, &mut order, key).await;
        // After a time-out the order may still come to its end; any other failure is its end.
        if let Err(stop) = &delivered
            && !matches!(stop.kind, FailureKind::Unavailable(_))
        {
            self.done();
        }
        delivered
    }

    /// The order is over, and what it delivered is stored.
    pub(super) fn done(&self) {
        let names = &self.attempt.names;
        if let Err(error) = self.shelf.remove_pending(self.url(), names) {
            tracing::warn!(%names, %error, "finished order not removed from disk");
        }
    }

    fn url(&self) -> &str {
        self.issuer.directory(self.attempt.staging)
    }

    async fn account(&self) -> Result<Account, Stop> {
        // Orders that run at a time would each make one.
        let _first = self.accounts.lock().await;
        let builder = || Account::builder_with_http(Box::new(self.wire.clone()));
        if let Some(credentials) = self.shelf.account::<AccountCredentials>(self.url()) {
            let account = builder().from_credentials(credentials).await;
            return account.map_err(|error| self.stop(error));
        }
        if let Some(account) = self.adopt().await? {
            return Ok(account);
        }
        let eab = self.binding()?;
        let contact = self.issuer.email.as_ref();
        let contact: Vec<_> = contact
            .map(|email| format!("mailto:{email}"))
            .into_iter()
            .collect();
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        if eab.is_none()
            && let Some(account) = self.by_key(&contact).await?
        {
            return Ok(account);
        }
        let wanted = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let made = with_fresh_nonce!(
            builder()
                .create(&wanted, self.url().to_owned(), eab.as_ref())
                .await
        );
        let (account, credentials) = made.map_err(|error| self.stop(error))?;
        self.keep(&credentials)?;
        tracing::info!(
            directory = self.url(),
            account = account.id(),
            "ACME account made"
        );
        Ok(account)
    }

    /// Makes an account with a key that is on disk before the CA hears of it. Should a crash come
    /// in between, the same key finds the account that was made (RFC 8555 §7.3). The contact
    /// follows, because instant-acme takes none here; `None`: the CA wants it at once.
    async fn by_key(&self, contact: &[&str]) -> Result<Option<Account>, Stop> {
        let unusable = |error: &dyn std::fmt::Display| {
            preflight(format!(
                "the key of the ACME account cannot be used: {error}"
            ))
        };
        let stored = self.shelf.account_key(self.url());
        let stored = stored.and_then(|stored| STANDARD.decode(stored.key).ok());
        let pkcs8 = match stored {
            Some(pkcs8) => pkcs8,
            None => {
                let (_, new) = Key::generate_pkcs8().map_err(|error| unusable(&error))?;
                let pkcs8 = new.secret_pkcs8_der().to_vec();
                let key = STANDARD.encode(&pkcs8);
                let kept = self.shelf.put_account_key(self.url(), &AccountKey { key });
                kept.map_err(|error| unusable(&error))?;
                pkcs8
            }
        };
        let key = || {
            let der = PrivatePkcs8KeyDer::from(pkcs8.clone());
            Ok::<_, Error>((Key::from_pkcs8_der(der.clone_key())?, der.into()))
        };
        let made = with_fresh_nonce!(match key() {
            Ok(key) => {
                let builder = Account::builder_with_http(Box::new(self.wire.clone()));
                builder.create_from_key(key, self.url().to_owned()).await
            }
            Err(error) => Err(error),
        });
        let (account, credentials) = match made {
            Ok(made) => made,
            Err(Error::Api(problem)) if NEEDS_CONTACT.contains(&kind(&problem)) => {
                return Ok(None);
            }
            Err(error) => return Err(self.stop(error)),
        };
        if !contact.is_empty() {
            let told = with_fresh_nonce!(account.update_contacts(contact).await);
            told.map_err(|error| self.stop(error))?;
        }
        self.keep(&credentials)?;
        if let Err(error) = self.shelf.remove_account_key(self.url()) {
            tracing::warn!(%error, "key of an ACME account not removed from disk");
        }
        tracing::info!(
            directory = self.url(),
            account = account.id(),
            "ACME account made"
        );
        Ok(Some(account))
    }

    fn keep(&self, credentials: &AccountCredentials) -> Result<(), Stop> {
        let kept = self.shelf.put_account(self.url(), credentials);
        kept.map_err(|error| preflight(format!("the ACME account cannot be stored: {error}")))
    }

    /// The account that another program has at this CA, if the CA still knows it.
    async fn adopt(&self) -> Result<Option<Account>, Stop> {
        let url = self.url();
        for adopted in self.adopted.iter().filter(|adopted| adopted.is_at(url)) {
            let file = adopted.key.display();
            let pkcs8 = match adopted.private_key() {
                Ok(pkcs8) => pkcs8,
                Err(error) => {
                    tracing::warn!(%error, "ACME account not adopted");
                    continue;
                }
            };
            let key = || {
                let key = Key::from_pkcs8_der(pkcs8.clone_key())?;
                Ok::<_, Error>((key, pkcs8.clone_key().into()))
            };
            let found = with_fresh_nonce!(match key() {
                Ok(key) => {
                    let builder = Account::builder_with_http(Box::new(self.wire.clone()));
                    builder.from_key(key, url.to_owned()).await
                }
                Err(error) => Err(error),
            });
            match found {
                Ok((account, credentials)) => {
                    self.keep(&credentials)?;
                    tracing::info!(directory = url, account = account.id(), %file, "ACME account adopted");
                    return Ok(Some(account));
                }
                Err(Error::Api(problem)) => {
                    tracing::warn!(directory = url, %file, error = words(&problem), "ACME account not adopted");
                }
                Err(error) => return Err(self.stop(error)),
            }
        }
        Ok(None)
    }

    fn binding(&self) -> Result<Option<ExternalAccountKey>, Stop> {
        match &self.issuer.eab {
            // A staging directory has accounts of its own.
            Some(eab) if !self.attempt.staging => {
                let key = eab_key(eab.key.reveal());
                let key = key.ok_or_else(|| preflight("acme.eab_key is not base64".to_owned()))?;
                Ok(Some(ExternalAccountKey::new(eab.key_id.clone(), &key)))
            }
            _ if self.directory.meta.external_account_required => Err(Stop {
                kind: FailureKind::Refused,
                message: format!(
                    "{} needs an account of its own first: set acme.eab_key_id and acme.eab_key",
                    self.url()
                ),
            }),
            _ => Ok(None),
        }
    }

    /// The order that was cut off, or a new one, with the key of its certificate.
    async fn order(&self, account: &Account) -> Result<(Order, KeyPair), Stop> {
        let names = &self.attempt.names;
        let pending = self.shelf.pending(self.url(), names);
        // One that was stored before a crash is not what this attempt is for.
        if let Some(pending) = pending.filter(|pending| !self.shelf.holds(names, pending)) {
            let key = KeyPair::from_pem(&pending.key);
            let resumed = with_fresh_nonce!(account.order(pending.url.clone()).await);
            match (resumed, key) {
                (Ok(mut order), Ok(key)) => {
                    if order.state().status != OrderStatus::Invalid {
                        tracing::info!(%names, order = order.url(), "order resumed");
                        return Ok((order, key));
                    }
                }
                // Only the CA's own word says that the order is gone.
                (Err(error), _) if !matches!(error, Error::Api(_)) => return Err(self.stop(error)),
                (Err(_), _) | (_, Err(_)) => {}
            }
            let removed = self.shelf.remove_pending(self.url(), names);
            removed.map_err(|error| preflight(error.to_string()))?;
        }
        let key = KeyPair::generate().map_err(|error| preflight(error.to_string()))?;
        let order = self.new_order(account).await?;
        let pending = Pending {
            url: order.url().to_owned(),
            key: key.serialize_pem(),
        };
        let kept = self.shelf.put_pending(self.url(), names, &pending);
        kept.map_err(|error| preflight(format!("the order cannot be stored: {error}")))?;
        Ok((order, key))
    }

    async fn new_order(&self, account: &Account) -> Result<Order, Stop> {
        let names = self.attempt.names.names();
        let identifiers: Vec<_> = names.iter().cloned().map(Identifier::Dns).collect();
        let profile = self.issuer.profile.as_deref();
        let wanted = || {
            let wanted = NewOrder::new(&identifiers);
            match profile.filter(|_| !self.attempt.staging) {
                Some(profile) => wanted.profile(profile),
                None => wanted,
            }
        };
        if let Some((authority, serial)) = self.replaced() {
            let replacing = wanted().replaces(CertificateIdentifier {
                authority_key_identifier: authority.into(),
                serial: serial.into(),
            });
            match with_fresh_nonce!(account.new_order(&replacing).await) {
                Ok(order) => return Ok(order),
                // Replaced already, or the certificate of another CA: order without.
                Err(Error::Api(problem)) if NOT_REPLACEABLE.contains(&kind(&problem)) => {}
                Err(error) => return Err(self.stop(error)),
            }
        }
        let order = with_fresh_nonce!(account.new_order(&wanted()).await);
        order.map_err(|error| self.stop(error))
    }

    /// The certificate that the order replaces, where the CA wants to know (RFC 9773 §5).
    fn replaced(&self) -> Option<(String, String)> {
        self.directory.renewal_info.as_ref()?;
        if self.attempt.staging {
            return None;
        }
        let stored = self.shelf.certificate(&self.attempt.names).ok()??;
        certificate_id(&stored)
    }

    async fn finish(
        &self,
        account: &Account,
        order: &mut Order,
        key: KeyPair,
    ) -> Result<Delivered, Stop> {
        if order.state().status == OrderStatus::Pending {
            let solver = solver(self.attempt.method, self.challenges);
            let mut shown = Vec::new();
            let validated = self.validate(order, solver.as_ref(), &mut shown).await;
            for proof in &shown {
                solver.withdraw(proof).await;
            }
            validated?;
        }
        if order.state().status == OrderStatus::Ready {
            let request = request(&self.attempt.names, &key)?;
            with_fresh_nonce!(order.finalize_csr(&request).await)
                .map_err(|error| self.stop(error))?;
        }
        let policy = policy(self.patience);
        let chain = with_fresh_nonce!(order.poll_certificate(&policy).await)
            .map_err(|error| self.stop(error))?;
        let chain = self.preferred(account, chain).await;
        let key = key.serialize_pem();
        Ok(Delivered { key, chain })
    }

    /// Shows every proof that is still needed and waits for the CA's judgement.
    async fn validate(
        &self,
        order: &mut Order,
        solver: &dyn Solver,
        shown: &mut Vec<Proof>,
    ) -> Result<(), Stop> {
        let mut asked = BTreeSet::new();
        let asked = with_fresh_nonce!(self.challenge(order, solver, shown, &mut asked).await);
        if let Err(error) = asked {
            let from_ca = matches!(error, Error::Api(_));
            let stop = self.stop(error);
            // A quick CA judges before it answers that it will; the authorization says more.
            return Err(match stop.kind {
                FailureKind::Validation if from_ca => self.refusal(order).await,
                _ => stop,
            });
        }
        let policy = policy(self.patience);
        match with_fresh_nonce!(order.poll_ready(&policy).await) {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(self.refusal(order).await),
            // Some CAs put the challenge's problem there, some a bare one.
            Err(Error::Api(_)) => Err(self.refusal(order).await),
            Err(error) => Err(self.stop(error)),
        }
    }

    async fn challenge(
        &self,
        order: &mut Order,
        solver: &dyn Solver,
        shown: &mut Vec<Proof>,
        asked: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        let mut all = order.authorizations();
        while let Some(authorization) = all.next().await {
            let mut authorization = authorization?;
            let url = authorization.url().to_owned();
            if authorization.status != AuthorizationStatus::Pending || asked.contains(&url) {
                continue;
            }
            let name = authorization.identifier().to_string();
            let kind = match self.attempt.method {
                Method::Http01 => ChallengeType::Http01,
                Method::TlsAlpn01 => ChallengeType::TlsAlpn01,
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                let method = self.attempt.method.as_str();
                let message = format!("the CA offers no {method} for {name}");
                return Err(Error::Other(Box::new(NotOffered(message))));
            };
            let authorization = challenge.key_authorization();
            let mut digest = [0; 32];
            digest.copy_from_slice(authorization.digest().as_ref());
            let proof = Proof {
                name,
                token: challenge.token.clone(),
                key_authorization: authorization.as_str().to_owned(),
                digest,
            };
            let presented = solver.present(&proof).await;
            shown.push(proof);
            presented.map_err(|why| Error::Other(why.into()))?;
            with_fresh_nonce!(challenge.set_ready().await)?;
            asked.insert(url);
        }
        Ok(())
    }

    /// Why the order became invalid: the problem of the challenge that failed.
    async fn refusal(&self, order: &mut Order) -> Stop {
        let mut said = Vec::new();
        let mut all = order.authorizations();
        while let Some(Ok(mut authorization)) = all.next().await {
            if with_fresh_nonce!(authorization.refresh().await).is_err() {
                continue;
            }
            let name = authorization.identifier().to_string();
            let problems = authorization.challenges.iter();
            let problems = problems.filter_map(|challenge| challenge.error.as_ref());
            said.extend(problems.map(|problem| format!("{name}: {}", words(problem))));
        }
        if said.is_empty() {
            let state = order.state();
            let text = state.error.as_ref().map(words);
            let text = text.unwrap_or_else(|| "the CA gave no reason".to_owned());
            said.push(format!("{}: {text}", self.attempt.names));
        }
        Stop {
            kind: FailureKind::Validation,
            message: said.join("; "),
        }
    }

    /// The chain that ends at the preferred issuer, else the one that came first. Failing to
    /// fetch another is no reason to have none.
    async fn preferred(&self, account: &Account, first: String) -> String {
        let Some(wanted) = &self.issuer.preferred_chain else {
            return first;
        };
        if top_issuer(&first).as_ref() == Some(wanted) {
            return first;
        }
        let alternates = std::mem::take(&mut self.wire.seen().alternates);
        for url in alternates {
            // Only an order can be asked for, and a chain is none: the request is the same
            // POST-as-GET, and its body is taken from the wire.
            let _ = with_fresh_nonce!(account.order(url.clone()).await);
            let chain = {
                let seen = self.wire.seen();
                let good = seen.status.is_some_and(|status| status.is_success());
                String::from_utf8(seen.body.to_vec()).ok().filter(|_| good)
            };
            if let Some(chain) = chain
                && top_issuer(&chain).as_ref() == Some(wanted)
            {
                return chain;
            }
        }
        tracing::warn!(wanted, "the CA has no such chain; its default is used");
        first
    }

    /// What an error of the CA means.
    fn stop(&self, error: Error) -> Stop {
        let (retry_at, status) = {
            let seen = self.wire.seen();
            (seen.retry_at, seen.status)
        };
        let unavailable = FailureKind::Unavailable(retry_at);
        let (kind, message) = match &error {
            Error::Api(problem) => {
                let kind = match kind(problem) {
                    "rateLimited" => FailureKind::Limited(retry_at),
                    "serverInternal" | "badNonce" => unavailable,
                    "accountDoesNotExist" => {
                        self.forget_account();
                        unavailable
                    }
                    "caa" => FailureKind::Forbidden,
                    "connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized" => {
                        FailureKind::Validation
                    }
                    _ if status.is_some_and(|status| status.is_server_error()) => unavailable,
                    _ => FailureKind::Refused,
                };
                (kind, words(problem))
            }
            Error::Other(other) if other.is::<NotOffered>() => {
                (FailureKind::Validation, other.to_string())
            }
            Error::Json(_) => {
                let status = status.map_or_else(String::new, |status| format!(" ({status})"));
                (
                    unavailable,
                    format!("{}: the answer is no ACME{status}", self.url()),
                )
            }
            Error::Timeout(_) => {
                let waited = self.patience.as_secs();
                (
                    unavailable,
                    format!("the CA did not decide within {waited} s"),
                )
            }
            other => (unavailable, format!("{}: {other}", self.url())),
        };
        Stop { kind, message }
    }

    fn forget_account(&self) {
        if let Err(error) = self.shelf.retire_account(self.url()) {
            tracing::error!(%error, "ACME account that the CA does not know not set aside");
        }
    }
}

/// A challenge that the CA does not offer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotOffered(String);

fn preflight(message: String) -> Stop {
    Stop {
        kind: FailureKind::Preflight,
        message,
    }
}

/// A certificate request for the names, without a subject: a common name has 64 characters at
/// most and is looked at by nobody.
fn request(names: &NameSet, key: &KeyPair) -> Result<Vec<u8>, Stop> {
    let made = || {
        let mut params = CertificateParams::new(names.names().to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(key)?;
        Ok::<_, rcgen::Error>(request.der().to_vec())
    };
    made().map_err(|error| preflight(format!("no certificate request: {error}")))
}

/// Common name of the issuer of a chain's last certificate.
fn top_issuer(chain: &str) -> Option<String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let last = CertificateDer::pem_slice_iter(chain.as_bytes())
        .last()?
        .ok()?;
    let (_, certificate) = X509Certificate::from_der(&last).ok()?;
    let name = certificate.issuer().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if kind(problem) == "badNonce")
}

/// The last part of `urn:ietf:params:acme:error:...`.
fn kind(problem: &Problem) -> &str {
    let name = problem.r#type.as_deref().unwrap_or_default();
    name.rsplit(':').next().unwrap_or_default()
}

/// The CA's own words, with those on single names.
fn words(problem: &Problem) -> String {
    let mut text = problem
        .detail
        .clone()
        .unwrap_or_else(|| "no detail".to_owned());
    for part in &problem.subproblems {
        if let Some(detail) = &part.detail {
            text.push_str("; ");
            text.push_str(detail);
        }
    }
    match problem.r#type.as_deref() {
        Some(_) => format!("{text} ({})", kind(problem)),
        None => text,
    }
}

fn policy(patience: Duration) -> RetryPolicy {
    let first = Duration::from_millis(250);
    RetryPolicy::new()
        .initial_delay(first)
        .backoff(1.5)
        .timeout(patience)
}

/// A CA that takes no account without a contact.
const NEEDS_CONTACT: [&str; 2] = ["invalidContact", "unsupportedContact"];

/// What a CA says to a `replaces` that it does not accept (RFC 9773 §5).
const NOT_REPLACEABLE: [&str; 4] = ["alreadyReplaced", "malformed", "unauthorized", "conflict"];

/// Half of all nonces refused for this often is one in a million.
const NONCE_TRIES: u32 = 8;
