//! Lines of Cloud Logging: read, bounded, followed.

use anyhow::{Result, ensure};
use runner_tests::Suite;
use serde_json::{Value, json};
use shared_proto::documents::LogLine;
use shared_proto::v1::ReadLogs;
use shared_proto::v1::operation_request::What;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::gcp::target;
use crate::google::{Google, PROJECT, World};
use crate::harness::{Given, Worker, operation, request};

/// 2026-01-01T00:00:00Z.
const BEGIN: i64 = 1_767_225_600_000;

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[])
        .test("google_log_lines_come_oldest_first", read)
        .test("of_too_many_google_log_lines_the_newest_stay", newest)
        .test("google_log_lines_that_are_long_are_read_in_smaller_pages", long)
        .test("google_log_lines_are_followed_each_once", follow)
        .test("google_log_lines_end_where_google_refuses_them", refused)
}

fn entry(second: u32, id: &str, payload: &Value) -> Value {
    let mut entry = json!({
        "logName": format!("projects/{PROJECT}/logs/syslog"),
        "resource": {"type": "gce_instance", "labels": {"instance_id": "7", "project_id": PROJECT}},
        "timestamp": format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60),
        "receiveTimestamp": "2026-01-01T01:00:00Z",
        "insertId": id,
        "severity": if second.is_multiple_of(2) { "ERROR" } else { "DEFAULT" },
    });
    for (name, value) in payload.as_object().into_iter().flatten() {
        entry[name] = value.clone();
    }
    entry
}
fn text(second: u32) -> Value {
    entry(second, &format!("id{second}"), &json!({"textPayload": format!("line {second}\n")}))
}
fn lines(given: &[u8]) -> Result<Vec<LogLine>> {
    let text = String::from_utf8(given.to_vec())?;
    text.lines().map(|l| Ok(serde_json::from_str(l)?)).collect()
}
async fn ask(google: &Google, read: ReadLogs) -> Result<Given> {
    let given = operation(What::ReadLogs(read), target(&google.server.url)).await?;
    google.clean()?;
    Ok(given)
}
fn world(logs: Vec<Value>, page: usize) -> World {
    World { logs: Arc::new(Mutex::new(logs)), page, ..Default::default() }
}

async fn read() -> Result<()> {
    let mut logs: Vec<_> = (0..10).map(text).collect();
    logs.push(entry(10, "json", &json!({"jsonPayload": {"message": "of json", "n": 1}})));
    logs.push(entry(11, "bare", &json!({"jsonPayload": {"n": 1}})));
    let audit = json!({"protoPayload": {"@type": "type.googleapis.com/google.cloud.audit.AuditLog", "methodName": "m"},
        "logName": format!("projects/{PROJECT}/logs/cloudaudit.googleapis.com%2Factivity")});
    logs.push(entry(12, "proto", &audit));
    for page in [0, 3] {
        let google = Google::start(world(logs.clone(), page)).await?;
        let given = ask(&google, ReadLogs::default()).await?;
        ensure!(given.outcome.code == "ok" && !given.outcome.truncated, "{:?}", given.outcome);
        let found = lines(&given.data)?;
        let messages: Vec<_> = found.iter().map(|l| l.message.clone()).collect();
        let mut expected: Vec<_> = (0..10).map(|n| format!("line {n}")).collect();
        expected.extend(["of json".to_owned(), r#"{"n":1}"#.to_owned()]);
        ensure!(messages[..12] == expected && messages[12].contains("\"methodName\":\"m\""), "{messages:?}");
        ensure!(found[0].time == "2026-01-01T00:00:00.000Z" && found[0].source == "gce_instance/7", "{:?}", found[0]);
        ensure!(found[0].severity == "ERROR" && found[1].severity.is_empty(), "{found:?}");
    }
    // one log, a time, the user's own filter
    let google = Google::start(world(logs, 0)).await?;
    for source in
        ["cloudaudit.googleapis.com/activity", "projects/shop-prod-1/logs/cloudaudit.googleapis.com%2Factivity"]
    {
        let given = ask(&google, ReadLogs { source: source.into(), ..Default::default() }).await?;
        ensure!(lines(&given.data)?.len() == 1, "{source}: {}", given.text());
    }
    let since = ReadLogs {
        since_ms: BEGIN + 2000,
        until_ms: BEGIN + 8000,
        filter: "severity=ERROR".into(),
        ..Default::default()
    };
    let given = ask(&google, since).await?;
    let found = lines(&given.data)?;
    let messages: Vec<_> = found.iter().map(|l| l.message.as_str()).collect();
    ensure!(messages == ["line 2", "line 4", "line 6"], "{messages:?}");
    ask(&google, ReadLogs { filter: "nonsense".into(), ..Default::default() })
        .await?
        .failed("target_refused", "Unparseable filter")?;
    ask(&google, ReadLogs { streams: vec!["s".into()], ..Default::default() })
        .await?
        .failed("invalid_argument", "no streams")
}

async fn newest() -> Result<()> {
    let google = Google::start(world((0..20).map(text).collect(), 7)).await?;
    for (limit, from, truncated) in [(19, 1, true), (20, 0, false), (21, 0, false), (3, 17, true)] {
        let given = ask(&google, ReadLogs { limit, ..Default::default() }).await?;
        let found = lines(&given.data)?;
        let expected: Vec<_> = (from..20).map(|n| format!("line {n}")).collect();
        ensure!(found.iter().map(|l| l.message.clone()).collect::<Vec<_>>() == expected, "{limit}: {found:?}");
        ensure!(
            given.outcome.truncated == truncated && (!truncated || given.outcome.message.contains("more than these"))
        );
    }
    Ok(())
}

async fn long() -> Result<()> {
    // 100 of the longest are more than an answer may have, and more than is held
    let long = "x".repeat(256 * 1024 - 1000);
    let logs: Vec<_> = (0..100).map(|n| entry(n, &format!("id{n}"), &json!({"textPayload": long}))).collect();
    let google = Google::start(world(logs, 0)).await?;
    let given = ask(&google, ReadLogs::default()).await?;
    let found = lines(&given.data)?;
    ensure!(given.outcome.truncated && (60..=64).contains(&found.len()), "{} {:?}", found.len(), given.outcome);
    ensure!(found.last().is_some_and(|l| l.time == "2026-01-01T00:01:39.000Z"), "the newest stay");
    let size = |body: &str| serde_json::from_str::<Value>(body).ok()?["pageSize"].as_u64();
    let sizes: Vec<u64> = google.server.asked().iter().filter_map(|a| size(&a.body)).collect();
    ensure!(sizes == [500, 250, 125, 62, 62], "{sizes:?}");
    Ok(())
}

async fn follow() -> Result<()> {
    let logs = Arc::new(Mutex::new(vec![text(0), text(1), text(2)]));
    let google = Google::start(World { logs: logs.clone(), page: 2, ..Default::default() }).await?;
    let add = |entries: Vec<Value>| logs.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
    for (limit, first) in [(0, "line 0"), (2, "line 1")] {
        let what = What::ReadLogs(ReadLogs { since_ms: BEGIN, follow: true, limit, ..Default::default() });
        let mut worker = Worker::operation(&request(what, target(&google.server.url))).await?;
        let mut data = Vec::new();
        let mut until = async |marker: &str| -> Result<Vec<String>> {
            while !String::from_utf8_lossy(&data).contains(marker) {
                data.extend(worker.at_least(1).await?);
            }
            Ok(lines(&data)?.into_iter().map(|l| l.message).collect())
        };
        let seen = until("line 2").await?;
        ensure!(seen.first().is_some_and(|l| l == first), "{seen:?}");
        if limit == 0 {
            // one that is new, one of the same moment as the newest, and one that comes late
            add(vec![
                text(9),
                entry(2, "same", &json!({"textPayload": "same moment"})),
                entry(1, "late", &json!({"textPayload": "late"})),
            ]);
            let seen = until("line 9").await?;
            ensure!(seen == ["line 0", "line 1", "line 2", "late", "same moment", "line 9"], "{seen:?}");
            add(vec![text(30)]);
            let seen = until("line 30").await?;
            ensure!(seen.len() == 7, "{seen:?}");
        }
        ensure!(worker.cancel().await? == Some(0));
        if limit == 0 {
            *logs.lock().unwrap_or_else(PoisonError::into_inner) = vec![text(0), text(1), text(2)];
        }
    }
    google.clean()
}

async fn refused() -> Result<()> {
    let google = Google::start(World { forbidden: &["logging"], ..Default::default() }).await?;
    for follow in [false, true] {
        ask(&google, ReadLogs { follow, ..Default::default() })
            .await?
            .failed("target_forbidden", "does not have permission")?;
    }
    let endless = BTreeMap::from([("/v2/entries:list", (200, json!({"nextPageToken": "again"}).to_string()))]);
    let google = Google::start(World { instead: endless, ..Default::default() }).await?;
    let given = ask(&google, ReadLogs::default()).await?;
    ensure!(given.outcome.truncated && given.data.is_empty() && google.paths().len() == 1000, "{:?}", given.outcome);
    Ok(())
}
