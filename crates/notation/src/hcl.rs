//! HCL version 1, the whole grammar that configuration files of the original use.
//!
//! Blocks and assignments, quoted keys, labels, dotted keys, heredocs, three styles of comment, hexadecimal, octal and
//! exponent numbers, optional commas between members and between objects of a list, trailing commas. `"${…}"` is plain
//! text here, only its braces must match. A text that starts with `{` is JSON.
//!
//! Parsers of HCL 2 refuse much of this (one-line blocks with several members, quoted block keys, JSON text, a key
//! twice, blanks between list elements), so none of them could be used.

use crate::position::{MAX_DEPTH, SyntaxError, without_mark};
use crate::tree::{Object, Tree};
use lex::{Lexer, Token};

mod lex;

/// Reads one file or fragment; the result is always an object.
pub fn parse(source: &str) -> Result<Object, SyntaxError> {
    let source = without_mark(source);
    if source.trim_start().starts_with('{') {
        return match crate::json::parse_in_hcl(source)? {
            Tree::Object(object) => Ok(object),
            _ => Err(SyntaxError::at(source, 0, "expected an object")),
        };
    }
    let mut parser = Parser { lexer: Lexer::new(source), ahead: None };
    let whole = parser.members(Until::End, 0);
    whole.map_err(|fault| SyntaxError::at(source, fault.at, fault.text))
}

/// What is wrong at which byte.
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    End,
    Brace,
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Option<(usize, Token<'a>)>,
}

type Parsed<T> = Result<T, Fault>;

impl<'a> Parser<'a> {
    fn next(&mut self) -> Parsed<(usize, Token<'a>)> {
        match self.ahead.take() {
            Some(ahead) => Ok(ahead),
            None => self.lexer.token(),
        }
    }

    fn peek(&mut self) -> Parsed<&Token<'a>> {
        if self.ahead.is_none() {
            self.ahead = Some(self.lexer.token()?);
        }
        Ok(self.ahead.as_ref().map_or(&Token::End, |(_, token)| token))
    }

    fn skip_comma(&mut self) -> Parsed<bool> {
        let comma = matches!(self.peek()?, Token::Comma);
        if comma {
            self.ahead = None;
        }
        Ok(comma)
    }

    fn members(&mut self, until: Until, depth: usize) -> Parsed<Object> {
        let mut object = Object::starting_at(self.lexer.line());
        loop {
            let (at, token) = self.next()?;
            match (token, until) {
                (Token::Word(key), _) => self.member(&mut object, at, key.to_owned(), depth)?,
                (Token::Text(key), _) => self.member(&mut object, at, key, depth)?,
                (Token::End, Until::End) | (Token::CloseBrace, Until::Brace) => return Ok(object),
                (Token::End, Until::Brace) => return fault(at, "object expected closing '}', got: EOF"),
                (other, _) => return fault(at, format!("expected a key, got: {other}")),
            }
            self.skip_comma()?;
        }
    }

    fn member(&mut self, object: &mut Object, at: usize, key: String, depth: usize) -> Parsed<()> {
        let line = self.lexer.line();
        let mut labels = Vec::new();
        let value = loop {
            let (at, token) = self.next()?;
            match token {
                Token::Word(label) => labels.push(label.to_owned()),
                Token::Text(label) => labels.push(label),
                Token::OpenBrace => {
                    break self.nested(at, depth + labels.len(), |parser, depth| {
                        parser.members(Until::Brace, depth).map(Tree::Object)
                    })?;
                }
                Token::Assign if labels.is_empty() => break self.value(depth)?,
                Token::Assign => {
                    return fault(at, format!("a label needs a block: write {key:?} {{ … }} or one key before '='"));
                }
                other => {
                    return fault(
                        at,
                        format!("key '{key}' expected start of object ('{{') or assignment ('='), got: {other}"),
                    );
                }
            }
            if depth + labels.len() > MAX_DEPTH {
                return fault(at, too_deep());
            }
        };
        let inner = labels.into_iter().rev().fold(value, |value, label| {
            let mut outer = Object::starting_at(line);
            outer.append(label, line, true, value);
            Tree::Object(outer)
        });
        if depth == 0 && key.is_empty() {
            return fault(at, "a key cannot be empty");
        }
        object.append(key, line, false, inner);
        Ok(())
    }

    fn nested<T>(&mut self, at: usize, depth: usize, read: impl FnOnce(&mut Self, usize) -> Parsed<T>) -> Parsed<T> {
        if depth >= MAX_DEPTH {
            return fault(at, too_deep());
        }
        read(self, depth + 1)
    }

    fn value(&mut self, depth: usize) -> Parsed<Tree> {
        let (at, token) = self.next()?;
        match token {
            Token::Text(text) => Ok(Tree::Text(text)),
            Token::Number(number) => Ok(Tree::Number(number)),
            Token::Word("true") => Ok(Tree::Bool(true)),
            Token::Word("false") => Ok(Tree::Bool(false)),
            Token::OpenBrace => {
                self.nested(at, depth, |parser, depth| parser.members(Until::Brace, depth).map(Tree::Object))
            }
            Token::OpenBracket => self.nested(at, depth, Self::list),
            Token::Word(word) => fault(at, format!("unknown word {word}; text needs quotes: \"{word}\"")),
            other => fault(at, format!("expected a value, got: {other}")),
        }
    }

    fn list(&mut self, depth: usize) -> Parsed<Tree> {
        let mut items = Vec::new();
        loop {
            if matches!(self.peek()?, Token::CloseBracket) {
                self.ahead = None;
                return Ok(Tree::List(items));
            }
            let item = self.value(depth)?;
            let is_object = matches!(item, Tree::Object(_));
            items.push(item);
            if self.skip_comma()? || matches!(self.peek()?, Token::CloseBracket) {
                continue;
            }
            // Objects may stand beside each other with nothing but blanks between them.
            if is_object && matches!(self.peek()?, Token::OpenBrace) {
                continue;
            }
            let (at, token) = self.next()?;
            return fault(at, format!("error parsing list, expected comma or list end, got: {token}"));
        }
    }
}

fn fault<T>(at: usize, text: impl Into<String>) -> Parsed<T> {
    Err(Fault { at, text: text.into() })
}

fn too_deep() -> String {
    format!("nested deeper than {MAX_DEPTH} levels")
}

#[cfg(test)]
mod tests;
