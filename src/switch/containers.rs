//! What is known of the containers behind a slot.

use super::evidence::alerts::Usage;
use crate::model::{Color, ServiceName};

/// Asked four times a second about both slots of a service under watch; must not block.
pub trait Containers: Send + Sync + 'static {
    /// Why a container of that slot is dead or dying, for people: it exited, was restarted or was
    /// killed for memory since the last call.
    fn trouble(&self, service: &ServiceName, color: Color) -> Option<String>;

    /// What the fullest container of that slot uses of its limits.
    fn usage(&self, service: &ServiceName, color: Color) -> Usage;
}

/// Nothing is known: the upstreams are addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContainers;

impl Containers for NoContainers {
    fn trouble(&self, _service: &ServiceName, _color: Color) -> Option<String> {
        None
    }

    fn usage(&self, _service: &ServiceName, _color: Color) -> Usage {
        Usage::default()
    }
}
