//! The words of HCL 1: from characters to tokens.

use std::fmt;

use serde_json::Number;

use super::{Fault, Parsed, fault};
use crate::tree;

/// One word.
#[derive(Debug)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Text(String),
    Number(Number),
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    /// `=`, and `:` as JSON would write it.
    Assign,
    Comma,
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(f, "{word}"),
            Token::Text(_) => f.write_str("STRING"),
            Token::Number(number) => write!(f, "{number}"),
            Token::OpenBrace => f.write_str("'{'"),
            Token::CloseBrace => f.write_str("'}'"),
            Token::OpenBracket => f.write_str("'['"),
            Token::CloseBracket => f.write_str("']'"),
            Token::Assign => f.write_str("'='"),
            Token::Comma => f.write_str("','"),
            Token::End => f.write_str("EOF"),
        }
    }
}

pub(super) struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Lexer { source, at: 0, line: 1 }
    }

    /// Line of the token read last (its end).
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// The next token and where it starts.
    pub(super) fn token(&mut self) -> Parsed<(usize, Token<'a>)> {
        self.blanks_and_comments()?;
        let at = self.at;
        let Some(first) = self.peek() else { return Ok((at, Token::End)) };
        let single = match first {
            '{' => Some(Token::OpenBrace),
            '}' => Some(Token::CloseBrace),
            '[' => Some(Token::OpenBracket),
            ']' => Some(Token::CloseBracket),
            '=' | ':' => Some(Token::Assign),
            ',' => Some(Token::Comma),
            _ => None,
        };
        if let Some(token) = single {
            self.at += 1;
            return Ok((at, token));
        }
        let token = match first {
            '"' => Token::Text(self.text()?),
            '<' => Token::Text(self.heredoc()?),
            '-' | '.' | '0'..='9' => Token::Number(self.number()?),
            c if is_letter(c) => Token::Word(self.word()),
            c => return fault(at, format!("illegal character {c:?}")),
        };
        Ok((at, token))
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn count_lines(&mut self, text: &str) {
        let lines = text.bytes().filter(|b| *b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
    }

    fn blanks_and_comments(&mut self) -> Parsed<()> {
        loop {
            let blanks = self.take_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
            self.count_lines(blanks);
            let rest = self.rest();
            if rest.starts_with('#') || rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            } else if let Some(inside) = rest.strip_prefix("/*") {
                let Some(length) = inside.find("*/") else {
                    return fault(self.at, "comment not terminated");
                };
                let comment = &rest[..length + 4];
                self.count_lines(comment);
                self.at += comment.len();
            } else if rest.starts_with('/') {
                return fault(self.at, "expected '/' or '*' for a comment");
            } else {
                return Ok(());
            }
        }
    }

    fn word(&mut self) -> &'a str {
        self.take_while(|c| is_letter(c) || c.is_numeric() || c == '-' || c == '.')
    }

    /// A quoted text. Between `${` and its brace everything is kept as it is, quotes and line ends included.
    fn text(&mut self) -> Parsed<String> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            text.push_str(self.take_while(|c| !matches!(c, '"' | '\\' | '\n' | '$')));
            match self.peek() {
                Some('"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some('\\') => text.push(self.escape()?),
                Some('$') if self.rest().starts_with("${") => {
                    let kept = self.interpolation(start)?;
                    text.push_str(kept);
                }
                Some('$') => {
                    self.at += 1;
                    text.push('$');
                }
                Some(_) | None => return fault(start, "literal not terminated"),
            }
        }
    }

    fn interpolation(&mut self, start: usize) -> Parsed<&'a str> {
        let rest = self.rest();
        let mut open = 0_usize;
        let mut escaped = false;
        for (offset, byte) in rest.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'{' => open += 1,
                b'}' => {
                    open -= 1;
                    if open == 0 {
                        let kept = &rest[..=offset];
                        self.count_lines(kept);
                        self.at += kept.len();
                        return Ok(kept);
                    }
                }
                _ => {}
            }
        }
        fault(start, "literal not terminated: '${' without its '}'")
    }

    fn escape(&mut self) -> Parsed<char> {
        let start = self.at;
        self.at += 1;
        let Some(kind) = self.peek() else { return fault(start, "literal not terminated") };
        let simple = match kind {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '"' => Some(kind),
            _ => None,
        };
        if let Some(character) = simple {
            self.at += 1;
            return Ok(character);
        }
        let (prefix, length, radix) = match kind {
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            '0'..='7' => (0, 3, 8),
            _ => return fault(start, "illegal char escape"),
        };
        self.at += prefix;
        let code = self.rest().get(..length).and_then(|digits| code(digits, radix));
        match code.and_then(char::from_u32) {
            Some(character) => {
                self.at += length;
                Ok(character)
            }
            None => fault(start, "illegal char escape"),
        }
    }

    /// `<<NAME` or `<<-NAME`, then lines up to one that holds only the name.
    fn heredoc(&mut self) -> Parsed<String> {
        let start = self.at;
        let Some(opening) = self.rest().strip_prefix("<<") else {
            return fault(start, "heredoc expected second '<'");
        };
        let indented = opening.starts_with('-');
        self.at += if indented { 3 } else { 2 };
        let name = self.take_while(|c| is_letter(c) || c.is_numeric());
        if name.is_empty() {
            return fault(start, "zero-length heredoc anchor");
        }
        self.take_while(|c| c == '\r');
        if !self.rest().starts_with('\n') {
            return fault(self.at, "invalid characters in heredoc anchor");
        }
        self.at += 1;
        let body = self.rest();
        let mut offset = 0;
        for line in body.split_inclusive('\n') {
            let bare = line.trim_end_matches(['\n', '\r']);
            if bare.trim_start_matches([' ', '\t']) == name {
                let margin = &bare[..bare.len() - name.len()];
                let content = &body[..offset];
                self.at += offset + bare.len();
                self.line = self.line.saturating_add(1); // the line of the anchor
                self.count_lines(content);
                return Ok(if indented { unindent(content, margin) } else { content.to_owned() });
            }
            offset += line.len();
        }
        fault(start, "heredoc not terminated")
    }

    fn number(&mut self) -> Parsed<Number> {
        let start = self.at;
        let text = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_'));
        number(text).ok_or_else(|| Fault { at: start, text: format!("illegal number {text}") })
    }
}

/// Takes the margin of the closing line away from all lines; if one of them has less, none is changed.
fn unindent(content: &str, margin: &str) -> String {
    if !content.split_inclusive('\n').all(|line| line.starts_with(margin)) {
        return content.to_owned();
    }
    content.split_inclusive('\n').map(|line| &line[margin.len()..]).collect()
}

fn code(digits: &str, radix: u32) -> Option<u32> {
    if digits.chars().all(|c| c.is_digit(radix)) { u32::from_str_radix(digits, radix).ok() } else { None }
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] if digits.bytes().all(|b| b.is_ascii_digit()) => (8, &digits[1..]),
        _ => (10, digits),
    };
    if radix != 10 || digits.bytes().all(|b| b.is_ascii_digit()) {
        let whole = digits.chars().all(|c| c.is_digit(radix)).then(|| i128::from_str_radix(digits, radix).ok())??;
        return i64::try_from(if negative { -whole } else { whole }).ok().map(Number::from);
    }
    let plain = digits.starts_with(|c: char| c == '.' || c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let value: f64 = if plain { digits.parse().ok()? } else { return None };
    tree::number(if negative { -value } else { value })
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}
