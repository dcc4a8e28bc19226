//! What is admitted and what is opened; stores that a worker asks have their tests with the worker.

use super::*;
use std::path::Path;

const SEALED: Place<'static> = Place { organization: "org_1", stack: "stk_1", variable: "sealed" };

fn config(folder: &Path) -> Config {
    let path = folder.join("runner.toml");
    let (state, store) = (folder.join("state"), folder.join("store"));
    for made in [&state, &store] {
        std::fs::create_dir_all(made).expect("a folder");
    }
    let text = format!(
        "state_dir = {state:?}\n[secrets.files]\nkind = \"file\"\ndirectory = {store:?}\nallow = [\"apps/*\"]\n\
         [secrets.variables]\nkind = \"environment\"\nallow = [\"PATH\", \"RUNNER_TESTS_*\"]\n"
    );
    std::fs::write(&path, text).expect("writes");
    Config::load(Some(&path), &BTreeMap::new(), &BTreeMap::new()).expect("loads")
}

fn referring(secrets: &[(&str, &str, &str)]) -> JobRequest {
    let reference =
        |from: &str, path: &str| SecretReference { from: from.into(), path: path.into(), key: String::new() };
    JobRequest {
        organization_id: SEALED.organization.into(),
        stack_id: SEALED.stack.into(),
        secrets: secrets.iter().map(|(name, from, path)| ((*name).to_owned(), reference(from, path))).collect(),
        ..JobRequest::default()
    }
}

#[test]
fn nothing_is_asked_for_that_the_configuration_does_not_allow() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let code = |request: &JobRequest| admit(&config, request).map_err(|failure| failure.code);
    assert_eq!(code(&referring(&[("a", "files", "apps/a"), ("b", "variables", "PATH")])), Ok(()));
    for (from, path, expected) in [
        ("nothing", "apps/a", Code::UnknownSecretStore),
        ("files", "other/a", Code::SecretDenied),
        ("files", "/etc/passwd", Code::InvalidArgument),
        ("files", "apps/../../state/seal.keys", Code::InvalidArgument),
        ("variables", "HOME", Code::SecretDenied),
        ("", "apps/a", Code::InvalidArgument),
    ] {
        // one that is refused is refused with those beside it
        let request = referring(&[("good", "files", "apps/a"), ("bad", from, path)]);
        let failure = admit(&config, &request).expect_err(path);
        assert!(failure.code == expected && failure.message.contains("variable bad"), "{failure}");
    }
    let many = |n: usize| {
        let names: Vec<_> = (0..n).map(|n| format!("v{n}")).collect();
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), "files", "apps/a")).collect();
        code(&referring(&all))
    };
    assert_eq!((many(REFERENCES_MAX), many(REFERENCES_MAX + 1)), (Ok(()), Err(Code::TooLarge)));
    let sealed = |n: usize| {
        let one = SealedVariable { variable: "s".into(), ..SealedVariable::default() };
        code(&JobRequest { sealed: vec![one; n], ..referring(&[]) })
    };
    assert_eq!((sealed(sealed::SEALED_MAX), sealed(sealed::SEALED_MAX + 1)), (Ok(()), Err(Code::TooLarge)));
    // a variable has one value
    let one = SealedVariable { variable: "a".into(), ..SealedVariable::default() };
    let twice = [
        JobRequest { variables: [("a".into(), "x".into())].into(), ..referring(&[("a", "files", "apps/a")]) },
        JobRequest { variables: [("a".into(), "x".into())].into(), sealed: vec![one.clone()], ..referring(&[]) },
        JobRequest { sealed: vec![one], ..referring(&[("a", "files", "apps/a")]) },
    ];
    for request in twice {
        assert_eq!(code(&request), Err(Code::InvalidArgument));
    }
}

#[tokio::test]
async fn what_is_sealed_opens_here_for_its_stack_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let key = public(&config.state_dir).expect("a key");
    let sealed = key.seal(&SEALED, &Secret::new("hunter2-hunter2")).expect("seals");
    let elsewhere = sealed::Keys::make().expect("randomness").newest().expect("a key");
    let for_another = elsewhere.seal(&SEALED, &Secret::new("hunter2-hunter2")).expect("seals");
    let request = JobRequest { sealed: vec![for_another.clone(), sealed.clone()], ..referring(&[]) };
    let values = opened(&config, &request).await.expect("opens");
    assert_eq!(values["sealed"].expose(), "hunter2-hunter2");
    rotate(&config.state_dir).expect("rotates");
    assert!(opened(&config, &request).await.is_ok(), "an older key opens");
    for (request, said) in [
        (JobRequest { sealed: vec![for_another], ..referring(&[]) }, "none of these keys"),
        (JobRequest { stack_id: "stk_2".into(), ..request.clone() }, "another organization, stack or variable"),
        (JobRequest { organization_id: "org_2".into(), ..request }, "another organization, stack or variable"),
    ] {
        let failure = opened(&config, &request).await.expect_err(said);
        assert!(failure.code == Code::SealedUnreadable && failure.message.contains(said), "{failure}");
        assert!(failure.next_step.contains("runnerctl stack seal"), "{failure}");
    }
}

#[test]
fn variables_of_the_runners_own_environment_are_read_or_missed() {
    let reference = |path: &str| SecretReference { from: "variables".into(), path: path.into(), key: String::new() };
    assert_eq!(variable(&reference("PATH")).expect("is there").expose(), std::env::var("PATH").expect("is there"));
    let failure = variable(&reference("RUNNER_TESTS_NOTHING")).expect_err("is not there");
    assert_eq!(failure.code, Code::TargetNotFound);
}

#[test]
fn the_audit_log_is_told_names_alone() {
    let mut request = referring(&[("b", "files", "apps/b"), ("a", "variables", "PATH")]);
    request.sealed =
        vec![SealedVariable { variable: "s".into(), ciphertext: b"hunter2".to_vec(), ..Default::default() }];
    assert_eq!(named(&request).as_deref(), Some("secrets: a=variables:PATH, b=files:apps/b, s=sealed"));
    assert_eq!(named(&referring(&[])), None);
}
