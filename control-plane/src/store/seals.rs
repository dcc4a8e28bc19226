//! The ends of runners' audit logs, as they told them: a bounded number of seals for each instance, and what of them does not fit together.

use super::{Store, broken, new_id};
use crate::sessions::Seal;
use shared_proto::failure::Failure;
use shared_proto::now_ms;
use sqlx::FromRow;

/// Seals that are kept of each instance; and, beside them, those that did not fit to the one before.
pub(super) const KEPT: i64 = 32;
/// Instances of a runner whose seals are kept: those that told one last.
pub(super) const INSTANCES_KEPT: i64 = 64;

/// The number is below that of a seal that came before: the log's end was cut off, or an old copy was put in its place.
const NUMBER_BACK: &str = "number_back";
/// It has the number of a seal that came before and another hash: the log was written anew.
const REWRITTEN: &str = "rewritten";
/// Another key signs than before, and that one has not signed it.
const KEY_CHANGED: &str = "key_changed";

/// A seal as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct SealRecord {
    /// Ordered by when it came.
    pub id: String,
    /// The runner.
    pub runner: String,
    /// The instance, whose log is its own.
    pub instance: String,
    /// The number of the record.
    pub number: i64,
    /// Its hash.
    pub hash: String,
    /// The key that signed it: base64 of its DER form.
    pub signing_key: String,
    /// SHA-256 of that form.
    pub fingerprint: String,
    /// The record, as it stands in the log.
    pub line: String,
    /// When it came.
    pub received_at_ms: i64,
    /// What does not fit to the one before it: words with a comma between; empty: nothing.
    pub trouble: String,
}

impl Store {
    /// Keeps a seal of that instance's log beside those before, and forgets the oldest. One that is there already changes nothing.
    ///
    /// # Errors
    /// `internal`.
    pub async fn keep_seal(&self, runner: &str, instance: &str, seal: &Seal) -> Result<(), Failure> {
        let failed = broken("keeping a seal");
        let mut transaction = self.writing().await.map_err(&failed)?;
        let before: Option<SealRecord> =
            sqlx::query_as("SELECT * FROM audit_seals WHERE runner = $1 AND instance = $2 ORDER BY id DESC LIMIT 1")
                .bind(runner)
                .bind(instance)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(&failed)?;
        if before.as_ref().is_some_and(|before| before.hash == seal.hash) {
            return Ok(());
        }
        let trouble = before.map(|before| trouble(&before, seal)).unwrap_or_default();
        if !trouble.is_empty() {
            tracing::warn!(
                runner,
                instance,
                number = seal.number,
                trouble,
                "a runner's audit log does not go on as it was"
            );
        }
        sqlx::query(
            "INSERT INTO audit_seals (id, runner, instance, number, hash, signing_key, fingerprint, line, received_at_ms, trouble) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(new_id("seal"))
        .bind(runner)
        .bind(instance)
        .bind(seal.number)
        .bind(&seal.hash)
        .bind(&seal.key)
        .bind(&seal.fingerprint)
        .bind(&seal.line)
        .bind(now_ms())
        .bind(trouble)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        sqlx::query(
            "DELETE FROM audit_seals WHERE runner = $1 AND id IN (SELECT id FROM (SELECT id, ROW_NUMBER() OVER \
             (PARTITION BY instance, CASE WHEN trouble = '' THEN 0 ELSE 1 END ORDER BY id DESC) AS place FROM audit_seals \
             WHERE runner = $1) AS ranked WHERE place > $2)",
        )
        .bind(runner)
        .bind(KEPT)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        sqlx::query(
            "DELETE FROM audit_seals WHERE runner = $1 AND instance NOT IN (SELECT instance FROM (SELECT instance, MAX(id) AS newest \
             FROM audit_seals WHERE runner = $1 GROUP BY instance ORDER BY newest DESC LIMIT $2) AS latest)",
        )
        .bind(runner)
        .bind(INSTANCES_KEPT)
        .execute(&mut *transaction)
        .await
        .map_err(&failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// The seals of a runner, the newest first.
    ///
    /// # Errors
    /// `internal`.
    pub async fn seals(&self, runner: &str) -> Result<Vec<SealRecord>, Failure> {
        sqlx::query_as("SELECT * FROM audit_seals WHERE runner = $1 ORDER BY id DESC")
            .bind(runner)
            .fetch_all(self.pool())
            .await
            .map_err(broken("listing seals"))
    }
}

fn trouble(before: &SealRecord, seal: &Seal) -> String {
    let mut words = Vec::new();
    if seal.number < before.number {
        words.push(NUMBER_BACK);
    } else if seal.number == before.number {
        words.push(REWRITTEN);
    }
    if seal.key != before.signing_key && !seal.follows(&before.signing_key, &before.runner) {
        words.push(KEY_CHANGED);
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{organization, runner};
    use super::*;
    use crate::sessions::seal_tests::Key;

    async fn store() -> Store {
        let store = Store::in_memory().await.expect("a store");
        organization(&store, "a").await;
        store.create_runner(&runner("run_1", "a", "r")).await.expect("a runner");
        store
    }

    fn seal(key: &Key, number: i64) -> Seal {
        Seal::read("run_1", &key.seal(number)).expect("is believed")
    }

    #[tokio::test]
    async fn what_does_not_go_on_as_it_was_is_told() {
        let store = store().await;
        let (first, second, third) = (Key::new(), Key::new(), Key::new());
        let mut signed = seal(&second, 40);
        signed.key_line = first.line(39, "key", &format!(",\"key\":\"{}\"", second.public()));
        let other = v_other(&third, 41);
        for (seal, trouble) in [
            (seal(&first, 10), ""),
            (seal(&first, 10), ""),
            (seal(&first, 30), ""),
            (seal(&first, 20), "number_back"),
            (seal(&first, 30), ""),
            (signed, ""),
            (other, "key_changed"),
            (seal(&third, 41), "rewritten"),
            (seal(&first, 1), "number_back,key_changed"),
        ] {
            store.keep_seal("run_1", "i_1", &seal).await.expect("keeps");
            let kept = store.seals("run_1").await.expect("lists");
            assert_eq!((kept[0].number, kept[0].trouble.as_str()), (seal.number, trouble));
        }
        // the one that came twice is there once; and each instance has a log of its own
        assert_eq!(store.seals("run_1").await.expect("lists").len(), 8);
        store.keep_seal("run_1", "i_2", &seal(&third, 5)).await.expect("keeps");
        assert_eq!(store.seals("run_1").await.expect("lists")[0].trouble, "");
    }

    /// A seal of that number with another hash than [`seal`]'s.
    fn v_other(key: &Key, number: i64) -> Seal {
        let mut told = key.seal(number);
        told.line = key.line(number, "seal", ",\"records\":7");
        Seal::read("run_1", &told).expect("is believed")
    }

    #[tokio::test]
    async fn as_many_are_kept_as_there_is_room_for_and_what_was_wrong_stays_longer() {
        let store = store().await;
        let key = Key::new();
        store.keep_seal("run_1", "i_1", &seal(&key, 1000)).await.expect("keeps");
        for number in 1..=KEPT + 5 {
            store.keep_seal("run_1", "i_1", &seal(&key, number)).await.expect("keeps");
        }
        let kept = store.seals("run_1").await.expect("lists");
        let troubled = kept.iter().filter(|seal| !seal.trouble.is_empty()).count();
        assert_eq!((kept.len() as i64, troubled), (KEPT + 1, 1));
        for n in 0..INSTANCES_KEPT {
            store.keep_seal("run_1", &format!("j_{n}"), &seal(&key, 1)).await.expect("keeps");
        }
        let kept = store.seals("run_1").await.expect("lists");
        assert_eq!(kept.len() as i64, INSTANCES_KEPT);
        assert!(kept.iter().all(|seal| seal.instance != "i_1"));
    }
}
