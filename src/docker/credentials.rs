//! Credentials of registries, from the file that `docker login` writes.
//!
//! Read: `auths.HOST.auth` (base64 of `user:password`), `username` and `password`,
//! `identitytoken`; and `credHelpers.HOST` and `credsStore`, whose programs
//! (`docker-credential-NAME get`) are asked as the engine's own client does. Source:
//! docs.docker.com/reference/cli/docker/login, "Credential stores".

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// What a registry is told.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The registry's host.
    pub registry: String,
    /// With `password`.
    pub username: Option<String>,
    /// With `username`.
    pub password: Option<String>,
    /// Instead of both.
    pub token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials for {}", self.registry)
    }
}

/// Why credentials that are there cannot be used. None of them is in it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The file.
    #[error("{} cannot be read: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// A program that keeps them.
    #[error("docker-credential-{helper} gave nothing for {registry}: {why}")]
    Helper {
        /// Its name.
        helper: String,
        /// The registry.
        registry: String,
        /// In words.
        why: String,
    },
}

/// The key of Docker Hub in that file.
const HUB: &str = "https://index.docker.io/v1/";

/// Where the file is: `configured`, else `$DOCKER_CONFIG/config.json`, else
/// `~/.docker/config.json`.
#[must_use]
pub fn usual_file(
    configured: Option<&Path>,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> Option<PathBuf> {
    if let Some(file) = configured {
        return Some(file.to_owned());
    }
    let folder = variable("DOCKER_CONFIG");
    let home = || variable("HOME").map(|home| home.join(".docker"));
    folder
        .or_else(home)
        .map(|folder| folder.join("config.json"))
}

/// What the file has for the registry of an image; `None`: nothing, which is fine for public
/// ones. Blocks.
///
/// # Errors
/// The file is there and cannot be used, or a program that it names.
pub fn credentials(file: &Path, image: &str) -> Result<Option<Credentials>, CredentialsError> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(file, &error.to_string())),
    };
    // The parser's own message would repeat a part of what it read.
    let known: Value =
        serde_json::from_slice(&text).map_err(|_| unreadable(file, "it is no JSON"))?;
    let registry = registry(image);
    let key = if registry == "docker.io" {
        HUB
    } else {
        registry
    };
    let helper = known
        .pointer("/credHelpers")
        .and_then(|helpers| helpers.get(key).or_else(|| helpers.get(registry)));
    let helper = helper.or_else(|| known.get("credsStore"));
    if let Some(helper) = helper
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
    {
        return ask(helper, key, registry);
    }
    let auths = known.get("auths").and_then(Value::as_object);
    let same = |(name, _): &(&String, &Value)| host(name) == host(key);
    let Some((_, auth)) = auths.into_iter().flatten().find(same) else {
        return Ok(None);
    };
    let text = |key| auth.get(key).and_then(Value::as_str).map(str::to_owned);
    let decoded = text("auth").and_then(|auth| STANDARD.decode(auth).ok());
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.and_then(|pair| {
        let (user, password) = pair.split_once(':')?;
        // Some versions pad with zeros.
        let password = password.trim_end_matches('\0');
        Some((user.to_owned(), password.to_owned()))
    });
    let (username, password) = pair.unzip();
    let found = Credentials {
        registry: registry.to_owned(),
        username: username.or_else(|| text("username")),
        password: password.or_else(|| text("password")),
        token: text("identitytoken").filter(|token| !token.is_empty()),
    };
    let is_something = found.token.is_some() || found.username.is_some();
    Ok(is_something.then_some(found))
}

fn unreadable(file: &Path, why: &str) -> CredentialsError {
    CredentialsError::File {
        path: file.to_owned(),
        why: why.to_owned(),
    }
}

/// The host of an image's registry (distribution's `reference` grammar): what is before the first
/// slash if it looks like a host, else Docker Hub.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        Some(_) | None => "docker.io",
    }
}

/// `https://registry.example.com/v2/` as `registry.example.com`.
fn host(name: &str) -> &str {
    let bare = name
        .strip_prefix("https://")
        .or_else(|| name.strip_prefix("http://"));
    bare.unwrap_or(name).split('/').next().unwrap_or_default()
}

/// `docker-credential-HELPER get`, with the registry on its standard input.
fn ask(helper: &str, key: &str, registry: &str) -> Result<Option<Credentials>, CredentialsError> {
    let failed = |why: String| CredentialsError::Helper {
        helper: helper.to_owned(),
        registry: registry.to_owned(),
        why,
    };
    let mut program = Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = program.stdin.take() {
        let written = input.write_all(key.as_bytes());
        written.map_err(|error| failed(error.to_string()))?;
    }
    let answer = program.wait_with_output();
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stdout);
        // Not logged in there: the image may be public.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(format!("it ended with {}", answer.status)));
    }
    let found: Value = serde_json::from_slice(&answer.stdout)
        .map_err(|_| failed("its answer is no JSON".to_owned()))?;
    let text = |key| found.get(key).and_then(Value::as_str).map(str::to_owned);
    let (username, secret) = (text("Username"), text("Secret"));
    let is_token = username.as_deref() == Some("<token>");
    Ok(Some(Credentials {
        registry: registry.to_owned(),
        username: username.filter(|_| !is_token),
        password: secret.clone().filter(|_| !is_token),
        token: secret.filter(|_| is_token),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str, image: &str) -> Option<Credentials> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).expect("written");
        credentials(&file, image).expect("readable")
    }

    #[test]
    fn what_docker_login_wrote_is_found_by_the_registry_of_the_image() {
        let text = r#"{"auths": {
            "registry.example.com:5000": {"auth": "Y2k6cDphc3M="},
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"}
        }}"#;
        let own = from(text, "registry.example.com:5000/shop:2").expect("found");
        // Only the first colon separates.
        let pair = (own.username.as_deref(), own.password.as_deref());
        assert_eq!(pair, (Some("ci"), Some("p:ass")));
        assert_eq!(own.registry, "registry.example.com:5000");
        let hub = from(text, "shop:2").expect("found");
        assert_eq!(hub.username.as_deref(), Some("hub"));
        let hub = from(text, "team/shop:2").expect("found");
        assert_eq!(hub.registry, "docker.io");
        assert_eq!(from(text, "ghcr.io/team/shop:2"), None);
        assert!(!format!("{own:?}").contains("p:ass"));
    }

    #[test]
    fn a_token_is_one() {
        let text = r#"{"auths": {"ghcr.io": {"auth": "", "identitytoken": "t"}}}"#;
        let found = from(text, "ghcr.io/a/b").expect("found");
        assert_eq!(found.token.as_deref(), Some("t"));
    }

    #[test]
    fn no_file_is_no_error_and_a_damaged_one_is_without_its_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        assert_eq!(credentials(&file, "shop"), Ok(None));
        std::fs::write(&file, "{\"auths\": \"hunter2").expect("written");
        let error = credentials(&file, "shop").expect_err("refused").to_string();
        assert!(
            error.ends_with("it is no JSON") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn a_helper_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        std::fs::write(&file, r#"{"credsStore": "no-such-helper"}"#).expect("written");
        let error = credentials(&file, "shop").expect_err("refused").to_string();
        assert!(error.starts_with("docker-credential-no-such-helper gave nothing for docker.io"));
    }

    #[test]
    fn the_file_is_where_docker_has_it() {
        let variable = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/me"));
        let usual = usual_file(None, variable);
        assert_eq!(usual, Some("/home/me/.docker/config.json".into()));
        let folder = |name: &str| (name == "DOCKER_CONFIG").then(|| PathBuf::from("/c"));
        assert_eq!(usual_file(None, folder), Some("/c/config.json".into()));
        let own = usual_file(Some(Path::new("/x")), folder);
        assert_eq!(own, Some("/x".into()));
    }
}
