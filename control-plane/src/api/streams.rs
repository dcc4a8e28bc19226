//! How many streams one user has open: followed logs, exec, job events. The count goes down when the stream is dropped, however
//! it ends.

use shared_proto::failure::{Code, Failure};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The limit, and who holds how much of it. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct StreamLimit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    /// Only users with an open stream are in it.
    open: Mutex<HashMap<String, usize>>,
}

/// The place of one open stream.
#[derive(Debug)]
pub struct StreamPlace {
    limit: StreamLimit,
    user: String,
}

// === impl StreamLimit ===

impl StreamLimit {
    /// At most so many for each user.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Inner { max, open: Mutex::new(HashMap::new()) }))
    }
    /// Takes a place for one more stream of the user.
    ///
    /// # Errors
    /// `busy`.
    pub fn take(&self, user: &str) -> Result<StreamPlace, Failure> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(user.to_owned()).or_insert(0);
        if *count >= self.0.max {
            return Err(Code::Busy
                .on(format!("this user has {count} streams open, the limit is {}", self.0.max))
                .next("Close one of them, or have --user-streams of the control plane raised."));
        }
        *count += 1;
        Ok(StreamPlace { limit: self.clone(), user: user.to_owned() })
    }
    /// Streams that are open, of all users.
    pub fn open(&self) -> usize {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

// === impl StreamPlace ===

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.limit.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_each_users_own_and_comes_back() {
        let limit = StreamLimit::new(2);
        let first = limit.take("a").expect("a place");
        let _second = limit.take("a").expect("a place");
        assert_eq!(limit.take("a").expect_err("full").code, Code::Busy);
        let _other = limit.take("b").expect("another user's place");
        drop(first);
        let _again = limit.take("a").expect("a place");
        assert_eq!(limit.open(), 3);
    }
}
