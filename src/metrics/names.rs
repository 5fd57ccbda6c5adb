//! The table of all metrics: name, type, labels and help.

/// A metric family as `# HELP` and `# TYPE` announce it.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) static $id: Family = Family {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+
    };
}

families! {
    REQUESTS: Counter "cutover_requests_total" ["service", "color", "method", "code"]
        "Requests that ended, by the status sent to the client.";
    REQUEST_DURATION: Histogram "cutover_request_duration_seconds" ["service", "color"]
        "Whole requests at the edge, without WebSockets and event streams.";
    UPSTREAM_DURATION: Histogram "cutover_upstream_duration_seconds" ["service", "color"]
        "Time to the first byte of the upstream's answer.";
    REQUEST_QUANTILE: Gauge "cutover_request_duration_quantile_seconds"
        ["service", "color", "quantile"]
        "Quantiles of whole requests in the last 60 seconds, within 1 %; NaN without requests.";
    IN_FLIGHT: Gauge "cutover_in_flight_requests" ["service", "color", "kind"]
        "Requests, WebSockets and event streams open now.";
    LIVE: Gauge "cutover_live" ["service", "color"]
        "1 for the color that takes new requests, 0 for the idle one.";
    RELEASE_INFO: Gauge "cutover_release_info" ["service", "color", "release"]
        "Always 1; the release label says what runs in the slot.";
    UPSTREAM_HEALTHY: Gauge "cutover_upstream_healthy" ["service", "color", "upstream"]
        "1 for an upstream whose probes pass, else 0.";
    UPSTREAM_ERRORS: Counter "cutover_upstream_errors_total"
        ["service", "color", "upstream", "reason"]
        "Attempts that got no answer from an upstream, by RFC 9209 error type.";
    SWITCHES: Counter "cutover_switches_total" ["service", "outcome"]
        "Switches that ended, by outcome.";
    ROLLBACKS: Counter "cutover_rollbacks_total" ["service", "reason"]
        "Switches that were rolled back, by reason.";
    RESCUED: Counter "cutover_rescued_requests_total" ["service"]
        "Requests that the other color answered after the live one had failed.";
    HELD: Gauge "cutover_held_requests" ["service"]
        "Requests that wait at the edge now.";
    DRAIN_REMAINING: Gauge "cutover_drain_remaining" ["service", "kind"]
        "What draining pools still wait for.";
    CERTIFICATE_EXPIRY: Gauge "cutover_certificate_expiry_timestamp_seconds" ["host"]
        "When the certificate of a host expires, in seconds since the Unix epoch.";
    CERTIFICATE_MISSING: Gauge "cutover_certificate_missing" ["host"]
        "1 for a host that is served with the internal CA's certificate because none was issued for it.";
    CERTIFICATE_FILES_REJECTED: Gauge "cutover_certificate_files_rejected" []
        "Certificate files that changed to something unusable; their last good content is served.";
    ACME_ORDERS: Counter "cutover_acme_orders_total" ["outcome"]
        "Orders of certificates that ended, by outcome.";
    CONFIG_RELOADS: Counter "cutover_config_reloads_total" ["outcome"]
        "Reloads of the configuration, by outcome.";
    CONFIG_LAST_RELOAD_SUCCESS: Gauge "cutover_config_last_reload_success" []
        "1 if the configuration as last read is in force, 0 if it was refused.";
    CONNECTIONS: Gauge "cutover_downstream_connections" ["protocol"]
        "Connections of clients open now.";
    BUILD_INFO: Gauge "cutover_build_info" ["version"]
        "Always 1; the version label says which build runs.";
}

/// Values of the `quantile` label.
pub(super) const QUANTILES: [(f64, &str); 4] =
    [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999")];
