//! Upstream addresses as people write them: `host:port`, `http://`, `https://`, `h2c://`, `unix:`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// How to speak to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// HTTP/1.1 without TLS (RFC 9112).
    Http,
    /// HTTP/1.1 or HTTP/2 by ALPN over verified TLS.
    Https,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 §3.3).
    H2c,
}

impl Scheme {
    /// The port when none is written: 443 for https, else 80.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http | Self::H2c => 80,
        }
    }
}

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A literal address: never looked up.
    Socket(SocketAddr),
    /// A DNS name and port: looked up again as its records age.
    Name {
        /// Lower-case host name, without a trailing dot.
        host: Arc<str>,
        /// TCP port.
        port: u16,
    },
    /// A unix socket, always plain HTTP/1.1.
    Unix(PathBuf),
}

/// One upstream of a pool as configured. `Display` gives the text that status and metrics show.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamAddr {
    scheme: Scheme,
    endpoint: Endpoint,
}

impl UpstreamAddr {
    /// How to speak to it.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Where it listens.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The name to verify in the upstream's certificate; `None` for a unix socket.
    #[must_use]
    pub fn tls_name(&self) -> Option<String> {
        match &self.endpoint {
            Endpoint::Socket(addr) => Some(addr.ip().to_string()),
            Endpoint::Name { host, .. } => Some(host.to_string()),
            Endpoint::Unix(_) => None,
        }
    }
}

/// Why a text is not an upstream address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A scheme other than http, https, h2c, unix.
    #[error("unknown scheme `{0}`")]
    Scheme(String),
    /// Nothing where the host should be.
    #[error("no host")]
    Host,
    /// A character that no host name has.
    #[error("`{0}` is not a host name or an IP address")]
    BadHost(String),
    /// `host` without `:port` where the scheme implies none.
    #[error("no port")]
    NoPort,
    /// Not 1–65535.
    #[error("`{0}` is not a port from 1 to 65535")]
    Port(String),
    /// `http://host:1/path`: an upstream is a place, not a page.
    #[error("a path is not allowed")]
    Path,
    /// `unix:` without an absolute path.
    #[error("a unix socket needs an absolute path")]
    UnixPath,
}

impl AddressError {
    /// What would have been accepted, for the end of an error message.
    pub const FORM: &'static str =
        "host:port, http://host[:port], https://host[:port], h2c://host[:port] or unix:/path";
}

impl FromStr for UpstreamAddr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') || path.len() < 2 {
                return Err(AddressError::UnixPath);
            }
            return Ok(Self {
                scheme: Scheme::Http,
                endpoint: Endpoint::Unix(PathBuf::from(path)),
            });
        }
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(("h2c", rest)) => (Some(Scheme::H2c), rest),
            Some((other, _)) => return Err(AddressError::Scheme(other.to_owned())),
            None => (None, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(AddressError::Path);
        }
        let (host, port) = split_host_port(rest)?;
        let port = match (port, scheme) {
            (Some(port), _) => parse_port(port)?,
            (None, Some(scheme)) => scheme.default_port(),
            (None, None) => return Err(AddressError::NoPort),
        };
        let scheme = scheme.unwrap_or(Scheme::Http);
        let endpoint = match host.parse::<IpAddr>() {
            Ok(ip) => Endpoint::Socket(SocketAddr::new(ip, port)),
            Err(_) => Endpoint::Name {
                host: host_name(host)?,
                port,
            },
        };
        Ok(Self { scheme, endpoint })
    }
}

fn split_host_port(text: &str) -> Result<(&str, Option<&str>), AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| AddressError::BadHost(text.to_owned()))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(AddressError::BadHost(text.to_owned())),
        };
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    if host.is_empty() {
        return Err(AddressError::Host);
    }
    if host.contains(':') {
        return Err(AddressError::BadHost(text.to_owned()));
    }
    Ok((host, port))
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(AddressError::Port(text.to_owned())),
    }
}

/// Letters, digits, `-`, `_` and dots: what resolvers and Compose networks use as names.
fn host_name(text: &str) -> Result<Arc<str>, AddressError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let valid = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    // A name whose last label is a number is a mistyped IPv4 address, not a name (RFC 3696 §2).
    let mistyped = name
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    if valid && !mistyped {
        Ok(name.to_ascii_lowercase().into())
    } else {
        Err(AddressError::BadHost(text.to_owned()))
    }
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Http => {}
            Scheme::Https => f.write_str("https://")?,
            Scheme::H2c => f.write_str("h2c://")?,
        }
        match &self.endpoint {
            Endpoint::Socket(addr) => write!(f, "{addr}"),
            Endpoint::Name { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<UpstreamAddr>() {
            Ok(addr) => addr.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn every_documented_form_is_read() {
        assert_eq!(shown("web-blue:3000"), "web-blue:3000");
        assert_eq!(shown("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(shown("http://app"), "app:80");
        assert_eq!(
            shown("https://App.example.com"),
            "https://app.example.com:443"
        );
        assert_eq!(shown("h2c://grpc:50051"), "h2c://grpc:50051");
        assert_eq!(shown("[::1]:3000"), "[::1]:3000");
        assert_eq!(shown("unix:/run/app.sock"), "unix:/run/app.sock");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(shown("web"), "error: no port");
        assert_eq!(
            shown("web:99999"),
            "error: `99999` is not a port from 1 to 65535"
        );
        assert_eq!(shown("ftp://web:21"), "error: unknown scheme `ftp`");
        assert_eq!(shown("http://web:80/x"), "error: a path is not allowed");
        assert_eq!(shown(":80"), "error: no host");
        assert_eq!(
            shown("unix:run/x"),
            "error: a unix socket needs an absolute path"
        );
        assert_eq!(
            shown("10.0.0.300:80"),
            "error: `10.0.0.300` is not a host name or an IP address"
        );
    }
}
