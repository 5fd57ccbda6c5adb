//! Why a request could not be answered by its upstream, in the words of RFC 9209 §2.3: one
//! vocabulary for the `Proxy-Status` header, the metrics' `reason` label and the access log.

use std::fmt;

macro_rules! error_types {
    ($($(#[$doc:meta])* $variant:ident => $text:literal,)+) => {
        /// A proxy error type (RFC 9209 §2.3). `Display` gives the registered token.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorType {
            $($(#[$doc])* $variant,)+
        }

        impl ErrorType {
            /// All types, in the order of the RFC.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// The registered token, such as `connection_refused`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

error_types! {
    /// The upstream's name was not resolved in time (§2.3.1).
    DnsTimeout => "dns_timeout",
    /// The resolver answered with an error (§2.3.2).
    DnsError => "dns_error",
    /// No upstream is known for this request: unknown host or path (§2.3.3).
    DestinationNotFound => "destination_not_found",
    /// Every upstream is considered down, or none takes requests now (§2.3.4).
    DestinationUnavailable => "destination_unavailable",
    /// The upstream's address is one that must not be connected to (§2.3.5).
    DestinationIpProhibited => "destination_ip_prohibited",
    /// There is no route to the upstream's address (§2.3.6).
    DestinationIpUnroutable => "destination_ip_unroutable",
    /// The upstream refused the connection (§2.3.7).
    ConnectionRefused => "connection_refused",
    /// The connection ended before any part of the response arrived (§2.3.8).
    ConnectionTerminated => "connection_terminated",
    /// The connection was not established in time (§2.3.9).
    ConnectionTimeout => "connection_timeout",
    /// An expected read from the connection did not happen in time (§2.3.10).
    ConnectionReadTimeout => "connection_read_timeout",
    /// A write to the connection did not finish in time (§2.3.11).
    ConnectionWriteTimeout => "connection_write_timeout",
    /// A limit on connections to the upstream was reached (§2.3.12).
    ConnectionLimitReached => "connection_limit_reached",
    /// TLS with the upstream failed, neither by certificate nor by alert (§2.3.13).
    TlsProtocolError => "tls_protocol_error",
    /// The upstream's certificate was not accepted (§2.3.14).
    TlsCertificateError => "tls_certificate_error",
    /// The upstream sent a TLS alert (§2.3.15).
    TlsAlertReceived => "tls_alert_received",
    /// The request itself is at fault; the proxy answers 4xx (§2.3.16).
    HttpRequestError => "http_request_error",
    /// Policy of the proxy refuses the request (§2.3.17).
    HttpRequestDenied => "http_request_denied",
    /// The response ended before it was complete (§2.3.18).
    HttpResponseIncomplete => "http_response_incomplete",
    /// The response's header section is too large (§2.3.19).
    HttpResponseHeaderSectionSize => "http_response_header_section_size",
    /// One response field is too large (§2.3.20).
    HttpResponseHeaderSize => "http_response_header_size",
    /// The response's body is too large (§2.3.21).
    HttpResponseBodySize => "http_response_body_size",
    /// The response's trailer section is too large (§2.3.22).
    HttpResponseTrailerSectionSize => "http_response_trailer_section_size",
    /// One trailer field is too large (§2.3.23).
    HttpResponseTrailerSize => "http_response_trailer_size",
    /// The response's transfer coding could not be decoded (§2.3.24).
    HttpResponseTransferCoding => "http_response_transfer_coding",
    /// The response's content coding could not be decoded (§2.3.25).
    HttpResponseContentCoding => "http_response_content_coding",
    /// No complete response in time (§2.3.26).
    HttpResponseTimeout => "http_response_timeout",
    /// The upgrade between proxy and upstream failed (§2.3.27).
    HttpUpgradeFailed => "http_upgrade_failed",
    /// The upstream broke HTTP in a way no other type names (§2.3.28).
    HttpProtocolError => "http_protocol_error",
    /// The proxy made this response itself, without asking an upstream (§2.3.29).
    ProxyInternalResponse => "proxy_internal_response",
    /// The proxy failed in a way that is not the upstream's fault (§2.3.30).
    ProxyInternalError => "proxy_internal_error",
    /// The proxy's configuration is at fault (§2.3.31).
    ProxyConfigurationError => "proxy_configuration_error",
    /// The request came back to a proxy that had forwarded it (§2.3.32).
    ProxyLoopDetected => "proxy_loop_detected",
}

impl fmt::Display for ErrorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_is_a_distinct_structured_field_token() {
        let tokens: BTreeSet<_> = ErrorType::ALL.iter().map(|e| e.as_str()).collect();
        assert_eq!(tokens.len(), 32);
        for token in tokens {
            assert!(
                token.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{token}"
            );
        }
    }
}
