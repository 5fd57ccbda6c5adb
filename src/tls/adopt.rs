//! Certificates that another program left behind: a Caddy data folder, certbot's tree.
//!
//! Who replaces the container of another proxy should not spend an order, nor serve a minute
//! without trust. What is there is only read: the folders stay as they are, and the way back
//! stays open.
//!
//! | program | chain and key |
//! |---|---|
//! | Caddy | `DATA/certificates/ISSUER/NAME/NAME.crt`, `.key` |
//! | certbot | `/etc/letsencrypt/live/NAME/fullchain.pem`, `privkey.pem` |
//!
//! Not adopted: what is not valid now, what no browser trusts (Caddy's own `local` CA, staging
//! directories), what names none of the hosts that are asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificate::Pair;
use super::error::{Fault, TlsError};
use crate::config::Secret;
use crate::model::HostPattern;

/// Where other programs keep their certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Caddy's data folders: those with `certificates` in them.
    pub caddy: Vec<PathBuf>,
    /// certbot's folders: those with `live` in them.
    pub certbot: Vec<PathBuf>,
}

impl Places {
    /// Where the programs put them by default: Caddy's container and packages, the folders of
    /// the user and of the environment, `/etc/letsencrypt`. `variable` reads the environment.
    #[must_use]
    pub fn usual(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let mut caddy: Vec<PathBuf> = vec!["/data/caddy".into()];
        caddy.extend(variable("XDG_DATA_HOME").map(|data| data.join("caddy")));
        caddy.extend(variable("HOME").map(|home| home.join(".local/share/caddy")));
        caddy.push("/var/lib/caddy/.local/share/caddy".into());
        caddy.dedup();
        Self {
            caddy,
            certbot: vec!["/etc/letsencrypt".into()],
        }
    }
}

/// What another program left behind: all of it, so that it needs to be read only once, while this
/// process may read it.
#[derive(Debug, Default)]
pub struct Legacy {
    pairs: Vec<Left>,
    /// What looked like a certificate and could not be used. Worth a warning each.
    pub unusable: Vec<TlsError>,
    /// ACME accounts of Caddy.
    pub accounts: Vec<Account>,
}

/// A certificate with its key, whoever it is for.
#[derive(Debug)]
struct Left {
    cert: PathBuf,
    key: PathBuf,
    pair: Pair,
}

/// A valid certificate with its key.
#[derive(Debug)]
pub struct Adopted {
    /// The hosts it is for, of those asked for; no other adopted one is.
    pub names: Vec<HostPattern>,
    /// The chain's file.
    pub cert: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    /// Valid until.
    pub not_after: SystemTime,
    pub(super) pair: Pair,
}

/// An ACME account as Caddy keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Caddy's name for the directory: its host and path with dashes.
    pub directory: String,
    /// JSON of the account, with its `location`.
    pub json: PathBuf,
    /// Where its key is.
    pub key: PathBuf,
    /// PEM of the key.
    pem: Secret,
}

impl Account {
    /// Whether it is an account of the CA with this directory URL.
    #[must_use]
    pub fn is_at(&self, url: &str) -> bool {
        let name = url.split_once("://").map_or(url, |(_, rest)| rest);
        let dashes: String = name
            .chars()
            .map(|c| if matches!(c, '/' | ':') { '-' } else { c })
            .collect();
        dashes
            .trim_end_matches('-')
            .eq_ignore_ascii_case(&self.directory)
    }

    /// Its private key (P-256) as PKCS #8.
    ///
    /// # Errors
    /// The file holds no such key.
    pub fn private_key(&self) -> Result<PrivatePkcs8KeyDer<'static>, TlsError> {
        let file = self.key.as_path();
        let wrong =
            |why: &dyn std::fmt::Display| TlsError::new(file, Fault::Setup(why.to_string()));
        let der = PrivateKeyDer::from_pem_slice(self.pem.reveal().as_bytes())
            .map_err(|error| wrong(&error))?;
        // Caddy writes SEC 1.
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_der(algorithm, der.secret_der())
            .map_err(|error| wrong(&error))?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|error| wrong(&error))?;
        Ok(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()))
    }
}

impl Legacy {
    /// Reads what is there. Folders that do not exist are nothing unusual. Blocks.
    #[must_use]
    pub fn read(places: &Places) -> Self {
        let mut found = Self::default();
        let mut pairs = Vec::new();
        for data in &places.caddy {
            caddy(data, &mut pairs, &mut found);
        }
        for folder in &places.certbot {
            certbot(folder, &mut pairs, &mut found);
        }
        for (cert, key) in pairs {
            match read(&cert, &key) {
                Ok(pair) => found.pairs.push(Left { cert, key, pair }),
                Err(error) => found.unusable.push(error),
            }
        }
        found
    }

    /// The certificates for `hosts` that are valid now, for [`super::Store::adopt`]. For every
    /// host the one wins that is valid longest.
    #[must_use]
    pub fn fitting(&self, hosts: &[HostPattern], now: SystemTime) -> Vec<Adopted> {
        let valid = |left: &&Left| {
            let leaf = left.pair.leaf();
            leaf.not_before <= now && now < leaf.not_after
        };
        let valid: Vec<&Left> = self.pairs.iter().filter(valid).collect();
        let mut chosen: BTreeMap<usize, Vec<HostPattern>> = BTreeMap::new();
        for host in hosts {
            let best = valid
                .iter()
                .enumerate()
                .filter(|(_, left)| left.pair.leaf().names_pattern(host))
                .max_by_key(|(_, left)| left.pair.leaf().not_after);
            if let Some((at, _)) = best {
                chosen.entry(at).or_default().push(host.clone());
            }
        }
        let adopted = chosen.into_iter().map(|(at, names)| {
            let left = valid[at];
            Adopted {
                names,
                cert: left.cert.clone(),
                key: left.key.clone(),
                not_after: left.pair.leaf().not_after,
                pair: left.pair.clone(),
            }
        });
        adopted.collect()
    }
}

fn caddy(data: &Path, pairs: &mut Vec<(PathBuf, PathBuf)>, found: &mut Legacy) {
    for issuer in folder(&data.join("certificates"), found) {
        if !is_public(&name_of(&issuer)) {
            continue;
        }
        for site in folder(&issuer, found) {
            let stem = name_of(&site);
            let cert = site.join(format!("{stem}.crt"));
            let key = site.join(format!("{stem}.key"));
            if cert.exists() || key.exists() {
                pairs.push((cert, key));
            }
        }
    }
    for directory in folder(&data.join("acme"), found) {
        for user in folder(&directory.join("users"), found) {
            let files = folder(&user, found);
            let json = files.iter().find(|file| has_extension(file, "json"));
            let key = files.iter().find(|file| has_extension(file, "key"));
            if let (Some(json), Some(key)) = (json, key) {
                match fs::read_to_string(key) {
                    Ok(pem) => found.accounts.push(Account {
                        directory: name_of(&directory),
                        json: json.clone(),
                        key: key.clone(),
                        pem: Secret::new(pem),
                    }),
                    Err(error) => {
                        let fault = Fault::Unreadable(error);
                        found.unusable.push(TlsError::new(key, fault));
                    }
                }
            }
        }
    }
}

fn certbot(root: &Path, pairs: &mut Vec<(PathBuf, PathBuf)>, found: &mut Legacy) {
    for lineage in folder(&root.join("live"), found) {
        if !lineage.is_dir() {
            continue;
        }
        let renewal = root
            .join("renewal")
            .join(format!("{}.conf", name_of(&lineage)));
        // `server = https://...`: the directory that the certificate is from.
        let server = fs::read_to_string(renewal).unwrap_or_default();
        let staging = server
            .lines()
            .filter(|line| line.trim_start().starts_with("server"))
            .any(|line| !is_public(line));
        if !staging {
            let (cert, key) = (lineage.join("fullchain.pem"), lineage.join("privkey.pem"));
            pairs.push((cert, key));
        }
    }
}

/// Whether certificates of this issuer are meant for the public.
fn is_public(issuer: &str) -> bool {
    issuer != "local" && !issuer.contains("staging")
}

fn read(cert: &Path, key: &Path) -> Result<Pair, TlsError> {
    let text =
        |file: &Path| fs::read(file).map_err(|error| TlsError::new(file, Fault::Unreadable(error)));
    Pair::from_pem((cert, &text(cert)?), (key, &text(key)?))
}

/// What is in a folder, in the order of its names; nothing in one that is not there. One that
/// cannot be read is unusable, and said to be.
fn folder(path: &Path, found: &mut Legacy) -> Vec<PathBuf> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Vec::new();
        }
        Err(error) => {
            let fault = Fault::Unreadable(error);
            found.unusable.push(TlsError::new(path, fault));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}
