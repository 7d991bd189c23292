//! The syntax of templates: text, and between `{{` and `}}` pipelines, conditions and loops.

use std::iter::Peekable;
use std::vec;

use super::MAX_DEPTH;

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    Value(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { over: Pipeline, each: Vec<Node>, otherwise: Vec<Node> },
}

/// Calls whose results are handed on, `a | b | c`, perhaps kept in a variable.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pipeline {
    pub(super) variable: Option<String>,
    pub(super) calls: Vec<Call>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) function: Operand,
    pub(super) arguments: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Text(String),
    Number(i64),
    Bool(bool),
    Dot,
    Field(String),
    Variable(String, Option<String>),
    Function(String),
    Nested(Box<Pipeline>),
}

/// A word between the braces.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Operand(Operand),
    Pipe,
    Declare,
    Open,
    Close,
}

enum Piece {
    Text(String),
    Action(Vec<Token>),
}

type Pieces = Peekable<vec::IntoIter<Piece>>;

pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut pieces = pieces(text)?.into_iter().peekable();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::Else(_) => Err("unexpected {{else}}".into()),
        Stop::End => Err("unexpected {{end}}".into()),
    }
}

/// Cuts a text at its braces; `{{-` and `-}}` take the blanks beside them away.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = action_end(after)?;
        let mut before = if trim_next { before.trim_start() } else { before };
        let mut action = action;
        if let Some(trimmed) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = trimmed;
        }
        trim_next = false;
        if let Some(trimmed) = action.strip_suffix(" -") {
            trim_next = true;
            action = trimmed;
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            pieces.push(Piece::Action(tokens(action)?));
        }
        rest = after;
    }
    let rest = if trim_next { rest.trim_start() } else { rest };
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// The text up to the closing braces, which do not count inside quotes.
fn action_end(text: &str) -> Result<(&str, &str), String> {
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(character),
            (None, '}') if text[at..].starts_with("}}") => return Ok((&text[..at], &text[at + 2..])),
            (None, _) => {}
        }
    }
    Err("unclosed action".into())
}

fn tokens(action: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = action.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let (token, length) = match first {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '"' => quoted(rest)?,
            '`' => {
                let end = rest[1..].find('`').ok_or("unterminated raw quoted string")?;
                (Token::Operand(Operand::Text(rest[1..=end].to_owned())), end + 2)
            }
            '.' => {
                let length = word(&rest[1..]);
                let name = &rest[1..=length];
                let operand = if name.is_empty() { Operand::Dot } else { Operand::Field(name.to_owned()) };
                (Token::Operand(operand), length + 1)
            }
            '$' => {
                let length = 1 + word(&rest[1..]);
                let name = rest[1..length].to_owned();
                match rest[length..].strip_prefix('.') {
                    Some(field) if word(field) > 0 => {
                        let end = word(field);
                        let field = field[..end].to_owned();
                        (Token::Operand(Operand::Variable(name, Some(field))), length + 1 + end)
                    }
                    _ => (Token::Operand(Operand::Variable(name, None)), length),
                }
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                let end = 1 + rest[1..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - 1);
                let number = rest[..end].parse().map_err(|_| format!("bad number syntax: {:?}", &rest[..end]))?;
                (Token::Operand(Operand::Number(number)), end)
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = word(rest);
                let operand = match &rest[..end] {
                    "true" => Operand::Bool(true),
                    "false" => Operand::Bool(false),
                    name => Operand::Function(name.to_owned()),
                };
                (Token::Operand(operand), end)
            }
            other => return Err(format!("unexpected {other:?} in command")),
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn quoted(rest: &str) -> Result<(Token, usize), String> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((Token::Operand(Operand::Text(text)), at + 1)),
            '\\' => match characters.next().map(|(_, escaped)| escaped) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some(escaped @ ('"' | '\\')) => text.push(escaped),
                _ => return Err("unknown escape in a quoted string".into()),
            },
            other => text.push(other),
        }
    }
    Err("unterminated quoted string".into())
}

/// What ended a block; the words after `else`.
enum Stop {
    Text,
    Else(Vec<Token>),
    End,
}

fn block(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Stop), String> {
    if depth > MAX_DEPTH {
        return Err("nested too deeply".into());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        match action.split_first() {
            None => return Err("missing value for command".into()),
            Some((Token::Operand(Operand::Function(word)), rest)) => match word.as_str() {
                "end" if rest.is_empty() => return Ok((nodes, Stop::End)),
                "else" => return Ok((nodes, Stop::Else(rest.to_vec()))),
                "if" | "with" | "range" => nodes.push(control(word, rest.to_vec(), pieces, depth)?),
                _ => nodes.push(Node::Value(pipeline(action, 0)?)),
            },
            Some(_) => nodes.push(Node::Value(pipeline(action, 0)?)),
        }
    }
    Ok((nodes, Stop::Text))
}

fn control(word: &str, head: Vec<Token>, pieces: &mut Pieces, depth: usize) -> Result<Node, String> {
    let head = pipeline(head, 0)?;
    let (then, end) = block(pieces, depth + 1)?;
    let otherwise = match end {
        Stop::End => Vec::new(),
        Stop::Text => return Err(format!("{{{{{word}}}}} without {{{{end}}}}")),
        Stop::Else(rest) if rest.is_empty() => match block(pieces, depth + 1)? {
            (otherwise, Stop::End) => otherwise,
            _ => return Err(format!("{{{{{word}}}}} without {{{{end}}}}")),
        },
        Stop::Else(rest) => match rest.split_first() {
            // `else if` shares the `end` of the first one.
            Some((Token::Operand(Operand::Function(next)), rest)) if next == "if" && word == "if" => {
                vec![control("if", rest.to_vec(), pieces, depth + 1)?]
            }
            _ => return Err("unexpected words after else".into()),
        },
    };
    Ok(match word {
        "if" => Node::If { condition: head, then, otherwise },
        "with" => Node::With { value: head, then, otherwise },
        _ => Node::Range { over: head, each: then, otherwise },
    })
}

fn pipeline(tokens: Vec<Token>, depth: usize) -> Result<Pipeline, String> {
    let mut tokens = tokens.into_iter().peekable();
    let pipeline = piped(&mut tokens, depth)?;
    match tokens.next() {
        None => Ok(pipeline),
        Some(_) => Err("unexpected )".into()),
    }
}

fn piped(tokens: &mut Peekable<vec::IntoIter<Token>>, depth: usize) -> Result<Pipeline, String> {
    if depth > MAX_DEPTH {
        return Err("nested too deeply".into());
    }
    let mut operands: Vec<Operand> = Vec::new();
    let mut pipeline = Pipeline { variable: None, calls: Vec::new() };
    loop {
        let token = match tokens.peek() {
            None | Some(Token::Close) => None,
            Some(_) => tokens.next(),
        };
        match token {
            Some(Token::Operand(operand)) => operands.push(operand),
            Some(Token::Open) => {
                let inner = piped(tokens, depth + 1)?;
                if tokens.next() != Some(Token::Close) {
                    return Err("unclosed left paren".into());
                }
                operands.push(Operand::Nested(Box::new(inner)));
            }
            Some(Token::Declare) => match (operands.pop(), operands.is_empty(), pipeline.calls.is_empty()) {
                (Some(Operand::Variable(name, None)), true, true) if pipeline.variable.is_none() => {
                    pipeline.variable = Some(name);
                }
                _ => return Err("unexpected := in command".into()),
            },
            Some(Token::Close) => return Err("unexpected )".into()),
            end @ (Some(Token::Pipe) | None) => {
                let mut operands = std::mem::take(&mut operands).into_iter();
                let function = operands.next().ok_or("missing value for command")?;
                pipeline.calls.push(Call { function, arguments: operands.collect() });
                if end.is_none() {
                    return Ok(pipeline);
                }
            }
        }
    }
}
