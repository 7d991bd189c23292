//! Answers that were given before, for the time when no server gives any: what a managed proxy watches, and what was asked
//! for as `cached`.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

/// More than the proxies of a node watch.
const MOST: usize = 2048;
/// All of them together.
const MOST_BYTES: usize = 32 << 20;

/// What an answer is kept under: on whose behalf it was given, and to which question.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// The secret.
    pub secret: String,
    /// Path and query, without what a read waits by.
    pub target: String,
}

/// An answer that was given.
#[derive(Clone)]
pub struct Given {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// When it was given.
    pub at: Instant,
}

/// The answers.
#[derive(Default)]
pub struct Kept(Mutex<All>);

#[derive(Default)]
struct All {
    given: HashMap<Question, Given>,
    bytes: usize,
}

impl Kept {
    /// What was answered last.
    pub fn get(&self, question: &Question) -> Option<Given> {
        self.0.lock().given.get(question).cloned()
    }

    /// Forgets an answer that does not hold any more.
    pub fn forget(&self, question: &Question) {
        let mut all = self.0.lock();
        if let Some(gone) = all.given.remove(question) {
            all.bytes -= gone.body.len();
        }
    }

    /// Keeps an answer. The one that was given longest ago goes where there is no room.
    pub fn put(&self, question: Question, given: Given) {
        let size = given.body.len();
        if size > MOST_BYTES / 8 {
            return;
        }
        let mut all = self.0.lock();
        if let Some(before) = all.given.remove(&question) {
            all.bytes -= before.body.len();
        }
        while all.given.len() >= MOST || all.bytes + size > MOST_BYTES {
            let oldest = all.given.iter().min_by_key(|(_, given)| given.at).map(|(question, _)| question.clone());
            let Some(gone) = oldest.and_then(|oldest| all.given.remove(&oldest)) else { break };
            all.bytes -= gone.body.len();
        }
        all.bytes += size;
        all.given.insert(question, given);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn question(number: usize) -> Question {
        Question { secret: "s".into(), target: format!("/v1/health/service/{number}") }
    }

    fn given(size: usize) -> Given {
        Given { status: StatusCode::OK, headers: HeaderMap::new(), body: vec![7; size].into(), at: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_answer_to_a_question_is_kept_for_who_asked() {
        let kept = Kept::default();
        kept.put(question(1), given(1));
        kept.put(question(1), given(2));
        assert_eq!(kept.get(&question(1)).unwrap().body.len(), 2);
        assert!(kept.get(&Question { secret: "other".into(), ..question(1) }).is_none());
        assert_eq!(kept.0.lock().bytes, 2);
        kept.forget(&question(2));
        kept.forget(&question(1));
        assert!(kept.get(&question(1)).is_none());
        assert_eq!(kept.0.lock().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_goes_first() {
        let kept = Kept::default();
        for number in 0..MOST + 5 {
            kept.put(question(number), given(1));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(kept.get(&question(4)).is_none() && kept.get(&question(5)).is_some());
        kept.put(question(0), given(MOST_BYTES));
        assert!(kept.get(&question(0)).is_none(), "one that would take all the room");
        for number in 0..9 {
            kept.put(question(number), given(MOST_BYTES / 8));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(kept.get(&question(0)).is_none() && kept.get(&question(8)).is_some());
        assert_eq!(kept.0.lock().bytes, MOST_BYTES);
    }
}
