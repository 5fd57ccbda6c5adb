//! Loads a configuration whatever language it is written in.
//!
//! A file called `Caddyfile` (or `Caddyfile.*`, `*.caddyfile`) is adapted first; a `cutover.toml` in the same folder
//! adds what a Caddyfile has no words for: green upstreams, health, switch and rollback keys, sockets,
//! `state_dir`. What is wrong with the result is told at the place in the Caddyfile that it was made from.

use std::path::{Path, PathBuf};

use super::caddyfile::{self, Adapted, Problem, Sources, Style};
use crate::config::{self, Config, Diagnostic, Diagnostics, Env, Severity};

/// Whether a file is read as a Caddyfile, by its name.
#[must_use]
pub fn is_caddyfile(path: &Path) -> bool {
    let name = path.file_name().map_or(String::new(), |name| {
        name.to_string_lossy().to_ascii_lowercase()
    });
    name == "caddyfile" || name.starts_with("caddyfile.") || name.ends_with(".caddyfile")
}

/// Reads and validates a configuration, with the variables of this process.
///
/// # Errors
/// Every error of the file, or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    load_with(path, &Env::process())
}

/// As [`load`], with the environment given.
///
/// # Errors
/// Every error of the file, or why it cannot be read.
pub fn load_with(path: &Path, env: &Env) -> Result<Config, Diagnostics> {
    if !is_caddyfile(path) {
        let mut config = config::load_with(path, env)?;
        config.warnings.extend(unread(path, &config));
        return Ok(config);
    }
    let beside = beside(path);
    let beside = match &beside {
        Some(file) => Some((file.display().to_string(), config::read(file)?)),
        None => None,
    };
    let style = Style {
        long_services: beside.is_some(),
    };
    let read = read(path, env, style)?;
    if !read.adapted.errors.is_empty() {
        let mut errors = read.errors();
        errors.0.extend(read.unset());
        return Err(errors);
    }
    let main = (read.file.as_str(), read.adapted.toml.text.as_str());
    let beside = beside
        .as_ref()
        .map(|(file, text)| (file.as_str(), text.as_str()));
    match config::load_both(main, beside, env) {
        Ok(mut config) => {
            for warning in &mut config.warnings {
                read.place(warning);
            }
            config.warnings.extend(read.notes());
            Ok(config)
        }
        Err(mut errors) => {
            for error in &mut errors.0 {
                read.place(error);
            }
            errors.0.extend(read.unset());
            Err(errors)
        }
    }
}

/// A Caddyfile as our configuration, for people to read. The second value is what would be wrong with it, or worth
/// a word; the first is `None` when it is no Caddyfile at all.
#[must_use]
pub fn adapt(path: &Path, env: &Env) -> (Option<String>, Vec<Diagnostic>) {
    let read = match read(path, env, Style::default()) {
        Ok(read) => read,
        Err(errors) => return (None, errors.0),
    };
    let mut said = read.errors().0;
    let main = (read.file.as_str(), read.adapted.toml.text.as_str());
    // What the adapter found is not told twice in other words.
    if said.is_empty() {
        let loaded = match config::load_both(main, None, env) {
            Ok(config) => config.warnings,
            Err(errors) => errors.0,
        };
        said.extend(loaded.into_iter().map(|mut one| {
            read.place(&mut one);
            one
        }));
    }
    said.extend(read.notes());
    (Some(read.adapted.toml.text), said)
}

/// A file without a site that lies beside a Caddyfile was made to add to it.
fn unread(path: &Path, config: &Config) -> Option<Diagnostic> {
    let caddyfile = path.parent().unwrap_or(Path::new("")).join("Caddyfile");
    (config.sites.is_empty() && caddyfile.is_file()).then(|| Diagnostic {
        severity: Severity::Warning,
        file: path.display().to_string(),
        line: 1,
        column: 1,
        key: String::new(),
        message: format!(
            "{0} lies beside it and is not read; --config {0} reads both",
            caddyfile.display()
        ),
    })
}

/// The file that adds to a Caddyfile.
fn beside(path: &Path) -> Option<PathBuf> {
    let file = path.parent().unwrap_or(Path::new("")).join("cutover.toml");
    file.is_file().then_some(file)
}

/// A Caddyfile with what came of it.
struct Read {
    /// As given by the user.
    file: String,
    sources: Sources,
    adapted: Adapted,
}

fn read(path: &Path, env: &Env, style: Style) -> Result<Read, Diagnostics> {
    let file = path.display().to_string();
    let text = config::read(path)?;
    let mut sources = Sources::default();
    match caddyfile::parse(&file, &text, Some(env), &mut sources) {
        Ok(parsed) => Ok(Read {
            file,
            sources,
            adapted: caddyfile::adapt(&parsed, style),
        }),
        Err(problem) => {
            let error = diagnostic(&sources, &problem, Severity::Error);
            // What is missing there may be what is wrong here.
            let unset = sources.unset().iter();
            let unset = unset.map(|one| diagnostic(&sources, one, Severity::Warning));
            Err(Diagnostics(std::iter::once(error).chain(unset).collect()))
        }
    }
}

fn diagnostic(sources: &Sources, problem: &Problem, severity: Severity) -> Diagnostic {
    let number = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    Diagnostic {
        severity,
        file: sources.name(problem.pos.file).to_owned(),
        line: number(problem.pos.line),
        column: number(problem.pos.column),
        key: String::new(),
        message: problem.message.clone(),
    }
}

impl Read {
    fn errors(&self) -> Diagnostics {
        let errors = self.adapted.errors.iter();
        Diagnostics(
            errors
                .map(|e| diagnostic(&self.sources, e, Severity::Error))
                .collect(),
        )
    }

    /// The variables that are not set: often the reason of an error.
    fn unset(&self) -> impl Iterator<Item = Diagnostic> {
        let unset = self.sources.unset().iter();
        unset.map(|one| diagnostic(&self.sources, one, Severity::Warning))
    }

    fn notes(&self) -> impl Iterator<Item = Diagnostic> {
        let notes = self.sources.unset().iter().chain(&self.adapted.notes);
        notes.map(|note| diagnostic(&self.sources, note, Severity::Warning))
    }

    /// Puts a finding about the generated text where a person wrote it. Those about the file
    /// beside stay where they are.
    fn place(&self, found: &mut Diagnostic) {
        if found.file != self.file || found.line == 0 {
            return;
        }
        let Some(pos) = self.adapted.toml.origin(found.line, found.column) else {
            return;
        };
        let problem = Problem {
            pos,
            message: self.lines_of(&found.message),
        };
        // The key is one of a text that nobody has seen.
        *found = diagnostic(&self.sources, &problem, found.severity);
    }

    /// A message that names lines of the generated text, with those of the Caddyfile.
    fn lines_of(&self, message: &str) -> String {
        let mut out = String::with_capacity(message.len());
        let mut rest = message;
        while let Some(at) = rest.find("line ") {
            let (before, after) = rest.split_at(at + "line ".len());
            out.push_str(before);
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let line = after[..digits].parse().ok();
            match line.and_then(|line| self.adapted.toml.origin(line, 1)) {
                Some(pos) => out.push_str(&pos.line.to_string()),
                None => out.push_str(&after[..digits]),
            }
            rest = &after[digits..];
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::from_iter([("PORT", "3000")])
    }

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        let file = folder.path().join("Caddyfile");
        (folder, file)
    }

    fn said(path: &Path, folder: &Path) -> String {
        let prefix = format!("{}/", folder.display());
        load_with(path, &env())
            .expect_err("wrong")
            .to_string()
            .replace(&prefix, "")
    }

    #[test]
    fn the_name_of_a_file_says_what_it_is() {
        for name in [
            "Caddyfile",
            "/etc/caddy/Caddyfile",
            "Caddyfile.prod",
            "my.caddyfile",
        ] {
            assert!(is_caddyfile(Path::new(name)), "{name}");
        }
        for name in [
            "cutover.toml",
            "/etc/caddy/cutover.toml",
            "caddy",
            "Caddyfiles/x.toml",
        ] {
            assert!(!is_caddyfile(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_caddyfile_is_loaded_with_its_imports_and_variables() {
        let (_folder, file) = folder(&[
            ("Caddyfile", "import app.conf\n"),
            (
                "app.conf",
                "example.com {\n\treverse_proxy app:{$PORT}\n}\n",
            ),
        ]);
        let config = load_with(&file, &env()).expect("a configuration");
        assert_eq!(config.services.len(), 1);
        assert_eq!(config.services[0].name.as_str(), "example.com");
        let blue = config.services[0].slots[0].as_ref().expect("blue");
        assert_eq!(blue.upstreams[0].to_string(), "app:3000");
    }

    #[test]
    fn a_file_beside_adds_green_and_its_errors_are_told_at_its_own_lines() {
        let caddyfile = ("Caddyfile", "example.com {\n\treverse_proxy app:3000\n}\n");
        let toml = "state_dir = \"/x\"\n[service.\"example.com\"]\ngreen = [\"app2:3000\"]\n\
                    switch = { drain = \"5s\" }\n";
        let (_folder, file) = folder(&[caddyfile, ("cutover.toml", toml)]);
        let config = load_with(&file, &env()).expect("a configuration");
        assert_eq!(config.state_dir, Path::new("/x"));
        assert!(config.services[0].is_switchable());

        let toml = "[service.\"example.com\"]\nblue = [\"b:1\"]\ngren = [\"x:1\"]\n";
        let (folder, file) = folder_again(caddyfile, toml);
        let said = said(&file, folder.path());
        assert!(
            said.contains("cutover.toml:2:1: service.\"example.com\".blue"),
            "{said}"
        );
        assert!(said.contains("cutover.toml:3:1: "), "{said}");
        assert!(said.contains("did you mean `green`?"), "{said}");
    }

    #[test]
    fn a_caddyfile_that_is_not_read_is_told() {
        let (folder, _) = folder(&[
            ("Caddyfile", "example.com {\n\treverse_proxy app:3000\n}\n"),
            ("cutover.toml", "state_dir = \"/x\"\n"),
        ]);
        let config = load_with(&folder.path().join("cutover.toml"), &env()).expect("valid");
        let told: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        let told = told.iter().filter(|told| told.contains("is not read"));
        assert_eq!(told.count(), 1);
    }

    #[test]
    fn a_variable_that_is_not_set_is_told_with_what_it_breaks() {
        let (folder, file) = folder(&[("Caddyfile", "{$NONE} {\n\trespond hi\n}\n")]);
        let said = said(&file, folder.path());
        assert!(said.contains("Caddyfile:2:2: "), "{said}");
        let unset = "Caddyfile:1:1: warning: {$NONE} stands for nothing";
        assert!(said.contains(unset), "{said}");
    }

    fn folder_again(caddyfile: (&str, &str), toml: &str) -> (tempfile::TempDir, PathBuf) {
        folder(&[caddyfile, ("cutover.toml", toml)])
    }

    #[test]
    fn what_the_loader_finds_is_told_where_a_person_wrote_it() {
        let text = "example.com {\n\treverse_proxy app:3000\n}\n\nbad_host! {\n\treverse_proxy b:99999\n}\n";
        let (folder, file) = folder(&[("Caddyfile", text)]);
        let said = said(&file, folder.path());
        assert!(said.contains("Caddyfile:5:1: "), "{said}");
        assert!(said.contains("Caddyfile:6:16: "), "{said}");
    }

    #[test]
    fn what_has_no_equivalent_stops_a_start() {
        let (folder, file) = folder(&[("Caddyfile", "a.com {\n\ttemplates\n\tphp_fastcgi x\n}\n")]);
        let said = said(&file, folder.path());
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(
            said.starts_with("Caddyfile:2:2: templates has no equivalent"),
            "{said}"
        );
    }
}
