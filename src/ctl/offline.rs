//! Verbs that need no daemon.

use std::path::Path;

use crate::admin::wire::{ControlError, ErrorCode, ExplainReport, ExplainRequest};

/// `explain --config FILE`: the answer by a file alone. Health and live colors are unknown
/// then, so the color is the one a first start would make live.
///
/// # Errors
/// The file has errors, or the request is not one.
pub(crate) fn explain(
    file: &Path,
    request: &ExplainRequest,
) -> Result<ExplainReport, ControlError> {
    let config = crate::compat::load(file).map_err(|diagnostics| {
        ControlError::new(
            ErrorCode::InvalidConfig,
            format!("{} has errors", file.display()),
        )
        .with_details(diagnostics.0.iter().map(ToString::to_string))
    })?;
    crate::app::explain_offline(&config, request)
}
