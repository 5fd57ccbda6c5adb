//! Which stack a command is about. Pure, and never a guess.

use crate::model::{ServiceName, StackName};

use super::outcome::Refusal;

/// A stack as a command sees it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) stack: StackName,
    pub(super) services: Vec<ServiceName>,
    /// Whether the command could do anything here.
    pub(super) fits: bool,
}

/// The stack of `asked`, or without any the only one that fits; `none` when there is none.
pub(super) fn select(
    candidates: &[Candidate],
    asked: &[ServiceName],
    none: Refusal,
) -> Result<StackName, Refusal> {
    let mut found = Vec::new();
    for name in asked {
        let home = candidates.iter().find(|c| c.services.contains(name));
        found.push((name, home.ok_or_else(|| unknown(candidates, name))?));
    }
    if let Some((_, first)) = found.first() {
        if found.iter().all(|(_, home)| home.stack == first.stack) {
            return Ok(first.stack.clone());
        }
        let place = |(name, home): &(&ServiceName, &Candidate)| format!("{name} ({})", home.stack);
        return Err(Refusal::DifferentStacks {
            services: found.iter().map(place).collect(),
        });
    }
    let fitting: Vec<_> = candidates.iter().filter(|c| c.fits).collect();
    match fitting.as_slice() {
        [] => Err(none),
        [only] => Ok(only.stack.clone()),
        several => Err(Refusal::SeveralStacks {
            stacks: several.iter().map(|c| shown(c)).collect(),
        }),
    }
}

fn shown(candidate: &Candidate) -> String {
    let names: Vec<_> = candidate.services.iter().map(ServiceName::as_str).collect();
    format!("{}: {}", candidate.stack, names.join(", "))
}

fn unknown(candidates: &[Candidate], name: &ServiceName) -> Refusal {
    let names = candidates.iter().flat_map(|c| &c.services);
    let nearest = names
        .map(|other| {
            (
                strsim::damerau_levenshtein(other.as_str(), name.as_str()),
                other,
            )
        })
        .filter(|(edits, _)| *edits <= (name.as_str().len() / 3).max(1))
        .min_by_key(|(edits, _)| *edits);
    Refusal::UnknownService {
        name: name.to_string(),
        nearest: nearest.map(|(_, other)| other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Candidate> {
        let candidate = |stack: &str, services: &[&str], fits| Candidate {
            stack: stack.into(),
            services: services.iter().map(|name| (*name).into()).collect(),
            fits,
        };
        vec![
            candidate("default", &["api", "web"], true),
            candidate("shop", &["cart"], true),
            candidate("static", &["files"], false),
        ]
    }

    fn asked(names: &[&str]) -> Result<StackName, String> {
        let names: Vec<_> = names.iter().map(|name| ServiceName::from(*name)).collect();
        select(&candidates(), &names, Refusal::NothingSwitchable).map_err(|e| e.to_string())
    }

    #[test]
    fn a_service_names_its_stack() {
        assert_eq!(asked(&["cart"]), Ok("shop".into()));
        assert_eq!(asked(&["web", "api"]), Ok("default".into()));
        assert_eq!(asked(&["files"]), Ok("static".into()));
    }

    #[test]
    fn several_stacks_are_named_not_guessed() {
        let error = asked(&[]).unwrap_err();
        assert!(error.contains("default: api, web; shop: cart"), "{error}");
        assert!(error.contains("--service"), "{error}");
    }

    #[test]
    fn the_only_fitting_stack_needs_no_name() {
        let mut candidates = candidates();
        candidates[0].fits = false;
        let selected = select(&candidates, &[], Refusal::NothingSwitchable);
        assert_eq!(selected, Ok("shop".into()));
        candidates[1].fits = false;
        let selected = select(&candidates, &[], Refusal::NothingToUndo);
        assert_eq!(selected, Err(Refusal::NothingToUndo));
    }

    #[test]
    fn services_of_two_stacks_are_refused() {
        let error = asked(&["web", "cart"]).unwrap_err();
        assert!(error.starts_with("web (default), cart (shop)"), "{error}");
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let error = asked(&["wbe"]).unwrap_err();
        assert_eq!(error, "no service `wbe`; did you mean `web`?");
        assert_eq!(asked(&["zzz"]).unwrap_err(), "no service `zzz`");
    }
}
