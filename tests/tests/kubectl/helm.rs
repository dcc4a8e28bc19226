//! A chart from its first release to its last.

use super::{SECONDS, Side, Usual, first_difference, usual, words};
use anyhow::{Context as _, Result, ensure};

/// Each in a namespace of the side's own, in this order.
pub(super) const STEPS: &[(&str, i32)] = &[
    ("install shop chart -n {ns} --set color=blue", 0),
    ("install shop chart -n {ns}", 1),
    ("list -n {ns}", 0),
    ("status shop -n {ns}", 0),
    ("get values shop -n {ns}", 0),
    ("get manifest shop -n {ns}", 0),
    ("upgrade shop chart -n {ns} --set color=red", 0),
    ("upgrade shop chart -n {ns} --set broken=true", 1),
    ("history shop -n {ns}", 0),
    ("rollback shop 1 -n {ns}", 0),
    ("get values shop -n {ns} --all", 0),
    ("upgrade --install other chart -n {ns} --wait --timeout 30s", 0),
    ("template shop chart --validate -n {ns}", 0),
    ("uninstall shop -n {ns}", 0),
    ("uninstall shop -n {ns}", 1),
    ("uninstall other -n {ns}", 0),
    ("list -n {ns} -o json", 0),
];

pub(super) fn chart(usual: &Usual, side: &Side) -> Result<()> {
    let write = |name: &str, text: &str| usual.files.write(format!("{}/chart/{name}", side.namespace), text);
    write("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.2.3\nappVersion: \"7\"\n")?;
    write("values.yaml", "color: green\nbroken: false\n")?;
    write(
        "templates/config.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-config\ndata:\n  color: {{ .Values.color | quote }}\n",
    )?;
    write(
        "templates/service.yaml",
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Release.Name }}\nspec:\n  selector: {app: {{ .Release.Name }}}\n  \
         ports:\n  - port: {{ if .Values.broken }}700000{{ else }}80{{ end }}\n",
    )?;
    Ok(())
}

pub(super) async fn helm() -> Result<()> {
    let usual = usual().await?;
    let mut different = Vec::new();
    for side in &usual.sides {
        chart(usual, side)?;
    }
    for (step, code) in STEPS {
        let mut said = Vec::new();
        for side in &usual.sides {
            let text = step.replace("{ns}", side.namespace);
            let ended = usual.program("helm", side)?.args(words(&text)).run(SECONDS).await.with_context(|| *step)?;
            said.push((
                ended.code(),
                of_the_moment(&usual.same(side, &ended.stdout)?)?,
                usual.same(side, &ended.stderr)?,
            ));
        }
        ensure!(said[0].0 == *code, "helm {step} by itself ended with {}: {}{}", said[0].0, said[0].1, said[0].2);
        if said[0] != said[1] {
            different.push(format!("helm {step}\n{}", first_difference(&said[0], &said[1])));
        }
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    eprintln!("{} commands of helm agree", STEPS.len());
    Ok(())
}

fn of_the_moment(text: &str) -> Result<String> {
    let day =
        regex::Regex::new(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \+0000 UTC")?;
    Ok(day.replace_all(text, "TIME").replace('\t', " "))
}
