//! How long certificates are good for, from the files alone: those of sites, and those that were
//! ordered.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Finding, Level};
use crate::acme::{Record, Shelf, wanted};
use crate::config::{Config, Tls};
use crate::{clock, tls};

const CHECK: &str = "certificates";

/// One that ends sooner is told of.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub(super) fn certificates(config: &Config, now: SystemTime) -> Vec<Finding> {
    let mut found = Vec::new();
    for site in &config.sites {
        let Tls::Files { cert, key } = &site.tls else {
            continue;
        };
        found.push(of_file(cert, now));
        found.push(key_file(key));
    }
    let shelf = Shelf::new(&config.state_dir);
    let journal = shelf.journal();
    for names in wanted(&config.sites) {
        let stored = shelf.certificate(&names).map_err(|error| error.to_string());
        let stored = stored.and_then(|stored| stored.map(|pem| ends(&pem)).transpose());
        found.push(ordered(
            &names.to_string(),
            stored,
            &journal.record(&names),
            now,
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(CHECK, "none from files or to be ordered"));
    }
    found
}

fn ends(pem: &[u8]) -> Result<SystemTime, String> {
    tls::not_after(pem).map_err(|fault| fault.to_string())
}

fn of_file(path: &Path, now: SystemTime) -> Finding {
    let shown = path.display();
    let end = fs::read(path).map_err(|error| error.to_string());
    match end.and_then(|pem| ends(&pem)) {
        Ok(end) if end <= now => Finding::bad(
            CHECK,
            Level::Problem,
            format!("{shown} has ended at {}", clock::rfc3339(end)),
            "clients refuse the connection",
            "put a new certificate there: it is taken over by itself",
        ),
        Ok(end) if end <= now + SOON => Finding::bad(
            CHECK,
            Level::Warning,
            format!("{shown} ends at {}", clock::rfc3339(end)),
            "from then on clients refuse the connection",
            "put a new certificate there: it is taken over by itself",
        ),
        Ok(end) => Finding::ok(CHECK, format!("{shown} ends at {}", clock::rfc3339(end))),
        Err(error) => Finding::bad(
            CHECK,
            Level::Problem,
            format!("{shown}: {error}"),
            "cutover does not start without it",
            "put the file there, or mend the path in the site's tls",
        ),
    }
}

fn key_file(path: &Path) -> Finding {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => Finding::bad(
            CHECK,
            Level::Warning,
            format!("{shown} can be read by others"),
            "whoever has the key can be this site",
            "chmod 600 the file",
        ),
        Ok(_) => Finding::ok(CHECK, format!("{shown} is there")),
        Err(error) => Finding::bad(
            CHECK,
            Level::Problem,
            format!("{shown}: {error}"),
            "cutover does not start without it",
            "put the file there, or mend the path in the site's tls",
        ),
    }
}

/// `stored`: the end of the one that is there, if there is one.
fn ordered(
    names: &str,
    stored: Result<Option<SystemTime>, String>,
    record: &Record,
    now: SystemTime,
) -> Finding {
    let failing = record.last_error.as_ref().filter(|_| record.failures > 0);
    let failing = failing.map(|error| format!("; {} orders failed: {error}", record.failures));
    let failing = failing.unwrap_or_default();
    let told = |level, what: String, meaning| {
        let fix = "mend what the CA says, then `proxyctl certs renew HOST --force`";
        Finding::bad(CHECK, level, what + &failing, meaning, fix)
    };
    match stored {
        Err(error) => told(
            Level::Problem,
            format!("the certificate of {names} cannot be read: {error}"),
            "one that clients do not trust is served",
        ),
        Ok(Some(end)) if end <= now => told(
            Level::Problem,
            format!(
                "the certificate of {names} has ended at {}",
                clock::rfc3339(end)
            ),
            "clients refuse the connection",
        ),
        Ok(Some(end)) if end <= now + SOON || !failing.is_empty() => told(
            Level::Warning,
            format!("the certificate of {names} ends at {}", clock::rfc3339(end)),
            "it should have been renewed: from its end on clients refuse the connection",
        ),
        Ok(Some(end)) => {
            let end = clock::rfc3339(end);
            Finding::ok(CHECK, format!("the certificate of {names} ends at {end}"))
        }
        Ok(None) if !failing.is_empty() => told(
            Level::Problem,
            format!("there is no certificate of {names}"),
            "one that clients do not trust is served",
        ),
        Ok(None) => Finding::ok(CHECK, format!("that of {names} is still to be ordered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::NameSet;
    use crate::config;

    /// A certificate of `days` from now, with its key, both PEM.
    fn made(days: i64) -> (String, String) {
        let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).expect("a name");
        let now = clock::wall().duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.expect("after 1970").as_secs()).expect("not so late");
        let day = |days: i64| {
            rcgen::date_time_ymd(1970, 1, 1)
                + Duration::from_secs(u64::try_from(now + days * 86_400).expect("after 1970"))
        };
        params.not_before = day(-200);
        params.not_after = day(days);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_file_is_told_of_before_and_after_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.pem");
        for (days, level) in [(30, Level::Ok), (13, Level::Warning), (-1, Level::Problem)] {
            fs::write(&file, made(days).0).expect("a file");
            let found = of_file(&file, clock::wall());
            assert_eq!(found.level, level, "{found:?}");
        }
        fs::write(&file, "no PEM").expect("a file");
        assert_eq!(of_file(&file, clock::wall()).level, Level::Problem);
    }

    #[test]
    fn a_stored_certificate_is_found_without_the_daemon() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "state_dir = \"{}\"\n[[site]]\nhosts = [\"a.example\"]\nupstream = [\"127.0.0.1:1\"]\n",
            folder.path().display()
        );
        let config = config::load_str("cutover.toml", &config).expect("a configuration");
        let found = || certificates(&config, clock::wall()).remove(0);
        assert!(
            found().what.contains("still to be ordered"),
            "{:?}",
            found()
        );
        let names = NameSet::new(["a.example"]).expect("a name");
        for (days, level) in [(60, Level::Ok), (3, Level::Warning), (-1, Level::Problem)] {
            let (chain, key) = made(days);
            let stored = Shelf::new(folder.path()).put_certificate(&names, &key, &chain);
            stored.expect("written");
            assert_eq!(found().level, level, "{:?}", found());
        }
    }

    #[test]
    fn a_renewal_that_fails_is_a_warning_while_there_is_a_certificate() {
        let record = r#"{"failures": 2, "last_error": "DNS problem: NXDOMAIN"}"#;
        let record: Record = serde_json::from_str(record).expect("a record");
        let now = clock::wall();
        let far = Ok(Some(now + Duration::from_secs(60 * 86_400)));
        let found = ordered("a.example", far, &record, now);
        assert_eq!(found.level, Level::Warning);
        assert!(
            found
                .what
                .ends_with("; 2 orders failed: DNS problem: NXDOMAIN"),
            "{found:?}"
        );
        let found = ordered("a.example", Ok(None), &record, now);
        assert_eq!(found.level, Level::Problem);
    }
}
