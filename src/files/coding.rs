//! Which content codings a client takes (RFC 9110 §12.5.3).

use http::{HeaderMap, header};

use crate::config::step::Encoding;

/// The codings that were offered and are taken, the best first. `identity` ends the list where
/// the client prefers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted([Option<Encoding>; 3]);

impl Accepted {
    /// By the client's weights, then in the order of `offered`. A handshake of a WebSocket takes
    /// none.
    pub(crate) fn new(headers: &HeaderMap, offered: impl Iterator<Item = Encoding>) -> Self {
        let mut ranked = [(0_u16, None); 3];
        if headers.contains_key(header::SEC_WEBSOCKET_KEY) {
            return Self::default();
        }
        let mut weights = Weights::default();
        let fields = headers.get_all(header::ACCEPT_ENCODING);
        for field in fields.iter().filter_map(|value| value.to_str().ok()) {
            field.split(',').for_each(|entry| weights.read(entry));
        }
        for (place, coding) in ranked.iter_mut().zip(offered) {
            *place = (weights.of(coding), Some(coding));
        }
        // Stable: the order of the offer decides between equals.
        ranked.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
        let least = weights.identity.unwrap_or(0).max(1);
        Self(ranked.map(|(weight, coding)| coding.filter(|_| weight >= least)))
    }

    /// The best first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Encoding> {
        self.0.iter().flatten().copied()
    }
}

/// As it stands in `Content-Encoding`.
pub(crate) const fn token(coding: Encoding) -> &'static str {
    match coding {
        Encoding::Gzip => "gzip",
        Encoding::Brotli => "br",
        Encoding::Zstd => "zstd",
    }
}

/// At the end of a precompressed file's name.
pub(super) const fn ending(coding: Encoding) -> &'static str {
    match coding {
        Encoding::Gzip => ".gz",
        Encoding::Brotli => ".br",
        Encoding::Zstd => ".zst",
    }
}

/// Weights in thousandths; `None`: not named.
#[derive(Debug, Default)]
struct Weights {
    gzip: Option<u16>,
    brotli: Option<u16>,
    zstd: Option<u16>,
    identity: Option<u16>,
}

impl Weights {
    fn read(&mut self, entry: &str) {
        let mut parts = entry.split(';');
        let name = parts.next().unwrap_or_default().trim();
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let place = if is("gzip") || is("x-gzip") {
            &mut self.gzip
        } else if is("br") {
            &mut self.brotli
        } else if is("zstd") {
            &mut self.zstd
        } else if is("identity") {
            &mut self.identity
        } else {
            // A star too: who sends it has not said that it can decode anything.
            return;
        };
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            (name.trim().eq_ignore_ascii_case("q")).then(|| thousandths(value.trim()))
        });
        *place = Some(weight.flatten().unwrap_or(1000));
    }

    fn of(&self, coding: Encoding) -> u16 {
        let named = match coding {
            Encoding::Gzip => self.gzip,
            Encoding::Brotli => self.brotli,
            Encoding::Zstd => self.zstd,
        };
        named.unwrap_or(0)
    }
}

/// A weight of RFC 9110 §12.4.2; anything else counts as none given, as in Caddy.
fn thousandths(text: &str) -> Option<u16> {
    let weight: f32 = text.parse().ok()?;
    if !(0.0..=1.0).contains(&weight) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1000"
    )]
    let thousandths = (weight * 1000.0).round() as u16;
    Some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: [Encoding; 3] = [Encoding::Zstd, Encoding::Brotli, Encoding::Gzip];

    fn accepted(field: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, field.parse().expect("a value"));
        let taken: Vec<_> = Accepted::new(&headers, OFFER.into_iter())
            .iter()
            .map(token)
            .collect();
        taken.join(" ")
    }

    #[test]
    fn the_clients_weights_come_before_the_order_of_the_offer() {
        assert_eq!(accepted("gzip, br, zstd"), "zstd br gzip");
        assert_eq!(accepted("gzip;q=1.0, br;q=0.8"), "gzip br");
        assert_eq!(accepted("GZIP ; Q=0.5, br;q=0.501"), "br gzip");
        assert_eq!(accepted("x-gzip"), "gzip");
    }

    #[test]
    fn what_is_weighed_with_nothing_is_not_taken() {
        assert_eq!(accepted("gzip;q=0, br;q=0.000"), "");
        assert_eq!(accepted("deflate, compress"), "");
        assert_eq!(accepted(""), "");
        assert_eq!(accepted("br;q=nonsense"), "br");
    }

    #[test]
    fn a_star_names_nothing_as_in_caddy_and_nginx() {
        assert_eq!(accepted("*"), "");
        assert_eq!(accepted("gzip, *;q=0"), "gzip");
        assert_eq!(accepted("zstd;q=0, br;q=0.1, *"), "br");
    }

    #[test]
    fn identity_ends_the_list_where_it_is_preferred() {
        assert_eq!(accepted("identity, gzip;q=0.5"), "");
        assert_eq!(accepted("identity;q=0.5, gzip;q=0.6, br;q=0.4"), "gzip");
        assert_eq!(accepted("identity;q=0, gzip;q=0.1"), "gzip");
    }

    #[test]
    fn a_websocket_is_not_compressed() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, "gzip".parse().expect("a value"));
        headers.insert(header::SEC_WEBSOCKET_KEY, "x".parse().expect("a value"));
        let taken = Accepted::new(&headers, OFFER.into_iter());
        assert_eq!(taken, Accepted::default());
    }
}
