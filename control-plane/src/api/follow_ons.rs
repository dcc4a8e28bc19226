//! Stacks that follow others: once outputs that one takes are other ones it is planned anew, as an update that waits for its approval, for whom the
//! job was that changed them. In order: never while something that it stands on, however far down, is under way or about to be.

use super::due::acting_as;
use super::inputs::Edges;
use super::new_job::{NewJobBody, make_job};
use super::{ApiState, inputs};
use crate::store::{FollowOn, Idempotency, JobKind};
use sha2::{Digest as _, Sha256};
use shared_proto::failure::{Code, Failure};
use std::collections::BTreeSet;
use std::time::Duration;

/// How often it is looked whether it is somebody's turn.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Those of one look.
const LOOK_MAX: u32 = 100;

/// Makes the jobs whose turn it is, again and again.
pub(crate) async fn follow(state: ApiState) {
    loop {
        look(&state).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Makes those whose turn it is now.
pub(super) async fn look(state: &ApiState) {
    // the store has logged it; the next look tries again
    let all = state.store.follow_ons(LOOK_MAX).await.unwrap_or_default();
    for one in &all {
        match turn(state, one, &all).await {
            Ok(true) => {}
            Ok(false) => continue,
            // it is nobody's fault but the control plane's, and is tried again
            Err(failure) if failure.code == Code::Internal || failure.code == Code::DiskFull => {
                tracing::error!(
                    stack = one.stack,
                    code = failure.code.as_str(),
                    detail = failure.message,
                    "what follows failed"
                );
                continue;
            }
            Err(failure) => tracing::warn!(
                stack = one.stack,
                after = one.after_job,
                code = failure.code.as_str(),
                detail = failure.message,
                "a stack whose inputs changed is not planned anew"
            ),
        }
        let _ = state.store.followed(one).await;
    }
}

/// Whether its job is made now.
async fn turn(state: &ApiState, one: &FollowOn, all: &[FollowOn]) -> Result<bool, Failure> {
    let user = state.store.user_by_name(&one.organization, &one.created_by).await?;
    let Some(caller) = acting_as(state, &one.organization, user).await? else {
        return Err(Code::NotFound.on(format!("the user {} who changed them is gone", one.created_by)));
    };
    let ground = ground(&inputs::all(state, &caller).await?, &one.stack);
    let open = state.store.open_jobs(&one.organization).await?;
    let is_busy = open.iter().any(|job| job.stack == one.stack || ground.contains(&job.stack));
    if is_busy || all.iter().any(|other| ground.contains(&other.stack)) {
        return Ok(false);
    }
    let stack = state.store.stack(caller.org(), &one.stack).await?;
    let key = format!("{}-{}", one.after_job, one.stack.trim_start_matches("stk_"));
    let asked_sha256 = Sha256::digest(&key).to_vec();
    // one that was made by whoever did not live to note it is the same one
    let idempotency = Some(Idempotency { key, asked_sha256 });
    let origin = Some(format!("after {}", one.after_job));
    make_job(state, &caller, stack, NewJobBody::of(JobKind::Update), idempotency, origin).await?;
    Ok(true)
}

/// All that a stack stands on, by id.
fn ground(edges: &Edges, stack: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![stack.to_owned()];
    while let Some(one) = left.pop() {
        for under in edges.under(&one) {
            if under != stack && found.insert(under.clone()) {
                left.push(under.clone());
            }
        }
    }
    found
}
