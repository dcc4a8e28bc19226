//! docs/faults.md names the test of each promise. Here: that each of them is there, and that a cell without one says why.

use std::collections::BTreeSet;
use std::path::Path;

fn sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("reads").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            sources(&path, into);
        } else if name != "faults.rs" && path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("reads"));
        }
    }
}

/// The cells of the page's tables, each with its row's name, without heads and rows of dashes.
fn cells(page: &str) -> Vec<(String, String)> {
    let mut cells = Vec::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let is_rule = |line: &str| line.starts_with("|---");
        if !line.starts_with('|') || is_rule(line) || lines.peek().is_some_and(|next| is_rule(next)) {
            continue;
        }
        let mut row = line.trim_matches('|').split('|').map(str::trim);
        let name = row.next().unwrap_or_default().to_owned();
        cells.extend(row.map(|cell| (name.clone(), cell.to_owned())));
    }
    cells
}

fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn each_promise_has_its_test_or_says_why_it_has_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let page = std::fs::read_to_string(root.join("docs/faults.md")).expect("reads");
    let mut all = String::new();
    sources(root, &mut all);
    let found = cells(&page);
    assert!(found.len() > 60, "{} cells", found.len());
    let mut wrong = BTreeSet::new();
    for (row, cell) in &found {
        if names(cell).next().is_none() && !cell.contains("no test:") {
            wrong.insert(format!("{row}: {cell:?} names no test and does not say why"));
        }
        for name in names(cell) {
            if !all.contains(&format!("fn {name}(")) && !all.contains(&format!("test(\"{name}\"")) {
                wrong.insert(format!("{row}: there is no test {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn cells_are_read_as_they_stand() {
    let page = "# Title\n| fault | a | b |\n|---|---|---|\n| x | told: `one`, `two` | no test: why |\n";
    let read = cells(page);
    assert_eq!(read, [("x".to_owned(), "told: `one`, `two`".to_owned()), ("x".to_owned(), "no test: why".to_owned())]);
    assert_eq!(names(&read[0].1).collect::<Vec<_>>(), ["one", "two"]);
}
