//! Clients of the application, through whatever stands in between.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::application::{ANSWER_SIZE, CHUNK, GIVE, QUESTION, QUESTION_SIZE, TAKE};
use crate::turns::{Exchange, Problem, Times, dial, side_by_side, take_turns};

/// Moves bytes one way. Counted is what arrived: the application ends its side only when it has taken everything.
pub(crate) fn bulk(port: u16, up: bool, streams: usize, limit: Duration) -> Result<Value, Problem> {
    let started = Instant::now();
    let moved = side_by_side((0..streams).map(|_| move || if up { give(port, limit) } else { take(port, limit) }))?;
    let (bytes, seconds) = moved
        .iter()
        .fold((0, 0.0f64), |(bytes, longest), (more, took)| (bytes + more, longest.max(took.as_secs_f64())));
    Ok(json!({"bytes": bytes, "seconds": seconds, "whole": started.elapsed().as_secs_f64()}))
}

fn give(port: u16, limit: Duration) -> Result<(u64, Duration), Problem> {
    let mut stream = dial(port)?;
    let chunk = vec![TAKE; CHUNK];
    let (started, mut bytes) = (Instant::now(), 0);
    while started.elapsed() < limit {
        bytes += stream.write(&chunk)? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok((bytes, started.elapsed())),
        _ => Err("the application answered what was no question".into()),
    }
}

fn take(port: u16, limit: Duration) -> Result<(u64, Duration), Problem> {
    let mut stream = dial(port)?;
    stream.write_all(&[GIVE])?;
    let mut room = vec![0; CHUNK];
    let (started, mut bytes) = (Instant::now(), 0);
    while started.elapsed() < limit {
        match stream.read(&mut room)? {
            0 => return Err("the application ended in the middle".into()),
            count => bytes += count as u64,
        }
    }
    Ok((bytes, started.elapsed()))
}

/// A question after the other.
struct Questions;

impl Exchange for Questions {
    fn ask(&mut self, question: &mut Vec<u8>) -> bool {
        question.extend_from_slice(&[QUESTION; QUESTION_SIZE]);
        true
    }

    fn is_whole(&self, answer: &[u8]) -> Result<bool, Problem> {
        if answer.len() > ANSWER_SIZE {
            return Err("more came than was asked for".into());
        }
        Ok(answer.len() == ANSWER_SIZE)
    }
}

/// Questions on connections that stay.
pub(crate) fn ask(port: u16, connections: usize, limit: Duration) -> Result<Value, Problem> {
    let times = take_turns(port, (0..connections).map(|_| Questions).collect(), Some(limit))?;
    Ok(times.report())
}

/// A connection for each question, from the first packet to the last.
pub(crate) fn connect(port: u16, at_once: usize, limit: Duration) -> Result<Value, Problem> {
    let work = (0..at_once).map(|_| {
        move || {
            let (started, mut times) = (Instant::now(), Times::default());
            while started.elapsed() < limit {
                let begun = Instant::now();
                one(port)?;
                times.note(begun);
            }
            times.whole = started.elapsed();
            Ok(times)
        }
    });
    Ok(Times::join(side_by_side(work)?).report())
}

fn one(port: u16) -> Result<std::net::TcpStream, Problem> {
    let mut stream = dial(port)?;
    stream.write_all(&[QUESTION; QUESTION_SIZE])?;
    stream.read_exact(&mut [0; ANSWER_SIZE])?;
    Ok(stream)
}

/// Connections that carried one question each and do nothing since. Says on a line of its own when all are there.
pub(crate) fn hold(port: u16, count: usize) -> Result<Value, Problem> {
    let held = (0..count).map(|_| one(port)).collect::<Result<Vec<_>, _>>()?;
    println!("{}", json!({"held": held.len()}));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(json!({"held": held.len()}))
}
