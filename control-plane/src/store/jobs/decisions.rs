//! What users decide about a job: approve, discard, cancel.

use super::super::{Store, broken, notices, rules};
use super::{Job, JobEnd, Phase, end, may_have_applied, read};
use shared_proto::failure::{Code, Failure};
use shared_proto::rules::others;

/// What a cancel did.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// The job has ended with it.
    Ended(Job),
    /// Its instance is asked, or told to force it.
    Asked(Job),
}

impl Store {
    /// Approves a plan: the instance may apply it, and it alone. Where rules ask for several people it goes on waiting until there are as many.
    /// Doing it again changes nothing.
    ///
    /// # Errors
    /// `not_found`, `conflict` where nothing waits for an approval, `plan_stale` where it is another plan or was judged by other rules,
    /// `plan_denied` where rules ask for others than
    /// whoever made the job.
    pub async fn approve_job(
        &self,
        organization: &str,
        id: &str,
        by: &str,
        plan_sha256: Option<&str>,
    ) -> Result<Job, Failure> {
        let failed = broken("approving a job");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let job = read(&mut transaction, organization, id).await?;
        let mut plan = job.plan().unwrap_or_default();
        if plan_sha256.is_some_and(|given| given != plan.sha256) {
            return Err(Code::PlanStale.on(format!("the plan of job {id} is {}, not the approved one", plan.sha256)));
        }
        if job.approved_by.is_some() && !job.ended() {
            return Ok(job);
        }
        if job.phase != Phase::AwaitingApproval {
            return Err(not_in(&job, "approved"));
        }
        // none: it was given out before this was written down
        let judged_by: Option<Vec<u8>> = sqlx::query_scalar("SELECT rules_sha256 FROM jobs WHERE id = $1")
            .bind(id)
            .fetch_one(&mut *transaction)
            .await
            .map_err(&failed)?;
        let in_force = rules::digest(&rules::in_force(&mut transaction, organization).await?);
        if judged_by.is_some_and(|judged_by| judged_by != in_force) {
            let message =
                format!("the organization's rules were changed since the plan of job {id} was judged by them");
            return Err(Code::PlanStale
                .on(message)
                .next("Discard the job, and start it again: its plan is judged by the rules of now."));
        }
        let wanted = plan.wanted();
        if wanted > 0 && by == job.created_by {
            return Err(Code::PlanDenied
                .on(format!(
                    "rules ask for {wanted} people who approve the plan of job {id}, and {by} has made the job"
                ))
                .next("Have others approve it: `runnerctl job approve`."));
        }
        if wanted > 0 && !plan.approvers.iter().any(|name| name == by) {
            plan.approvers.push(by.to_owned());
            // it has a column of its own
            plan.text.clear();
            sqlx::query("UPDATE jobs SET plan = $2 WHERE id = $1")
                .bind(id)
                .bind(serde_json::to_string(&plan).map_err(|e| Code::Internal.on(e.to_string()))?)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        if others(&plan.approvers, &job.created_by) >= wanted {
            sqlx::query("UPDATE jobs SET approved_by = $2, phase = $3 WHERE id = $1")
                .bind(id)
                .bind(by)
                .bind(Phase::Applying)
                .execute(&mut *transaction)
                .await
                .map_err(&failed)?;
        }
        let job = read(&mut transaction, organization, id).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(job)
    }

    /// Refuses a plan: nothing is applied. Doing it again changes nothing.
    ///
    /// # Errors
    /// `not_found`, `conflict` where nothing waits for an approval.
    pub async fn discard_job(&self, organization: &str, id: &str, by: &str) -> Result<Job, Failure> {
        let failed = broken("discarding a job");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let job = read(&mut transaction, organization, id).await?;
        if job.phase == Phase::Discarded {
            return Ok(job);
        }
        if job.phase != Phase::AwaitingApproval {
            return Err(not_in(&job, "discarded"));
        }
        if job.restored_at_ms.is_some() {
            return Err(Code::Conflict
                .on(format!(
                    "job {id} was restored from an older back-up, and what became of its plan since is not known yet"
                ))
                .next("Wait until its instance is connected, or cancel it."));
        }
        let ending = JobEnd {
            code: "ok".into(),
            message: format!("the plan was discarded by {by}; nothing was changed"),
            ..JobEnd::default()
        };
        end(&mut transaction, id, Phase::Discarded, &ending).await?;
        sqlx::query("UPDATE jobs SET discarded_by = $2 WHERE id = $1")
            .bind(id)
            .bind(by)
            .execute(&mut *transaction)
            .await
            .map_err(&failed)?;
        let job = read(&mut transaction, organization, id).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(job)
    }

    /// Cancels a job. One that no instance accepted ends at once, as does one that waits for its approval. Otherwise its
    /// instance is asked, and with `force` told not to wait. `gone`: no such instance asks for work now; then `force` ends the job
    /// as lost and fences the instance off, whatever it is doing.
    ///
    /// # Errors
    /// `not_found`, `conflict` where it has ended otherwise.
    pub async fn cancel_job(
        &self,
        organization: &str,
        id: &str,
        by: &str,
        force: bool,
        gone: impl Fn(&str) -> bool + Send,
    ) -> Result<Cancelled, Failure> {
        let failed = broken("cancelling a job");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let job = read(&mut transaction, organization, id).await?;
        if job.ended() {
            return match job.phase {
                Phase::Canceled => Ok(Cancelled::Ended(job)),
                _ => Err(not_in(&job, "cancelled")),
            };
        }
        // a plan that waited at the time of a back-up may have been approved since: its instance knows
        let waits = job.phase == Phase::AwaitingApproval && job.restored_at_ms.is_none();
        let at_once = !job.accepted || waits;
        let lost = !at_once && force && job.instance.as_deref().is_none_or(gone);
        sqlx::query(
            "UPDATE jobs SET canceled_by = COALESCE(canceled_by, $2), cancel_force = (cancel_force OR $3), \
             fencing_token = fencing_token + $4 WHERE id = $1",
        )
        .bind(id)
        .bind(by)
        .bind(force)
        .bind(i64::from(lost))
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        if at_once {
            let ending = JobEnd {
                code: Code::Cancelled.as_str().into(),
                message: format!("cancelled by {by} before anything was changed"),
                ..JobEnd::default()
            };
            end(&mut transaction, id, Phase::Canceled, &ending).await?;
        } else if lost {
            let ending = JobEnd {
                code: Code::JobLost.as_str().into(),
                message: format!(
                    "given up by {by}: instance {} does not answer, and what it did meanwhile is not known",
                    job.instance.as_deref().unwrap_or("?")
                ),
                next_step: Code::JobLost.next_step().into(),
                ..JobEnd::default()
            };
            end(&mut transaction, id, Phase::Lost, &ending).await?;
            notices::lost(&mut transaction, &job).await?;
            may_have_applied(&mut transaction, &job).await?;
        }
        let job = read(&mut transaction, organization, id).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(if at_once || lost { Cancelled::Ended(job) } else { Cancelled::Asked(job) })
    }
}

fn not_in(job: &Job, what: &str) -> Failure {
    Code::Conflict.on(format!("job {} is {}: it cannot be {what}", job.id, job.phase.as_str()))
}
