//! From a verb to one call to an exit code.

use std::future::Future;
use std::time::Duration;

use crate::admin::client::Client;
use crate::admin::socket;
use crate::admin::wire::{
    ControlError, DecisionRequest, DeployRequest, Done, ErrorCode, ExplainReport, ExplainRequest,
    HistoryRequest, JobRequest, Operation, Outcome, ReloadReport, RenewRequest, RollbackRequest,
    Status, SwitchRequest,
};
use crate::app::rehearse;

use crate::ctl::args::{Certs, Cli, Deploy, Explain, Notify, OnOff, Strategy, Switch, Verb};
use crate::ctl::follow::Follower;
use crate::ctl::output::Output;
use crate::ctl::text::{Line, Style};
use crate::ctl::{
    adapt, certs, doctor, drain, env_file, explain, hash_password, history, judge, offline, table,
    watch,
};

/// Does what was asked; the exit code.
pub(crate) async fn run(cli: Cli) -> u8 {
    let output = Output::of_process(cli.common.json);
    match cli.verb {
        Verb::HashPassword { bcrypt } => hash_password::hash_password(&output, bcrypt).await,
        Verb::Adapt { file, out } => adapt::adapt(&output, &file, out.as_deref()),
        Verb::Doctor { config, repair } => {
            let addr = cli.common.addr.as_deref();
            doctor::doctor(&output, addr, config.as_deref(), repair).await
        }
        Verb::Explain(ref asked) if let Some(file) = &asked.config => {
            let request = explain_request(asked);
            let report = request.and_then(|request| {
                let report = offline::explain(file, &request)?;
                Ok((request, report))
            });
            show_explain(&output, report)
        }
        Verb::Judge(ref asked) if let Some(file) = &asked.replay => {
            let report = rehearse(file, &asked.settings);
            show(&output, report, |output, report| {
                output.lines([&judge::replay_line(report)]);
            })
        }
        verb => match socket::locate(cli.common.addr.as_deref()) {
            Ok(path) => ask(verb, &Client::new(path), &output).await,
            Err(error) => output.error(ControlError::new(
                match error {
                    socket::LocateError::NotAPath(_) => ErrorCode::Usage,
                    socket::LocateError::Foreign(_) => ErrorCode::Unreachable,
                },
                error.to_string(),
            )),
        },
    }
}

async fn ask(verb: Verb, client: &Client, output: &Output) -> u8 {
    let follower = Follower::new(output);
    match verb {
        Verb::Status { watch: true } => watch::watch(client, output).await,
        Verb::Status { watch: false } => show(output, client.status().await, show_status),
        Verb::Switch(asked) => {
            let request = switch_request(asked);
            let call = client.switch(&request, |progress| follower.progress(&progress));
            until_detached(call, &follower, false).await
        }
        Verb::Rollback { no_wait, why, id } => {
            let request = RollbackRequest {
                wait: !no_wait,
                id,
                why,
            };
            let call = client.rollback(&request, |progress| follower.progress(&progress));
            until_detached(call, &follower, true).await
        }
        Verb::Deploy(asked) => match deploy_request(asked) {
            Ok(request) => {
                let call = client.deploy(&request, |progress| follower.progress(&progress));
                until_detached(call, &follower, false).await
            }
            Err(error) => output.error(error),
        },
        Verb::Job { name } => {
            let request = JobRequest { name };
            tokio::select! {
                result = client.job(&request) => follower.end(result, false),
                Ok(()) = tokio::signal::ctrl_c() => follower.detached(
                    "`proxyctl status` shows how it ends",
                ),
            }
        }
        Verb::Cleanup => operate(client, output, Operation::Cleanup {}).await,
        Verb::Reset => operate(client, output, Operation::Reset {}).await,
        Verb::Promote { why, id } => {
            let request = DecisionRequest { id, why };
            follower.end(client.promote(&request).await, true)
        }
        Verb::Abort { why, id } => {
            let request = DecisionRequest { id, why };
            follower.end(client.abort(&request).await, true)
        }
        Verb::Hold { services, max } => {
            let max_ms = millis(max);
            operate(client, output, Operation::Hold { services, max_ms }).await
        }
        Verb::Resume { services } => operate(client, output, Operation::Resume { services }).await,
        Verb::Maintenance(asked) => {
            let operation = Operation::Maintenance {
                on: matches!(asked.mode, OnOff::On),
                services: asked.services,
                sites: asked.sites,
                message: asked.message,
            };
            operate(client, output, operation).await
        }
        Verb::Freeze { why, time } => {
            let for_ms = time.map(millis);
            operate(client, output, Operation::Freeze { why, for_ms }).await
        }
        Verb::Unfreeze => operate(client, output, Operation::Unfreeze {}).await,
        Verb::History { limit, service } => {
            let request = HistoryRequest {
                limit: Some(limit),
                service,
            };
            show(output, client.history(&request).await, |output, report| {
                output.lines(&history::lines(report));
            })
        }
        Verb::Notify {
            action: Notify::Test,
        } => operate(client, output, Operation::NotifyTest {}).await,
        Verb::Judge(asked) => show(output, client.judge().await, |output, report| {
            output.lines(&judge::lines(report, asked.explain));
        }),
        Verb::Certs { action: None } => {
            show(output, client.certificates().await, |output, report| {
                output.lines(&certs::lines(report));
            })
        }
        Verb::Certs {
            action:
                Some(Certs::Renew {
                    host,
                    force,
                    no_wait,
                }),
        } => {
            let wait = !no_wait;
            let request = RenewRequest { host, force, wait };
            show(output, client.renew(&request).await, show_done)
        }
        Verb::Drain { services, wait } => drain::drain(client, output, &services, wait).await,
        Verb::Reload => show(output, client.reload().await, show_reload),
        Verb::Config => match client.config().await {
            Ok(report) if output.json => {
                output.document(&report.config);
                0
            }
            Ok(report) => {
                output.raw(&report.toml);
                0
            }
            Err(error) => output.error(error),
        },
        Verb::Explain(asked) => {
            let report = match explain_request(&asked) {
                Ok(request) => client
                    .explain(&request)
                    .await
                    .map(|report| (request, report)),
                Err(error) => Err(error),
            };
            show_explain(output, report)
        }
        Verb::Ready => show(output, client.ready().await, |output, _| {
            output.lines([&Line::new().with(Style::Good, "ready")]);
        }),
        // `run` has answered these.
        Verb::Doctor { .. } | Verb::Adapt { .. } | Verb::HashPassword { .. } => {
            ErrorCode::Unsupported.exit_code()
        }
    }
}

async fn operate(client: &Client, output: &Output, operation: Operation) -> u8 {
    show(output, client.operate(&operation).await, show_done)
}

fn show_done(output: &Output, done: &Done) {
    for line in &done.done {
        output.lines([&Line::new().plain(line)]);
    }
    for warning in &done.warnings {
        output.lines([&Line::new()
            .with(Style::Warn, "warning")
            .plain("  ")
            .plain(warning)]);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Prints a value: as JSON if that was asked for, else by `people`.
fn show<T: serde::Serialize>(
    output: &Output,
    result: Result<T, ControlError>,
    people: impl FnOnce(&Output, &T),
) -> u8 {
    match result {
        Ok(value) if output.json => output.document(&value),
        Ok(value) => people(output, &value),
        Err(error) => return output.error(error),
    }
    0
}

fn show_status(output: &Output, status: &Status) {
    output.lines(&table::status(status));
}

fn show_reload(output: &Output, report: &ReloadReport) {
    let file = report.config.as_deref().unwrap_or("the configuration");
    let line = Line::new()
        .with(Style::Good, "reloaded")
        .plain(": ")
        .plain(file);
    output.lines([&match report.changes.is_empty() {
        true => line.plain(", nothing changed"),
        false => line,
    }]);
    for change in &report.changes {
        output.lines([&Line::new().plain("  ").plain(change)]);
    }
    for warning in &report.warnings {
        output.lines([&Line::new()
            .with(Style::Warn, "warning")
            .plain("  ")
            .plain(warning)]);
    }
}

fn switch_request(asked: Switch) -> SwitchRequest {
    SwitchRequest {
        target: asked.target,
        services: asked.services,
        canary: asked.canary,
        canary_ms: asked.canary_for.map(millis),
        confirm_within_ms: asked.confirm_within.map(millis),
        wait: !asked.no_wait,
        force: asked.force,
        release: asked.release,
        id: asked.id,
        why: asked.why,
    }
}

fn deploy_request(asked: Deploy) -> Result<DeployRequest, ControlError> {
    let strategy = match asked.strategy {
        Strategy::BlueGreen => crate::model::Strategy::BlueGreen,
        Strategy::Rolling => crate::model::Strategy::Rolling,
    };
    let env = match &asked.env_file {
        None => Vec::new(),
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(|error| {
                let message = format!("{} cannot be read: {error}", file.display());
                ControlError::new(ErrorCode::Usage, message)
            })?;
            env_file::read(&text).map_err(|message| {
                let message = format!("{}: {message}", file.display());
                ControlError::new(ErrorCode::Usage, message)
            })?
        }
    };
    Ok(DeployRequest {
        image: asked.image,
        services: asked.services,
        env,
        release: asked.release.map(|release| release.as_str().to_owned()),
        force: asked.force,
        strategy,
        dry_run: asked.dry_run,
        wait: !asked.no_wait,
        id: asked.id,
        why: asked.why,
    })
}

/// Waits for the end or for Ctrl-C, which leaves the daemon at work.
async fn until_detached(
    call: impl Future<Output = Result<Outcome, ControlError>>,
    follower: &Follower<'_>,
    undo: bool,
) -> u8 {
    tokio::select! {
        result = call => follower.end(result, undo),
        Ok(()) = tokio::signal::ctrl_c() => follower.detached(
            "`proxyctl status --watch` shows it, `proxyctl abort` ends it",
        ),
    }
}

fn show_explain(
    output: &Output,
    result: Result<(ExplainRequest, ExplainReport), ControlError>,
) -> u8 {
    match result {
        Ok((_, report)) if output.json => output.document(&report),
        Ok((request, report)) => output.lines(&explain::lines(&request, &report)),
        Err(error) => return output.error(error),
    }
    0
}

/// Checks what needs no daemon: the URL is absolute and the method is one.
fn explain_request(asked: &Explain) -> Result<ExplainRequest, ControlError> {
    let usage = |message| Err(ControlError::new(ErrorCode::Usage, message));
    let absolute = asked.url.parse::<http::Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.host().is_some_and(|host| !host.is_empty())
    });
    if !absolute {
        return usage(format!(
            "`{}` is not an absolute URL, such as https://example.com/api",
            asked.url
        ));
    }
    if http::Method::from_bytes(asked.method.as_bytes()).is_err() {
        return usage(format!("`{}` is not a method", asked.method));
    }
    Ok(ExplainRequest {
        url: asked.url.clone(),
        method: asked.method.to_uppercase(),
        headers: asked.headers.clone(),
        client_ip: asked.client_ip,
    })
}
