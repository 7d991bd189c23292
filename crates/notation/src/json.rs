//! JSON, strictly: our own reader, because clients know the texts of the errors and files need lines.
//!
//! The last of several equal keys wins. A byte order mark before the first value is skipped.

use std::borrow::Cow;

use serde_json::Number;

use crate::position::{MAX_DEPTH, SyntaxError, without_mark};
use crate::tree::{Object, Tree, number};

/// What is wrong, before anybody asked where.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing but blanks.
    Empty,
    /// The text ends inside a value.
    Truncated,
    /// A character that cannot stand there, and other mistakes.
    At(usize, String),
}

/// Most values in the body of a request, those inside of others included. Read, each takes many times the room of the two
/// bytes that it may have been written with.
pub const MOST_VALUES: usize = 65_536;

/// Reads a text that is one JSON value and nothing else (configuration files).
pub fn parse(source: &str) -> Result<Tree, SyntaxError> {
    let source = without_mark(source);
    parse_whole(source, Repeated::LastWins)
}

/// JSON text inside an `.hcl` file: the grammar of JSON, with HCL's memory of repeated keys.
pub(crate) fn parse_in_hcl(source: &str) -> Result<Tree, SyntaxError> {
    parse_whole(source, Repeated::Kept)
}

fn parse_whole(source: &str, repeated: Repeated) -> Result<Tree, SyntaxError> {
    let mut reader = Reader::new(source.as_bytes(), repeated, usize::MAX);
    let whole = reader.value(0).and_then(|tree| {
        reader.blanks();
        match reader.peek() {
            None => Ok(tree),
            Some(_) => Err(reader.unexpected("after top-level value")),
        }
    });
    whole.map_err(|fault| match fault {
        Fault::Empty | Fault::Truncated => SyntaxError::at(source, source.len(), "unexpected end of JSON input"),
        Fault::At(offset, text) => SyntaxError::at(source, offset, text),
    })
}

/// Reads the first value of an HTTP body and ignores what follows; errors have the texts clients know.
///
/// Bytes that are not UTF-8 become replacement characters, as in the original. A body of more than [`MOST_VALUES`] is
/// refused as soon as that is known.
pub fn decode_first(body: &[u8]) -> Result<Tree, String> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    Reader::new(body, Repeated::LastWins, MOST_VALUES).value(0).map_err(|fault| match fault {
        Fault::Empty => "EOF".to_owned(),
        Fault::Truncated => "unexpected EOF".to_owned(),
        Fault::At(_, text) => text,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    LastWins,
    Kept,
}

struct Reader<'a> {
    source: &'a [u8],
    at: usize,
    line: u32,
    repeated: Repeated,
    /// How many values there may still be.
    left: usize,
}

impl<'a> Reader<'a> {
    fn new(source: &'a [u8], repeated: Repeated, most: usize) -> Self {
        Reader { source, at: 0, line: 1, repeated, left: most }
    }

    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.line = self.line.saturating_add(u32::from(self.source[self.at] == b'\n'));
            self.at += 1;
        }
    }

    /// The next byte that is not blank; its absence means that the text ended too early.
    fn after_blanks(&mut self) -> Result<u8, Fault> {
        self.blanks();
        self.peek().ok_or(Fault::Truncated)
    }

    fn unexpected(&self, context: &str) -> Fault {
        let character =
            match String::from_utf8_lossy(&self.source[self.at..self.source.len().min(self.at + 4)]).chars().next() {
                None => return Fault::Truncated,
                Some('\'') => r"'\''".to_owned(),
                Some('"') => "'\"'".to_owned(),
                Some(c) if c.is_control() => format!("'{}'", control(c)),
                Some(c) => format!("'{c}'"),
            };
        Fault::At(self.at, format!("invalid character {character} {context}"))
    }

    fn value(&mut self, depth: usize) -> Result<Tree, Fault> {
        self.blanks();
        let Some(first) = self.peek() else {
            return Err(if depth == 0 { Fault::Empty } else { Fault::Truncated });
        };
        if depth > MAX_DEPTH {
            return Err(Fault::At(self.at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return Err(Fault::At(self.at, format!("more than {MOST_VALUES} values"))),
        };
        match first {
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => self.text().map(Tree::Text),
            b't' => self.word("true", Tree::Bool(true)),
            b'f' => self.word("false", Tree::Bool(false)),
            b'n' => self.word("null", Tree::Null),
            b'-' | b'0'..=b'9' => self.number().map(Tree::Number),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Tree, Fault> {
        let mut object = Object::starting_at(self.line);
        self.at += 1;
        if self.after_blanks()? == b'}' {
            self.at += 1;
            return Ok(Tree::Object(object));
        }
        loop {
            if self.after_blanks()? != b'"' {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let line = self.line;
            let key = self.text()?;
            if self.after_blanks()? != b':' {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            match self.repeated {
                Repeated::LastWins => object.replace(key, line, value),
                Repeated::Kept => object.append(key, line, false, value),
            }
            match self.after_blanks()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(Tree::Object(object));
                }
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Tree, Fault> {
        let mut items = Vec::new();
        self.at += 1;
        if self.after_blanks()? == b']' {
            self.at += 1;
            return Ok(Tree::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.after_blanks()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(Tree::List(items));
                }
                _ => return Err(self.unexpected("after array element")),
            }
        }
    }

    fn word(&mut self, word: &'static str, tree: Tree) -> Result<Tree, Fault> {
        for wanted in word.bytes() {
            if self.peek().ok_or(Fault::Truncated)? != wanted {
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", char::from(wanted))));
            }
            self.at += 1;
        }
        Ok(tree)
    }

    fn number(&mut self) -> Result<Number, Fault> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek().ok_or(Fault::Truncated)? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        let mut integral = true;
        if self.peek() == Some(b'.') {
            integral = false;
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integral = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        let text = std::str::from_utf8(&self.source[start..self.at]).unwrap_or_default();
        // Flags of locks use all 64 bits.
        let whole = || text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
        let exact = if integral { whole().ok() } else { None };
        exact
            .or_else(|| text.parse::<f64>().ok().filter(|value| value.is_finite()).and_then(number))
            .ok_or_else(|| Fault::At(start, format!("number {text} is out of range")))
    }

    fn digits(&mut self) {
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Result<(), Fault> {
        match self.peek() {
            Some(b'0'..=b'9') => {
                self.digits();
                Ok(())
            }
            _ => Err(self.unexpected(context)),
        }
    }

    fn text(&mut self) -> Result<String, Fault> {
        self.at += 1;
        // Nearly every text is one piece, which is then copied once.
        let mut text = self.plain().into_owned();
        loop {
            match self.peek().ok_or(Fault::Truncated)? {
                b'"' => {
                    self.at += 1;
                    return Ok(text);
                }
                b'\\' => {
                    self.at += 1;
                    text.push(self.escape()?);
                    text.push_str(&self.plain());
                }
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    /// What stands here of a text, up to its end, an escape, or what cannot stand in a text.
    fn plain(&mut self) -> Cow<'a, str> {
        let rest = &self.source[self.at..];
        let length = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
        self.at += length;
        String::from_utf8_lossy(&rest[..length])
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let character = match self.peek().ok_or(Fault::Truncated)? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(character)
    }

    /// `\uXXXX`, or two of them for a character beyond the first plane; half a pair is a replacement character.
    fn unicode(&mut self) -> Result<char, Fault> {
        let first = self.hex()?;
        if let Some(character) = char::from_u32(first) {
            return Ok(character);
        }
        let after_first = self.at;
        if first < 0xdc00 && self.source[self.at..].starts_with(b"\\u") {
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let both = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(both).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = after_first;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or(Fault::Truncated)?;
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }
}

fn control(character: char) -> String {
    match character {
        '\u{7}' => r"\a".to_owned(),
        '\u{8}' => r"\b".to_owned(),
        '\u{c}' => r"\f".to_owned(),
        '\n' => r"\n".to_owned(),
        '\r' => r"\r".to_owned(),
        '\t' => r"\t".to_owned(),
        '\u{b}' => r"\v".to_owned(),
        other => format!("\\x{:02x}", u32::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tree::OneObjectList;

    fn read(source: &str) -> serde_json::Value {
        parse(source).unwrap().to_value(OneObjectList::Keep)
    }

    fn error(source: &str) -> String {
        parse(source).unwrap_err().to_string()
    }

    fn http_error(body: &str) -> String {
        decode_first(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_body_of_many_values_is_refused_before_it_fills_the_memory() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(decode_first(list(MOST_VALUES - 1).as_bytes()).is_ok());
        assert_eq!(http_error(&list(MOST_VALUES)), "more than 65536 values");
        // It is known long before the text ends, or turns out to be none.
        assert_eq!(
            http_error(&format!("{{\"a\": {}", "[[".to_owned() + &"{},".repeat(MOST_VALUES))),
            "more than 65536 values"
        );
        assert!(parse(&list(2 * MOST_VALUES)).is_ok(), "files are the operator's");
    }

    #[test]
    fn values_are_read_as_they_are() {
        assert_eq!(
            read(
                r#" {"a": [1, -2.5, 1e3, true, false, null], "b": {"c": "x\n\u00e9\ud83d\ude00\/"}, "d": {}, "e": []} "#
            ),
            json!({"a": [1, -2.5, 1000, true, false, null], "b": {"c": "x\né😀/"}, "d": {}, "e": []})
        );
        assert_eq!(read("9007199254740993"), json!(9_007_199_254_740_993_i64));
        assert_eq!(read("2.0"), json!(2));
        assert_eq!(read("\u{feff}{}"), json!({}));
        assert_eq!(read(r#""\ud800x""#), json!("\u{fffd}x"));
        assert_eq!(read(r#""\ud800\u0041""#), json!("\u{fffd}A"));
    }

    #[test]
    fn the_last_of_equal_keys_wins() {
        assert_eq!(read(r#"{"a": {"x": 1}, "a": {"y": 2}}"#), json!({"a": {"y": 2}}));
    }

    #[test]
    fn errors_of_files_have_line_and_column() {
        assert_eq!(error("{\n  \"a\": x\n}"), "2:8: invalid character 'x' looking for beginning of value");
        assert_eq!(error("{\"a\": 1,}"), "1:9: invalid character '}' looking for beginning of object key string");
        assert_eq!(error("[1 2]"), "1:4: invalid character '2' after array element");
        assert_eq!(error("{\"a\" 1}"), "1:6: invalid character '1' after object key");
        assert_eq!(error("{\"a\": 1 \"b\"}"), "1:9: invalid character '\"' after object key:value pair");
        assert_eq!(error("{} {}"), "1:4: invalid character '{' after top-level value");
        assert_eq!(error("{ // no\n}"), "1:3: invalid character '/' looking for beginning of object key string");
        assert_eq!(error("tru "), "1:4: invalid character ' ' in literal true (expecting 'e')");
        assert_eq!(error("\"a\nb\""), "1:3: invalid character '\\n' in string literal");
        assert_eq!(error("\"\\q\""), "1:3: invalid character 'q' in string escape code");
        assert_eq!(error("01"), "1:2: invalid character '1' after top-level value");
        assert_eq!(error("1."), "1:3: unexpected end of JSON input");
        assert_eq!(error(" "), "1:2: unexpected end of JSON input");
        assert_eq!(error("{\"a\":"), "1:6: unexpected end of JSON input");
        assert_eq!(error("1e999"), "1:1: number 1e999 is out of range");
        assert_eq!(error("'a'"), r"1:1: invalid character '\'' looking for beginning of value");
    }

    #[test]
    fn bodies_have_the_texts_clients_know_and_may_have_a_tail() {
        assert_eq!(http_error(""), "EOF");
        assert_eq!(http_error(" \n"), "EOF");
        assert_eq!(http_error("{"), "unexpected EOF");
        assert_eq!(http_error("{\"a\": \"b"), "unexpected EOF");
        assert_eq!(http_error("x"), "invalid character 'x' looking for beginning of value");
        assert_eq!(decode_first(b"[] trailing").unwrap(), Tree::List(Vec::new()));
        assert_eq!(decode_first(b"\"a\xff\"").unwrap(), Tree::Text("a\u{fffd}".into()));
    }

    #[test]
    fn nesting_has_a_limit_and_no_stack_is_exhausted() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&deep(MAX_DEPTH)).is_ok());
        assert!(parse(&deep(MAX_DEPTH + 2)).unwrap_err().text.starts_with("nested deeper than"));
        assert!(parse(&"[".repeat(1_000_000)).is_err());
        assert!(parse(&"{\"a\":".repeat(1_000_000)).is_err());
    }
}
