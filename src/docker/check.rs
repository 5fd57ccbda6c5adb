//! Which calls an engine, or a socket proxy before it, answers: for `doctor`.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::{
    EventsOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder, StatsOptionsBuilder,
};
use futures_util::StreamExt as _;

use super::client::{ApiVersion, Call, Client, DockerError};
use crate::config::DockerSocket;

/// For each call.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an engine answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The version that is spoken; `None`: it does not tell.
    pub version: Option<ApiVersion>,
    /// Every call that was tried, and why it gave nothing.
    pub calls: Vec<(Call, Option<DockerError>)>,
}

/// Tries every call that discovery makes. Those about one container are tried with any; without a
/// container they are not tried.
///
/// # Errors
/// The engine cannot be reached, or its version does not fit.
pub async fn check(socket: &DockerSocket) -> Result<Answers, DockerError> {
    let client = Client::connect(socket).await?;
    let api = client.api();
    let mut answers = Answers {
        version: client.version(),
        calls: Vec::new(),
    };
    if client.version().is_none() {
        let refused = api.version().await.err();
        let refused = refused.map(|error| DockerError::of(Call::Version, error));
        answers.calls.push((Call::Version, refused));
    }
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let list = within(Call::Containers, api.list_containers(Some(options))).await;
    let any = list.as_ref().ok().and_then(|list| list.first()?.id.clone());
    answers.calls.push((Call::Containers, list.err()));
    let filters = HashMap::from([("type".to_owned(), vec!["container".to_owned()])]);
    // Both ends in the past: it answers and ends.
    let options = EventsOptionsBuilder::new()
        .since("1")
        .until("2")
        .filters(&filters)
        .build();
    let events = first(Call::Events, api.events(Some(options))).await;
    answers.calls.push((Call::Events, events));
    if let Some(id) = any {
        let inspect = within(Call::Inspect, api.inspect_container(&id, None)).await;
        answers.calls.push((Call::Inspect, inspect.err()));
        let options = StatsOptionsBuilder::new()
            .stream(false)
            .one_shot(true)
            .build();
        let stats = first(Call::Stats, api.stats(&id, Some(options))).await;
        answers.calls.push((Call::Stats, stats));
        let options = LogsOptionsBuilder::new().stdout(true).tail("1").build();
        let logs = first(Call::Logs, api.logs(&id, Some(options))).await;
        answers.calls.push((Call::Logs, logs));
    }
    Ok(answers)
}

async fn within<T>(
    call: Call,
    answer: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, DockerError> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| DockerError::of(call, error)),
        Err(_) => Err(DockerError::Unreachable {
            why: format!("no answer to {call}"),
        }),
    }
}

/// Whether the first piece of a stream is an error; an end is none.
async fn first<T>(
    call: Call,
    stream: impl futures_util::Stream<Item = Result<T, bollard::errors::Error>>,
) -> Option<DockerError> {
    let mut stream = std::pin::pin!(stream);
    match tokio::time::timeout(PATIENCE, stream.next()).await {
        Ok(Some(Err(error))) => Some(DockerError::of(call, error)),
        Ok(Some(Ok(_)) | None) => None,
        Err(_) => Some(DockerError::Unreachable {
            why: format!("no answer to {call}"),
        }),
    }
}
