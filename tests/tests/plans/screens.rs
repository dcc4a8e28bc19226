//! What people see on a terminal of 80 columns, kept as files. `UPDATE_DOCS=1` writes them anew.

use super::*;
use regex::Regex;
use runner_tests::process::Program;
use std::path::Path;

/// File, and the words after `plan`; JOB and OTHER are a preview and what was applied before it.
const SCREENS: &[(&str, &str)] = &[
    ("help", "-h"),
    ("help-show", "show -h"),
    ("help-compare", "compare -h"),
    ("help-render", "render -h"),
    ("show", "show JOB"),
    ("compare", "compare JOB OTHER"),
    ("render", "render JOB"),
    ("render-status", "render JOB --status --exit-code"),
    ("none", "show never-planned"),
];

pub(super) async fn screens() -> Result<()> {
    let usual = usual().await?;
    let (applied, preview) = usual.shop("shop").await?;
    usual.control_plane.admin().stack("never-planned", "opentofu", "").await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans/screens");
    let mut different = Vec::new();
    for (name, line) in SCREENS {
        let words: Vec<String> = ["plan"].into_iter().chain(line.split(' ')).map(str::to_owned).collect();
        let is_help = name.starts_with("help");
        let program = if is_help {
            // with nothing of the environment in it
            Program::own("runnerctl")?.args(words)
        } else {
            let words: Vec<_> = words.iter().map(|w| w.replace("JOB", &preview).replace("OTHER", &applied)).collect();
            usual.ctl.program(&words.iter().map(String::as_str).collect::<Vec<_>>())?
        };
        let ended = program.env("COLUMNS", "80").run(JOB).await?;
        let text = format!("$ runnerctl plan {line}\n{}{}(exit code {})\n", ended.stdout, ended.stderr, ended.code());
        let text = of_the_moment(&text.replace(&preview, "JOB").replace(&applied, "OTHER"))?;
        ensure!(!text.contains('\u{1b}'), "{name} shows an escape");
        // Markdown is read by those who break its lines themselves
        let wide = text.lines().skip(1).find(|l| !name.starts_with("render") && l.chars().count() > 80);
        if let Some(wide) = wide {
            different.push(format!("{name}: {wide:?} is wider than 80 columns"));
        }
        different.extend(runner_tests::screens::difference(&folder, name, &text)?);
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

/// Without what is another one each time.
fn of_the_moment(text: &str) -> Result<String> {
    let mut text = text.to_owned();
    for (pattern, by) in [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        (r"job(_|&#95;)[0-9a-f]{32}", "JOB-ID"),
        (r"opentofu \d[^\s<]*", "opentofu VERSION"),
    ] {
        text = Regex::new(pattern)?.replace_all(&text, by).into_owned();
    }
    Ok(text)
}
