//! `--env-file`: as `docker run --env-file` reads it.

/// `NAME=value` a line, taken as it is; lines that are empty or begin with `#` are left out. A
/// name alone would take the value of this shell, which is not what is deployed: an error.
pub(crate) fn read(text: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
        match line.split_once('=') {
            Some((name, _)) if is_name(name) => all.push(line.to_owned()),
            // Not the line itself: it may be a part of a secret.
            _ => return Err(format!("line {} is not NAME=value", n + 1)),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_variables_and_the_rest_is_told_without_its_content() {
        let read = read("# a comment\n\nA=1\n  B=two words = three\nC=\n").expect("read");
        assert_eq!(read, ["A=1", "B=two words = three", "C="]);
        assert_eq!(
            super::read("A=1\nhunter2\n"),
            Err("line 2 is not NAME=value".to_owned())
        );
        assert!(super::read("=x").is_err() && super::read("a b=x").is_err());
    }
}
