//! Repetitions: few by default, many in `just soak`, which keeps raw counts and goes on where an
//! interrupted one ended.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// How often something is repeated: `variable`, else `short`.
pub fn wanted(variable: &str, short: u64) -> u64 {
    std::env::var(variable).map_or(short, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}"))
    })
}

/// The raw counts of one soak, one JSON object a line. The short form keeps none.
pub struct Counts(Option<PathBuf>);

impl Counts {
    pub fn of(name: &str) -> Self {
        let folder = std::env::var_os("SOAK_DIR").map(PathBuf::from);
        if let Some(folder) = &folder {
            fs::create_dir_all(folder).expect("the folder for the counts");
        }
        Self(folder.map(|folder| folder.join(name).with_extension("jsonl")))
    }

    /// The sum of a field over what an interrupted soak has done already.
    pub fn done(&self, field: &str) -> u64 {
        self.all(field).iter().sum()
    }

    /// A field of every line.
    pub fn all(&self, field: &str) -> Vec<u64> {
        let text = self.0.as_deref().map(read).unwrap_or_default();
        let lines = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("a line of counts");
            line[field].as_u64().expect("a count")
        });
        lines.collect()
    }

    pub fn add(&self, line: &Value) {
        let Some(path) = &self.0 else {
            return;
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("the file of counts");
        writeln!(file, "{line}").expect("write counts");
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
