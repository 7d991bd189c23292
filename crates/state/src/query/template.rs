//! Queries that are patterns: texts with variables, filled in when the query is executed by a name.
//!
//! Of the original's little language this knows the variables that queries are made of and nothing else; anything more
//! is refused when the query is created, not when it is needed.

use lictor_model::query::{Query, Template};
use regex::{Regex, RegexBuilder};

/// A compiled expression may take so much memory: it comes from a request.
const LARGEST_REGEX: usize = 1 << 20;

/// A pattern ready to be filled in.
#[derive(Debug)]
pub(crate) struct Pattern {
    regex: Option<Regex>,
}

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Full,
    Prefix,
    Suffix,
    Match(usize),
    Segment,
}

impl Pattern {
    /// Reads a template; all texts in it are tried. The texts of errors are the ones clients know.
    pub(crate) fn compile(query: &Query) -> Result<Pattern, String> {
        Pattern::try_compile(query).map_err(|why| format!("failed compiling template: {why}"))
    }

    fn try_compile(query: &Query) -> Result<Pattern, String> {
        let Template { kind, regexp, remove_empty_tags: _ } = &query.template;
        if kind != Template::NAME_PREFIX {
            return Err(format!("Bad Template.Type '{kind}'"));
        }
        let regex = match regexp.as_str() {
            "" => None,
            text => {
                let compiled = RegexBuilder::new(text).size_limit(LARGEST_REGEX).build();
                Some(compiled.map_err(|error| format!("Bad Regexp: {error}"))?)
            }
        };
        each_text(&mut query.clone(), &mut |path, text| {
            parse(text).map(drop).map_err(|problem| match problem {
                Problem::Format(why) => format!("Bad format '{text}' in {path}: {why}"),
                Problem::Evaluation(why) => format!("Bad evaluation for '{text}' in {path}: {why}"),
            })
        })?;
        Ok(Pattern { regex })
    }

    /// The query for one name.
    pub(crate) fn fill_in(&self, query: &Query, name: &str) -> Query {
        let groups = self.regex.as_ref().and_then(|regex| regex.captures(name));
        // Found without regard to case, so the prefix is as long as the template's name but may be spelled otherwise.
        let suffix = name.get(query.name.len()..).unwrap_or_default();
        let mut filled = query.clone();
        let fill = &mut |_path: &str, text: &mut String| -> Result<(), String> {
            let Ok(pieces) = parse(text) else { return Ok(()) };
            let mut result = String::new();
            for piece in pieces {
                result.push_str(match &piece {
                    Piece::Literal(literal) => literal,
                    Piece::Full => name,
                    Piece::Prefix => &query.name,
                    Piece::Suffix => suffix,
                    Piece::Match(n) => {
                        groups.as_ref().and_then(|groups| groups.get(*n)).map_or("", |group| group.as_str())
                    }
                    Piece::Segment => "",
                });
            }
            *text = result;
            Ok(())
        };
        // It was compiled from the same texts, so there is nothing left to go wrong.
        let _ = each_text(&mut filled, fill);
        if filled.template.remove_empty_tags
            && let Some(tags) = &mut filled.service.tags
        {
            tags.retain(|tag| !tag.is_empty());
        }
        filled
    }
}

/// All texts of the question that may hold variables, with where they stand.
fn each_text(query: &mut Query, visit: &mut impl FnMut(&str, &mut String) -> Result<(), String>) -> Result<(), String> {
    let question = &mut query.service;
    visit("Service.Service", &mut question.service)?;
    let lists = [
        ("Service.Failover.Datacenters", &mut question.failover.datacenters),
        ("Service.IgnoreCheckIDs", &mut question.ignore_check_ids),
        ("Service.Tags", &mut question.tags),
    ];
    for (path, list) in lists {
        for (position, text) in list.iter_mut().flatten().enumerate() {
            visit(&format!("{path}[{position}]"), text)?;
        }
    }
    visit("Service.Near", &mut question.near)?;
    for (path, map) in
        [("Service.NodeMeta", &mut question.node_meta), ("Service.ServiceMeta", &mut question.service_meta)]
    {
        for (key, text) in map.iter_mut().flatten() {
            visit(&format!("{path}[{key}]"), text)?;
        }
    }
    Ok(())
}

enum Problem {
    Format(String),
    Evaluation(String),
}

fn parse(text: &str) -> Result<Vec<Piece>, Problem> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        literal.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            literal.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let start = text.len() - after.len();
            let Some((expression, after)) = after.split_once('}') else {
                return Err(Problem::Format(format!("{}: expected closing brace", position(text, start))));
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(variable(expression).map_err(|problem| {
                let at = position(text, start + (expression.len() - expression.trim_start().len()));
                match problem {
                    Problem::Format(why) => Problem::Format(format!("{at}: {why}")),
                    Problem::Evaluation(why) => Problem::Evaluation(format!("{at}: {why}")),
                }
            })?);
            rest = after;
        } else {
            literal.push('$');
            rest = &rest[1..];
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

fn variable(expression: &str) -> Result<Piece, Problem> {
    let expression = expression.trim();
    match expression {
        "name.full" => return Ok(Piece::Full),
        "name.prefix" => return Ok(Piece::Prefix),
        "name.suffix" => return Ok(Piece::Suffix),
        "agent.segment" => return Ok(Piece::Segment),
        "" => return Err(Problem::Format("expected expression".into())),
        _ => {}
    }
    let is_name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    if is_name(expression) {
        return Err(Problem::Evaluation(format!("unknown variable accessed: {expression}")));
    }
    if let Some((function, arguments)) = expression.strip_suffix(')').and_then(|call| call.split_once('(')) {
        if function.trim() != "match" {
            return Err(Problem::Evaluation(format!("unknown function called: {}", function.trim())));
        }
        // What is out of range is empty, below as above.
        return match arguments.trim().parse::<i64>() {
            Ok(n) => Ok(usize::try_from(n).map_or(Piece::Literal(String::new()), Piece::Match)),
            Err(_) => Err(Problem::Evaluation("match: argument 1 should be type int".into())),
        };
    }
    Err(Problem::Format(
        "only ${name.full}, ${name.prefix}, ${name.suffix}, ${match(N)} and ${agent.segment} are known".into(),
    ))
}

/// Line and column, from one.
fn position(text: &str, offset: usize) -> String {
    let before = &text[..offset.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    format!("{line}:{column}")
}

#[cfg(test)]
mod tests {
    use lictor_model::query::Question;

    use super::*;

    fn template(name: &str, regexp: &str, question: Question) -> Query {
        Query {
            name: name.into(),
            template: Template { kind: Template::NAME_PREFIX.into(), regexp: regexp.into(), remove_empty_tags: true },
            service: question,
            ..Query::default()
        }
    }

    fn asking(service: &str) -> Query {
        template("geo-", "", Question { service: service.into(), ..Question::default() })
    }

    fn fill(query: &Query, name: &str) -> Query {
        Pattern::compile(query).unwrap().fill_in(query, name)
    }

    #[test]
    fn every_text_of_the_question_is_filled_in() {
        let texts = |list: &[&str]| Some(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let mut question =
            Question { service: "${match(1)}".into(), near: "${name.prefix}n".into(), ..Question::default() };
        question.tags = texts(&["${match(2)}", "${match(9)}", "${match(-1)}"]);
        question.failover.datacenters = texts(&["dc-${name.prefix}"]);
        question.node_meta = Some([("rack".to_owned(), "${name.suffix}".to_owned())].into());
        let filled = fill(&template("geo-", "^geo-(.*)-([^-]+)$", question), "geo-many-t1");
        assert_eq!(filled.service.service, "many");
        assert_eq!(filled.service.tags, texts(&["t1"]));
        assert_eq!(filled.service.failover.datacenters, texts(&["dc-geo-"]));
        assert_eq!(filled.service.near, "geo-n");
        assert_eq!(filled.service.node_meta.unwrap()["rack"], "many-t1");
        assert_eq!(filled.name, "geo-");
    }

    #[test]
    fn literal_text_stays_as_it_is() {
        let service = |text: &str, name: &str| fill(&asking(text), name).service.service;
        assert_eq!(service("a$b$${name.full}-${ name.full }", "geo-x"), "a$b${name.full}-geo-x");
        assert_eq!(service("x${agent.segment}y$", "geo-x"), "xy$");
        assert_eq!(service("${match(0)}", "geo-x"), "", "without an expression there is no match");
        assert_eq!(service("${name.suffix}", "GEO-Db"), "Db", "the prefix is cut off by its length");
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused_with_its_place() {
        let why = |text: &str| Pattern::compile(&asking(text)).unwrap_err();
        assert_eq!(
            why("${nope}"),
            "failed compiling template: Bad evaluation for '${nope}' in Service.Service: 1:3: unknown variable accessed: nope"
        );
        assert!(why("${").starts_with("failed compiling template: Bad format '${' in Service.Service: 1:3: "));
        assert!(why("a\n${1 + 2}").contains("in Service.Service: 2:3: only ${name.full}"));
        assert!(why("${upper(name.full)}").ends_with("unknown function called: upper"));
        let bad = Query { template: Template { kind: "bad".into(), ..Template::default() }, ..asking("x") };
        assert_eq!(Pattern::compile(&bad).unwrap_err(), "failed compiling template: Bad Template.Type 'bad'");
        let bad = template("geo-", "(", Question { service: "x".into(), ..Question::default() });
        assert!(Pattern::compile(&bad).unwrap_err().starts_with("failed compiling template: Bad Regexp: "));
        let huge = template("geo-", "(a{1000}){1000}", Question { service: "x".into(), ..Question::default() });
        assert!(Pattern::compile(&huge).unwrap_err().starts_with("failed compiling template: Bad Regexp: "));
    }
}
