//! One request to a URL: look the host up, try its addresses in turn, read a whole answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::client::{Answer, Client, Dial, Origin};
use super::failure::{Failure, Phase};
use super::resolver::Resolver;
use super::wire::{Alpn, read_body};
use crate::clock;
use crate::model::Scheme;

impl Client {
    /// Sends `request`, whose URI is an absolute `https` or `http` URL, on a fresh connection.
    /// Addresses are tried in turn until one takes the connection; redirects are not followed.
    /// At most `body_limit` bytes of the body are read.
    ///
    /// # Errors
    /// Anything short of an answer within `deadline`, the name look-up included. Cancel-safe:
    /// closes on drop.
    pub async fn fetch(
        &self,
        resolver: &Resolver,
        request: Request<Bytes>,
        deadline: Duration,
        body_limit: usize,
    ) -> Result<Answer, Failure> {
        let start = clock::now();
        let mut phase = Phase::Connect;
        let exchange = self.fetch_within(resolver, request, body_limit, &mut phase);
        let outcome = tokio::time::timeout(deadline, exchange).await;
        let mut answer = outcome.map_err(|_| Failure::Timeout(phase, deadline))??;
        answer.elapsed = clock::now().saturating_duration_since(start);
        Ok(answer)
    }

    async fn fetch_within(
        &self,
        resolver: &Resolver,
        request: Request<Bytes>,
        body_limit: usize,
        phase: &mut Phase,
    ) -> Result<Answer, Failure> {
        let uri = request.uri().clone();
        let not_one = || Failure::Request(format!("`{uri}` is not an http or https URL"));
        let (scheme, port) = match uri.scheme_str() {
            Some("https") => (Scheme::Https, 443),
            Some("http") => (Scheme::Http, 80),
            _ => return Err(not_one()),
        };
        let authority = uri.authority().ok_or_else(not_one)?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(port);
        let found = resolver.lookup(host).await;
        let found = found.map_err(|error| Failure::Request(format!("{host}: {error}")))?;
        let mut origin = Origin {
            dial: Dial::Tcp(SocketAddr::new(found.addrs[0], port)),
            scheme,
            authority: authority.as_str().to_owned(),
            tls_name: Some(host.to_owned()),
        };
        let mut addrs = found.addrs.into_iter();
        let wire = loop {
            let Some(ip) = addrs.next() else {
                return Err(Failure::Connect("no address took the connection"));
            };
            origin.dial = Dial::Tcp(SocketAddr::new(ip, port));
            match self.open(&origin, Alpn::Any, phase).await {
                Ok(wire) => break wire,
                Err(error) if addrs.len() == 0 => return Err(error),
                Err(_) => {}
            }
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = request.map(Full::new);
        let open = clock::now();
        let (exchange, response) = wire.send(&origin, path, request, phase).await?;
        let waited = clock::now().saturating_duration_since(open);
        *phase = Phase::Body;
        let (head, body) = response.into_parts();
        let (body, truncated, _) = read_body(body, body_limit).await?;
        drop(exchange);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            truncated,
            elapsed: Duration::ZERO,
            waited,
        })
    }
}
