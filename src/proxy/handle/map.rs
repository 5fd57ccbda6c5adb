//! `map`: values by the value of another, looked up when they are asked for.

use std::borrow::Cow;

use super::fields::expanded;
use super::scope::Scope;
use super::state::Handling;
use crate::config::step::{Action, MapInput, ValueMap};

/// The value of a name that `map` steps set; of several that set it the first counts, as in Caddy.
pub(super) fn look_up<'a>(scope: &Scope<'a>, handling: &'a Handling, name: &str) -> Cow<'a, str> {
    let Some(scope) = scope.deeper() else {
        return Cow::Borrowed("");
    };
    for step in &handling.maps {
        if let Action::Map(map) = &step.action
            && let Some(at) = map.names.iter().position(|known| known == name)
        {
            return value(&scope, map, at);
        }
    }
    Cow::Borrowed("")
}

fn value<'a>(scope: &Scope<'a>, map: &'a ValueMap, at: usize) -> Cow<'a, str> {
    let source = scope.fill(&map.source);
    for entry in &map.entries {
        let Some(Some(output)) = entry.outputs.get(at) else {
            continue;
        };
        match &entry.input {
            MapInput::Exact(text) if *text == source => return scope.fill(output),
            MapInput::Exact(_) => {}
            MapInput::Pattern(pattern) => {
                if let Some(groups) = pattern.regex().captures(&source) {
                    return expanded(scope, output, &groups).into();
                }
            }
        }
    }
    let default = map.defaults.get(at);
    default.map_or(Cow::Borrowed(""), |default| scope.fill(default))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::step::{MapEntry, Pattern, Step, Template};
    use crate::pool::Plan;
    use crate::proxy::handle::test::{exchange, request};

    fn template(text: &str) -> Template {
        Template::parse(text, &["a".to_owned(), "b".to_owned()]).expect("a template")
    }

    fn entry(input: MapInput, outputs: [Option<&str>; 2]) -> MapEntry {
        MapEntry {
            input,
            outputs: outputs.map(|output| output.map(template)).into(),
        }
    }

    fn mapped(target: &str, map: ValueMap, text: &str) -> String {
        let request = request("GET", target, &[("host", "h")]);
        let mut exchange = exchange();
        let plan = Plan::new(&[Step::always(Action::Map(map))]);
        let handling = exchange.handling.as_deref_mut().expect("steps");
        handling.maps.push(std::sync::Arc::clone(&plan.steps()[0]));
        Scope::of(&request, &exchange)
            .fill(&template(text))
            .into_owned()
    }

    fn example() -> ValueMap {
        let pattern = |text: &str| MapInput::Pattern(Pattern::new(text).expect("an expression"));
        ValueMap {
            source: template("{path}"),
            names: vec!["a".to_owned(), "b".to_owned()],
            entries: vec![
                entry(MapInput::Exact("/one".to_owned()), [Some("1"), None]),
                entry(pattern("^/(o)(.*)$"), [Some("${1}-$2-{host}"), Some("b")]),
            ],
            defaults: vec![template("none")],
        }
    }

    #[test]
    fn the_first_entry_that_fits_and_has_a_value_counts() {
        assert_eq!(mapped("/one", example(), "{a}|{b}"), "1|b");
        assert_eq!(mapped("/other", example(), "{a}|{b}"), "o-ther-h|b");
        assert_eq!(mapped("/x", example(), "{a}|{b}"), "none|");
    }

    #[test]
    fn what_a_client_sends_is_not_expanded() {
        let map = ValueMap {
            source: template("{path}"),
            names: vec!["a".to_owned(), "b".to_owned()],
            entries: vec![entry(
                MapInput::Pattern(Pattern::new("(.*)").expect("an expression")),
                [Some("{query}"), None],
            )],
            defaults: Vec::new(),
        };
        assert_eq!(mapped("/secret?$1", map, "{a}"), "$1");
    }

    #[test]
    fn a_map_of_itself_ends() {
        let map = ValueMap {
            source: template("{a}"),
            names: vec!["a".to_owned()],
            entries: Vec::new(),
            defaults: vec![template("x{a}")],
        };
        assert_eq!(mapped("/", map, "{a}"), "xxxxxxxx");
    }
}
