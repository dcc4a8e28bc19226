//! What kubectl is asked for, in this order: each by the cluster's own address and through the runner, in a namespace and on a node of its own.

/// One command. `{ns}`, `{node}` are the side's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Its words, a blank between; a word in quotes may hold blanks.
    pub(crate) words: &'static str,
    /// Standard input.
    pub(crate) input: Option<&'static str>,
    /// A variable of its environment.
    pub(crate) env: Option<(&'static str, &'static str)>,
    /// How it ends.
    pub(crate) code: i32,
}

const fn ok(words: &'static str) -> Step {
    Step { words, input: None, env: None, code: 0 }
}
const fn fails(words: &'static str) -> Step {
    Step { words, input: None, env: None, code: 1 }
}
const fn ends(words: &'static str, code: i32) -> Step {
    Step { words, input: None, env: None, code }
}
const fn given(words: &'static str, input: &'static str) -> Step {
    Step { words, input: Some(input), env: None, code: 0 }
}
const fn with(words: &'static str, env: (&'static str, &'static str)) -> Step {
    Step { words, input: None, env: Some(env), code: 0 }
}

/// The old protocol for exec, attach and port-forward.
pub(crate) const SPDY: (&str, &str) = ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");

/// What changes nothing.
pub(crate) const LOOKS: &[Step] = &[
    ok("get pods -n seen"),
    ok("get pods -n seen -o wide"),
    ok("get pods -n seen -o yaml"),
    ok("get pods -n seen -o json"),
    ok("get pods -n seen -o name"),
    ok("get pods -n seen -o jsonpath={.items[*].metadata.name}"),
    ok("get pods -n seen -o go-template={{range.items}}{{.metadata.name}}{{end}}"),
    ok("get pods -n seen -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName"),
    ok("get pods -n seen --show-labels"),
    ok("get pods -n seen -l app=web"),
    ok("get pods -n seen -l app=none"),
    ok("get pods -n seen --field-selector status.phase=Running"),
    ok("get pods -n seen --sort-by=.metadata.name --no-headers"),
    ok("get pods -n seen --chunk-size=1"),
    ok("get pods -n seen -w --request-timeout=2s"),
    ok("get pod web-1 -n seen -o yaml --show-managed-fields"),
    ok("get pod web-1 -n seen --subresource=status"),
    fails("get pod missing -n seen"),
    fails("get nosuchkind"),
    ok("get pod missing -n seen --ignore-not-found"),
    ok("get all -n seen"),
    ok("get nodes"),
    ok("get nodes -o wide"),
    ok("get roles,rolebindings -n seen"),
    ok("get crd"),
    ok("get namespaces -o name"),
    ok("get --raw /healthz"),
    ok("get --raw /readyz?verbose"),
    ok("get --raw /api/v1/namespaces/seen/pods/web-1"),
    ok("get --raw /openapi/v2"),
    fails("get --raw /not/there"),
    ok("describe pod web-1 -n seen"),
    ok("describe node node-1"),
    ok("describe namespace seen"),
    fails("describe pod missing -n seen"),
    ok("logs web-1 -n seen -c app"),
    ok("logs web-1 -n seen -c app --tail=2"),
    ok("logs web-1 -n seen --all-containers --prefix"),
    ok("logs web-1 -n seen -c app --timestamps --since-time=2026-01-01T00:00:02Z"),
    ok("logs -n seen -l app=web --all-containers --prefix --tail=1"),
    ok("logs web-1 -n seen -c app --previous"),
    ok("logs web-1 -n seen -c app --limit-bytes=5"),
    fails("logs web-1 -n seen -c nosuch"),
    fails("logs missing -n seen"),
    ok("events -n seen"),
    ok("get events -n seen"),
    ok("api-resources"),
    ok("api-resources --namespaced=true -o wide"),
    ok("api-versions"),
    ok("explain pod.spec.containers"),
    ok("explain deployment --recursive"),
    fails("explain nosuchkind"),
    ok("cluster-info"),
    ok("version"),
    ok("version -o json"),
    ok("auth can-i create deployments.apps"),
    ok("auth can-i --list -n seen"),
    ok("auth whoami"),
    fails("top pods -n seen"),
    fails("top nodes"),
];

/// What changes something.
pub(crate) const CHANGES: &[Step] = &[
    ok("create configmap settings -n {ns} --from-literal=a=1 --from-literal=b=2"),
    fails("create configmap settings -n {ns} --from-literal=a=1"),
    ok("create configmap big -n {ns} --from-file=big.txt"),
    ok("get configmap big -n {ns} -o json"),
    ok("create secret generic hidden -n {ns} --from-literal=password=hunter2-hunter2"),
    ok("get secret hidden -n {ns} -o yaml"),
    ok("describe secret hidden -n {ns}"),
    ok("create -n {ns} -f pod.yaml"),
    fails("create -n {ns} -f unknown-field.yaml"),
    fails("create -n {ns} -f malformed.yaml"),
    ok("wait -n {ns} --for=condition=Ready pod/one --timeout=60s"),
    ok("apply -n {ns} -f config.yaml"),
    ok("apply -n {ns} -f config.yaml"),
    ok("apply -n {ns} -f config-changed.yaml --dry-run=server -o yaml"),
    ok("apply -n {ns} -f config-changed.yaml --dry-run=client"),
    fails("diff -n {ns} -f config-changed.yaml"),
    ok("diff -n {ns} -f config.yaml"),
    ok("apply -n {ns} -f config-changed.yaml"),
    ok("apply view-last-applied configmap/app -n {ns}"),
    ok("apply -n {ns} --server-side -f server-side.yaml"),
    fails("apply -n {ns} --server-side --field-manager=other -f server-side-changed.yaml"),
    ok("apply -n {ns} --server-side --field-manager=other --force-conflicts -f server-side-changed.yaml"),
    given(
        "apply -n {ns} -f -",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"by-input"},"data":{"k":"v"}}"#,
    ),
    ok("apply -n {ns} -k kustomized"),
    ok(r#"patch configmap app -n {ns} -p {"data":{"c":"3"}}"#),
    ok(r#"patch configmap app -n {ns} --type=merge -p {"data":{"c":null,"d":"4"}}"#),
    ok(r#"patch configmap app -n {ns} --type=json -p [{"op":"replace","path":"/data/d","value":"5"}]"#),
    fails(r#"patch configmap app -n {ns} --type=json -p [{"op":"replace","path":"/data/nosuch/x","value":"5"}]"#),
    with("edit configmap app -n {ns}", ("KUBE_EDITOR", "sed -i s/five/six/")),
    with("edit configmap app -n {ns}", ("KUBE_EDITOR", "sed -i -E 's/  d: .*/  d: seven/'")),
    ok("get configmap app -n {ns} -o yaml"),
    ok("replace -n {ns} -f config.yaml"),
    ok("replace -n {ns} --force -f pod.yaml"),
    ok("label pod one -n {ns} tier=back"),
    fails("label pod one -n {ns} tier=front"),
    ok("label pod one -n {ns} tier=front --overwrite"),
    ok("annotate pod one -n {ns} note=written"),
    ok("annotate pod one -n {ns} note-"),
    ok("apply -n {ns} -f deployment.yaml"),
    ok("rollout status deployment/web -n {ns} --timeout=60s"),
    ok("scale deployment web -n {ns} --replicas=3"),
    ok("wait -n {ns} --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=60s"),
    ok("get deployment web -n {ns}"),
    ok("get replicasets -n {ns}"),
    ok("set image deployment/web -n {ns} app=stand-in:2"),
    ok("rollout status deployment/web -n {ns} --timeout=60s"),
    ok("rollout history deployment/web -n {ns}"),
    ok("rollout undo deployment/web -n {ns}"),
    ok("rollout status deployment/web -n {ns} --timeout=60s"),
    ok("rollout pause deployment/web -n {ns}"),
    ok("rollout resume deployment/web -n {ns}"),
    ok("rollout restart deployment/web -n {ns}"),
    ok("rollout status deployment/web -n {ns} --timeout=60s"),
    ok("set env deployment/web -n {ns} A=1"),
    ok("set resources deployment/web -n {ns} --limits=memory=64Mi"),
    ok("autoscale deployment web -n {ns} --min=1 --max=3"),
    ok("expose deployment web -n {ns} --port=80"),
    ok("get service web -n {ns}"),
    ok("create role look -n {ns} --verb=get,list --resource=pods"),
    ok("create rolebinding look -n {ns} --role=look --user=somebody"),
    ok("auth can-i list pods -n {ns} --as=somebody"),
    ok("create serviceaccount robot -n {ns}"),
    ok("create token robot -n {ns}"),
    ok("create cronjob tick -n {ns} --image=stand-in:1 --schedule=@hourly"),
    ok("create quota small -n {ns} --hard=pods=100"),
    ok("taint node {node} dedicated=x:NoSchedule"),
    ok("taint node {node} dedicated-"),
    ok("cordon {node}"),
    ok("uncordon {node}"),
    ok("wait -n {ns} --for=condition=Ready pod/one --timeout=60s"),
    ok("exec one -n {ns} -- echo out"),
    with("exec one -n {ns} -- echo out", SPDY),
    ends("exec one -n {ns} -- sh -c 'echo out; echo err >&2; exit 3'", 3),
    Step { words: "exec one -n {ns} -- sh -c 'echo out; echo err >&2; exit 3'", input: None, env: Some(SPDY), code: 3 },
    given("exec -i one -n {ns} -- cat", "what goes in comes out\n"),
    Step { words: "exec -i one -n {ns} -- cat", input: Some("what goes in comes out\n"), env: Some(SPDY), code: 0 },
    fails("exec missing -n {ns} -- true"),
    fails("exec one -n {ns} -c nosuch -- true"),
    ok("cp big.txt {ns}/one:copied-{ns}"),
    ok("cp {ns}/one:copied-{ns} back-{ns}"),
    ok("drain {node} --force --ignore-daemonsets --delete-emptydir-data --grace-period=1 --timeout=60s"),
    ok("uncordon {node}"),
    ok("wait -n {ns} --for=delete pod/one --timeout=60s"),
    ok("delete configmap settings big -n {ns}"),
    fails("delete configmap settings -n {ns}"),
    ok("delete -n {ns} -f config.yaml"),
    ok("delete deployment web -n {ns} --wait --timeout=60s"),
    ok("delete configmap -l nosuch=label -n {ns}"),
    ok("delete secret hidden -n {ns} --dry-run=server"),
    ok("delete role,rolebinding --all -n {ns}"),
];
