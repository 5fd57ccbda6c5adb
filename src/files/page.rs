//! A listing as HTML. Names come from whoever may write into the folder, so all are escaped.

use std::fmt::Write;

use super::listing::{Item, Sort, Wanted};

/// The built-in page.
pub(super) fn built_in(wanted: &Wanted, items: &[Item]) -> String {
    let title = escaped(&wanted.path);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\n\
         <style>{STYLE}</style></head>\n<body>\n<main>\n<h1>{}</h1>\n\
         <table>\n<thead><tr>{}</tr></thead>\n<tbody>\n",
        crumbs(&wanted.path),
        headings(wanted),
    );
    if !wanted.path.trim_matches('/').is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n");
    }
    page.push_str(&rows(items));
    let folders = items.iter().filter(|item| item.is_dir).count();
    let files = items.len() - folders;
    let _ = write!(
        page,
        "</tbody>\n</table>\n<p>{}, {}</p>\n</main>\n</body>\n</html>\n",
        counted(folders, "folder"),
        counted(files, "file"),
    );
    page
}

/// A page of one's own: `{{items}}` are the rows, `{{path}}` is the folder.
pub(super) fn fill(template: &str, wanted: &Wanted, items: &[Item]) -> String {
    let mut page = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        page.push_str(before);
        let known = after.split_once("}}").and_then(|(name, after)| {
            let value = match name.trim() {
                "items" => rows(items),
                "path" => escaped(&wanted.path),
                _ => return None,
            };
            Some((value, after))
        });
        match known {
            Some((value, after)) => {
                page.push_str(&value);
                rest = after;
            }
            None => {
                page.push_str("{{");
                rest = after;
            }
        }
    }
    page.push_str(rest);
    page
}

fn rows(items: &[Item]) -> String {
    let mut rows = String::with_capacity(items.len() * 160);
    for item in items {
        let size = match item.is_dir {
            true => "–".to_owned(),
            false => readable(item.size),
        };
        let time = item.mod_time.get(..16).unwrap_or(&item.mod_time);
        let _ = writeln!(
            rows,
            "<tr><td><a href=\"{}\">{}</a></td><td>{size}</td>\
             <td><time datetime=\"{}\">{}</time></td></tr>",
            escaped(&item.url),
            escaped(&item.name),
            item.mod_time,
            time.replace('T', " "),
        );
    }
    rows
}

/// Each folder on the way, as a link.
fn crumbs(path: &str) -> String {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let mut crumbs = format!("<a href=\"./{}\">/</a>", "../".repeat(names.len()));
    for (at, name) in names.iter().enumerate() {
        let up = "../".repeat(names.len() - 1 - at);
        let _ = write!(crumbs, "<a href=\"./{up}\">{}/</a>", escaped(name));
    }
    crumbs
}

fn headings(wanted: &Wanted) -> String {
    let (sort, descending) = wanted.order();
    let columns = [
        ("Name", "name", sort == Sort::Name),
        ("Size", "size", sort == Sort::Size),
        ("Changed (UTC)", "time", sort == Sort::Time),
    ];
    let mut headings = String::new();
    for (title, key, current) in columns {
        let order = if current && !descending {
            "desc"
        } else {
            "asc"
        };
        let _ = write!(
            headings,
            "<th><a href=\"?sort={key}&amp;order={order}\">{title}</a></th>"
        );
    }
    headings
}

fn counted(number: usize, word: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {word}{ending}")
}

/// To three digits, in powers of 1024.
fn readable(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mut size = bytes as f64;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = "B";
    while size >= 1024.0
        && let Some(next) = units.next()
    {
        size /= 1024.0;
        unit = next;
    }
    if size < 10.0 {
        format!("{size:.1} {unit}")
    } else {
        format!("{size:.0} {unit}")
    }
}

/// Text as HTML, in attributes as well.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;\
padding:0 1rem;color:#222;background:#fff}h1{font-size:1.25rem;overflow-wrap:anywhere}\
table{width:100%;border-collapse:collapse}th{text-align:left;font-weight:600}\
td,th{padding:.25rem .5rem;border-bottom:1px solid #8883}td:first-child{overflow-wrap:anywhere}\
td:nth-child(2),td:nth-child(3){white-space:nowrap;color:#666}a{color:#0a58ca;\
text-decoration:none}a:hover{text-decoration:underline}p{color:#666}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}a{color:#7ab7ff}\
td:nth-child(2),td:nth-child(3),p{color:#999}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (15_000, "15 KiB"),
            (10 << 20, "10 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(readable(bytes), text);
        }
    }

    #[test]
    fn each_folder_on_the_way_is_a_link() {
        assert_eq!(crumbs("/"), "<a href=\"./\">/</a>");
        assert_eq!(
            crumbs("/a/<b>/"),
            "<a href=\"./../../\">/</a><a href=\"./../\">a/</a><a href=\"./\">&lt;b&gt;/</a>"
        );
    }
}
