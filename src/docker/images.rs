//! Images: whether they are there, how they get there, which ones nobody needs.

use std::collections::BTreeMap;

use bollard::auth::DockerCredentials;
use bollard::errors::Error;
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::client::{Call, Client, DockerError};
use super::containers::{json, missing};
use super::credentials::Credentials;

/// How a pull gets on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that are there.
    pub layers_done: usize,
    /// Layers that are known of.
    pub layers: usize,
    /// Bytes that have arrived.
    pub bytes: u64,
    /// Bytes of the layers whose size is known.
    pub total_bytes: u64,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:...`.
    pub id: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Its names with tags.
    pub names: Vec<String>,
    /// Its names with digests.
    pub digests: Vec<String>,
}

impl Client {
    /// The description of an image; `None`: it is not there.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn image(&self, reference: &str) -> Result<Option<Value>, DockerError> {
        const INSPECT: Call = Call::Change("GET /images/NAME/json");
        match self.api().inspect_image(reference).await {
            Ok(found) => json(INSPECT, &found).map(Some),
            Err(error) => missing(INSPECT, error),
        }
    }

    /// Gets an image from its registry. `told` is called with every change. Cancel-safe: the
    /// engine ends a pull that nobody reads.
    ///
    /// # Errors
    /// As the engine and the registry say.
    pub async fn pull(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        mut told: impl FnMut(&PullProgress),
    ) -> Result<(), DockerError> {
        const PULL: Call = Call::Change("POST /images/create");
        let options = CreateImageOptions {
            from_image: Some(with_tag(reference)),
            ..CreateImageOptions::default()
        };
        let credentials = credentials.map(|known| DockerCredentials {
            username: known.username,
            password: known.password,
            identitytoken: known.token,
            serveraddress: Some(known.registry),
            ..DockerCredentials::default()
        });
        let mut stream = self.api().create_image(Some(options), None, credentials);
        let mut layers = Layers::default();
        while let Some(line) = stream.next().await {
            let line = line.map_err(|error| match error {
                Error::DockerStreamError { error } => DockerError::Failed {
                    call: PULL,
                    message: error,
                },
                error => DockerError::of(PULL, error),
            })?;
            let Some(id) = line.id else {
                continue;
            };
            let detail = line.progress_detail.unwrap_or_default();
            let number = |value: Option<i64>| u64::try_from(value.unwrap_or_default()).ok();
            let (now, total) = (number(detail.current), number(detail.total));
            let status = line.status.unwrap_or_default();
            if layers.learn(
                id,
                &status,
                now.unwrap_or_default(),
                total.unwrap_or_default(),
            ) {
                told(&layers.progress());
            }
        }
        Ok(())
    }

    /// Every image of a repository, such as `registry.example.com/shop`.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn images_of(&self, repository: &str) -> Result<Vec<Image>, DockerError> {
        const LIST: Call = Call::Change("GET /images/json");
        let options = ListImagesOptions {
            all: false,
            ..ListImagesOptions::default()
        };
        let all = self.api().list_images(Some(options)).await;
        let all = all.map_err(|error| DockerError::of(LIST, error))?;
        let is_of = |name: &String| {
            let bare = name.strip_prefix(repository);
            bare.is_some_and(|rest| rest.starts_with([':', '@']) && !rest[1..].contains('/'))
        };
        let images = all.into_iter().map(|one| Image {
            id: one.id,
            created: one.created,
            names: one.repo_tags,
            digests: one.repo_digests,
        });
        let images =
            images.filter(|image| image.names.iter().any(is_of) || image.digests.iter().any(is_of));
        Ok(images.collect())
    }

    /// Removes a name of an image, and the image with its last name. One that is used stays, which
    /// is no error. True: it was removed.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn remove_image(&self, name: &str) -> Result<bool, DockerError> {
        const REMOVE: Call = Call::Change("DELETE /images/NAME");
        let options = RemoveImageOptions::default();
        match self.api().remove_image(name, Some(options), None).await {
            Ok(_) => Ok(true),
            Err(Error::DockerResponseServerError {
                status_code: 404 | 409,
                ..
            }) => Ok(false),
            Err(error) => Err(DockerError::of(REMOVE, error)),
        }
    }

    /// Where the engine keeps its data, on its machine; `None`: it does not tell.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn data_folder(&self) -> Result<Option<String>, DockerError> {
        const INFO: Call = Call::Change("GET /info");
        let info = self.api().info().await;
        let info = info.map_err(|error| DockerError::of(INFO, error))?;
        Ok(info.docker_root_dir)
    }
}

/// The layers of one pull.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, Layer>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Layer {
    bytes: u64,
    total_bytes: u64,
    is_done: bool,
}

impl Layers {
    /// Takes in a line; true: something is different.
    fn learn(&mut self, id: String, status: &str, bytes: u64, total_bytes: u64) -> bool {
        let is_done = matches!(status, "Pull complete" | "Already exists");
        let is_layer = is_done
            || matches!(
                status,
                "Pulling fs layer"
                    | "Waiting"
                    | "Downloading"
                    | "Download complete"
                    | "Verifying Checksum"
                    | "Extracting"
            );
        if !is_layer {
            return false;
        }
        let before = self.0.get(&id).copied();
        let layer = self.0.entry(id).or_default();
        layer.is_done |= is_done;
        if status == "Downloading" {
            layer.bytes = layer.bytes.max(bytes);
            layer.total_bytes = layer.total_bytes.max(total_bytes);
        }
        if status == "Download complete" || is_done {
            layer.bytes = layer.total_bytes;
        }
        before != Some(*layer)
    }

    fn progress(&self) -> PullProgress {
        let mut progress = PullProgress {
            layers: self.0.len(),
            ..PullProgress::default()
        };
        for layer in self.0.values() {
            progress.layers_done += usize::from(layer.is_done);
            progress.bytes += layer.bytes;
            progress.total_bytes += layer.total_bytes;
        }
        progress
    }
}

/// Without a tag the engine would get every one of them.
fn with_tag(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or_default();
    match name.contains([':', '@']) {
        true => reference.to_owned(),
        false => format!("{reference}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_by_layers_and_bytes() {
        let mut layers = Layers::default();
        let mut learn = |id: &str, status, bytes, total| {
            layers.learn(id.to_owned(), status, bytes, total);
            layers.progress()
        };
        assert_eq!(learn("latest", "Pulling from shop", 0, 0).layers, 0);
        learn("a", "Pulling fs layer", 0, 0);
        learn("b", "Already exists", 0, 0);
        let half = learn("a", "Downloading", 50, 100);
        assert_eq!(
            (half.layers_done, half.layers, half.bytes, half.total_bytes),
            (1, 2, 50, 100)
        );
        learn("a", "Extracting", 10, 100);
        let done = learn("a", "Pull complete", 0, 0);
        assert_eq!((done.layers_done, done.bytes), (2, 100));
    }

    #[test]
    fn nothing_is_told_twice() {
        let mut layers = Layers::default();
        assert!(layers.learn("a".to_owned(), "Downloading", 5, 9));
        assert!(!layers.learn("a".to_owned(), "Downloading", 5, 9));
        assert!(!layers.learn("a".to_owned(), "Retrying in 5 seconds", 0, 0));
    }

    #[test]
    fn one_tag_is_pulled_not_all_of_them() {
        assert_eq!(with_tag("shop"), "shop:latest");
        assert_eq!(
            with_tag("registry.example.com:5000/shop"),
            "registry.example.com:5000/shop:latest"
        );
        assert_eq!(with_tag("shop:2"), "shop:2");
        assert_eq!(with_tag("shop@sha256:00"), "shop@sha256:00");
    }
}
