//! Which slot a container fills. Pure.
//!
//! In this order: the label; a color at the end of the Compose project, the service or the
//! container's name; what was chosen for this container before; the slot that holds its image; the
//! live slot for the first container of a service, else the idle one.

use std::collections::BTreeMap;

use super::inventory::Container;
use crate::model::Color;

/// The color that is written on a container.
#[must_use]
pub(super) fn written(container: &Container, label: Option<Color>) -> Option<Color> {
    let by_name = || {
        let service = container.compose_service().unwrap_or_default();
        [container.project(), service, container.bare_name()]
            .into_iter()
            .find_map(|name| Color::ending(name).1)
    };
    label.or_else(by_name)
}

/// The slots of one service while its containers are gone through, the oldest first.
#[derive(Debug)]
pub(super) struct Slots<'a> {
    /// Which one is live.
    pub live: Color,
    /// What was chosen before, by the id of the container.
    pub chosen: &'a BTreeMap<String, Color>,
    images: [Vec<String>; 2],
    any: bool,
}

impl<'a> Slots<'a> {
    /// Without containers.
    #[must_use]
    pub(super) fn new(live: Color, chosen: &'a BTreeMap<String, Color>) -> Self {
        Self {
            live,
            chosen,
            images: Default::default(),
            any: false,
        }
    }

    /// A container whose color is written on it, or was chosen before.
    pub(super) fn holds(&mut self, container: &Container, color: Color) {
        self.any = true;
        self.images[color.index()].push(container.image_id.clone());
    }

    /// The color of one that says nothing itself.
    pub(super) fn choose(&mut self, container: &Container) -> Color {
        let has_image = |color: &Color| self.images[color.index()].contains(&container.image_id);
        let [live, idle] = [self.live, self.live.other()];
        let color = if !self.any {
            live
        } else {
            [live, idle].into_iter().find(has_image).unwrap_or(idle)
        };
        self.holds(container, color);
        color
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::inventory::{NUMBER, PROJECT, SERVICE};

    #[test]
    fn a_color_ends_a_name_after_a_dash_or_an_underscore_or_is_all_of_it() {
        for (name, base, color) in [
            ("web-blue", "web", Some(Color::Blue)),
            ("web_green", "web", Some(Color::Green)),
            ("blue", "", Some(Color::Blue)),
            ("skyblue", "skyblue", None),
            ("web-blue-1", "web-blue-1", None),
            ("evergreen", "evergreen", None),
            ("", "", None),
        ] {
            assert_eq!(Color::ending(name), (base, color), "{name}");
        }
    }

    fn container(project: &str, service: &str, name: &str) -> Container {
        let labels = [(PROJECT, project), (SERVICE, service), (NUMBER, "1")];
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
        Container {
            id: name.to_owned(),
            name: name.to_owned(),
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ..Container::default()
        }
    }

    #[test]
    fn what_is_written_is_taken_in_order() {
        let green = Some(Color::Green);
        for (project, service, name, label, color) in [
            (
                "shop-green",
                "web-blue",
                "shop-green-web-blue-1",
                None,
                green,
            ),
            ("green", "web", "green-web-1", None, green),
            ("shop", "web_green", "shop_web_green_1", None, green),
            ("", "", "web-green", None, green),
            ("shop", "web", "special-green", None, green),
            ("shop-blue", "web", "x", green, green),
            ("shop", "web", "shop-web-1", None, None),
        ] {
            let container = container(project, service, name);
            assert_eq!(
                written(&container, label),
                color,
                "{project} {service} {name}"
            );
        }
    }

    fn with_image(id: &str, image: &str) -> Container {
        Container {
            id: id.to_owned(),
            image_id: image.to_owned(),
            ..Container::default()
        }
    }

    #[test]
    fn the_first_is_live_its_replicas_join_it_and_another_image_is_idle() {
        let chosen = BTreeMap::new();
        for live in Color::ALL {
            let mut slots = Slots::new(live, &chosen);
            assert_eq!(slots.choose(&with_image("a", "v1")), live);
            assert_eq!(slots.choose(&with_image("b", "v1")), live);
            assert_eq!(slots.choose(&with_image("c", "v2")), live.other());
            assert_eq!(slots.choose(&with_image("d", "v2")), live.other());
            assert_eq!(slots.choose(&with_image("e", "v3")), live.other());
        }
    }

    #[test]
    fn an_image_in_both_slots_goes_to_the_live_one() {
        let chosen = BTreeMap::new();
        let mut slots = Slots::new(Color::Green, &chosen);
        slots.holds(&with_image("a", "v1"), Color::Blue);
        slots.holds(&with_image("b", "v1"), Color::Green);
        assert_eq!(slots.choose(&with_image("c", "v1")), Color::Green);
    }
}
