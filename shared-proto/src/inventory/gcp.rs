//! Types of Google Cloud, as Cloud Asset Inventory names them.

use super::Type;

/// Those that are listed where none is named.
pub(super) const TYPES: &[Type] = &[];
