//! JSON as the original writes it: its escapes, its indentation, its numbers.
//!
//! Clients compare little of this, but scripts search answers as text and recorded answers are compared byte for
//! byte. The differences to plain JSON: `<`, `>`, `&`, U+2028 and U+2029 are escaped, a float without fraction has no
//! point, and pretty answers use four spaces and end with a newline.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// How an answer is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// On one line, without a newline at its end.
    #[default]
    Compact,
    /// Indented by four spaces, with a newline at its end.
    Pretty,
}

/// Writes a value as a JSON text.
pub fn to_vec(value: &impl Serialize, layout: Layout) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(512);
    write(value, layout, &mut text)?;
    Ok(text)
}

/// Writes a value as a JSON text, if that has `longest` bytes at most; stops as soon as it has more.
pub fn to_vec_within(value: &impl Serialize, layout: Layout, longest: usize) -> serde_json::Result<Option<Vec<u8>>> {
    let mut text = Within { text: Vec::with_capacity(512), longest, is_longer: false };
    match write(value, layout, &mut text) {
        Ok(()) => Ok(Some(text.text)),
        Err(_) if text.is_longer => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(value: &impl Serialize, layout: Layout, mut text: impl Write) -> serde_json::Result<()> {
    match layout {
        Layout::Compact => value.serialize(&mut Serializer::with_formatter(text, Escaping(CompactFormatter))),
        Layout::Pretty => {
            let pretty = PrettyFormatter::with_indent(b"    ");
            value.serialize(&mut Serializer::with_formatter(&mut text, Escaping(pretty)))?;
            text.write_all(b"\n").map_err(serde_json::Error::io)
        }
    }
}

/// A text that does not grow beyond a length.
struct Within {
    text: Vec<u8>,
    longest: usize,
    is_longer: bool,
}

impl Write for Within {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > self.longest - self.text.len() {
            self.is_longer = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds the original's escapes and numbers to the layout of another formatter.
struct Escaping<F>(F);

/// The layout methods that pass through unchanged.
macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            fn $method<W: ?Sized + Write>(&mut self, writer: &mut W $(, $argument: $type)*) -> io::Result<()> {
                self.0.$method(writer $(, $argument)*)
            }
        )*
    };
}

impl<F: Formatter> Formatter for Escaping<F> {
    forward! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        let mut written = 0;
        for (at, byte) in bytes.iter().enumerate() {
            let (escape, length) = match byte {
                b'<' => ("\\u003c", 1),
                b'>' => ("\\u003e", 1),
                b'&' => ("\\u0026", 1),
                0xe2 if bytes[at..].starts_with("\u{2028}".as_bytes()) => ("\\u2028", 3),
                0xe2 if bytes[at..].starts_with("\u{2029}".as_bytes()) => ("\\u2029", 3),
                _ => continue,
            };
            writer.write_all(&bytes[written..at])?;
            writer.write_all(escape.as_bytes())?;
            written = at + length;
        }
        writer.write_all(&bytes[written..])
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Backspace => writer.write_all(b"\\u0008"),
            CharEscape::FormFeed => writer.write_all(b"\\u000c"),
            escape => self.0.write_char_escape(writer, escape),
        }
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, number: f64) -> io::Result<()> {
        let size = number.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            write!(writer, "{number}")
        } else {
            write_scientific(writer, &format!("{number:e}"))
        }
    }

    fn write_f32<W: ?Sized + Write>(&mut self, writer: &mut W, number: f32) -> io::Result<()> {
        let size = number.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            write!(writer, "{number}")
        } else {
            write_scientific(writer, &format!("{number:e}"))
        }
    }
}

/// Writes `1e21` as `1e+21`; small numbers have their sign already.
fn write_scientific<W: ?Sized + Write>(writer: &mut W, text: &str) -> io::Result<()> {
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => write!(writer, "{digits}e+{exponent}"),
        _ => writer.write_all(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: impl Serialize, expected: &str) {
        assert_eq!(String::from_utf8(to_vec(&value, Layout::Compact).unwrap()).unwrap(), expected);
    }

    #[test]
    fn strings_are_escaped_as_the_original_does() {
        check("a => b & <c>", r#""a =\u003e b \u0026 \u003cc\u003e""#);
        check("\u{2028}x\u{2029}\u{2027}é", "\"\\u2028x\\u2029\u{2027}é\"");
        check("\u{8}\u{c}\n\r\t\"\\\u{1}\u{7f}", "\"\\u0008\\u000c\\n\\r\\t\\\"\\\\\\u0001\u{7f}\"");
        check(json!({"<": 1}), r#"{"\u003c":1}"#);
    }

    #[test]
    fn a_text_is_written_up_to_a_length() {
        for layout in [Layout::Compact, Layout::Pretty] {
            let value = json!({"a": [1, "x".repeat(100)]});
            let whole = to_vec(&value, layout).unwrap();
            assert_eq!(to_vec_within(&value, layout, whole.len()).unwrap().as_ref(), Some(&whole));
            assert_eq!(to_vec_within(&value, layout, whole.len() - 1).unwrap(), None);
        }
    }

    #[test]
    fn floats_have_no_needless_point() {
        check([5.0, 0.00001, 1.5, -0.25, 1e20], "[5,0.00001,1.5,-0.25,100000000000000000000]");
        check([1e21, 1.5e-7, -2e300], "[1e+21,1.5e-7,-2e+300]");
        check([0.1f32, 3.0f32], "[0.1,3]");
        check(f64::NAN, "null");
    }

    #[test]
    fn pretty_text_has_four_spaces_and_a_newline() {
        let text = to_vec(&json!({"a": [1, {}], "b": [], "c": null}), Layout::Pretty).unwrap();
        let expected = "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": [],\n    \"c\": null\n}\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert_eq!(to_vec(&json!([]), Layout::Pretty).unwrap(), b"[]\n");
        assert_eq!(to_vec(&json!([]), Layout::Compact).unwrap(), b"[]");
    }
}
