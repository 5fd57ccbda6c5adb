//! Where a request would go, and why: for `proxyctl explain`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::admin::wire::{Candidate, ControlError, ErrorCode, ExplainReport, ExplainRequest};
use crate::config::{Config, ServiceIndex, Tls};
use crate::model::{Color, ServiceName, normalize_path};
use crate::pool::{RequestView, Routes, SiteEntry, host_of};
use crate::proxy::{Asked, Rehearsal, RehearsalEnd};

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
    let Some(site) = routes.site(&parsed.host, parsed.port) else {
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
    report.candidates = candidates(site, &parsed);
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
    let Some(index) = through_steps(site, parsed, &mut report) else {
        return Ok(report);
    };
    let service = &config.services[index.0].name;
    let target = target(service, index);
    report.service = Some(service.clone());
    report.color = Some(target.color);
    report.upstream = target.upstream;
    if report.upstream.is_none() {
        report.status = Some(503);
    }
    report.why.extend(target.why);
    Ok(report)
}

/// Goes through the steps of the site, its routes, and the steps of the route. `None`: nothing is
/// forwarded.
fn through_steps(
    site: &Arc<SiteEntry>,
    mut parsed: Parsed,
    report: &mut ExplainReport,
) -> Option<ServiceIndex> {
    let target = match &parsed.query {
        Some(query) => format!("{}?{query}", parsed.path),
        None => parsed.path.clone(),
    };
    let mut rehearsal = Rehearsal::new(
        site,
        &Asked {
            method: &parsed.method,
            target: &target,
            authority: &parsed.authority,
            headers: &parsed.headers,
            client: parsed.client,
            https: parsed.https,
            port: parsed.port,
        },
    )?;
    let mut end = rehearsal.run("site", &site.plan);
    parsed.path = rehearsal.target().path().to_owned();
    parsed.query = rehearsal.target().query().map(str::to_owned);
    report.candidates = candidates(site, &parsed);
    let found = site.find(&parsed);
    let mut why = Vec::new();
    if end == RehearsalEnd::Next {
        match found {
            None => {
                why.push(
                    "no route takes the path, and the site has no service of its own".to_owned(),
                );
            }
            Some(found) => {
                match found.route {
                    Some(number) => {
                        report.route = Some(format!("route[{number}]"));
                        why.push(format!("route[{number}] is the most specific that matches"));
                    }
                    None => {
                        why.push("no route matches, so the site's own service takes it".to_owned());
                    }
                }
                if let Some(plan) = found.plan {
                    end = rehearsal.run("route", plan);
                }
            }
        }
    }
    report.why.extend(rehearsal.told());
    report.why.extend(why);
    match end {
        RehearsalEnd::Service(index) => Some(index),
        RehearsalEnd::Answered(status) => {
            report.status = status;
            report.why.push("a step answers it".to_owned());
            None
        }
        RehearsalEnd::Next => {
            let service = found.and_then(|found| found.service);
            if service.is_none() {
                report.status = Some(404);
            }
            service
        }
    }
}

/// Routes in the order of their precedence, and what became of them.
fn candidates(site: &SiteEntry, parsed: &Parsed) -> Vec<Candidate> {
    let looked_at = site.candidates(parsed).into_iter();
    let told = looked_at.map(|candidate| Candidate {
        route: format!("route[{}] {}", candidate.number, candidate.path),
        matched: candidate.verdict == "taken",
        why: candidate.verdict.to_owned(),
    });
    told.collect()
}

struct Parsed {
    https: bool,
    host: String,
    /// With the port, as it would be sent.
    authority: String,
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
        let sent = named.unwrap_or(authority.as_str()).to_owned();
        let host = host_of(&sent, &mut lower)
            .ok_or_else(|| format!("`{sent}` is not a host name"))?
            .to_owned();
        let method = Method::from_bytes(request.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| format!("`{}` is not a method", request.method))?;
        let sent_path = uri.path().to_owned();
        Ok(Self {
            https,
            host,
            authority: sent,
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
