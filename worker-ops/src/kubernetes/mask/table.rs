//! Tables: what `kubectl get` shows.

use super::edit::{Edit, NotJson, elements, fields, is_array, is_object, string};
use super::object::{Place, Walk};

/// The columns of the last Table that named some. A watch names them in its first event only.
#[derive(Debug, Default)]
pub(super) struct Columns(Vec<Column>);

/// What a column shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// A name, a type, an age.
    Text,
    /// How many values there are.
    Count,
    /// Nobody looked at it.
    Unknown,
}

// === impl Column ===

impl Column {
    fn of(name: &str) -> Self {
        match name {
            "Name" | "Type" | "Age" | "Created At" => Self::Text,
            "Data" => Self::Count,
            _ => Self::Unknown,
        }
    }

    fn shows(self, cell: &str) -> bool {
        match self {
            Self::Text => !is_object(cell) && !is_array(cell),
            Self::Count => cell.bytes().all(|b| b.is_ascii_digit()),
            Self::Unknown => false,
        }
    }
}

/// Takes the columns from a Table.
pub(super) fn columns<'t>(edit: &mut Edit<'t, '_>, value: &'t str, columns: &mut Columns) -> Result<(), NotJson> {
    if !is_array(value) {
        return edit.mask(value);
    }
    let mut named = Vec::new();
    elements(value, |definition| {
        let mut column = None;
        if !is_object(definition) {
            named.push(Column::Unknown);
            return edit.mask(definition);
        }
        fields(definition, |key, value| match key {
            "name" => {
                // named twice: it could be the one or the other
                column = match (column, string(value)) {
                    (None, Some(name)) => Some(Column::of(&name)),
                    _ => Some(Column::Unknown),
                };
                edit.scalar(value)
            }
            "type" | "format" | "description" | "priority" => edit.scalar(value),
            _ => edit.mask(value),
        })?;
        named.push(column.unwrap_or(Column::Unknown));
        Ok(())
    })?;
    if !named.is_empty() {
        columns.0 = named;
    }
    Ok(())
}

/// Masks one row: cells by their column, and the object, in whichever form it is there.
pub(super) fn row<'t>(walk: &mut Walk<'_>, edit: &mut Edit<'t, '_>, value: &'t str) -> Result<(), NotJson> {
    if !is_object(value) {
        return edit.mask(value);
    }
    fields(value, |key, value| match key {
        "cells" if is_array(value) => {
            let mut columns = walk.columns.0.iter();
            elements(value, |cell| {
                let column = columns.next().copied().unwrap_or(Column::Unknown);
                if column.shows(cell) { Ok(()) } else { edit.mask(cell) }
            })
        }
        "object" => walk.object(edit, value, Place::Element),
        _ => edit.mask(value),
    })
}
