//! What changes something: by ours, and looked at by kubectl.

use super::*;

pub(super) async fn change() -> Result<()> {
    let usual = usual().await?;
    usual.cluster.namespace("changed").await?;
    let home = usual.ctl.home();
    let write = |name: &str, text: &str| std::fs::write(home.join(name), text);
    write(
        "all.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  k: a\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  \
         name: two\ndata: {k: b}\n",
    )?;
    write("web.json", &deployment("web", 1).to_string())?;
    write("changed.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  k: c\n")?;
    write("unknown.yaml", "apiVersion: v1\nkind: Nosuch\nmetadata:\n  name: one\n")?;
    write("broken.yaml", "a: [b\n")?;
    let said = usual.text("apply -f all.yaml -f web.json -n changed").await?;
    let expected =
        "configmap/one serverside-applied\nconfigmap/two serverside-applied\ndeployment.apps/web serverside-applied\n";
    ensure!(said == expected, "{said}");
    let of = async |line: &str| usual.kubectl(line).await?.success();
    ensure!(of("get configmaps one two -n changed -o jsonpath={.items[*].data.k}").await? == "a b\n");
    ensure!(
        of("get cm one -n changed -o jsonpath={.metadata.managedFields[0].manager} --show-managed-fields").await?
            == "runnerctl\n"
    );
    // checked and not changed
    usual.text("apply -f changed.yaml -n changed --dry-run").await?;
    ensure!(of("get cm one -n changed -o jsonpath={.data.k}").await? == "a\n");
    usual.text("apply -f changed.yaml -n changed").await?;
    ensure!(of("get cm one -n changed -o jsonpath={.data.k}").await? == "c\n");
    // what somebody else has set otherwise
    of("patch cm one -n changed --field-manager=other -p {\"data\":{\"k\":\"d\"}}").await?;
    let conflict = usual.run("apply -f changed.yaml -n changed").await?;
    ensure!(conflict.code() == 1 && conflict.stderr.contains("--force-conflicts"), "{}", conflict.stderr);
    ensure!(conflict.stderr.contains("error: configmap"), "{}", conflict.stderr);
    usual.text("apply -f changed.yaml -n changed --force-conflicts").await?;
    // what is refused of one object holds no other up
    let three = ["Bad_One", "good", "Bad_Two"]
        .map(|name| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n"));
    std::fs::write(usual.ctl.home().join("three.yaml"), three.join("---\n"))?;
    let applied = usual.run("apply -f three.yaml -n changed").await?;
    ensure!(applied.code() == 1 && applied.stdout.contains("configmap/good serverside-applied"), "{applied:?}");
    for part in ["configmap/Bad_One: ", "configmap/Bad_Two: ", "2 of 3 objects were not applied"] {
        ensure!(applied.stderr.contains(part), "{part}: {}", applied.stderr);
    }
    ensure!(of("get cm one -n changed -o jsonpath={.data.k}").await? == "c\n");
    let by_input = usual
        .ours("apply -f - -n changed")?
        .input("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"three\"}}");
    ensure!(by_input.run(SECONDS).await?.success()? == "configmap/three serverside-applied\n");
    for (line, code, words) in [
        ("apply -f unknown.yaml -n changed", 66, "Nosuch"),
        ("apply -f broken.yaml -n changed", 64, "broken.yaml"),
        ("apply -f missing.yaml -n changed", 64, "missing.yaml"),
    ] {
        let ended = usual.run(line).await?;
        ensure!(ended.code() == code && ended.stderr.contains(words), "{line}: {} {}", ended.code(), ended.stderr);
    }

    let done = usual.text("rollout status deployment/web -n changed --timeout 60s").await?;
    ensure!(done.ends_with("deployment \"web\" successfully rolled out\n"), "{done}");
    ensure!(done.lines().last() == of("rollout status deployment/web -n changed").await?.lines().last());
    ensure!(usual.text("scale deployment/web --replicas 3 -n changed").await? == "deployment.apps/web scaled\n");
    usual.text("rollout status deploy web -n changed --timeout 60s").await?;
    ensure!(of("get deployment web -n changed -o jsonpath={.status.readyReplicas}").await? == "3\n");
    let before = of("get pods -n changed -o name").await?;
    ensure!(usual.text("rollout restart deployment web -n changed").await? == "deployment.apps/web restarted\n");
    usual.text("rollout status deployment/web -n changed --timeout 60s").await?;
    let after = of("get pods -n changed -o name").await?;
    ensure!(before.lines().all(|pod| !after.contains(pod)), "{before}{after}");
    // one that never is: its pods have no node
    let mut stuck = deployment("stuck", 1);
    stuck["spec"]["template"]["spec"]["nodeName"] = Value::Null;
    stuck["spec"]["progressDeadlineSeconds"] = 2.into();
    usual.cluster.create("/apis/apps/v1/namespaces/changed/deployments", &stuck).await?;
    let late = usual.run("rollout status deployment/stuck -n changed --timeout 1s").await?;
    ensure!(late.code() == 75 && late.stderr.contains("[deadline_exceeded]"), "{} {}", late.code(), late.stderr);
    let failed = usual.run("rollout status deployment/stuck -n changed --timeout 60s").await?;
    ensure!(
        failed.code() == 1 && failed.stderr.contains("exceeded its progress deadline"),
        "{} {}",
        failed.code(),
        failed.stderr
    );
    let wrong = usual.run("rollout status configmap/one -n changed").await?;
    ensure!(wrong.code() == 64, "{}", wrong.stderr);
    let wrong = usual.run("scale configmap/one --replicas 2 -n changed").await?;
    ensure!(wrong.code() == 64 && wrong.stderr.contains("cannot be scaled"), "{}", wrong.stderr);

    let dry = usual.text("delete configmap two -n changed --dry-run").await?;
    ensure!(dry == "configmap \"two\" deleted from changed namespace (dry run)\n", "{dry}");
    of("get cm two -n changed").await?;
    ensure!(
        usual.text("delete cm two -n changed --wait").await? == "configmap \"two\" deleted from changed namespace\n"
    );
    let gone = usual.run("delete cm/two cm/one -n changed").await?;
    ensure!(
        gone.code() == 66 && gone.stdout == "configmap \"one\" deleted from changed namespace\n",
        "{}{}",
        gone.stdout,
        gone.stderr
    );
    let said = usual.text("delete pod web-* -n changed --wait --timeout 60s").await?;
    ensure!(said.lines().count() == 3, "{said}");
    usual.text("delete deployments -l nosuch=label -n changed").await?;
    usual.text("delete deployment web stuck -n changed --wait").await?;
    for (line, code) in
        [("delete pods -n changed", 64), ("delete pod * -n changed", 64), ("delete pod x -l a=b -n changed", 64)]
    {
        let ended = usual.run(line).await?;
        ensure!(ended.code() == code, "{line}: {} {}", ended.code(), ended.stderr);
    }
    usual.world.runner.no_workers(SECONDS).await
}

/// What shells offer.
pub(super) async fn completion() -> Result<()> {
    let usual = usual().await?;
    let offered = async |line: &str| -> Result<String> {
        let mut words_of = vec!["complete".to_owned(), "--".to_owned()];
        words_of.extend(words(line));
        let ended = usual.ctl.run(&words_of.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        ensure!(ended.code() == 0 && ended.stderr.is_empty(), "{line}: {} {}", ended.code(), ended.stderr);
        Ok(ended.stdout)
    };
    for (line, expected) in [
        ("k8s -C clu", "cluster\n"),
        ("k8s -C cluster get pods -n se", "seen\n"),
        ("k8s -C cluster get pods -n seen web", "web-1\nweb-2\n"),
        ("k8s -C cluster get pod/web-1 -n seen service/s", "service/shop\n"),
        ("k8s -C cluster logs -n seen web-2", "web-2\n"),
        ("k8s -C cluster get deploy", "deployments\n"),
        ("k8s -C cluster get nosuch -n seen ", ""),
        ("k8s -C nobody get pods ", ""),
        ("kubeconfig lim", "limited\n"),
    ] {
        let got = offered(line).await?;
        ensure!(got == expected, "{line}: {got:?}");
    }
    // as bash asks for it
    let script = usual.ctl.text(&["completion", "bash"]).await?;
    let file = usual.files.write("completion.bash", script)?;
    let own = runner_tests::tools::binary("runnerctl")?;
    let ask = format!(
        "source {}; COMP_WORDS=({own} k8s -C cluster get pods -n seen web-); COMP_CWORD=8; COMP_LINE=\"${{COMP_WORDS[*]}}\"; \
         _runnerctl_names {own} web- seen; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        own = own.display(),
    );
    let bash = usual.ctl.program(&[])?.replaced("/bin/bash").only_args(["-c", &ask]);
    let ended = bash.run(SECONDS).await?;
    ensure!(ended.stdout.lines().any(|l| l == "web-1") && ended.stdout.lines().any(|l| l == "web-2"), "{ended:?}");
    Ok(())
}
