//! Which files and folders a configuration names, for those who ask whether they can be read.

use std::path::{Path, PathBuf};

use super::step::{Action, Step};
use super::{Config, Tls};

impl Config {
    /// Every file whose content the daemon reads at a start and again at a reload: secrets, CAs,
    /// certificates with their keys, the maintenance page. In the order of their names.
    #[must_use]
    pub fn read_files(&self) -> Vec<&Path> {
        let mut files: Vec<&Path> = self.secret_files.iter().map(PathBuf::as_path).collect();
        files.extend(self.acme.ca_file.as_deref());
        files.extend(self.maintenance.page.as_deref());
        for site in &self.sites {
            if let Tls::Files { cert, key } = &site.tls {
                files.extend([cert.as_path(), key.as_path()]);
            }
            files.extend(site.client_auth.iter().map(|auth| auth.ca.as_path()));
        }
        for service in &self.services {
            files.extend(service.tls.ca.as_deref());
            let identity = service.tls.identity.iter();
            files.extend(identity.flat_map(|(cert, key)| [cert.as_path(), key.as_path()]));
        }
        files.sort_unstable();
        files.dedup();
        files
    }

    /// The folders that files are served from. Those with a placeholder in their name are not
    /// among them. In the order of their names.
    #[must_use]
    pub fn file_roots(&self) -> Vec<&Path> {
        let mut roots = Vec::new();
        for site in &self.sites {
            let routes = site.routes.iter().map(|route| &route.steps);
            for steps in routes.chain([&site.steps, &site.errors]) {
                in_steps(steps, &mut roots);
            }
        }
        roots.sort_unstable();
        roots.dedup();
        roots
    }
}

fn in_steps<'a>(steps: &'a [Step], roots: &mut Vec<&'a Path>) {
    for step in steps {
        let root = match &step.action {
            Action::Steps(nested) => {
                in_steps(nested, roots);
                None
            }
            Action::Root(root) => Some(root),
            Action::Files(files) => files.root.as_ref(),
            Action::TryFiles(files) => files.root.as_ref(),
            _ => None,
        };
        let root = root.and_then(|root| root.as_text());
        roots.extend(root.map(Path::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_and_folder_that_is_named_is_listed_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("hook");
        std::fs::write(&secret, "https://hooks.example/x\n").expect("a file");
        let text = format!(
            "[[notify]]\nkind = \"slack\"\nurl_file = \"{0}\"\n\
             [[notify]]\nkind = \"discord\"\nurl_file = \"{0}\"\n\
             [acme]\nca_file = \"/ca.pem\"\n[maintenance]\npage = \"/page.html\"\n\
             [[site]]\nhosts = [\"a.example\"]\ntls = {{ cert = \"/a.pem\", key = \"/a.key\" }}\n\
             client_auth = {{ mode = \"require\", ca = \"/clients.pem\" }}\n\
             files = {{ root = \"/srv\" }}\n\
             [[site]]\nhosts = [\"b.example\"]\nservice = \"web\"\n\
             [[site.handle]]\nroot = \"/other\"\n\
             [[site.handle]]\nroot = \"/of/{{host}}\"\n\
             [service.web]\nblue = [\"https://b:1\"]\n\
             tls = {{ ca = \"/up.pem\", cert = \"/own.pem\", key = \"/own.key\" }}\n",
            secret.display()
        );
        let config = crate::config::load_str("cutover.toml", &text).expect("a configuration");
        let mut wanted: Vec<&Path> = [
            "/a.key",
            "/a.pem",
            "/ca.pem",
            "/clients.pem",
            "/own.key",
            "/own.pem",
            "/page.html",
            "/up.pem",
        ]
        .map(Path::new)
        .to_vec();
        wanted.push(&secret);
        wanted.sort_unstable();
        assert_eq!(config.read_files(), wanted);
        assert_eq!(config.file_roots(), ["/other", "/srv"].map(Path::new));
    }
}
