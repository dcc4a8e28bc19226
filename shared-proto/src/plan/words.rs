//! What is said of a plan in few words: the same in every place that shows one. Nothing here is of the plan's own texts but for a reason that is
//! not known, which is the engine's token.

use super::{Action, Document, Order, ResourceChange, Summary};

/// The most characters of [`status`]: what GitHub takes as the description of a commit's status.
pub const STATUS_MAX: usize = 140;

/// How much there is of each, what may be lost first: `1 to replace, 2 to create; 1 changed by others`.
pub fn summary(of: &Summary) -> String {
    let counts = [
        (of.replace, "to replace"),
        (of.delete, "to destroy"),
        (of.forget, "to forget"),
        (of.update, "to change"),
        (of.create, "to create"),
        (of.import, "to import"),
        (of.moved, "to move"),
        (of.read, "to read"),
        (of.outputs, if of.outputs == 1 { "output to change" } else { "outputs to change" }),
    ];
    let words: Vec<_> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let mut text = if words.is_empty() { "nothing to do".to_owned() } else { words.join(", ") };
    if of.drift > 0 {
        text.push_str(&format!("; {} changed by others", of.drift));
    }
    if of.checks_failed > 0 {
        let checks = if of.checks_failed == 1 { "check" } else { "checks" };
        text.push_str(&format!("; {} {checks} failed", of.checks_failed));
    }
    text
}

/// A plan in one line of at most [`STATUS_MAX`] characters: counts alone, nothing that the plan itself says.
pub fn status(of: &Document) -> String {
    let mut text = summary(&of.summary);
    if of.errored {
        text = format!("the plan failed; {text}");
    } else if !of.complete {
        text.push_str("; more after it");
    }
    // twelve numbers of ten digits would be longer
    fitted(text)
}

/// A line cut to [`STATUS_MAX`] characters.
pub fn fitted(line: String) -> String {
    match line.chars().count() > STATUS_MAX {
        true => line.chars().take(STATUS_MAX - 1).chain(['…']).collect(),
        false => line,
    }
}

/// The sign of an action, as engines show it.
pub const fn sign(action: Action, order: Option<Order>) -> &'static str {
    match (action, order) {
        (Action::Replace, Some(Order::CreateFirst)) => "+/-",
        (Action::Replace, Some(Order::ForgetOld)) => "+/.",
        (Action::Replace, _) => "-/+",
        (Action::Delete, _) => "-",
        (Action::Forget, _) => ".",
        (Action::Update, _) => "~",
        (Action::Create, _) => "+",
        (Action::Read, _) => "<=",
        (Action::NoOp, _) => " ",
        (Action::Other, _) => "?",
    }
}

/// What is done, in one word.
pub const fn action(action: Action) -> &'static str {
    match action {
        Action::Replace => "replace",
        Action::Delete => "destroy",
        Action::Forget => "forget",
        Action::Update => "change",
        Action::Create => "create",
        Action::Read => "read",
        Action::NoOp => "keep",
        Action::Other => "unknown to this version",
    }
}

/// In which order one is replaced.
pub const fn order(order: Order) -> &'static str {
    match order {
        Order::DeleteFirst => "destroyed, then created",
        Order::CreateFirst => "created, then the old one destroyed",
        Order::ForgetOld => "created, and the old one forgotten",
        Order::Other => "in an order unknown to this version",
    }
}

/// Why something is done; empty where nothing is said. A token that is not known is given as it is, in words.
pub fn reason(token: &str) -> String {
    let known = match token {
        "" => "",
        "replace_because_tainted" => "tainted",
        "replace_because_cannot_update" => "cannot be changed in place",
        "replace_by_request" => "asked for",
        "replace_by_triggers" => "triggered",
        "delete_because_no_resource_config" => "no longer in the configuration",
        "delete_because_no_module" => "its module is no longer in the configuration",
        "delete_because_no_move_target" => "moved to what is not there",
        "delete_because_wrong_repetition" => "its key does not fit count or for_each",
        "delete_because_count_index" => "beyond count",
        "delete_because_each_key" => "not in for_each",
        "delete_because_enabled_false" => "not enabled",
        "read_because_config_unknown" => "of what is known after apply",
        "read_because_dependency_pending" => "of what changes",
        "read_because_check_nested" => "for a check",
        other => return other.replace('_', " "),
    };
    known.to_owned()
}

/// All that is to be said of a resource beside its address and its attributes: `destroyed, then created: cannot be changed in place`. Its texts of the
/// plan, an id or an address, are made harmless by `shown`.
pub fn remarks(of: &ResourceChange, shown: impl Fn(&str) -> String) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(key) = &of.deposed {
        remarks.push(format!("left by an earlier replacement ({})", shown(key)));
    }
    let why = shown(&reason(&of.reason));
    match (of.order.map(order), why.is_empty()) {
        (Some(order), true) => remarks.push(order.to_owned()),
        (Some(order), false) => remarks.push(format!("{order}: {why}")),
        (None, false) => remarks.push(why),
        (None, true) => {}
    }
    match of.imported_id.as_deref() {
        Some("") => remarks.push("imported".to_owned()),
        Some(id) => remarks.push(format!("imported from {}", shown(id))),
        None => {}
    }
    if let Some(from) = &of.moved_from {
        remarks.push(format!("moved from {}", shown(from)));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_lost_is_said_first() {
        let of = Summary { create: 2, delete: 1, replace: 1, drift: 3, unchanged: 9, ..Default::default() };
        assert_eq!(summary(&of), "1 to replace, 1 to destroy, 2 to create; 3 changed by others");
        assert_eq!(summary(&Summary { unchanged: 7, ..Default::default() }), "nothing to do");
        assert_eq!(
            summary(&Summary { outputs: 1, checks_failed: 1, ..Default::default() }),
            "1 output to change; 1 check failed"
        );
    }

    #[test]
    fn a_status_fits_whatever_the_counts() {
        let n = u32::MAX;
        let summary = Summary {
            create: n,
            update: n,
            replace: n,
            delete: n,
            import: n,
            forget: n,
            read: n,
            moved: n,
            unchanged: n,
            outputs: n,
            drift: n,
            checks_failed: n,
        };
        let long = status(&Document { summary, complete: true, ..Default::default() });
        assert_eq!(long.chars().count(), STATUS_MAX);
        assert!(long.starts_with("4294967295 to replace, ") && long.ends_with('…'), "{long}");
        assert_eq!(status(&Document { complete: true, ..Default::default() }), "nothing to do");
        assert_eq!(status(&Document::default()), "nothing to do; more after it");
        assert_eq!(
            status(&Document { errored: true, complete: false, ..Default::default() }),
            "the plan failed; nothing to do"
        );
    }

    #[test]
    fn what_is_said_of_a_resource() {
        let of = ResourceChange {
            action: Action::Replace,
            order: Some(Order::CreateFirst),
            reason: "replace_because_cannot_update".into(),
            moved_from: Some("a\u{1b}b".into()),
            imported_id: Some(String::new()),
            ..Default::default()
        };
        let shown = |text: &str| text.replace('\u{1b}', "^[");
        assert_eq!(
            remarks(&of, shown),
            ["created, then the old one destroyed: cannot be changed in place", "imported", "moved from a^[b"]
        );
        assert_eq!(reason("new_token\u{1b}"), "new token\u{1b}");
        assert!(remarks(&ResourceChange { reason: "x\u{1b}".into(), ..Default::default() }, shown)[0].ends_with("^["));
        assert_eq!(sign(Action::Replace, Some(Order::DeleteFirst)), "-/+");
    }
}
