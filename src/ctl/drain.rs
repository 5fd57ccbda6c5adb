//! `drain`: what still runs on slots that drain.

use std::time::Duration;

use crate::admin::client::Client;
use crate::admin::wire::{DrainStatus, ServiceStatus};
use crate::model::ServiceName;

use crate::ctl::output::Output;
use crate::ctl::switch_line::drain_line;
use crate::ctl::text::{Line, Style, span};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows it once, or with `wait` until nothing is left: a line for each change.
pub(crate) async fn drain(
    client: &Client,
    output: &Output,
    services: &[ServiceName],
    wait: bool,
) -> u8 {
    let mut said = Vec::new();
    loop {
        let status = match client.status().await {
            Ok(status) => status,
            Err(error) => return output.error(error),
        };
        let asked =
            |service: &&ServiceStatus| services.is_empty() || services.contains(&service.name);
        let draining: Vec<(&ServiceName, &DrainStatus)> = status
            .services
            .iter()
            .filter(asked)
            .flat_map(|service| service.drains.iter().map(|drain| (&service.name, drain)))
            .collect();
        let over = draining.is_empty();
        if output.json && (over || !wait) {
            output.document(&serde_json::json!({
                "drains": draining
                    .iter()
                    .map(|(service, drain)| serde_json::json!({"service": service, "drain": drain}))
                    .collect::<Vec<_>>(),
            }));
            return 0;
        }
        if !output.json {
            let now: Vec<Line> = draining
                .iter()
                .flat_map(|(service, drain)| lines(service, drain))
                .collect();
            if now != said {
                output.lines(&now);
                said = now;
            }
            if over {
                output.lines([&Line::new().plain("nothing drains")]);
            }
        }
        if over || !wait {
            return 0;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

fn lines(service: &ServiceName, drain: &DrainStatus) -> Vec<Line> {
    let mut lines = vec![
        Line::new()
            .with(Style::Bold, service.as_str())
            .plain("  ")
            .append(drain_line(drain)),
    ];
    for one in &drain.blocking {
        lines.push(
            Line::new()
                .plain(format!("    {:<9} ", one.kind.as_str()))
                .plain(format!("{} {}", one.method, one.path))
                .with(
                    Style::Dim,
                    format!("  from {}, {} old", one.client, span(one.age_ms)),
                ),
        );
    }
    let (shown, all) = (drain.blocking.len() as u64, drain.in_flight.total());
    if all > shown && shown > 0 {
        lines.push(Line::new().with(Style::Dim, format!("    and {} more", all - shown)));
    }
    lines
}
