//! Precedence, and a table of what is refused.

use super::*;
use std::ffi::OsString;
use std::path::Path;

fn load(text: &str, flags: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Config, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("runner.toml");
    std::fs::write(&path, text).expect("writes");
    let flags = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let variables = variables.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
    Config::load(Some(&path), &flags, &variables).map_err(|e| e.0)
}

fn source(config: &Config, key: &str) -> Source {
    config.shown.iter().find(|s| s.key == key).expect("is a setting").source
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let file = "max_operations = 1\nbudget_mib = 8\n[tunnel]\nlasted_ms = 5\n";
    let config = load(
        file,
        &[("max_operations", "3"), ("tunnel.drain_grace_s", "7")],
        &[("RUNNERD_MAX_OPERATIONS", "2"), ("RUNNERD_BUDGET_MIB", "16")],
    )
    .expect("loads");
    assert_eq!((config.max_operations, config.budget), (3, 16 << 20));
    assert_eq!((config.tunnel.lasted.as_millis(), config.tunnel.drain_grace.as_secs()), (5, 7));
    assert_eq!(source(&config, "max_operations"), Source::Flag);
    assert_eq!(source(&config, "budget_mib"), Source::Variable);
    assert_eq!(source(&config, "tunnel.lasted_ms"), Source::File);
    assert_eq!(source(&config, "jobs_at_once"), Source::Default);
}

#[test]
fn what_is_wrong_is_blamed_where_it_was_said() {
    let said = |file: &str, flags: &[(&str, &str)], variables: &[(&str, &str)]| {
        load(file, flags, variables).expect_err("refused")
    };
    let wrong = "max_operations is 0";
    assert!(said("max_operations = 0", &[], &[]).contains("runner.toml: max_operations is 0"));
    assert!(said("", &[("max_operations", "0")], &[]).starts_with(&format!("--max-operations: {wrong}")));
    assert!(said("", &[], &[("RUNNERD_MAX_OPERATIONS", "0")]).starts_with(&format!("RUNNERD_MAX_OPERATIONS: {wrong}")));
    assert!(said("", &[("workers.warm", "65")], &[]).starts_with("--workers-warm: workers.warm is 65"));
    assert!(said("jobs_at_once = 257", &[], &[]).contains("jobs_at_once is 257, it must be from 0 to 256"));
    assert_eq!(load("jobs_at_once = 256", &[], &[]).expect("loads").jobs_at_once, 256);
    assert!(said("", &[("max_operations", "many")], &[]).starts_with("--max-operations: \"many\""));
    assert!(said("workers = 1", &[("workers.warm", "1")], &[]).starts_with("--workers-warm: in the file workers"));
}

#[test]
fn a_program_that_somebody_named_is_there() {
    let check = |file: &str, flags: &[(&str, &str)], variables: &[(&str, &str)]| {
        load(file, flags, variables).expect("loads").check_programs().map_err(|e| e.0)
    };
    assert_eq!(check("", &[], &[]), Ok(()));
    assert_eq!(check("[workers]\nops = \"/bin/sh\"\n[engines]\nterraform = \"/bin/sh\"", &[], &[]), Ok(()));
    let engines = ["opentofu", "terraform", "pulumi"].map(|engine| ("engines", engine));
    for (key, text) in [("workers", "ops"), ("workers", "iac")].into_iter().chain(engines) {
        let file = format!("[{key}]\n{text} = \"/nowhere/x\"");
        let said = check(&file, &[], &[]).expect_err("refused");
        assert!(said.contains(&format!("runner.toml: {key}.{text}: /nowhere/x does not exist")), "{said}");
    }
    let said = check("", &[("workers.ops", "/etc")], &[]).expect_err("refused");
    assert!(said.starts_with("--workers-ops: workers.ops: /etc is no program"), "{said}");
    let said = check("", &[], &[("RUNNERD_ENGINES_TERRAFORM", "/nowhere")]).expect_err("refused");
    assert!(said.starts_with("RUNNERD_ENGINES_TERRAFORM: engines.terraform: /nowhere does not"), "{said}");
}

#[test]
fn a_files_relative_paths_are_the_files_own() {
    let config = load("state_dir = \"s\"\ncredentials = \"../c\"", &[], &[]).expect("loads");
    let folder = config.file.as_deref().and_then(Path::parent).expect("a folder");
    assert_eq!((config.state_dir.as_path(), config.credentials.as_path()), (&*folder.join("s"), &*folder.join("../c")));
    let here = std::env::current_dir().expect("somewhere");
    let config = load("state_dir = \"s\"", &[("state_dir", "t")], &[]).expect("loads");
    assert_eq!(config.state_dir, here.join("t"));
}

#[test]
fn every_default_is_what_the_table_says() {
    let config = load("", &[], &[]).expect("loads");
    for setting in SETTINGS.iter().filter(|s| !s.default.is_empty()) {
        let shown = config.shown.iter().find(|s| s.key == setting.key).expect("is shown");
        assert_eq!(shown.value, setting.default, "{}", setting.key);
    }
}

#[test]
fn jobs_are_stopped_with_a_container_unless_it_is_said_otherwise() {
    let within = |file: &str, variables: &[(&str, &str)]| {
        let config = load(file, &[], variables).expect("loads");
        (config.jobs_stop_within().map(|d| d.as_secs()), config.drain_grace().as_secs())
    };
    let container = [(crate::container::VARIABLE, "1234")];
    assert_eq!(within("", &[]), (None, 25));
    assert_eq!(within("", &container), (Some(28), 24));
    assert_eq!(within("[jobs]\nat_stop = \"leave\"", &container), (None, 25));
    assert_eq!(within("[jobs]\nat_stop = \"stop\"\nstop_grace_s = 600", &[]), (Some(598), 25));
    // both sides of the bound; operations get no more than there is
    assert_eq!(within("[jobs]\nstop_grace_s = 5", &container), (Some(3), 0));
    assert_eq!(within("[jobs]\nstop_grace_s = 86400", &container), (Some(86_398), 25));
    for wrong in ["stop_grace_s = 4", "stop_grace_s = 86401", "at_stop = \"never\""] {
        let said = load(&format!("[jobs]\n{wrong}"), &[], &[]).expect_err("refused");
        assert!(said.contains("jobs.stop_grace_s is") || said.contains("jobs.at_stop: unknown variant"), "{said}");
    }
}

#[test]
fn jobs_plan_with_another_connection_of_the_same_provider() {
    let entries = |with: &str| {
        let file = format!(
            "[connections.a]\nprovider = \"kubernetes\"\nin_cluster = true\n{with}\n[connections.b]\nprovider = \"kubernetes\"\nin_cluster = true\n\
             service_account = \"system/reader\"\n[connections.c]\nprovider = \"aws\"\nsource = \"environment\"\n\
             [connections.d]\nprovider = \"kubernetes\"\nin_cluster = true\nplan_with = \"b\""
        );
        load(&file, &[], &[]).map(|config| config.plan_with.get("a").cloned())
    };
    assert_eq!(entries(""), Ok(None));
    assert_eq!(entries("plan_with = \"b\""), Ok(Some("b".to_owned())));
    for (with, why) in [
        ("x", "there is no connection \"x\""),
        ("a", "names the connection itself"),
        ("c", "is of another provider"),
        ("d", "has a plan_with of its own"),
    ] {
        let said = entries(&format!("plan_with = \"{with}\"")).expect_err("refused");
        assert!(said.contains("connections.a.plan_with") && said.contains(why), "{said}");
    }
}

#[test]
fn limits_of_time_are_none_or_within_their_bounds() {
    let limits = |file: &str| load(&format!("[jobs]\n{file}"), &[], &[]).map(|config| config.jobs.limits);
    assert_eq!(limits("").expect("loads"), TimeLimits::default());
    let expected = TimeLimits { plan: 10, apply: 7_776_000, approval: 86_400, silence: 0 };
    let file = "plan_limit_s = 10\napply_limit_s = 7776000\napproval_limit_s = 86400\nsilence_limit_s = 0";
    assert_eq!(limits(file).expect("loads"), expected);
    assert_eq!(limits("silence_limit_s = 60").expect("loads").silence, 60);
    for (wrong, least) in [
        ("plan_limit_s = 9", 10),
        ("apply_limit_s = 7776001", 10),
        ("silence_limit_s = 59", 60),
        ("approval_limit_s = 1", 10),
    ] {
        let said = limits(wrong).expect_err("refused");
        assert!(said.contains(&format!("it must be from {least} to 7776000")), "{said}");
    }
}

#[test]
fn the_usual_variables_name_the_proxy_unless_we_do() {
    let variables = [("HTTPS_PROXY", "http://u@p.example:8080"), ("no_proxy", "a,b")];
    let config = load("", &[], &variables).expect("loads");
    assert_eq!(config.proxy.url.as_ref().map(ProxyUrl::authority).as_deref(), Some("p.example:8080"));
    assert_eq!((config.proxy.user.as_deref(), config.proxy.no_proxy.as_str()), (Some("u"), "a,b"));
    assert_eq!(source(&config, "proxy.url"), Source::Environment);
    let config = load("[proxy]\nurl = \"http://[::1]:1\"\n", &[], &variables).expect("loads");
    assert_eq!(config.proxy.url.as_ref().map(ProxyUrl::authority).as_deref(), Some("[::1]:1"));
}

#[test]
fn connections_are_read() {
    let config = load(
        r#"
        [connections.a]
        provider = "kubernetes"
        kubeconfig = "/k"
        context = "c"
        exec_plugins = ["/usr/bin/x"]
        [connections.b]
        provider = "kubernetes"
        in_cluster = true
        [connections.c]
        provider = "aws"
        source = "profile"
        profile = "p"
        [connections.d]
        provider = "gcp"
        source = "file"
        credentials_file = "/k.json"
        project = "shop-prod-1"
        impersonate_service_account = ["viewer@shop-prod-1.iam.gserviceaccount.com"]
        [connections.e]
        provider = "azure"
        source = "client_secret"
        tenant = "contoso.onmicrosoft.com"
        client_id = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
        client_secret_file = "/etc/runner/azure.secret"
        subscription = "1b1f6471-1bf0-4dda-aec3-cb9272f09590"
        "#,
        &[],
        &[
            ("AWS_PROFILE", "x"),
            ("SECRET", "y"),
            ("HOME", "/h"),
            ("GCE_METADATA_HOST", "m"),
            ("GCE_OTHER", "z"),
            ("AZURE_CLIENT_SECRET", "z"),
            ("IDENTITY_HEADER", "h"),
        ],
    )
    .expect("loads");
    assert_eq!(config.connections["b"], Connection::InCluster { account: None, impersonate: None });
    assert_eq!(config.connections["c"].provider(), "aws");
    let google = &config.connections["d"];
    assert_eq!((google.provider(), google.place()), ("gcp", "shop-prod-1"));
    assert_eq!(google.credentials_file().map(|p| p.as_path()), Some(Path::new("/k.json")));
    let shown = config.shown.iter().find(|s| s.key == "connections.d").expect("is shown");
    assert_eq!(shown.value, "gcp /k.json shop-prod-1 as viewer@shop-prod-1.iam.gserviceaccount.com");
    assert_eq!(
        config.environment.keys().collect::<Vec<_>>(),
        ["AWS_PROFILE", "GCE_METADATA_HOST", "HOME", "IDENTITY_HEADER"]
    );
    let azure = &config.connections["e"];
    assert_eq!((azure.provider(), azure.place()), ("azure", "1b1f6471-1bf0-4dda-aec3-cb9272f09590"));
    let shown = config.shown.iter().find(|s| s.key == "connections.e").expect("shown");
    assert_eq!(
        shown.value,
        "azure client_secret contoso.onmicrosoft.com 0b1f6471-1bf0-4dda-aec3-cb9272f09590 1b1f6471-1bf0-4dda-aec3-cb9272f09590 public"
    );
}

#[test]
fn connections_are_narrowed_where_they_say_so() {
    let config = load(
        r#"
        [connections.a]
        provider = "kubernetes"
        kubeconfig = "/k"
        service_account = "tools/viewer"
        token_seconds = 600
        [connections.b]
        provider = "kubernetes"
        in_cluster = true
        service_account = "tools/viewer"
        [connections.c]
        provider = "aws"
        source = "instance_role"
        assume_role_arn = "arn:aws:iam::123456789012:role/viewer"
        session_policy_arns = ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
        "#,
        &[],
        &[],
    )
    .expect("loads");
    for name in ["a", "b"] {
        let account = config.connections[name].account().expect("an account");
        assert_eq!((account.namespace.as_str(), account.name.as_str()), ("tools", "viewer"));
    }
    let shown: Vec<_> =
        config.shown.iter().filter(|s| s.key.starts_with("connections.")).map(|s| s.value.as_str()).collect();
    assert_eq!(
        shown,
        [
            "kubernetes /k as tools/viewer",
            "kubernetes in_cluster as tools/viewer",
            "aws instance_role as arn:aws:iam::123456789012:role/viewer"
        ]
    );
    let entry = |provider: &str, key: &str| load(&format!("[connections.a]\n{provider}\n{key}\n"), &[], &[]);
    let aws = "provider = \"aws\"\nsource = \"environment\"";
    let azure = "provider = \"azure\"\nsource = \"managed_identity\"";
    let kubernetes = "provider = \"kubernetes\"\nin_cluster = true";
    for (provider, key, word) in [
        (aws, "service_account = \"a/b\"", "belong to provider \"kubernetes\""),
        (kubernetes, "assume_role_arn = \"x\"", "belong to provider \"aws\""),
        (kubernetes, "source = \"managed_identity\"", "belong to a cloud's provider"),
        (kubernetes, "tenant = \"a.b\"", "belong to provider \"azure\""),
        (aws, "cloud = \"public\"", "belong to provider \"azure\""),
        (azure, "region = \"x\"", "belong to provider \"aws\""),
        (azure, "kubeconfig = \"/k\"", "belong to provider \"kubernetes\""),
        (azure, "endpoint_url = \"ftp://x\"", "endpoint_url"),
        ("provider = \"azure\"", "source = \"cli\"", "connections.a.source: unknown variant `cli`"),
        ("provider = \"azure\"", "source = \"profile\"", "connections.a.source: unknown variant `profile`"),
        ("provider = \"aws\"", "source = \"managed_identity\"", "unknown variant `managed_identity`"),
        ("provider = \"aws\"", "region = \"x\"", "needs source"),
        (aws, "session_policy = \"{}\"", "connections.a: session_policy needs assume_role_arn"),
        (kubernetes, "token_seconds = 600", "need service_account"),
    ] {
        let said = entry(provider, key).expect_err("refused");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (file, named) in [
        ("x = 1", "x"),
        ("max_operations = 0", "max_operations"),
        ("max_operations = -1", "max_operations: invalid value"),
        ("max_operations = \"many\"", "max_operations: invalid type"),
        ("budget_mib = 1", "budget_mib"),
        ("log_format = \"xml\"", "log_format: unknown variant `xml`"),
        ("[tunnel]\nx = 1", "tunnel: unknown field `x`"),
        ("[tunnel]\nlasted_ms = \"x\"", "tunnel.lasted_ms: invalid type"),
        ("tunnel = 1", "tunnel: invalid type: integer `1`, expected a table"),
        ("[connections.a]\nsource = \"profile\"", "connections.a: missing field `provider`"),
        ("[connections.a]\nprovider = \"aws\"\nsource = \"x\"", "connections.a.source: unknown variant `x`"),
        ("[sources.shop]\nkind = \"none\"", "sources.shop: missing field `match`"),
        ("[sources.shop]\nmatch = \"https://h/*\"\nkind = \"none\"\nx = 1", "sources.shop: unknown field `x`"),
        ("[sources]\ncache_mb = 1", "sources.cache_mb: invalid type: integer `1`, expected a table"),
        ("[secrets.s]\nkind = \"file\"", "secrets.s: missing field `allow`"),
        ("[tunnel]\nbackoff_first_ms = 9000", "tunnel.backoff_early_max_ms"),
        ("[proxy]\nurl = \"https://p:1\"", "proxy.url"),
        ("[proxy]\nurl = \"http://u:s3cr3t@p:1\"", "password_file"),
        ("[proxy]\npassword_file = \"/p\"", "proxy.user"),
        ("[isolation]\nrequire = \"none\"", "isolation.require: unknown variant `none`"),
        ("[workers]\nops = \"relative\"", "workers.ops"),
        ("[connections.\"a b\"]\nprovider = \"aws\"", "a b"),
        ("[connections.a]\nprovider = \"cloud\"", "is not one: kubernetes, aws, gcp"),
        ("[connections.a]\nprovider = \"gcp\"", "needs source = \"file\" or \"metadata\""),
        (
            "[connections.a]\nprovider = \"gcp\"\nsource = \"profile\"",
            "connections.a.source: unknown variant `profile`",
        ),
        ("[connections.a]\nprovider = \"gcp\"\nsource = \"file\"", "credentials_file"),
        ("[connections.a]\nprovider = \"gcp\"\nsource = \"metadata\"\nregion = \"x\"", "belong to provider \"aws\""),
        (
            "[connections.a]\nprovider = \"gcp\"\nsource = \"metadata\"\nkubeconfig = \"/k\"",
            "belong to provider \"kubernetes\"",
        ),
        ("[connections.a]\nprovider = \"gcp\"\nsource = \"metadata\"\nendpoint_url = \"ftp://x\"", "endpoint_url"),
        ("[connections.a]\nprovider = \"gcp\"\nsource = \"metadata\"\nprojects = \"x\"", "unknown field `projects`"),
        ("[connections.a]\nprovider = \"aws\"\nsource = \"file\"", "connections.a.source: unknown variant `file`"),
        (
            "[connections.a]\nprovider = \"aws\"\nsource = \"environment\"\nproject = \"p\"",
            "belong to provider \"gcp\"",
        ),
        ("[connections.a]\nprovider = \"kubernetes\"", "kubeconfig"),
        ("[connections.a]\nprovider = \"kubernetes\"\nkubeconfig = \"k\"", "absolute"),
        ("[connections.a]\nprovider = \"kubernetes\"\nkubeconfig = \"/k\"\nexec_plugins = [\"aws\"]", "exec_plugins"),
        ("[connections.a]\nprovider = \"kubernetes\"\nin_cluster = true\ncontext = \"c\"", "in_cluster"),
        ("[connections.a]\nprovider = \"aws\"", "source"),
        ("[connections.a]\nprovider = \"aws\"\nsource = \"profile\"", "profile"),
        ("[connections.a]\nprovider = \"aws\"\nsource = \"environment\"\nkubeconfig = \"/k\"", "kubernetes"),
        ("[connections.a]\nprovider = \"aws\"\nsource = \"environment\"\nendpoint_url = \"ftp://x\"", "endpoint_url"),
        ("broken = ", "line 1"),
    ] {
        let message = load(file, &[], &[]).expect_err(file);
        assert!(
            message.contains(named) && !message.contains('\n') && !message.contains("s3cr3t"),
            "{file:?}: {message}"
        );
    }
    for (variable, url, named) in [
        ("HTTPS_PROXY", "http://u:s3cr3t@p.example:1", "proxy.user and proxy.password_file"),
        ("https_proxy", "u:s3cr3t@p.example:1", "proxy.user and proxy.password_file"),
        ("HTTPS_PROXY", "https://u:s3cr3t@p.example:1", "http://host:port"),
    ] {
        let message = load("", &[], &[(variable, url)]).expect_err(url);
        // first the source, which is not the file
        assert!(message.starts_with(variable) && message.contains(named) && !message.contains("s3cr3t"), "{message}");
        assert!(load("[proxy]\nurl = \"http://p:1\"", &[], &[(variable, url)]).is_ok());
    }
    assert!(load("", &[], &[("RUNNERD_NONSENSE", "1")]).expect_err("refused").contains("RUNNERD_NONSENSE"));
    assert!(load("", &[("max_operations", "many")], &[]).expect_err("refused").contains("--max-operations"));
    let said = load("", &[("log_format", "xml")], &[]).expect_err("refused");
    assert!(said.starts_with("--log-format: log_format: unknown variant") && said.contains("config show"), "{said}");
    assert!(Config::load(Some("/nonexistent".as_ref()), &Default::default(), &Default::default()).is_err());
}

#[test]
fn recordings_have_a_key_that_is_one_and_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = crate::audit::recording::RecipientKey::generate().expect("makes");
    let public = key.recipient().expect("public");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path.display().to_string()
    };
    let good = write("good.pub", &public.to_pem());
    let private = write("private", &key.to_secret_pem().expect("tells"));
    let config = load(&format!("[audit]\nrecording_key = {good:?}"), &[], &[]).expect("loads");
    assert_eq!(config.audit.recording_key.as_ref().map(|key| key.to), Some(public));
    assert_eq!((config.audit.recording_max, config.audit.recordings_max), (64 << 20, 1024 << 20));
    let missing = folder.path().join("missing").display().to_string();
    for bad in [&private, &missing] {
        let said = load("", &[("audit.recording_key", bad)], &[]).expect_err("refused");
        assert!(said.starts_with("--audit-recording-key: audit.recording_key: ") && said.contains(bad), "{said}");
        assert!(!said.contains("PRIVATE"), "{said}");
    }
    for (each, all, fits) in [
        ("1", "1", true),
        ("0", "1", false),
        ("1024", "1024", true),
        ("1025", "2000", false),
        ("10", "9", false),
        ("10", "1048576", true),
        ("10", "1048577", false),
    ] {
        let flags = [("audit.recording_mib", each), ("audit.recordings_mib", all)];
        assert_eq!(load("", &flags, &[]).is_ok(), fits, "{each} {all}");
    }
    // a policy that has recorded what cannot be
    let policy =
        "version = 1\n[kubernetes]\n[[kubernetes.rule]]\nname = \"shell\"\neffect = \"allow\"\nrecord = true\n";
    let policy = crate::policy::Policy::parse(policy).expect("a policy");
    assert_eq!(config.lacks_for(&policy), None);
    let lacks = load("", &[], &[]).expect("loads").lacks_for(&policy).expect("the key");
    assert!(lacks.contains("rule shell") && lacks.contains("audit.recording_key"), "{lacks}");
}

#[test]
fn the_directories_that_jobs_read_are_by_themselves() {
    let config = load("state_dir = \"/var/lib/x\"", &[], &[]).expect("loads");
    assert_eq!(config.engines.directory, Path::new("/var/lib/x/engines"));
    assert_eq!(config.engines.providers, Path::new("/var/lib/x/providers"));
    // wherever that is said to be
    let config = load("state_dir = \"./state\"", &[], &[]).expect("loads");
    assert!(config.state_dir.is_absolute());
    assert_eq!(config.engines.providers, config.state_dir.join("providers"));
    assert_eq!(config.engines.directory, config.state_dir.join("engines"));
    for folder in ["/var/lib/x/engines", "/var/lib/x/providers", "/srv/other"] {
        assert!(load("", &[], &[]).is_ok());
        let config = load(&format!("[engines]\ndirectory = \"{folder}\"\n"), &[], &[]).expect(folder);
        assert!(config.workers.reads.contains(&PathBuf::from(folder)), "{folder}");
    }
    for folder in ["/var/lib/x", "/var/lib", "/", "/var/lib/x/jobs"] {
        for key in ["directory", "providers"] {
            let text = format!("state_dir = \"/var/lib/x\"\n[engines]\n{key} = \"{folder}\"\n");
            let refused = load(&text, &[], &[]).expect_err(folder);
            assert!(refused.contains(&format!("engines.{key}: {folder} would show jobs")), "{refused}");
        }
    }
    assert!(load("[engines]\ndirectory = \"relative\"", &[], &[]).expect_err("relative").contains("engines.directory"));
}

#[test]
fn checksums_of_engines_are_sha256_and_not_without_end() {
    let digest = "0a".repeat(32);
    let with = |count: usize, digest: &str| {
        let lines: String = (0..count).map(|n| format!("\"tofu_1.0.{n}.zip\" = \"{digest}\"\n")).collect();
        load(&format!("[engines.checksums]\n{lines}"), &[], &[]).map(|config| config.engines.checksums)
    };
    let found = with(super::check::CHECKSUMS_MAX, &digest).expect("reads");
    assert_eq!((found.len(), found.get("tofu_1.0.0.zip")), (super::check::CHECKSUMS_MAX, Some(&[10; 32])));
    assert!(with(super::check::CHECKSUMS_MAX + 1, &digest).expect_err("too many").contains("engines.checksums"));
    for bad in ["", "0a", &format!("{digest}0"), &"zz".repeat(32)] {
        assert!(with(1, bad).expect_err(bad).contains("tofu_1.0.0.zip"), "{bad}");
    }
}
