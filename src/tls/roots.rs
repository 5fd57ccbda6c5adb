//! Whether the system's root certificates are there, before something needs them.
//!
//! Pingora's upstream connector loads them when the server starts and panics if a path in
//! `SSL_CERT_FILE` or `SSL_CERT_DIR` cannot be read; without any root it makes no TLS
//! connection to an upstream, verified or not. Both deserve a sentence.

use std::path::{Path, PathBuf};

use rustls_native_certs::CertificateResult;

/// Why TLS to upstreams will not work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RootsError {
    /// A variable names a place that cannot be used. Fatal: the upstream connector panics on it.
    #[error("{variable}={}: no root certificate could be loaded: {reason}", path.display())]
    Variable {
        /// `SSL_CERT_FILE` or `SSL_CERT_DIR`.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// Nothing found. Only fatal with `https://` upstreams.
    #[error(
        "no root certificates on this system: install ca-certificates or set SSL_CERT_FILE ({0})"
    )]
    None(String),
}

/// How many root certificates upstreams can be verified with. Reads files.
///
/// # Errors
/// None, or a variable that names a place without.
pub fn check_system_roots() -> Result<usize, RootsError> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    check(
        variable("SSL_CERT_FILE").as_deref(),
        variable("SSL_CERT_DIR").as_deref(),
    )
}

fn check(file: Option<&Path>, dir: Option<&Path>) -> Result<usize, RootsError> {
    if file.is_none() && dir.is_none() {
        let found = rustls_native_certs::load_native_certs();
        return match found.certs.len() {
            0 => Err(RootsError::None(reason(&found))),
            roots => Ok(roots),
        };
    }
    let found = rustls_native_certs::load_certs_from_paths(file, dir);
    let (variable, path) = match (file, dir) {
        (Some(file), _) => ("SSL_CERT_FILE", file),
        (None, Some(dir)) => ("SSL_CERT_DIR", dir),
        (None, None) => return Ok(found.certs.len()),
    };
    match found.certs.len() {
        0 => Err(RootsError::Variable {
            variable,
            path: path.to_owned(),
            reason: reason(&found),
        }),
        roots => Ok(roots),
    }
}

fn reason(found: &CertificateResult) -> String {
    let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    if errors.is_empty() {
        "it contains none".to_owned()
    } else {
        errors.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_names_no_file_is_said_before_anything_panics() {
        let error = check(Some(Path::new("/nowhere/ca.pem")), None).expect_err("no such file");
        let text = error.to_string();
        assert!(
            text.starts_with("SSL_CERT_FILE=/nowhere/ca.pem: "),
            "{text}"
        );
    }

    #[test]
    fn a_file_without_certificates_is_an_error_and_one_with_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "nothing here").expect("written");
        let error = check(Some(&file), None).expect_err("no certificate in it");
        assert!(error.to_string().ends_with("it contains none"), "{error}");

        let made = rcgen::generate_simple_self_signed(vec!["root".to_owned()]).expect("made");
        std::fs::write(&file, made.cert.pem()).expect("written");
        assert_eq!(check(Some(&file), None), Ok(1));
    }
}
