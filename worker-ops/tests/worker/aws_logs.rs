//! CloudWatch Logs: against moto, and against a server that answers with what AWS documents where moto has no pages and nothing that comes late.

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use runner_tests::{Component, Moto, Suite};
use serde_json::{Value, json};
use shared_proto::documents::{LogLine, LogSources};
use shared_proto::frame::Kind;
use shared_proto::v1::operation_request::What;
use shared_proto::v1::{ListLogs, ReadLogs};

use crate::aws::target;
use crate::harness::{Given, Worker, operation, request};
use crate::server::Server;

pub(crate) fn scenarios(suite: Suite) -> Suite {
    suite
        .needs(&[Component::Moto])
        .test("aws_logs_are_listed_and_read", moto)
        .needs(&[])
        .test("aws_logs_give_the_newest_of_all_pages", newest)
        .test("aws_logs_are_followed_without_doubles_and_gaps", followed)
        .test("aws_logs_that_cannot_be_read", impossible)
}

fn lines(given: &Given) -> Result<Vec<LogLine>> {
    ensure!(given.outcome.code == "ok", "{:?}", given.outcome);
    given.text().lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn messages(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.message.as_str()).collect()
}

async fn moto() -> Result<()> {
    let moto = Moto::start().await?;
    let now = shared_proto::now_ms();
    let call = async |operation: &str, body: Value| {
        let target = format!("Logs_20140328.{operation}");
        let headers = [("x-amz-target", target.as_str()), ("content-type", "application/x-amz-json-1.1")];
        let answer = moto.call("logs", Method::POST, "/", &headers, &body.to_string()).await?;
        ensure!(answer.status.is_success(), "{operation}: {}", answer.text());
        Ok(())
    };
    for group in ["/app/web", "/app/jobs", "/other"] {
        call("CreateLogGroup", json!({"logGroupName": group})).await?;
    }
    call("PutRetentionPolicy", json!({"logGroupName": "/app/web", "retentionInDays": 7})).await?;
    for stream in ["a-1", "a-2", "b-1"] {
        call("CreateLogStream", json!({"logGroupName": "/app/web", "logStreamName": stream})).await?;
    }
    for (stream, first) in [("a-1", 0), ("b-1", 1)] {
        let events: Vec<_> = (0..5)
            .map(|n| json!({"timestamp": now - 10_000 + n * 1000 + first, "message": format!("{stream} {n}")}))
            .collect();
        call("PutLogEvents", json!({"logGroupName": "/app/web", "logStreamName": stream, "logEvents": events})).await?;
    }
    let sources = async |list: ListLogs| -> Result<LogSources> {
        operation(What::ListLogs(list), target(&moto.url())).await?.document()
    };
    let groups = sources(ListLogs::default()).await?;
    let mut names: Vec<_> = groups.items.iter().map(|g| g.name.as_str()).collect();
    names.sort_unstable();
    ensure!(
        names == ["/app/jobs", "/app/web", "/other"] && groups.items.iter().all(|g| g.kind == "group"),
        "{groups:?}"
    );
    let web = groups.items.iter().find(|g| g.name == "/app/web").context("the group")?;
    ensure!(web.retention_days == Some(7) && web.bytes.is_some(), "{web:?}");
    let apps = sources(ListLogs { prefix: "/app/".into(), ..Default::default() }).await?;
    ensure!(apps.items.len() == 2 && !apps.truncated, "{apps:?}");
    let one = sources(ListLogs { limit: 1, ..Default::default() }).await?;
    ensure!(one.items.len() == 1 && one.truncated, "{one:?}");
    let streams = sources(ListLogs { source: "/app/web".into(), prefix: "a-".into(), ..Default::default() }).await?;
    ensure!(streams.items.len() == 2 && streams.items.iter().all(|s| s.kind == "stream"), "{streams:?}");
    let streams = sources(ListLogs { source: "/app/web".into(), ..Default::default() }).await?;
    ensure!(streams.items.len() == 3 && streams.items.iter().any(|s| s.last_at.is_some()), "{streams:?}");

    let read = async |read: ReadLogs| operation(What::ReadLogs(read), target(&moto.url())).await;
    let all = ReadLogs { source: "/app/web".into(), ..Default::default() };
    let got = lines(&read(all.clone()).await?)?;
    let expected: Vec<_> = (0..5).flat_map(|n| [format!("a-1 {n}"), format!("b-1 {n}")]).collect();
    ensure!(messages(&got) == expected, "{got:?}");
    ensure!(got[0].source == "a-1" && got[0].time.ends_with('Z') && got[0].time.len() == 24, "{got:?}");
    let got = lines(&read(ReadLogs { streams: vec!["b-1".into()], ..all.clone() }).await?)?;
    ensure!(messages(&got) == ["b-1 0", "b-1 1", "b-1 2", "b-1 3", "b-1 4"], "{got:?}");
    let got = lines(&read(ReadLogs { since_ms: now - 7000, until_ms: now - 6500, ..all.clone() }).await?)?;
    ensure!(messages(&got) == ["a-1 3", "b-1 3"], "{got:?}");
    let given = read(ReadLogs { limit: 3, ..all.clone() }).await?;
    let got = lines(&given)?;
    ensure!(messages(&got) == ["b-1 3", "a-1 4", "b-1 4"] && given.outcome.truncated, "{got:?}");
    let gone = read(ReadLogs { source: "/none".into(), ..Default::default() }).await?;
    gone.failed("target_not_found", "log group")
}

fn event(id: &str, time: i64) -> Value {
    json!({"eventId": id, "timestamp": time, "ingestionTime": time, "logStreamName": "s", "message": id})
}

async fn newest() -> Result<()> {
    let server = Server::start(|asked, _| {
        let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        let answer = match body["nextToken"].as_str() {
            None => json!({"events": [event("a", 1000), event("b", 2000)], "nextToken": "1"}),
            // nothing was found in this piece, and it goes on
            Some("1") => json!({"events": [], "nextToken": "2"}),
            _ => json!({"events": [event("c", 3000)], "searchedLogStreams": []}),
        };
        (200, answer.to_string())
    })
    .await?;
    let read = ReadLogs {
        source: "g".into(),
        streams: vec!["s".into()],
        filter: "{ $.level = \"error\" }".into(),
        since_ms: 500,
        until_ms: 4000,
        limit: 2,
        ..Default::default()
    };
    let given = operation(What::ReadLogs(read), target(&server.url)).await?;
    ensure!(messages(&lines(&given)?) == ["b", "c"] && given.outcome.truncated, "{}", given.text());
    let asked = server.asked();
    ensure!(asked.len() == 3, "{} requests", asked.len());
    for one in &asked {
        let mut body: Value = serde_json::from_str(&one.body)?;
        body.as_object_mut().context("an object")?.remove("nextToken");
        let expected = json!({"logGroupName": "g", "logStreamNames": ["s"], "filterPattern": "{ $.level = \"error\" }",
            "startTime": 500, "endTime": 4000, "interleaved": true});
        ensure!(body == expected, "{body}");
        ensure!(one.header("x-amz-target") == "Logs_20140328.FilterLogEvents", "{one:?}");
        ensure!(one.header("authorization").contains("/eu-central-1/logs/"), "{one:?}");
    }
    Ok(())
}

async fn followed() -> Result<()> {
    let now = shared_proto::now_ms();
    let server = Server::start(move |asked, before| {
        let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        // each look has what the one before had, as far as it asks for it, and something new; one of them came late
        let late = vec![event("late", now - 1500)];
        let all = [
            vec![event("a", now - 2000), event("b", now - 1000)],
            vec![],
            late,
            vec![event("d", now + 1)],
            vec![event("e", now + 2), event("f", now + 2)],
        ];
        let mut seen: Vec<Value> = all.into_iter().take(before + 1).flatten().collect();
        seen.retain(|e| e["timestamp"].as_i64() >= body["startTime"].as_i64());
        seen.sort_by_key(|e| e["timestamp"].as_i64());
        (200, json!({ "events": seen }).to_string())
    })
    .await?;
    let read = ReadLogs { source: "g".into(), since_ms: now - 5000, follow: true, ..Default::default() };
    let mut worker = Worker::operation(&request(What::ReadLogs(read), target(&server.url))).await?;
    let mut data = Vec::new();
    while data.iter().filter(|b| **b == b'\n').count() < 6 || server.asked().len() < 7 {
        match worker.frame().await {
            Ok(Some((Kind::Data, content))) => data.extend_from_slice(&content),
            Ok(other) => anyhow::bail!("{other:?}"),
            // nothing new came for long: all were given
            Err(_) => break,
        }
        if data.iter().filter(|b| **b == b'\n').count() == 6 {
            break;
        }
    }
    ensure!(worker.cancel().await?.is_some(), "it ends when nobody reads");
    let text = String::from_utf8(data)?;
    let got: Vec<LogLine> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(messages(&got) == ["a", "b", "late", "d", "e", "f"], "{got:?}");
    // what is looked at again reaches back to what may come late
    let last: Value = serde_json::from_str(&server.asked().last().context("a request")?.body)?;
    ensure!(last["startTime"].as_i64() == Some(now - 5000) && last.get("endTime").is_none(), "{last}");
    Ok(())
}

async fn impossible() -> Result<()> {
    for (read, code, words) in [
        (ReadLogs::default(), "invalid_argument", "no log group"),
        (
            ReadLogs { source: "g".into(), streams: vec!["s".into(); 101], ..Default::default() },
            "too_large",
            "100 streams",
        ),
        (ReadLogs { source: "g".into(), limit: 100_001, ..Default::default() }, "too_large", "100000 lines"),
        (ReadLogs { source: "g".repeat(2049), ..Default::default() }, "invalid_argument", "longer than"),
    ] {
        operation(What::ReadLogs(read), target("http://127.0.0.1:9")).await?.failed(code, words)?;
    }
    Ok(())
}
