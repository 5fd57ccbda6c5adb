//! Where a request would go, and why: for `proxyctl explain`.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::admin::wire::{Candidate, ControlError, ErrorCode, ExplainReport, ExplainRequest};
use crate::config::{Config, ServiceIndex, Tls};
use crate::model::{Color, ServiceName, normalize_path};
use crate::pool::{NotFound, RequestView, Routes, host_of};

/// What is known of a service beside the configuration.
pub(super) struct Target {
    pub(super) color: Color,
    /// Upstreams that may be picked, and what else is worth a line.
    pub(super) upstream: Option<String>,
    pub(super) why: Vec<String>,
}

/// Explains a request by a configuration alone: health is unknown, and the live color is the
/// one that a first start would choose.
///
/// # Errors
/// The request is not one.
pub fn explain_offline(
    config: &Config,
    request: &ExplainRequest,
) -> Result<ExplainReport, ControlError> {
    explain(config, &Routes::new(config), request, &|_, index| {
        let service = &config.services[index.0];
        let color = service.first_live();
        let upstreams = service.slots[color.index()].as_ref().map(|slot| {
            let names: Vec<String> = slot.upstreams.iter().map(ToString::to_string).collect();
            names.join(", ")
        });
        Target {
            color,
            upstream: upstreams,
            why: vec![format!(
                "{color} is live on a first start; the daemon was not asked which color is live now"
            )],
        }
    })
}

/// Explains a request with the routes that are live; `target` tells about the service.
pub(super) fn explain(
    config: &Config,
    routes: &Routes,
    request: &ExplainRequest,
    target: &dyn Fn(&ServiceName, ServiceIndex) -> Target,
) -> Result<ExplainReport, ControlError> {
    let usage = |message: String| ControlError::new(ErrorCode::Usage, message);
    let parsed = Parsed::new(request).map_err(usage)?;
    let mut report = ExplainReport::default();
    let listeners = if parsed.https {
        &config.listen.https
    } else {
        &config.listen.http
    };
    let by_port = listeners
        .iter()
        .find(|listener| listener.port() == parsed.port);
    report.listener = by_port.map(ToString::to_string);
    let scheme = if parsed.https { "https" } else { "http" };
    match by_port {
        Some(listener) => report
            .why
            .push(format!("{scheme} on port {}: {listener}", parsed.port)),
        None => report.why.push(format!(
            "no {scheme} listener has port {}; the rest is told as if one had",
            parsed.port
        )),
    }
    if parsed.path != parsed.sent_path {
        report.why.push(format!(
            "the path is matched and forwarded as {}",
            parsed.path
        ));
    }
    let Some(site) = routes.site(&parsed.host) else {
        report.status = Some(404);
        report.why.push(format!(
            "no site has the host {}, and there is no default site",
            parsed.host
        ));
        return Ok(report);
    };
    report.site = Some(site.name.clone());
    report.why.push(format!(
        "the host {} belongs to the site {}",
        parsed.host, site.name
    ));
    report.candidates = site
        .candidates(&parsed)
        .into_iter()
        .map(|candidate| Candidate {
            route: format!("route[{}] {}", candidate.number, candidate.path),
            matched: candidate.verdict == "taken",
            why: candidate.verdict.to_owned(),
        })
        .collect();
    if parsed.https && site.tls == Tls::Off {
        report.status = Some(421);
        report
            .why
            .push("the site has tls = \"off\", so https is refused".to_owned());
        return Ok(report);
    }
    if !parsed.https && site.redirect {
        if config.listen.https.is_empty() {
            report
                .why
                .push("the site has TLS, but there is no https listener to redirect to".to_owned());
        } else if !parsed.path.starts_with("/.well-known/acme-challenge/") {
            report.status = Some(308);
            report
                .why
                .push("the site has TLS, so plain http is redirected to https".to_owned());
            return Ok(report);
        }
    }
    match routes.find(&parsed.host, &parsed) {
        Err(NotFound::Host | NotFound::Path(_)) => {
            report.status = Some(404);
            report
                .why
                .push("no route takes the path, and the site has no service of its own".to_owned());
        }
        Ok(found) => {
            let service = &config.services[found.service.0].name;
            match found.route {
                Some(number) => {
                    report.route = Some(format!("route[{number}]"));
                    report
                        .why
                        .push(format!("route[{number}] is the most specific that matches"));
                }
                None => report
                    .why
                    .push("no route matches, so the site's own service takes it".to_owned()),
            }
            let target = target(service, found.service);
            report.service = Some(service.clone());
            report.color = Some(target.color);
            report.upstream = target.upstream;
            if report.upstream.is_none() {
                report.status = Some(503);
            }
            report.why.extend(target.why);
        }
    }
    Ok(report)
}

struct Parsed {
    https: bool,
    host: String,
    port: u16,
    sent_path: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
    client: IpAddr,
}

impl Parsed {
    fn new(request: &ExplainRequest) -> Result<Self, String> {
        let text = if request.url.contains("://") {
            request.url.clone()
        } else {
            format!("http://{}", request.url)
        };
        let uri: Uri = text
            .parse()
            .map_err(|_| format!("`{}` is not a URL, expected http://host/path", request.url))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("`{}` is neither http nor https", request.url)),
        };
        let authority = uri
            .authority()
            .ok_or_else(|| format!("`{}` has no host", request.url))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| format!("`{name}` is not a header name"))?;
            let value = HeaderValue::from_str(value)
                .map_err(|_| format!("the value of {name} is not a header value"))?;
            headers.append(name, value);
        }
        let named = headers
            .get(http::header::HOST)
            .and_then(|host| host.to_str().ok());
        let mut lower = [0; 255];
        let host = named.unwrap_or(authority.as_str());
        let host = host_of(host, &mut lower)
            .ok_or_else(|| format!("`{host}` is not a host name"))?
            .to_owned();
        let method = Method::from_bytes(request.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| format!("`{}` is not a method", request.method))?;
        let sent_path = uri.path().to_owned();
        Ok(Self {
            https,
            host,
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            path: normalize_path(&sent_path).into_owned(),
            sent_path,
            query: uri.query().map(str::to_owned),
            method,
            headers,
            client: request.client_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        })
    }
}

impl RequestView for Parsed {
    fn path(&self) -> &str {
        &self.path
    }

    fn method(&self) -> &Method {
        &self.method
    }

    fn any_header(&self, name: &HeaderName, accept: &dyn Fn(&str) -> bool) -> bool {
        let values = self.headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(accept)
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn client_ip(&self) -> IpAddr {
        self.client
    }
}
