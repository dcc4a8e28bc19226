//! A filter of who asks, in KQL: it is made part of a query of one workspace, and must not lead out of it.

use shared_proto::failure::Code;

use crate::fault::Fault;

/// The longest filter, bytes.
const FILTER_MAX: usize = 16 * 1024;
/// What takes a query somewhere else: to other workspaces and applications, to Resource Graph, Data Explorer and files. The runner's policy was
/// asked about queries of this workspace and about none of these.
///
/// <https://learn.microsoft.com/azure/azure-monitor/logs/cross-workspace-query>,
/// <https://learn.microsoft.com/azure/azure-monitor/logs/azure-monitor-data-explorer-proxy>
const ELSEWHERE: &[&str] =
    &["workspace", "app", "resource", "arg", "adx", "cluster", "database", "externaldata", "external_table"];

/// Refuses what leads elsewhere. Where the words stand in a text of the filter's they are refused too: whoever reads KQL better than this does
/// must not find a way around it.
///
/// # Errors
/// `invalid_argument`, `too_large`.
pub(super) fn check(filter: &str) -> Result<(), Fault> {
    if filter.len() > FILTER_MAX {
        return Err(Fault::new(Code::TooLarge, format!("the filter is longer than {FILTER_MAX} bytes")));
    }
    if filter.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(Fault::new(Code::InvalidArgument, "the filter has a character in it that no query has"));
    }
    let lower = filter.to_lowercase();
    // management commands, and `evaluate` of plug-ins that ask others
    if lower.trim_start().starts_with('.') || lower.contains("_request") {
        return Err(elsewhere("a command, or a request to somebody else"));
    }
    for name in ELSEWHERE {
        for (at, _) in lower.match_indices(name) {
            let before = lower[..at].chars().next_back();
            let within = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
            if !within && is_called(&lower[at + name.len()..]) {
                return Err(elsewhere(&format!("{name}(…)")));
            }
        }
    }
    Ok(())
}

/// Whether an opening parenthesis follows a name, over room, comments, and the end of the brackets and quotes that a name may stand in.
fn is_called(mut rest: &str) -> bool {
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ']' | '`' | '~'));
        match rest.strip_prefix("//") {
            Some(comment) => rest = comment.split_once(['\n', '\r']).map_or("", |(_, after)| after),
            None => return rest.starts_with('('),
        }
    }
}

fn elsewhere(what: &str) -> Fault {
    Fault::new(
        Code::InvalidArgument,
        format!("the filter has {what} in it, and a query stays in the workspace that it is of"),
    )
    .next("Leave it out, and name the other workspace as the source of a query of its own.")
}

/// The table's lines as the filter leaves them, or the filter itself where no table is named; then `with`.
pub(super) fn query(table: Option<&str>, before: &str, filter: &str, with: &str) -> String {
    let filter = filter.trim().trim_end_matches([';', '|']).trim_end();
    match table {
        None => format!("{filter}\n{with}"),
        Some(table) => {
            let filter = filter.trim_start_matches('|').trim_start();
            // on a line of its own, whatever comment the filter ends with
            let filter = if filter.is_empty() { String::new() } else { format!("| {filter}\n") };
            format!("{table}\n{before}{filter}{with}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_does_not_lead_out_of_its_workspace() {
        for bad in [
            "workspace('other').AppTraces",
            "union AppTraces, WORKSPACE ( \"other\" ).AppTraces",
            "where x in (arg('').Resources)",
            "join (arg // a comment\n (\"\").resources) on x",
            "join (arg // one\r // two\n\t(\"\").resources) on x",
            "adx('https://x.kusto.windows.net/db').T",
            "['adx']('x')",
            "[\"arg\"] (\"\")",
            "externaldata (a:string) ['https://evil.example/x']",
            "external_table('x')",
            "cluster('x').database('y').T",
            "app('x').requests",
            "resource('/subscriptions/x').T",
            "where u == \"http://x\" | join (arg('').resources) on x",
            "evaluate http_request('https://evil.example')",
            "evaluate sql_request('x')",
            ".show tables",
            " \n.drop table x",
            "where Message == 'workspace(x)'",
        ] {
            assert_eq!(check(bad).expect_err(bad).code(), Code::InvalidArgument, "{bad}");
        }
        for good in [
            "",
            "where SeverityLevel >= 3",
            "where Message has 'app' and myapp(1) > 0",
            "where workspace_name == 'x' and Resource =~ 'y' and target in ('a')",
            "where appname contains 'z' // the app, (not) ours",
            "project TimeGenerated, Message, resource_id\n| where resource == 'x'",
            "summarize arg_max(TimeGenerated, *) by Computer",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        assert!(check(&"x".repeat(FILTER_MAX)).is_ok());
        assert_eq!(check(&"x".repeat(FILTER_MAX + 1)).expect_err("too long").code(), Code::TooLarge);
        assert!(check("a\0b").is_err() && check("a\tb\r\nc").is_ok());
    }

    #[test]
    fn queries() {
        let tail = "| top 3 by TimeGenerated desc";
        assert_eq!(query(Some("T"), "", "", tail), "T\n| top 3 by TimeGenerated desc");
        assert_eq!(
            query(Some("T"), "| where x\n", "| where y // z", tail),
            "T\n| where x\n| where y // z\n| top 3 by TimeGenerated desc"
        );
        assert_eq!(query(None, "", " T | where y; ", tail), "T | where y\n| top 3 by TimeGenerated desc");
    }
}
