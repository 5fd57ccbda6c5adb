//! The differences that are accepted: `differences.txt`, a line each:
//! `id | aspects | in Caddy | in cutover | why`. `docs/compat.md` shows the same table.

use std::fs;
use std::path::Path;

use super::case::Request;
use super::compare::Exchange;

/// One accepted difference.
#[derive(Debug)]
pub struct Accepted {
    pub id: String,
    /// In which aspects; `*` at the end stands for any rest.
    aspects: Vec<String>,
    /// What the documentation shows: in Caddy, in cutover, why.
    told: [String; 3],
}

impl Accepted {
    /// Its line in the documentation's table.
    pub fn row(&self) -> String {
        format!("| {} |", self.told.join(" | "))
    }
}

/// Shows without being named by a request: errors that the server makes itself have a body.
pub const ERROR_PAGE: &str = "error-page";

/// All of them.
pub fn read() -> Vec<Accepted> {
    let path = Path::new(super::FOLDER).join("differences.txt");
    let text = fs::read_to_string(path).expect("the table");
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line_of(line).unwrap_or_else(|| panic!("{line}")))
        .collect()
}

fn line_of(line: &str) -> Option<Accepted> {
    let mut columns = line.split(" | ").map(|column| column.trim().to_owned());
    let (id, aspects) = (columns.next()?, columns.next()?);
    let told = [columns.next()?, columns.next()?, columns.next()?];
    let aspects = aspects
        .split(',')
        .map(|aspect| aspect.trim().to_owned())
        .collect();
    columns
        .next()
        .is_none()
        .then_some(Accepted { id, aspects, told })
}

/// The difference that accepts that two exchanges differ in `aspect`.
pub fn accepts<'a>(
    all: &'a [Accepted],
    request: &Request,
    caddy: &Exchange,
    cutover: &Exchange,
    aspect: &str,
) -> Option<&'a str> {
    let own_page = caddy.answer.body.is_empty()
        && caddy.answer.status >= 400
        && caddy.answer.status == cutover.answer.status
        && cutover.answer.header("proxy-status").is_some();
    let applies = |accepted: &Accepted| match accepted.id.as_str() {
        ERROR_PAGE => own_page,
        id => request.differs.iter().any(|named| named == id),
    };
    let names = |pattern: &String| match pattern.strip_suffix('*') {
        Some(start) => aspect.starts_with(start),
        None => aspect == pattern,
    };
    let mut fitting = all
        .iter()
        .filter(|a| applies(a) && a.aspects.iter().any(names));
    fitting.next().map(|accepted| accepted.id.as_str())
}
