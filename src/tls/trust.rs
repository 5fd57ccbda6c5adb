//! Installing the root of the local CA into the system's trust store, and removing it again.
//!
//! Each system has one folder for roots of one's own and one program that rebuilds the store
//! from it. The file's name has part of the certificate's digest, so that the roots of two
//! machines can lie side by side and only the right one is removed. Browsers with a store of
//! their own (Firefox) are not touched.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest;

use super::ca::root_file;
use super::certificate::chain_from_pem;
use super::error::Fault;
use super::tickets::hex;

/// Why the trust store is as it was, or not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// No site has used the local CA yet.
    #[error(
        "there is no root at {}: start cutover once with a site that has tls = \"internal\"", file.display()
    )]
    NoRoot {
        /// Where it would be.
        file: PathBuf,
    },
    /// The root cannot be read.
    #[error("{}: {fault}", file.display())]
    Root {
        /// The root's file.
        file: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// None of the known stores is on this system.
    #[error(
        "no trust store that is known here (ca-certificates or p11-kit): import {} by hand", root.display()
    )]
    NoStore {
        /// The root's file.
        root: PathBuf,
    },
    /// The store belongs to root.
    #[error("no permission to change {}: run this as root (sudo)", file.display())]
    Permission {
        /// What could not be changed.
        file: PathBuf,
    },
    /// The file in the store's folder cannot be changed.
    #[error("cannot change {}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The program that rebuilds the store failed.
    #[error("`{program}` failed: {reason}")]
    Rebuild {
        /// Its name with its arguments.
        program: String,
        /// What it said.
        reason: String,
    },
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The root is trusted now, by this file.
    Trusted(PathBuf),
    /// It was trusted already.
    AlreadyTrusted(PathBuf),
    /// This file was removed, and the root is trusted no longer.
    Removed(PathBuf),
    /// There was nothing to remove.
    NotTrusted,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trusted(file) => write!(f, "trusted: {}", file.display()),
            Self::AlreadyTrusted(file) => write!(f, "already trusted: {}", file.display()),
            Self::Removed(file) => write!(f, "no longer trusted: {} removed", file.display()),
            Self::NotTrusted => f.write_str("it was not trusted"),
        }
    }
}

/// A system's trust store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustStore {
    /// Where roots of one's own lie.
    pub folder: PathBuf,
    /// The program that rebuilds the store, with its arguments.
    pub rebuild: Vec<String>,
    /// The same after a root was removed.
    pub rebuild_without: Vec<String>,
}

impl TrustStore {
    /// The store of this system: Debian's and Alpine's, Fedora's, SUSE's, Arch's.
    #[must_use]
    pub fn of_this_system() -> Option<Self> {
        let known = [
            (
                "/usr/local/share/ca-certificates",
                "update-ca-certificates",
                // Debian leaves links to removed roots behind without it.
                &["--fresh"][..],
            ),
            (
                "/etc/pki/ca-trust/source/anchors",
                "update-ca-trust",
                &["extract"],
            ),
            ("/etc/pki/trust/anchors", "update-ca-certificates", &[]),
            (
                "/etc/ca-certificates/trust-source/anchors",
                "update-ca-trust",
                &[],
            ),
        ];
        let (folder, program, arguments) = known
            .into_iter()
            .find(|(folder, program, _)| Path::new(folder).is_dir() && is_program(program))?;
        let fresh = [&[program][..], arguments].concat();
        Some(Self {
            folder: folder.into(),
            rebuild: vec![program.to_owned()],
            rebuild_without: fresh.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Makes the system trust the root of a state folder. Blocks.
    ///
    /// # Errors
    /// There is no root, or the store cannot be changed; the file is removed again when the
    /// store could not be rebuilt with it.
    pub fn trust(&self, state_dir: &Path) -> Result<Done, TrustError> {
        let (pem, file) = self.file_of(state_dir)?;
        if fs::read(&file).is_ok_and(|there| there == pem) {
            // Once more: somebody may have been stopped in between.
            run(&self.rebuild)?;
            return Ok(Done::AlreadyTrusted(file));
        }
        fs::write(&file, &pem).map_err(|error| changing(&file, error))?;
        if let Err(error) = run(&self.rebuild) {
            // As it was; the error that counts is the program's.
            let _ = fs::remove_file(&file);
            return Err(error);
        }
        Ok(Done::Trusted(file))
    }

    /// Makes the system forget the root of a state folder. Blocks.
    ///
    /// # Errors
    /// There is no root in the state folder, or the store cannot be changed.
    pub fn untrust(&self, state_dir: &Path) -> Result<Done, TrustError> {
        let (_, file) = self.file_of(state_dir)?;
        match fs::remove_file(&file) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Done::NotTrusted),
            Err(error) => return Err(changing(&file, error)),
        }
        run(&self.rebuild_without)?;
        Ok(Done::Removed(file))
    }

    /// The root, and where it lies in the store.
    fn file_of(&self, state_dir: &Path) -> Result<(Vec<u8>, PathBuf), TrustError> {
        let root = root_file(state_dir);
        let pem = fs::read(&root).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TrustError::NoRoot { file: root.clone() },
            io::ErrorKind::PermissionDenied => TrustError::Permission { file: root.clone() },
            _ => TrustError::Root {
                file: root.clone(),
                fault: Fault::Unreadable(error),
            },
        })?;
        let chain = chain_from_pem(&pem).map_err(|fault| TrustError::Root { file: root, fault })?;
        let digest = digest::digest(&digest::SHA256, &chain[0]);
        let name = format!("cutover-{}.crt", hex(&digest.as_ref()[..4]));
        Ok((pem, self.folder.join(name)))
    }
}

/// Trusts the root of a state folder on this system.
///
/// # Errors
/// No store is known here, or as [`TrustStore::trust`].
pub fn trust(state_dir: &Path) -> Result<Done, TrustError> {
    this_system(state_dir)?.trust(state_dir)
}

/// Forgets the root of a state folder on this system.
///
/// # Errors
/// No store is known here, or as [`TrustStore::untrust`].
pub fn untrust(state_dir: &Path) -> Result<Done, TrustError> {
    this_system(state_dir)?.untrust(state_dir)
}

fn this_system(state_dir: &Path) -> Result<TrustStore, TrustError> {
    TrustStore::of_this_system().ok_or_else(|| TrustError::NoStore {
        root: root_file(state_dir),
    })
}

fn changing(file: &Path, error: io::Error) -> TrustError {
    let file = file.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => TrustError::Permission { file },
        _ => TrustError::File { file, error },
    }
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    folders
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

fn run(command: &[String]) -> Result<(), TrustError> {
    let failed = |reason: String| TrustError::Rebuild {
        program: command.join(" "),
        reason,
    };
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        // Not on every user's path.
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().last().unwrap_or_default().trim();
    Err(failed(format!("{said} ({})", output.status)))
}
