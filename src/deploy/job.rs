//! What a job is once its placeholders are filled in, and when a copy may be put back.
//!
//! Pure. A job succeeds when its container ends with 0 **and** everything that it should have left
//! is there. A copy of the data is put back by itself only if nobody can have written since it
//! was made: what users did meanwhile would be lost with it.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::container::{Container, Hidden, label};
use super::record::Run;
use crate::config::{Job, JobImage};
use crate::model::ServiceName;

/// A job, ready to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRun {
    /// Its name.
    pub name: String,
    /// Its surroundings are those of this service.
    pub service: ServiceName,
    /// Name of its container.
    pub container: String,
    /// Which image.
    pub image: ImageOf,
    /// The body of `POST /containers/create`, without the image.
    pub body: Hidden<Value>,
    /// Networks beside the first.
    pub more: Vec<super::spec::Attachment>,
    /// More variables.
    pub env: Hidden<Vec<String>>,
    /// Between start and kill, in milliseconds.
    pub timeout_ms: u64,
    /// The stack is closed meanwhile.
    pub maintenance: bool,
    /// It makes a copy of the data.
    pub snapshot: bool,
    /// What puts that copy back.
    pub restore: Vec<String>,
    /// What it must have left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success: Option<Left>,
}

/// Which image a job has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageOf {
    /// That of the new release: its reference.
    New(String),
    /// That of the release before: its id.
    Old(String),
    /// Another one.
    Other(String),
}

impl ImageOf {
    /// For the engine.
    #[must_use]
    pub fn reference(&self) -> &str {
        match self {
            Self::New(image) | Self::Old(image) | Self::Other(image) => image,
        }
    }
}

/// What a job must have left beside exit code 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// A file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// How large it is at least, in bytes.
    pub min_bytes: u64,
    /// A command that must end with 0; empty: none.
    pub verify: Vec<String>,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Its length.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// Whether it is a file, not a folder or a link.
    pub is_file: bool,
}

/// Clocks of file systems are coarse.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

impl Left {
    /// What is wrong with the file of a job that began at `began`, if anything.
    #[must_use]
    pub fn obstacle(&self, found: Option<FileFacts>, began: SystemTime) -> Option<String> {
        let file = self.file.as_deref()?;
        let Some(found) = found else {
            return Some(format!("{file} is not there"));
        };
        if !found.is_file {
            return Some(format!("{file} is no file"));
        }
        if found.bytes < self.min_bytes {
            let (bytes, min) = (found.bytes, self.min_bytes);
            return Some(format!("{file} has {bytes} bytes, less than {min}"));
        }
        (found.modified + CLOCK_GRAIN < began)
            .then(|| format!("{file} is older than the job: it was not written"))
    }
}

/// Which images there are for a job.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// Reference of the new release.
    pub new: &'a str,
    /// Id of the live one.
    pub old: &'a str,
}

impl JobRun {
    /// A job in the surroundings of `live`, which runs `image` (the engine's description).
    #[must_use]
    pub fn new(
        job: &Job,
        live: &Container,
        image: &Value,
        images: Images<'_>,
        container: String,
        at: SystemTime,
    ) -> Self {
        let of = match &job.image {
            JobImage::New => ImageOf::New(images.new.to_owned()),
            JobImage::Old | JobImage::Any => ImageOf::Old(images.old.to_owned()),
            JobImage::Reference(other) => ImageOf::Other(other.clone()),
        };
        let fill = |texts: &[String]| -> Vec<String> {
            texts.iter().map(|text| filled(text, at)).collect()
        };
        let is_other = matches!(of, ImageOf::Other(_));
        let (body, more) = body(job, live, image, is_other, &fill(&job.command));
        let left = job.success.as_ref().map(|success| Left {
            file: success.file.as_deref().map(|file| filled(file, at)),
            min_bytes: u64::try_from(success.min_size).unwrap_or(u64::MAX),
            verify: fill(&success.verify),
        });
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            name: job.name.clone(),
            service: job.service.clone(),
            container,
            image: of,
            body: Hidden(body),
            more,
            env: Hidden(job.env.clone()),
            timeout_ms: millis(job.timeout),
            maintenance: job.maintenance,
            snapshot: job.snapshot,
            restore: fill(&job.restore),
            success: left,
        }
    }

    /// Says which deploy it is a step of.
    pub fn mark(&mut self, deploy: &str) {
        self.body["Labels"][label::DEPLOY] = json!(deploy);
    }

    /// What its container is made from, or, with a command, one in the same surroundings.
    #[must_use]
    pub fn whole_body(&self, command: Option<&[String]>) -> Value {
        let mut body = self.body.0.clone();
        if let Some(command) = command {
            body["Cmd"] = json!(command);
        }
        let mut env = body["Env"].as_array().cloned().unwrap_or_default();
        let name = |entry: &str| entry.split('=').next().map(str::to_owned);
        for more in &self.env.0 {
            env.retain(|known| known.as_str().and_then(name) != name(more));
            env.push(json!(more));
        }
        body["Env"] = Value::Array(env);
        body["Image"] = json!(self.image.reference());
        body
    }
}

/// `{time}` as 20270115T080000Z.
fn filled(text: &str, at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or_default();
    let at = at.strftime("%Y%m%dT%H%M%SZ").to_string();
    text.replace("{time}", &at)
}

/// A container that does one thing: the service's surroundings, none of its ports, names, checks
/// and restarts.
fn body(
    job: &Job,
    live: &Container,
    image: &Value,
    is_other: bool,
    command: &[String],
) -> (Value, Vec<super::spec::Attachment>) {
    let (mut body, more) = super::spec::surroundings(live, image);
    let mut set = |key: &str, value: Value| {
        body.insert(key.to_owned(), value);
    };
    if !command.is_empty() {
        set("Cmd", json!(command));
    }
    if !job.entrypoint.is_empty() {
        set("Entrypoint", json!(job.entrypoint));
    }
    if let Some(user) = &job.user {
        set("User", json!(user));
    }
    set("Healthcheck", json!({ "Test": ["NONE"] }));
    set(
        "Labels",
        json!({ label::JOB: job.name, label::SERVICE: job.service }),
    );
    for key in ["ExposedPorts", "Hostname", "Domainname"] {
        body.remove(key);
    }
    if is_other {
        // Users, entry points and folders of one image mean nothing in another.
        for key in ["WorkingDir", "StopSignal", "Shell"] {
            body.remove(key);
        }
        if job.user.is_none() {
            body.remove("User");
        }
        if job.entrypoint.is_empty() {
            body.remove("Entrypoint");
        }
        if job.command.is_empty() {
            body.remove("Cmd");
        }
    }
    if let Some(host) = body.get_mut("HostConfig").and_then(Value::as_object_mut) {
        mounts(host, job);
        host.insert("RestartPolicy".to_owned(), json!({ "Name": "no" }));
        host.insert("PortBindings".to_owned(), json!({}));
        host.insert("PublishAllPorts".to_owned(), json!(false));
        host.insert("AutoRemove".to_owned(), json!(false));
    }
    (Value::Object(body), more)
}

fn mounts(host: &mut Map<String, Value>, job: &Job) {
    let mut binds = host
        .get("Binds")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let target = |bind: &str| bind.split(':').nth(1).map(str::to_owned);
    let secret = |file: &std::path::PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        format!("{}:/run/secrets/{name}:ro", file.display())
    };
    let more = job.mounts.iter().cloned();
    for bind in more.chain(job.secret_files.iter().map(secret)) {
        binds.retain(|known| known.as_str().and_then(target) != target(&bind));
        binds.push(json!(bind));
    }
    host.insert("Binds".to_owned(), Value::Array(binds));
}

/// What is known about whether anybody could write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doors {
    /// Since when every service of the stack has been closed for maintenance without a break, in
    /// milliseconds since 1970; `None`: it is not.
    pub closed_since_ms: Option<u64>,
    /// Workers of the stack: they write without asking the proxy.
    pub workers: Vec<ServiceName>,
    /// Some clients are let in all the same (`maintenance.allow`).
    pub let_in: bool,
}

/// Why a copy must not be put back by itself, if so.
#[must_use]
pub fn restore_obstacle(run: &Run, job: usize, doors: &Doors) -> Option<String> {
    let Some(snapshot) = run.facts.snapshots.get(&job) else {
        return Some("there is no copy".to_owned());
    };
    if run.facts.moved {
        return Some("requests went to the new release since".to_owned());
    }
    if !run.facts.closed {
        return Some("the stack was open to requests, without `maintenance = true`".to_owned());
    }
    if !run.facts.quiet {
        return Some("requests were still in flight when the copy was begun".to_owned());
    }
    match doors.closed_since_ms {
        None => return Some("somebody opened the stack since".to_owned()),
        Some(since) if since > snapshot.began_ms => {
            return Some("somebody opened the stack for a while since".to_owned());
        }
        Some(_) => {}
    }
    if doors.let_in {
        return Some("clients of maintenance.allow were let in".to_owned());
    }
    if !doors.workers.is_empty() {
        let names: Vec<_> = doors.workers.iter().map(ServiceName::as_str).collect();
        return Some(format!(
            "{} ran meanwhile and may have written",
            names.join(", ")
        ));
    }
    None
}

/// What a person types to do it: commands for the engine's own client, in one line. One that is in
/// several networks is made first: `docker run` knows of one.
#[must_use]
pub fn restore_command(job: &JobRun) -> String {
    let mut words = vec![match job.more.is_empty() {
        true => "docker run --rm".to_owned(),
        false => format!("docker create --name {RESTORE}"),
    }];
    let host = job.body.get("HostConfig");
    let network = host.and_then(|host| host.get("NetworkMode"));
    if let Some(network) = network.and_then(Value::as_str) {
        words.push(format!("--network {}", quoted(network)));
    }
    let binds = host.and_then(|host| host.get("Binds"));
    for bind in binds.and_then(Value::as_array).into_iter().flatten() {
        words.push(format!("-v {}", quoted(bind.as_str().unwrap_or_default())));
    }
    // Values may be secret: they are taken from the environment of whoever types it.
    let env = job.body.get("Env").and_then(Value::as_array);
    let env = env.into_iter().flatten().filter_map(Value::as_str);
    for entry in env.chain(job.env.0.iter().map(String::as_str)) {
        let name = entry.split('=').next().unwrap_or_default();
        words.push(format!("-e {name}"));
    }
    if let Some(user) = job.body.get("User").and_then(Value::as_str) {
        words.push(format!("--user {}", quoted(user)));
    }
    words.push(quoted(job.image.reference()));
    words.extend(job.restore.iter().map(|word| quoted(word)));
    if !job.more.is_empty() {
        for attachment in &job.more {
            let network = quoted(&attachment.network);
            words.push(format!("&& docker network connect {network} {RESTORE}"));
        }
        words.push(format!(
            "&& docker start --attach {RESTORE} && docker rm {RESTORE}"
        ));
    }
    words.join(" ")
}

/// The container that a person makes with [`restore_command`].
const RESTORE: &str = "cutover-restore";

fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@=,+".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests;
