//! Answers in their final form, kept for all who ask the same: written and compressed once per change.
//!
//! Kept are only answers to callers without restrictions, which say the same to everyone. An answer holds until one of
//! its topics changes; that is looked at on each use, so nothing has to be told to forget.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use lictor_meter::Counter;
use lictor_model::revision::Revision;
use lictor_state::answer::Topic;
use lictor_state::reader::Reader;
use parking_lot::Mutex;

use crate::blocking::Form;
use crate::call::Call;
use crate::respond;
use crate::server::Rules;

/// All bodies together are kept below this. Beyond it everything is forgotten: what is asked often is back at once.
const BUDGET: usize = 16 * 1024 * 1024;
/// A larger body is not kept.
const LARGEST: usize = BUDGET / 4;
/// What an entry costs beside its bodies.
const OVERHEAD: usize = 512;

/// An answer.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) index: Revision,
    pub(crate) topics: Vec<Topic>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Made when the first client wants it.
    gzip: OnceLock<Bytes>,
    /// What is counted when it is sent; looked up when that happens first.
    pub(crate) counters: OnceLock<Vec<Counter>>,
    /// As it was sent last.
    head: Mutex<Option<Head>>,
}

/// The head of an answer without the time, with what it depends on beside the answer.
#[derive(Debug)]
struct Head {
    form: Form,
    rules: Arc<Rules>,
    text: Bytes,
}

impl Encoded {
    pub(crate) fn new(index: Revision, topics: Vec<Topic>, headers: HeaderMap, body: Bytes) -> Encoded {
        let (gzip, counters, head) = (OnceLock::new(), OnceLock::new(), Mutex::new(None));
        Encoded { index, topics, headers, body, gzip, counters, head }
    }

    /// The body as a client takes it. Nothing is not compressed.
    pub(crate) fn body(&self, is_compressed: bool) -> Bytes {
        if is_compressed && !self.body.is_empty() {
            self.gzip.get_or_init(|| respond::compressed(&self.body)).clone()
        } else {
            self.body.clone()
        }
    }

    /// Its head without the time, written once for all who are told it in one form under one set of rules.
    pub(crate) fn head(&self, form: Form, rules: &Arc<Rules>, write: impl FnOnce() -> Vec<u8>) -> Bytes {
        let mut last = self.head.lock();
        match &*last {
            Some(head) if head.form == form && Arc::ptr_eq(&head.rules, rules) => head.text.clone(),
            _ => {
                let text = Bytes::from(write());
                *last = Some(Head { form, rules: Arc::clone(rules), text: text.clone() });
                text
            }
        }
    }
}

/// All that are kept.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    answers: HashMap<Box<str>, Arc<Encoded>>,
    size: usize,
}

impl Kept {
    /// The answer to this question, if it is kept and still holds.
    pub(crate) fn get(&self, question: &str, reader: &Reader) -> Option<Arc<Encoded>> {
        let answer = self.0.lock().answers.get(question).cloned()?;
        reader.is_current(&answer.topics, answer.index).then_some(answer)
    }

    /// Keeps an answer in place of an older one.
    pub(crate) fn keep(&self, question: Box<str>, answer: Arc<Encoded>) {
        // Compressed it is smaller, but both forms may be held.
        let size = 2 * answer.body.len() + question.len() + OVERHEAD;
        if answer.body.len() > LARGEST {
            return;
        }
        let mut shelf = self.0.lock();
        if shelf.size + size > BUDGET {
            *shelf = Shelf::default();
        }
        shelf.size += size;
        let length = question.len();
        if let Some(old) = shelf.answers.insert(question, answer) {
            shelf.size -= 2 * old.body.len() + length + OVERHEAD;
        }
    }
}

/// What a call asks for, without what only says who asks and how long to wait.
pub(crate) fn question(call: &Call<'_>, raw_query: &str) -> Box<str> {
    let mut question = String::with_capacity(call.route.pattern.len() + call.argument.len() + raw_query.len() + 2);
    question.push_str(call.route.pattern);
    question.push_str(call.argument);
    for part in raw_query.split('&') {
        if !["index=", "wait=", "token="].iter().any(|ignored| part.starts_with(ignored)) {
            // A line feed is in no path or query as it travels, so nothing can be mistaken for the separator.
            question.push('\n');
            question.push_str(part);
        }
    }
    question.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(size: usize) -> Arc<Encoded> {
        Arc::new(Encoded::new(Revision(1), Vec::new(), HeaderMap::new(), vec![b'x'; size].into()))
    }

    #[test]
    fn the_shelf_stays_within_its_budget() {
        let kept = Kept::default();
        for number in 0..100 {
            kept.keep(format!("{number}").into(), answer(LARGEST / 2));
            assert!(kept.0.lock().size <= BUDGET);
        }
        assert!(!kept.0.lock().answers.is_empty());
    }

    #[test]
    fn replacing_an_answer_takes_no_more_room() {
        let kept = Kept::default();
        kept.keep("q".into(), answer(1000));
        let size = kept.0.lock().size;
        for _ in 0..10 {
            kept.keep("q".into(), answer(1000));
        }
        assert_eq!(kept.0.lock().size, size);
        kept.keep("large".into(), answer(LARGEST + 1));
        assert_eq!(kept.0.lock().size, size);
    }
}
