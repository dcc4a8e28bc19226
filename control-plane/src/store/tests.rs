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

pub(super) async fn organization(store: &Store, id: &str) {
    let organization =
        Organization { id: id.into(), name: format!("{id}-name"), default_runner: None, created_at_ms: 1 };
    store.create_organization(&organization, &issuer(id)).await.expect("makes an organization");
}

pub(super) fn runner(id: &str, organization: &str, name: &str) -> Runner {
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
async fn a_database_of_a_newer_version_is_refused_by_name_and_left_as_it_is() {
    let data = tempfile::tempdir().expect("a folder");
    let path = data.path().join("x.db");
    let store = Store::open(&path).await.expect("opens");
    organization(&store, "a").await;
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', TRUE, X'00', 0)";
    sqlx::query(later).execute(store.pool()).await.expect("writes");
    store.close().await;
    let before = std::fs::read(&path).expect("reads");
    let refused = Store::open(&path).await.expect_err("newer");
    assert!(matches!(refused, StoreError::Newer { migration: 9999, .. }), "{refused:?}");
    assert!(refused.to_string().starts_with("unsupported_version: "), "{refused}");
    assert_eq!(std::fs::read(&path).expect("reads"), before);
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
            life_s: 1,
            public_key_sha256: &n.to_string(),
            renews: None,
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
        let new = NewCredentials {
            organization: "a",
            runner: "run_1",
            serial,
            life_s: 1,
            public_key_sha256: serial,
            renews: None,
            not_after_ms,
            api_key,
        };
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
        entry: None,
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
    let listed = |runner: Option<&'static str>, before: Option<String>| {
        let store = store.clone();
        async move { store.operations("a", runner, before.as_deref(), 5).await.expect("lists") }
    };
    let first = listed(None, None).await;
    let next = listed(Some(""), Some(first[4].id.clone())).await;
    assert!(first.len() == 5 && next.len() == 5 && next[0].id < first[4].id);
    assert!(listed(Some("another"), None).await.is_empty());
}

/// What is renewed has a bound of its own, and an API key lives as long as the last certificate that goes with it.
#[tokio::test]
async fn what_is_renewed_is_bounded_by_itself_and_keeps_its_api_key() {
    let store = Store::in_memory().await.expect("a store");
    organization(&store, "a").await;
    store.create_runner(&runner("run_1", "a", "r")).await.expect("a runner");
    let api_key = api_key::generate(Purpose::Runner).expect("random");
    let api_key = api_key::parse(Purpose::Runner, api_key.expose()).expect("a key");
    let new = |serial: &'static str, not_after_ms: i64, renews: Option<(&'static str, &'static str)>| NewCredentials {
        organization: "a",
        runner: "run_1",
        serial,
        not_after_ms,
        life_s: 1,
        public_key_sha256: serial,
        api_key,
        renews,
    };
    let renewed = Some(("i-1", "file"));
    store.keep_credentials(&new("file", i64::MAX, None)).await.expect("keeps");
    store.keep_credentials(&new("renewed", i64::MAX, renewed)).await.expect("keeps");
    sqlx::query("UPDATE certificates SET not_after_ms = 1 WHERE serial = 'file'")
        .execute(store.pool())
        .await
        .expect("writes");
    // the next one clears away what has ended long ago
    store.keep_credentials(&new("next", i64::MAX, renewed)).await.expect("keeps");
    assert_eq!(store.certificate("a", "file").await.expect("asks"), None);
    assert!(store.api_key(&api_key).await.expect("asks").is_some(), "the renewed certificate has lost its API key");
    let again = store.keep_credentials(&NewCredentials { serial: "other", ..new("next", i64::MAX, renewed) }).await;
    assert_eq!(again.map_err(|f| f.code), Err(Code::Conflict), "a key was certified twice");
    for n in 2..=runners::CERTIFICATES_MAX {
        let serial = n.to_string();
        let kept = store
            .keep_credentials(&NewCredentials {
                serial: &serial,
                public_key_sha256: &serial,
                ..new("", i64::MAX, renewed)
            })
            .await;
        assert_eq!(kept.map_err(|f| f.code).err(), (n == runners::CERTIFICATES_MAX).then_some(Code::Busy), "{n}");
    }
    let other = api_key::generate(Purpose::Runner).expect("random");
    let api_key = api_key::parse(Purpose::Runner, other.expose()).expect("a key");
    store.keep_credentials(&NewCredentials { api_key, ..new("by hand", i64::MAX, None) }).await.expect("keeps");
}

#[tokio::test]
async fn a_copy_has_all_of_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let from = folder.path().join("store.db");
    let store = Store::open(&from).await.expect("a store");
    let store = super::jobs_tests::filled(store).await;
    let stack = super::jobs_tests::stack(&store, "s").await;
    let job = store.create_job(super::jobs_tests::new_job(&stack, JobKind::Update)).await.expect("a job");
    let path = folder.path().join("copy.db");
    Store::copy(&from, &path).await.expect("copied");
    let facts = std::fs::metadata(&path).expect("is there");
    assert_eq!(facts.permissions().mode() & 0o7777, 0o600);
    assert!(facts.len() > 4096, "{facts:?}");
    let copy = Store::open(&path).await.expect("opens");
    assert_eq!(copy.job("org_a", &job.id).await, Ok(job));
    assert_eq!(Store::copy(&from, &path).await.expect_err("is there").code, Code::Internal);
}

#[tokio::test]
async fn what_is_acknowledged_waits_for_the_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store.db")).await.expect("a store");
    // on every connection of the pool: it is a setting of each
    let mut all = Vec::new();
    for _ in 0..POOL {
        let mut connection = store.pool().acquire().await.expect("a connection");
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await.expect("asked");
        let full: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *connection).await.expect("asked");
        assert_eq!((mode.as_str(), full), ("wal", 2));
        all.push(connection);
    }
}

#[tokio::test]
async fn a_transaction_that_the_database_ended_itself_costs_only_its_connection() {
    use sqlx::Connection as _;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("store.db")).await.expect("a store");
    let mut all = Vec::new();
    for _ in 0..POOL {
        all.push(store.pool().acquire().await.expect("a connection"));
    }
    for mut connection in all {
        // as SQLite does where the disk is full: what is then rolled back again fails
        let mut transaction = connection.begin().await.expect("begins");
        sqlx::query("ROLLBACK").execute(&mut *transaction).await.expect("ends");
        drop(transaction);
    }
    for _ in 0..2 * POOL {
        store.writing().await.expect("begins").commit().await.expect("commits");
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_has_its_code() {
    let store = super::jobs_tests::store().await;
    let stack = super::jobs_tests::stack(&store, "s").await;
    let make = || store.create_job(super::jobs_tests::new_job(&stack, JobKind::Update));
    sqlx::query("PRAGMA query_only = 1").execute(store.pool()).await.expect("set");
    let refused = make().await.expect_err("read-only");
    assert_eq!(refused.code, Code::DiskUnwritable);
    sqlx::query("PRAGMA query_only = 0").execute(store.pool()).await.expect("set");
    make().await.expect("writable again");
    // no page more than there are: SQLite says the same as of a full disk
    let pages: i64 = sqlx::query_scalar("PRAGMA max_page_count = 1").fetch_one(store.pool()).await.expect("set");
    let refused = loop {
        if let Err(refused) = make().await {
            break refused;
        }
    };
    assert_eq!((refused.code, pages > 1), (Code::DiskFull, true), "{refused}");
    assert!(refused.next_step.contains("control plane"), "{refused}");
    store.ready().await.expect("it reads on");
}
