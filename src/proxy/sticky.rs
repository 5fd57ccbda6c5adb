//! The cookie of `balance = "cookie"`: which upstream of the live slot a client stays with.
//!
//! `ID.TAG`: the upstream's id in hex, and an HMAC-SHA256 (RFC 2104) over it with the names of its
//! service and slot, in base64url. Nobody without the key can choose an upstream, and a cookie of
//! one slot says nothing in the other. The key lies in `state_dir`, so cookies outlive a restart.

use std::io;
use std::path::Path;

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};

use crate::config::{SameSite, Sticky};
use crate::disk;
use crate::pool::Slot;

/// File of the key in `state_dir`.
const FILE: &str = "sticky.key";

const KEY_BYTES: usize = 32;

/// What the tag is over, so that the key can serve other ends one day.
const PURPOSE: &[u8] = b"cutover sticky cookie 1";

/// Signs and checks the cookies.
#[derive(Debug)]
pub struct StickyKey(hmac::Key);

impl StickyKey {
    /// The key of a state folder, made when it is missing. A file that others can read, or that is
    /// not whole, is replaced: clients are spread anew once. The error says so, or that the key
    /// could not be kept; there is a key all the same.
    pub fn open(state_dir: &Path) -> (Self, Option<io::Error>) {
        let file = state_dir.join(FILE);
        let (broken, is_new) = match read(&file) {
            Ok(key) => return (Self(key), None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, true),
            Err(error) => (Some(error), false),
        };
        let mut secret = [0; KEY_BYTES];
        if rand::fill(&mut secret).is_err() {
            let none = io::Error::other("no random bytes for the key of sticky cookies");
            return (Self(hmac::Key::new(hmac::HMAC_SHA256, &secret)), Some(none));
        }
        let written = if is_new {
            disk::write_new(&file, &secret)
        } else {
            disk::replace(&file, &secret)
        };
        let key = match read(&file) {
            // Of this process, or of another one that was first.
            Ok(key) => key,
            Err(_) => hmac::Key::new(hmac::HMAC_SHA256, &secret),
        };
        (Self(key), written.err().or(broken))
    }

    /// The upstream that one of the cookies of a request names, if it was signed for this slot.
    pub(super) fn upstream(&self, headers: &HeaderMap, name: &str, slot: &Slot) -> Option<u64> {
        let cookies = headers.get_all(header::COOKIE).iter();
        cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
            .find_map(|value| self.verify(value, slot))
    }

    /// `Set-Cookie` for an upstream of a slot.
    pub(super) fn set_cookie(
        &self,
        upstream: u64,
        slot: &Slot,
        name: &str,
        rules: &Sticky,
        https: bool,
    ) -> String {
        let tag = hmac::sign(&self.0, &message(upstream, slot));
        let tag = URL_SAFE_NO_PAD.encode(tag.as_ref());
        let mut cookie = format!("{name}={upstream:016x}.{tag}; Path=/; HttpOnly; SameSite=");
        cookie.push_str(match rules.same_site {
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
            SameSite::None => "None",
        });
        if let Some(time) = rules.max_age {
            cookie.push_str(&format!("; Max-Age={}", time.as_secs().max(1)));
        }
        // Browsers take no `SameSite=None` without it.
        if rules
            .secure
            .unwrap_or(https || rules.same_site == SameSite::None)
        {
            cookie.push_str("; Secure");
        }
        cookie
    }

    fn verify(&self, value: &str, slot: &Slot) -> Option<u64> {
        let (id, tag) = value.split_once('.')?;
        let upstream = u64::from_str_radix(id, 16).ok()?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.0, &message(upstream, slot), &tag).ok()?;
        Some(upstream)
    }
}

/// Names have no zero in them, so no two slots make the same message.
fn message(upstream: u64, slot: &Slot) -> Vec<u8> {
    let mut message = PURPOSE.to_vec();
    for name in [slot.service().as_str(), slot.color().as_str()] {
        message.push(0);
        message.extend(name.as_bytes());
    }
    message.push(0);
    message.extend(upstream.to_be_bytes());
    message
}

fn read(file: &Path) -> io::Result<hmac::Key> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(file)?.permissions().mode();
    let why = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if mode & 0o077 != 0 {
        return Err(why("others can read the key of sticky cookies"));
    }
    let secret = std::fs::read(file)?;
    if secret.len() != KEY_BYTES {
        return Err(why("the key of sticky cookies is not whole"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;
    use crate::model::Color;
    use crate::pool::SlotSettings;

    fn slot(service: &str, color: Color) -> Slot {
        let service = service.into();
        let metrics = Metrics::new().color(&service, color);
        Slot::new(service, color, SlotSettings::default(), metrics)
    }

    /// A request that brings back what was set.
    fn request(set: &str) -> HeaderMap {
        let pair = set.split(';').next().unwrap();
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, format!("a=b; {pair}; c").parse().unwrap());
        headers
    }

    #[test]
    fn a_cookie_holds_for_its_own_service_and_slot_and_untouched_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (key, error) = StickyKey::open(folder.path());
        assert!(error.is_none());
        let blue = slot("web", Color::Blue);
        let set = key.set_cookie(7, &blue, "lb", &Sticky::default(), false);
        let back = request(&set);
        assert_eq!(key.upstream(&back, "lb", &blue), Some(7));
        assert_eq!(key.upstream(&back, "lb", &slot("web", Color::Green)), None);
        assert_eq!(key.upstream(&back, "lb", &slot("api", Color::Blue)), None);
        assert_eq!(key.upstream(&back, "other", &blue), None);
        let forged = set.replace("0000000000000007", "0000000000000008");
        assert_eq!(key.upstream(&request(&forged), "lb", &blue), None);
        for plain in ["lb=0000000000000007", "lb=0000000000000007.", "lb=.", "lb="] {
            assert_eq!(key.upstream(&request(plain), "lb", &blue), None, "{plain}");
        }
        let another = tempfile::tempdir().unwrap();
        let (another, _) = StickyKey::open(another.path());
        assert_eq!(another.upstream(&back, "lb", &blue), None);
    }

    #[test]
    fn the_key_outlives_the_process_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let blue = slot("web", Color::Blue);
        let (key, _) = StickyKey::open(folder.path());
        let back = request(&key.set_cookie(7, &blue, "lb", &Sticky::default(), false));
        let (again, error) = StickyKey::open(folder.path());
        assert!(error.is_none());
        assert_eq!(again.upstream(&back, "lb", &blue), Some(7));
        let file = folder.path().join(FILE);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let (new, error) = StickyKey::open(folder.path());
        assert!(error.unwrap().to_string().contains("others can read"));
        assert_eq!(new.upstream(&back, "lb", &blue), None);
        assert!(StickyKey::open(folder.path()).1.is_none(), "mended");
        fs::write(&file, "short").unwrap();
        assert!(StickyKey::open(folder.path()).1.is_some());

        let (_, error) = StickyKey::open(&folder.path().join("missing"));
        assert!(error.is_some(), "not kept, and said");
    }

    #[test]
    fn the_attributes_are_those_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let (key, _) = StickyKey::open(folder.path());
        let blue = slot("web", Color::Blue);
        let set = |rules: &Sticky, https| {
            let cookie = key.set_cookie(7, &blue, "lb", rules, https);
            cookie.split_once("; ").unwrap().1.to_owned()
        };
        let plain = Sticky::default();
        assert_eq!(set(&plain, false), "Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(set(&plain, true), "Path=/; HttpOnly; SameSite=Lax; Secure");
        let rules = Sticky {
            cookie: None,
            max_age: Some(Duration::from_secs(3600)),
            secure: None,
            same_site: SameSite::None,
        };
        assert_eq!(
            set(&rules, false),
            "Path=/; HttpOnly; SameSite=None; Max-Age=3600; Secure"
        );
        let never = Sticky {
            secure: Some(false),
            same_site: SameSite::Strict,
            ..Sticky::default()
        };
        assert_eq!(set(&never, true), "Path=/; HttpOnly; SameSite=Strict");
    }
}
