//! What of an object in an answer about Secrets is shown.

use super::annotation;
use super::edit::{Edit, NotJson, elements, fields, is_array, is_object, string};
use super::status;
use super::table::{Columns, columns, row};
use super::{MASK, MASK_BASE64};
use shared_proto::glob::Glob;

/// Where an object stands, which says what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A whole document, or what a watch event tells of: a Secret, a list, a Table, a Status.
    Document,
    /// The fields before or after the elements of a document that is too long to be held: they belong to no Secret.
    Part,
    /// One Secret of a list or a Table.
    Element,
    /// What an annotation says that was applied.
    Annotation,
}

/// What is true for all objects of one answer.
pub(super) struct Walk<'w> {
    /// Secrets of these types are shown.
    pub(super) shown_types: &'w [Glob],
    /// The answer is to a write, so that a refusal can be about what was stored.
    pub(super) write: bool,
    /// Of the Table, where it is one.
    pub(super) columns: &'w mut Columns,
}

/// The fields that say what an object is, each only where it is there once.
#[derive(Default)]
struct Said {
    kind: Once,
    type_: Once,
    /// It has a field `object`.
    event: bool,
}

#[derive(Default)]
enum Once {
    #[default]
    Never,
    Value(String),
    /// Twice, or no text: clients differ in which one they take.
    Unclear,
}

// === impl Once ===

impl Once {
    fn take(&mut self, value: &str) {
        *self = match (&self, string(value)) {
            (Self::Never, Some(text)) => Self::Value(text),
            _ => Self::Unclear,
        };
    }

    fn is(&self, fits: impl FnOnce(&str) -> bool) -> bool {
        matches!(self, Self::Value(text) if fits(text))
    }
}

// === impl Walk ===

impl Walk<'_> {
    /// One event of a watch. What is no event, such as the Status of a refusal, is a document.
    pub(super) fn event<'t>(&mut self, edit: &mut Edit<'t, '_>, value: &'t str) -> Result<(), NotJson> {
        if !said(value)?.event {
            return self.object(edit, value, Place::Document);
        }
        fields(value, |key, value| match key {
            "type" => edit.scalar(value),
            "object" => self.object(edit, value, Place::Document),
            _ => edit.mask(value),
        })
    }

    /// One object.
    pub(super) fn object<'t>(&mut self, edit: &mut Edit<'t, '_>, value: &'t str, place: Place) -> Result<(), NotJson> {
        if !is_object(value) {
            return edit.mask(value);
        }
        let said = said(value)?;
        if said.kind.is(|kind| kind == "Status") && matches!(place, Place::Document | Place::Part) {
            return status::status(edit, value, self.write);
        }
        let whole = matches!(place, Place::Document | Place::Element);
        let shown = whole && said.type_.is(|type_| self.shown_types.iter().any(|shown| shown.matches(type_)));
        let lists = matches!(place, Place::Document | Place::Part);
        fields(value, |key, value| match key {
            "apiVersion" | "kind" | "type" | "immutable" => edit.scalar(value),
            "metadata" => metadata(edit, value, if shown { None } else { Some(place) }),
            "data" | "stringData" if shown => Ok(()),
            "data" => values(edit, value, MASK_BASE64),
            "stringData" => values(edit, value, MASK),
            "columnDefinitions" if lists => columns(edit, value, self.columns),
            "items" if lists && is_array(value) => elements(value, |item| self.object(edit, item, Place::Element)),
            "rows" if lists && is_array(value) => elements(value, |item| row(self, edit, item)),
            _ => edit.mask(value),
        })
    }
}

fn said(value: &str) -> Result<Said, NotJson> {
    let mut said = Said::default();
    if is_object(value) {
        fields(value, |key, value| {
            match key {
                "kind" => said.kind.take(value),
                "type" => said.type_.take(value),
                "object" => said.event = true,
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(said)
}

/// Masks each value of a map, whatever it is; the keys stay.
fn values<'t>(edit: &mut Edit<'t, '_>, value: &'t str, mask: &str) -> Result<(), NotJson> {
    if !is_object(value) {
        return edit.mask(value);
    }
    fields(value, |_, value| if value == "null" { Ok(()) } else { edit.string(value, mask) })
}

/// The metadata of an object or of a list. `masked`: where the object stands; `None`: its annotations are shown as they are.
pub(super) fn metadata<'t>(edit: &mut Edit<'t, '_>, value: &'t str, masked: Option<Place>) -> Result<(), NotJson> {
    if !is_object(value) {
        return edit.mask(value);
    }
    fields(value, |key, value| match key {
        "name"
        | "generateName"
        | "namespace"
        | "selfLink"
        | "uid"
        | "resourceVersion"
        | "generation"
        | "creationTimestamp"
        | "deletionTimestamp"
        | "deletionGracePeriodSeconds"
        | "clusterName"
        | "continue"
        | "remainingItemCount" => edit.scalar(value),
        // managedFields has the names of fields, none of their values
        "ownerReferences" | "finalizers" | "managedFields" => edit.array(value),
        "labels" if is_object(value) => fields(value, |_, label| edit.scalar(label)),
        "annotations" => match masked {
            None => Ok(()),
            Some(place) => annotation::annotations(edit, value, place),
        },
        _ => edit.mask(value),
    })
}
