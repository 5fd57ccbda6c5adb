//! `certs` as people read it.

use crate::admin::wire::{CertificateOrigin, CertificateReport, CertificateStatus};

use crate::ctl::text::{Line, Style, span};

/// A line for each host, and what is wrong or planned below it.
pub(crate) fn lines(report: &CertificateReport) -> Vec<Line> {
    if report.certificates.is_empty() {
        return vec![Line::new().plain("no site is served over TLS")];
    }
    let width = |text: fn(&CertificateStatus) -> &str| {
        let lengths = report
            .certificates
            .iter()
            .map(|one| text(one).chars().count());
        lengths.max().unwrap_or(0)
    };
    let hosts = width(|one| &one.host);
    let issuers = width(issuer);
    let mut lines = Vec::new();
    for one in &report.certificates {
        lines.extend(certificate(one, hosts, issuers));
    }
    lines
}

fn certificate(one: &CertificateStatus, hosts: usize, issuers: usize) -> Vec<Line> {
    let mut line = Line::new()
        .with(Style::Bold, format!("{:<hosts$}", one.host))
        .plain(format!("  {:<issuers$}  ", issuer(one)));
    line = match one.expires_in_s {
        Some(left) if left <= 0 => line.with(Style::Bad, "expired"),
        Some(left) => line.with(soon(left), format!("{} left", seconds(left))),
        None => line.with(Style::Dim, "no end"),
    };
    line = match one.origin {
        CertificateOrigin::Acme => line,
        CertificateOrigin::Files => line.with(Style::Dim, "  from files"),
        CertificateOrigin::Internal if one.stands_in => {
            line.with(Style::Warn, "  stands in: clients do not trust it")
        }
        CertificateOrigin::Internal => line.with(Style::Dim, "  internal CA"),
        CertificateOrigin::Adopted => line.with(Style::Dim, "  adopted"),
        CertificateOrigin::Other => line,
    };
    let mut lines = vec![line];
    let mut below = Vec::new();
    below.extend(one.file.clone());
    if let Some(why) = &one.why {
        let next = match one.next_renewal_in_s {
            Some(left) if left > 0 => format!("next order in {}: {why}", seconds(left)),
            _ => format!("next order now: {why}"),
        };
        below.push(next);
    }
    below.extend(
        one.challenge
            .as_ref()
            .map(|challenge| format!("by {challenge}")),
    );
    if !below.is_empty() {
        lines.push(Line::new().with(Style::Dim, format!("    {}", below.join(", "))));
    }
    if let Some(error) = &one.error {
        let times = match one.failures {
            0 | 1 => String::new(),
            times => format!("{times} failures, the last: "),
        };
        lines.push(
            Line::new()
                .plain("    ")
                .with(Style::Bad, format!("{times}{error}")),
        );
    }
    lines
}

fn issuer(one: &CertificateStatus) -> &str {
    one.issuer.as_deref().unwrap_or("-")
}

fn soon(left: i64) -> Style {
    if left < 7 * 86_400 {
        Style::Warn
    } else {
        Style::Plain
    }
}

fn seconds(count: i64) -> String {
    span(count.unsigned_abs().saturating_mul(1000))
}
