//! Site addresses, and the sockets that they need.

use std::collections::BTreeMap;

use super::super::lexer::Token;
use super::super::source::Pos;
use super::Cx;
use super::doc::{Table, Value};

/// One address of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Lower case; empty: every host.
    pub(super) host: String,
    /// The port that it is served on.
    pub(super) port: u16,
    pub(super) is_tls: bool,
    /// With its slash; empty: every path.
    pub(super) path: String,
    pub(super) pos: Pos,
}

/// Reads an address. `has_tls`: the site has a `tls` line, so that a port alone means TLS.
pub(super) fn address(cx: &Cx<'_>, key: &Token, has_tls: bool) -> Option<Address> {
    let wrong = |message: String| {
        cx.out.error(key.pos, message);
        None
    };
    let text = key.text.trim();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        return wrong(format!("{scheme}:// is no scheme of a site: http or https"));
    }
    let colon = authority.rfind(':');
    // An IPv6 address without brackets has no port.
    let colon = colon.filter(|at| {
        let (before, after) = authority.split_at(*at);
        !after.contains(']') && (before.ends_with(']') || !before.contains(':'))
    });
    let (host, port_text) = match colon {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (authority, ""),
    };
    if host.contains(['{', '}']) {
        return wrong(format!(
            "`{text}`: a host cannot be a placeholder; {{$NAME}} is a variable of the environment"
        ));
    }
    let (http, https) = (cx.globals.http_port, cx.globals.https_port);
    let port = match port_text {
        "" if scheme == "http" => http,
        "" => https,
        digits => match digits.parse() {
            Ok(port) if port > 0 => port,
            _ => return wrong(format!("`{digits}` is no port")),
        },
    };
    if (scheme == "http" && port == https) || (scheme == "https" && port == http) {
        return wrong(format!(
            "`{text}`: the scheme and the port contradict each other"
        ));
    }
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_lowercase();
    let is_tls = scheme == "https"
        || (scheme.is_empty() && port != http && (port == https || !host.is_empty() || has_tls));
    Some(Address {
        host,
        port,
        is_tls,
        path: path.to_owned(),
        pos: key.pos,
    })
}

/// Which sockets the sites need.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// Addresses of each port, plain and TLS, with where they are asked for.
    ports: BTreeMap<(bool, u16), (Vec<String>, Pos)>,
}

impl Sockets {
    /// A port is listened on at these addresses; none: at all.
    pub(super) fn add(&mut self, cx: &Cx<'_>, is_tls: bool, port: u16, bind: &[Token], pos: Pos) {
        let mut addresses: Vec<String> = Vec::new();
        for word in bind {
            let text = word.text.as_str();
            let text = text.strip_prefix("tcp/").unwrap_or(text);
            let found: &[&str] = match text {
                "0.0.0.0" | "tcp4/0.0.0.0" => &["0.0.0.0"],
                "::" | "[::]" => &["0.0.0.0", "[::]"],
                "localhost" => &["127.0.0.1", "[::1]"],
                other => &[other],
            };
            for one in found {
                match one.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
                    Ok(ip) if ip.is_ipv6() => addresses.push(format!("[{ip}]")),
                    Ok(ip) => addresses.push(ip.to_string()),
                    Err(_) => cx
                        .out
                        .error(word.pos, format!("`{text}` is no IP address to listen on")),
                }
            }
        }
        if bind.is_empty() {
            addresses = vec!["0.0.0.0".to_owned(), "[::]".to_owned()];
        }
        addresses.sort();
        addresses.dedup();
        match self.ports.get(&(is_tls, port)) {
            None => {
                self.ports.insert((is_tls, port), (addresses, pos));
            }
            Some((known, _)) if *known != addresses => cx.out.error(
                pos,
                format!("port {port} is listened on at other addresses for another site, and sites share their listeners here; bind both alike"),
            ),
            Some(_) => {}
        }
        if self.ports.contains_key(&(!is_tls, port)) {
            cx.out
                .error(pos, format!("port {port} cannot speak both HTTP and HTTPS"));
        }
    }

    /// Writes `http` and `https` into `[listen]` where they are not the defaults. The ports that sites
    /// are served on without naming one stand first: redirects lead there.
    pub(super) fn write(&self, document: &mut Table, http: u16, https: u16) {
        for (is_tls, key, usual, main) in [(false, "http", 80, http), (true, "https", 443, https)] {
            let ports = self.ports.iter().filter(|((tls, _), _)| *tls == is_tls);
            let (first, others): (Vec<_>, Vec<_>) = ports.partition(|((_, port), _)| *port == main);
            let ports = first.into_iter().chain(others);
            let mut list = Vec::new();
            let mut first = None;
            for ((_, port), (addresses, pos)) in ports {
                first = first.or(Some(*pos));
                list.extend(
                    addresses
                        .iter()
                        .map(|a| Value::text(format!("{a}:{port}")).at(*pos)),
                );
            }
            let default = [format!("0.0.0.0:{usual}"), format!("[::]:{usual}")];
            let is_default = list.len() == 2
                && list
                    .iter()
                    .zip(&default)
                    .all(|(a, b)| *a.bare() == Value::text(b.clone()));
            if !is_default {
                let any = self.ports.values().map(|(_, pos)| *pos).next();
                let pos = first.or(any).unwrap_or_default();
                document
                    .table(pos, "listen")
                    .put(pos, key, Value::List(list));
            }
        }
    }
}
