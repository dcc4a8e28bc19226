use super::*;
use shared_proto::api_key::{self, Purpose};

fn issuer(n: &str) -> IssuerRecord {
    IssuerRecord {
        public_key_sha256: n.into(),
        serial: n.into(),
        certificate: "c".into(),
        private_key: shared_proto::secret::Secret::new("k"),
    }
}

async fn organization(store: &Store, id: &str) {
    let organization =
        Organization { id: id.into(), name: format!("{id}-name"), default_runner: None, created_at_ms: 1 };
    store.create_organization(&organization, &issuer(id)).await.expect("makes an organization");
}

fn runner(id: &str, organization: &str, name: &str) -> Runner {
    Runner {
        id: id.into(),
        organization: organization.into(),
        name: name.into(),
        created_at_ms: 1,
        revoked_at_ms: None,
        last_seen_ms: None,
        ended: None,
    }
}

#[tokio::test]
async fn a_database_on_disk_comes_back_and_is_its_owners() {
    use std::os::unix::fs::PermissionsExt as _;
    let data = tempfile::tempdir().expect("a folder");
    let path = data.path().join("x.db");
    let store = Store::open(&path).await.expect("opens");
    organization(&store, "a").await;
    store.close().await;
    for entry in std::fs::read_dir(data.path()).expect("reads") {
        let meta = entry.and_then(|e| e.metadata()).expect("meta");
        assert_eq!(meta.permissions().mode() & 0o077, 0);
    }
    let store = Store::open(&path).await.expect("opens again");
    assert_eq!(store.organizations(10).await.expect("lists").len(), 1);
    assert!(matches!(Store::open(data.path()).await, Err(StoreError::File { .. })));
    std::fs::write(data.path().join("y.db"), vec![b'x'; 8192]).expect("writes");
    assert!(Store::open(&data.path().join("y.db")).await.is_err());
}

#[tokio::test]
async fn what_is_anothers_is_as_unknown_as_what_is_not() {
    let store = Store::in_memory().await.expect("a store");
    organization(&store, "a").await;
    organization(&store, "b").await;
    store.create_runner(&runner("run_b", "b", "r")).await.expect("a runner");
    let connection = Connection {
        id: "con_b".into(),
        organization: "b".into(),
        name: "c".into(),
        provider: Provider::Aws,
        runner: Some("run_b".into()),
        entry: "c".into(),
        created_at_ms: 1,
    };
    store.create_connection(&connection).await.expect("a connection");
    assert_eq!(store.connection("b", "c").await.expect("found"), connection);
    for id in ["run_b", "r"] {
        let other = store.runner("a", id).await.expect_err("unknown");
        assert_eq!(other, not_found("runner", id));
    }
    for id in ["con_b", "c"] {
        assert_eq!(store.connection("a", id).await.expect_err("unknown"), not_found("connection", id));
    }
    store.delete_connection("a", "con_b").await.expect("does nothing");
    store.revoke_runner("a", "run_b").await.expect("does nothing");
    assert_eq!(store.connections("b", 10).await.expect("lists").len(), 1);
    assert_eq!(store.runner("b", "run_b").await.expect("found").revoked_at_ms, None);
}

#[tokio::test]
async fn a_revoked_runners_name_is_free_again() {
    let store = Store::in_memory().await.expect("a store");
    organization(&store, "a").await;
    store.create_runner(&runner("run_1", "a", "r")).await.expect("a runner");
    assert_eq!(store.create_runner(&runner("run_2", "a", "r")).await.expect_err("taken").code, Code::Conflict);
    store.set_default_runner("a", "run_1").await.expect("sets");
    store.revoke_runner("a", "run_1").await.expect("revokes");
    assert_eq!(store.organization("a").await.expect("found").default_runner, None);
    store.create_runner(&runner("run_2", "a", "r")).await.expect("the name is free");
    assert_eq!(store.runner("a", "r").await.expect("found").id, "run_2");
    assert_eq!(store.runner("a", "run_1").await.expect("found").id, "run_1");
}

#[tokio::test]
async fn certificates_that_are_good_are_bounded() {
    let store = Store::in_memory().await.expect("a store");
    organization(&store, "a").await;
    store.create_runner(&runner("run_1", "a", "r")).await.expect("a runner");
    for n in 0..=runners::CERTIFICATES_MAX {
        let key = api_key::generate(Purpose::Runner).expect("random");
        let new = NewCredentials {
            organization: "a",
            runner: "run_1",
            serial: &n.to_string(),
            not_after_ms: i64::MAX,
            api_key: api_key::parse(Purpose::Runner, key.expose()).expect("a key"),
        };
        let kept = store.keep_credentials(&new).await;
        assert_eq!(kept.is_ok(), n < runners::CERTIFICATES_MAX, "{n}");
    }
}

#[tokio::test]
async fn long_expired_certificates_go_with_their_keys() {
    let store = Store::in_memory().await.expect("a store");
    organization(&store, "a").await;
    store.create_runner(&runner("run_1", "a", "r")).await.expect("a runner");
    let mut digests = Vec::new();
    for (serial, not_after_ms) in [("old", 1), ("new", i64::MAX), ("newer", i64::MAX)] {
        let key = api_key::generate(Purpose::Runner).expect("random");
        let api_key = api_key::parse(Purpose::Runner, key.expose()).expect("a key");
        digests.push(api_key);
        let new = NewCredentials { organization: "a", runner: "run_1", serial, not_after_ms, api_key };
        store.keep_credentials(&new).await.expect("keeps");
    }
    assert_eq!(store.certificate("a", "old").await.expect("asks"), None);
    assert_eq!(store.api_key(&digests[0]).await.expect("asks"), None);
    assert!(store.certificate("a", "new").await.expect("asks").is_some());
    assert!(store.api_key(&digests[1]).await.expect("asks").is_some());
}

#[tokio::test]
async fn old_records_go() {
    let store = Store::in_memory().await.expect("a store");
    let record = |n: i64| OperationRecord {
        id: format!("op_{n:08}"),
        organization: "a".into(),
        kind: "k".into(),
        connection: String::new(),
        connection_name: String::new(),
        runner: String::new(),
        runner_name: String::new(),
        user_id: String::new(),
        user_name: String::new(),
        started_at_ms: n,
        ended_at_ms: None,
        code: None,
        isolation_level: None,
    };
    let records: Vec<_> = (0..operation_records::KEPT + 10).map(record).collect();
    let ends: Vec<_> = records.iter().skip(1).map(|r| (r.id.clone(), "ok".to_owned())).collect();
    store.write_operations(&records, &[], &ends).await.expect("writes");
    // the oldest one still runs and stays
    assert_eq!(store.trim_operations().await.expect("trims"), 9);
    assert_eq!(store.operation("a", "op_00000000").await.expect("kept").code, None);
    store.close_operations().await.expect("closes");
    assert_eq!(store.operation("a", "op_00000000").await.expect("kept").code.as_deref(), Some("connection_lost"));
    assert_eq!(store.operations("a", 5).await.expect("lists").len(), 5);
}
