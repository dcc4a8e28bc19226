//! Plans as documents: whole or not at all.

use super::*;

/// A document whose summary creates so many, in so many parts.
fn document(create: u32, of: usize) -> (String, Vec<Body>) {
    let json = serde_json::to_string(&shared_proto::plan::Document {
        version: shared_proto::plan::VERSION,
        summary: shared_proto::plan::Summary { create, ..Default::default() },
        kind: "x".repeat(100 * of),
        ..Default::default()
    })
    .expect("JSON");
    let length = json.len().div_ceil(of);
    let parts = json.as_bytes().chunks(length).map(|part| String::from_utf8_lossy(part).into_owned());
    let of = u32::try_from(of).expect("fits");
    let parts = (1..).zip(parts).map(|(number, json)| Body::PlanPart(v1::PlanPart { number, of, json })).collect();
    (json, parts)
}

#[tokio::test]
async fn a_plan_is_put_together_of_its_parts_and_given_once_it_is_whole() {
    let store = store().await;
    let stack = stack(&store, "s").await;
    let given = accepted(&store, &stack, JobKind::Update).await;
    let id = &given.job_id;
    let found = async || store.plan_document(ORG, id).await;
    let (json, parts) = document(7, 5);
    tell(&store, &given, 1, parts[..2].to_vec()).await;
    assert_eq!(code(found().await), Code::NotFound, "it is not whole");
    tell(&store, &given, 3, parts[2..].to_vec()).await;
    assert_eq!(found().await.as_deref(), Ok(json.as_str()));
    let summary = |job: &Job| job.plan().and_then(|plan| plan.summary).map(|summary| summary.create);
    assert_eq!(summary(&now(&store, &given).await), Some(7));
    // of the events only that there were parts
    let events = store.job_events(ORG, id, 0, 500).await.expect("reads");
    assert!(
        events.iter().all(|e| matches!(&e.body, Some(Body::PlanPart(part)) if part.json.is_empty() && part.of == 5))
    );
    assert_eq!(code(store.plan_document("org_b", id).await), Code::NotFound);
    // what is known of the plan beside it goes with it, in whatever order it comes
    let saved = tell(&store, &given, 6, vec![plan(true)]).await.job;
    assert_eq!((saved.plan().map(|p| p.has_changes), summary(&saved)), (Some(true), Some(7)));
    // a step that was begun anew has another one
    let (json, parts) = document(8, 1);
    tell(&store, &given, 7, parts).await;
    assert_eq!(found().await.as_deref(), Ok(json.as_str()));
    assert_eq!(summary(&now(&store, &given).await), Some(8));
}

#[tokio::test]
async fn parts_that_do_not_go_together_are_dropped_and_the_job_goes_on() {
    let store = store().await;
    let part = |number, of, json: &str| Body::PlanPart(v1::PlanPart { number, of, json: json.into() });
    let whole = document(1, 1).0;
    let (_, three) = document(1, 3);
    let long = "x".repeat(60 * 1024);
    let much = bounds::PLAN_DOCUMENT_MAX / long.len() + 1;
    let many = u32::try_from(much).expect("fits");
    for (n, bodies) in [
        vec![three[0].clone(), three[2].clone()],
        vec![three[1].clone(), three[2].clone()],
        vec![three[0].clone(), three[1].clone(), part(3, 4, "}")],
        vec![three[0].clone(), three[0].clone(), three[2].clone()],
        vec![part(1, 1, "no document")],
        vec![part(1, 0, &whole)],
        vec![part(0, 0, &whole)],
        vec![part(1, u32::MAX, &whole)],
        (1..=many).map(|number| part(number, many, &long)).collect(),
    ]
    .into_iter()
    .enumerate()
    {
        let stack = stack(&store, &format!("s{n}")).await;
        let given = accepted(&store, &stack, JobKind::Preview).await;
        let count = bodies.len() as u64;
        let told = tell(&store, &given, 1, bodies).await;
        assert_eq!((told.acknowledged, told.refused), (count, None));
        assert_eq!(code(store.plan_document(ORG, &given.job_id).await), Code::NotFound, "{n}");
        assert_eq!(told.job.plan().and_then(|plan| plan.summary), None);
        tell(&store, &given, count + 1, vec![result("planned", "ok")]).await;
    }
    let held: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM plans WHERE received = parts")
        .fetch_one(store.pool())
        .await
        .expect("counts");
    assert_eq!(held, 0);
}
