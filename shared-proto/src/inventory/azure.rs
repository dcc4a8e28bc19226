//! Types of Azure, as Resource Manager names them.

use super::Type;

/// Those that are listed where none is named.
pub(super) const TYPES: &[Type] = &[];
