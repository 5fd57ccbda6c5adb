//! What would waste an order, found before it is spent, with what to mend.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::names::NameSet;
use super::plan::{FailureKind, Method};
use super::shelf::Shelf;
use crate::clock;
use crate::http::{Caa, Client, Dial, LookupError, Resolver};

/// Why no order is sent, and what to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) kind: FailureKind,
    pub(super) message: String,
}

fn stop(message: String) -> Stop {
    Stop {
        kind: FailureKind::Preflight,
        message,
    }
}

/// Account, order and certificate can be kept.
pub(super) fn storage(shelf: &Shelf, state_dir: &Path) -> Result<(), Stop> {
    shelf.probe().map_err(|error| {
        let state_dir = state_dir.display();
        stop(format!(
            "{state_dir} cannot be written ({error}): make it a volume that this user owns"
        ))
    })
}

/// The clock is neither before this program nor far from the CA's.
pub(super) fn time(now: SystemTime, ca: Option<SystemTime>) -> Result<(), Stop> {
    let shown = clock::rfc3339(now);
    if now < SystemTime::UNIX_EPOCH + Duration::from_secs(NOT_BEFORE) {
        return Err(stop(format!(
            "the clock says {shown}, which is before this program existed: set it (NTP)"
        )));
    }
    let Some(ca) = ca else {
        return Ok(());
    };
    let apart = now.duration_since(ca).or_else(|_| ca.duration_since(now));
    if apart.unwrap_or_default() > CLOCK_TOLERANCE {
        let theirs = clock::rfc3339(ca);
        return Err(stop(format!(
            "the clock says {shown}, the CA's {theirs}: set it (NTP)"
        )));
    }
    Ok(())
}

/// Every name exists, has an address, and allows this CA. A DNS that does not answer stops
/// nothing: the CA asks from elsewhere.
pub(super) async fn dns(
    resolver: &Resolver,
    names: &NameSet,
    identities: &[String],
) -> Result<(), Stop> {
    for name in names.names() {
        match resolver.lookup(name).await {
            Ok(_) => {}
            Err(LookupError::NoSuchName) => {
                return Err(stop(format!(
                    "{name} does not exist in DNS (NXDOMAIN): add an A or AAAA record that \
                     points here"
                )));
            }
            Err(LookupError::NoAddress) => {
                return Err(stop(format!(
                    "{name} has no A or AAAA record: add one that points here"
                )));
            }
            Err(error) => tracing::warn!(name, %error, "name not checked before its order"),
        }
        caa(resolver, name, identities).await?;
    }
    Ok(())
}

/// The closest CAA records from the name upwards decide (RFC 8659 §3).
async fn caa(resolver: &Resolver, name: &str, identities: &[String]) -> Result<(), Stop> {
    if identities.is_empty() {
        return Ok(());
    }
    let mut at = name;
    loop {
        match resolver.caa(at).await {
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                return permits(&records, identities).map_err(|why| Stop {
                    kind: FailureKind::Forbidden,
                    message: format!(
                        "the CAA records of {at} forbid {}: {why}; add `{at}. CAA 0 issue \"{}\"`",
                        identities.join(" and "),
                        identities[0]
                    ),
                });
            }
            Err(error) => {
                tracing::warn!(name, at, %error, "CAA not checked before the order");
                return Ok(());
            }
        }
        match at.split_once('.') {
            Some((_, parent)) if !parent.is_empty() => at = parent,
            _ => return Ok(()),
        }
    }
}

/// Whether one set of records lets a CA with these names issue for a name that is no wildcard
/// (RFC 8659 §4.2): no `issue` at all permits everyone; an unknown critical tag nobody.
fn permits(records: &[Caa], identities: &[String]) -> Result<(), String> {
    let known = [
        "issue",
        "issuewild",
        "iodef",
        "issuemail",
        "contactemail",
        "contactphone",
    ];
    if let Some(unknown) =
        (records.iter()).find(|record| record.critical && !known.contains(&record.tag.as_str()))
    {
        return Err(format!("the critical tag `{}` is not known", unknown.tag));
    }
    let allowed: Vec<_> = records
        .iter()
        .filter(|record| record.tag == "issue")
        .map(|record| record.value.split(';').next().unwrap_or_default().trim())
        .collect();
    let named = |issuer: &&str| identities.iter().any(|id| id.eq_ignore_ascii_case(issuer));
    if allowed.is_empty() || allowed.iter().any(named) {
        return Ok(());
    }
    let others: Vec<_> = allowed
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    Err(match others.as_slice() {
        [] => "they allow no CA".to_owned(),
        others => format!("they allow only {}", others.join(", ")),
    })
}

/// Tries the port of the challenge at the names' public addresses. Many networks cannot reach
/// themselves from inside, so this is a line in the log and no more.
pub(super) async fn reachable(
    client: &Client,
    resolver: &Resolver,
    names: &NameSet,
    method: Method,
) {
    let port = match method {
        Method::Http01 => 80,
        Method::TlsAlpn01 => 443,
    };
    for name in names.names() {
        let Ok(found) = resolver.lookup(name).await else {
            continue;
        };
        for ip in found.addrs {
            let dial = Dial::Tcp(SocketAddr::new(ip, port));
            if let Err(error) = client.connect(&dial, REACH_DEADLINE).await {
                tracing::warn!(
                    name, %ip, port, %error,
                    "address not reachable from here; behind NAT or a CDN this can be fine"
                );
            }
        }
    }
}

/// 2026-01-01: no copy of this program is older.
const NOT_BEFORE: u64 = 1_767_225_600;
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);
const REACH_DEADLINE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(critical: bool, tag: &str, value: &str) -> Caa {
        Caa {
            critical,
            tag: tag.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn caa_records_permit_as_rfc_8659_says() {
        let ours = ["letsencrypt.org".to_owned()];
        for (records, permitted) in [
            (vec![record(false, "issue", "letsencrypt.org")], true),
            (vec![record(false, "issue", "LetsEncrypt.org; x=y")], true),
            (vec![record(false, "issue", ";")], false),
            (vec![record(false, "issue", "other.example")], false),
            (
                vec![
                    record(false, "issue", "other.example"),
                    record(false, "issue", "letsencrypt.org"),
                ],
                true,
            ),
            (vec![record(false, "issuewild", ";")], true),
            (vec![record(false, "iodef", "mailto:a@example.com")], true),
            (vec![record(true, "tbs", "x")], false),
            (vec![record(false, "tbs", "x")], true),
        ] {
            assert_eq!(permits(&records, &ours).is_ok(), permitted, "{records:?}");
        }
    }

    #[test]
    fn a_clock_before_the_program_or_an_hour_off_stops_an_order() {
        let good = SystemTime::UNIX_EPOCH + Duration::from_secs(NOT_BEFORE + 1_000_000);
        assert_eq!(time(good, None), Ok(()));
        assert_eq!(time(good, Some(good + Duration::from_secs(3_500))), Ok(()));
        assert!(time(good, Some(good + Duration::from_secs(3_700))).is_err());
        assert!(time(good, Some(good - Duration::from_secs(3_700))).is_err());
        assert!(time(SystemTime::UNIX_EPOCH, None).is_err());
    }

    #[test]
    fn storage_that_cannot_be_written_stops_an_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert_eq!(storage(&Shelf::new(folder.path()), folder.path()), Ok(()));
        // A file where the folder should be: no user can write below it, root neither.
        let stopped = storage(&Shelf::new(&file), &file).expect_err("stopped");
        assert_eq!(stopped.kind, FailureKind::Preflight);
        assert!(
            stopped.message.contains("cannot be written"),
            "{}",
            stopped.message
        );
    }
}
