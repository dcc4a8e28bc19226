//! The mark that this control plane puts on each assignment. A copy of it that was restored from an older back-up has the key too, and so
//! knows an assignment again that it has no record of: nobody else can have made it.

use aws_lc_rs::hmac;
use sqlx::SqlitePool;
use std::sync::Arc;

/// The key's length, bytes.
const KEY: usize = 32;
/// Which of the table's keys marks.
const ID: i64 = 1;

/// What an assignment is: all of it that must not be made up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assigned<'a> {
    pub(super) organization: &'a str,
    pub(super) runner: &'a str,
    pub(super) instance: &'a str,
    pub(super) job: &'a str,
    pub(super) token: u64,
    pub(super) request_sha256: &'a [u8],
}

/// Marks and knows marks. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Seal(Arc<hmac::Key>);

// === impl Seal ===

impl Seal {
    /// With the database's key, which is made where there is none.
    pub(super) async fn of(pool: &SqlitePool) -> Result<Self, sqlx::Error> {
        let mut new = [0; KEY];
        getrandom::fill(&mut new).map_err(|e| sqlx::Error::Io(std::io::Error::other(e.to_string())))?;
        sqlx::query("INSERT INTO seal_keys (id, key) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(ID)
            .bind(&new[..])
            .execute(pool)
            .await?;
        let key: Vec<u8> =
            sqlx::query_scalar("SELECT key FROM seal_keys WHERE id = $1").bind(ID).fetch_one(pool).await?;
        Ok(Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key))))
    }
    /// The mark on an assignment.
    pub(super) fn mark(&self, assigned: Assigned<'_>) -> Vec<u8> {
        hmac::sign(&self.0, &text(assigned)).as_ref().to_vec()
    }
    /// Whether that is its mark.
    pub(super) fn is_on(&self, assigned: Assigned<'_>, mark: &[u8]) -> bool {
        hmac::verify(&self.0, &text(assigned), mark).is_ok()
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal[secret]")
    }
}

/// Each part with its length, so that none runs into the next.
fn text(a: Assigned<'_>) -> Vec<u8> {
    let token = a.token.to_be_bytes();
    let parts = [
        b"runner assignment 1".as_slice(),
        a.organization.as_bytes(),
        a.runner.as_bytes(),
        a.instance.as_bytes(),
        a.job.as_bytes(),
        &token,
        a.request_sha256,
    ];
    parts.iter().flat_map(|part| (part.len() as u64).to_be_bytes().into_iter().chain(part.iter().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mark_is_on_one_assignment_and_is_known_to_every_copy() {
        let store = super::super::Store::in_memory().await.expect("a store");
        let a = Assigned { organization: "o", runner: "r", instance: "i", job: "j", token: 1, request_sha256: b"d" };
        let mark = store.seal.mark(a);
        let again = Seal::of(store.pool()).await.expect("the same key");
        assert!(again.is_on(a, &mark));
        for other in [
            Assigned { organization: "or", runner: "", ..a },
            Assigned { runner: "s", ..a },
            Assigned { instance: "k", ..a },
            Assigned { job: "k", ..a },
            Assigned { token: 2, ..a },
            Assigned { request_sha256: b"e", ..a },
        ] {
            assert!(!again.is_on(other, &mark), "{other:?}");
        }
        assert!(!again.is_on(a, b"") && !again.is_on(a, &mark[1..]));
        let stranger = super::super::Store::in_memory().await.expect("a store");
        assert!(!stranger.seal.is_on(a, &mark));
    }
}
