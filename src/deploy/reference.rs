//! References of images, as registries write them.

/// Whether it is only the part after the colon (distribution's `reference` grammar).
pub(super) fn is_tag(image: &str) -> bool {
    let first = image.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && image.len() <= 128
        && image
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// An image without tag and digest; empty for a bare id.
#[must_use]
pub fn repository(image: &str) -> &str {
    if image.starts_with("sha256:") {
        return "";
    }
    let bare = image.split('@').next().unwrap_or_default();
    let name = bare.rfind('/').map_or(0, |slash| slash + 1);
    // A colon before the last slash is that of a port.
    match bare[name..].find(':') {
        Some(colon) => &bare[..name + colon],
        None => bare,
    }
}

/// What people call an image: its tag, else the beginning of its digest.
#[must_use]
pub fn release_label(image: &str) -> String {
    if is_tag(image) {
        return image.to_owned();
    }
    let bare = image.split('@').next().unwrap_or_default();
    let repository = repository(image);
    let tag = bare
        .get(repository.len() + 1..)
        .filter(|tag| !tag.is_empty());
    if let Some(tag) = tag
        && !repository.is_empty()
    {
        return tag.to_owned();
    }
    match image.rsplit_once("sha256:") {
        Some((_, digest)) => digest.chars().take(12).collect(),
        None => "latest".to_owned(),
    }
}
