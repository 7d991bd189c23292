//! The load of `cargo xtask bench`, and what it loads: an application behind a proxy, clients of it, and clients of an
//! agent. Each command prints one line of JSON when it is done.

#![allow(clippy::print_stdout, reason = "its output is read by the task that starts it")]

mod agent;
mod application;
mod bare;
mod clients;
mod turns;

use std::process::ExitCode;
use std::time::Duration;

use turns::Problem;

const USAGE: &str = "\
Usage: load <command>

  serve PORT                          the application: answers questions, takes bytes, gives bytes
  bulk PORT up|down STREAMS SECONDS   bytes through connections, one way
  ask PORT CONNECTIONS SECONDS        questions on connections that stay
  connect PORT AT_ONCE SECONDS        a connection for each question
  hold PORT COUNT                     connections that do nothing, until the input ends
  get PORT CONNECTIONS SECONDS PATH   requests to an agent
  dns PORT SOCKETS SECONDS NAME...    questions to an agent: SRV where the name is preceded by `srv:`, A otherwise
  register PORT CONNECTIONS FIRST COUNT NODES SERVICES
                                      instances FIRST to FIRST + COUNT, spread over so many nodes and services
  touch PORT COUNT                    the same instance of `lone` COUNT times, another port each time
  watch PORT COUNT SERVICE            blocking queries, answered by one change for each line of input, until it ends
  names PORT                          a program that answers questions over UDP and does nothing else
  durable PORT FILE                   a program that writes registrations to a file, and does nothing else
  wake PORT COUNT                     as many answers, written at once by a program that does nothing else
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("{}", serde_json::json!({"problem": problem.to_string()}));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Problem> {
    let (command, rest) = words.split_first().ok_or(USAGE)?;
    let number = |at: usize| -> Result<usize, Problem> { Ok(rest.get(at).ok_or(USAGE)?.parse()?) };
    let word = |at: usize| rest.get(at).copied().ok_or(USAGE);
    let seconds = |at: usize| -> Result<Duration, Problem> { Ok(Duration::try_from_secs_f64(word(at)?.parse()?)?) };
    let port = u16::try_from(number(0)?)?;
    let report = match *command {
        "serve" => application::serve(port)?,
        "bulk" => clients::bulk(port, word(1)? == "up", number(2)?, seconds(3)?)?,
        "ask" => clients::ask(port, number(1)?, seconds(2)?)?,
        "connect" => clients::connect(port, number(1)?, seconds(2)?)?,
        "hold" => clients::hold(port, number(1)?)?,
        "get" => agent::get(port, number(1)?, seconds(2)?, word(3)?)?,
        "dns" => agent::dns(port, number(1)?, seconds(2)?, rest.get(3..).unwrap_or_default())?,
        "register" => agent::register(port, number(1)?, number(2)?, number(3)?, number(4)?, number(5)?)?,
        "touch" => agent::touch(port, number(1)?)?,
        "watch" => agent::watch(port, number(1)?, word(2)?)?,
        "names" => bare::names(port)?,
        "durable" => bare::durable(port, word(1)?)?,
        "wake" => agent::wake(port, number(1)?)?,
        _ => return Err(USAGE.into()),
    };
    println!("{report}");
    Ok(())
}
