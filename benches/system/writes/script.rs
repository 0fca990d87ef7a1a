//! What pgbench is to send: the very statements that the service sends for one
//! creation, as Postgres logged them, so that the two cannot drift apart. What
//! the service draws anew for each client is drawn anew in the script too, and
//! there is a script for each owner.

use std::{collections::HashMap, fmt::Write};

use crate::support::population::Known;

/// The statements of one transaction.
pub struct Script(Vec<Statement>);

struct Statement {
    sql: String,
    /// The parameters as literals, in order.
    parameters: Vec<String>,
}

impl Script {
    /// Finds the last transaction in the log that made a client. A statement is
    /// logged like this:
    ///
    /// ```text
    /// 2026-01-01 12:00:00.000 UTC [123] LOG:  execute s1: SELECT $1
    /// 2026-01-01 12:00:00.000 UTC [123] DETAIL:  parameters: $1 = 'it''s'
    /// ```
    pub fn from_log(log: &str) -> Self {
        let mut sessions: HashMap<&str, Vec<Statement>> = HashMap::new();
        let mut finished = None;
        // What goes over several lines is indented from the second on.
        let log = log.replace("\n\t", " ");
        for line in log.lines() {
            let Some((session, said)) = line
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once("] "))
            else {
                continue;
            };
            let statements = sessions.entry(session).or_default();
            if let Some(parameters) = said.strip_prefix("DETAIL:  parameters: ") {
                let statement = statements.last_mut().expect("parameters of a statement");
                statement.parameters = literals(parameters);
            } else if let Some(sql) = statement(said) {
                if sql.starts_with("BEGIN") {
                    statements.clear();
                }
                statements.push(Statement {
                    sql: sql.to_owned(),
                    parameters: Vec::new(),
                });
                let makes = |statement: &Statement| statement.sql.contains("INTO \"api_clients\"");
                if sql.starts_with("COMMIT") && statements.iter().any(makes) {
                    finished = Some(std::mem::take(statements));
                }
            }
        }
        Self(finished.expect("the log tells of a creation"))
    }

    /// The statements, without their parameters.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|statement| statement.sql.as_str())
    }

    /// A script for pgbench that makes a client like `like`. The statements that
    /// were logged made one like `logged`.
    pub fn text(&self, logged: &Known, like: &Known) -> String {
        let (of_logged, of_like) = (ids(logged), ids(like));
        let mut drawn = Vec::new();
        let mut body = String::new();
        for statement in &self.0 {
            let mut rest = statement.sql.as_str();
            while let Some((before, parameter, after)) = next_parameter(rest) {
                let literal = statement.parameters[parameter - 1].as_str();
                let value = value(literal, &of_logged, &mut drawn);
                write!(body, "{before}{value}").expect("a string grows");
                rest = after;
            }
            writeln!(body, "{rest};").expect("a string grows");
        }
        for (logged, like) in of_logged.iter().zip(&of_like) {
            body = body.replace(logged, like);
        }
        let draw = |number| format!("\\set drawn{number} random(1, 9000000000000000000)\n");
        let draws: String = (0..drawn.len()).map(draw).collect();
        draws + &body
    }
}

/// The statement in what a session logged.
fn statement(said: &str) -> Option<&str> {
    let said = said.strip_prefix("LOG:  ")?;
    let is_statement = said.starts_with("execute ") || said.starts_with("statement: ");
    said.split_once(": ")
        .map(|(_, sql)| sql)
        .filter(|_| is_statement)
}

/// The ids that are one owner's.
fn ids(client: &Known) -> Vec<&str> {
    let user = client.actor.user_id.as_str();
    let sites = client.sites.iter().map(String::as_str);
    std::iter::once(user).chain(sites).collect()
}

/// The literals of `$1 = 'a', $2 = NULL`.
fn literals(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(" = ") {
        let mut end = after.len();
        let mut quoted = false;
        for (at, character) in after.char_indices() {
            match character {
                // A quote inside is two, which cancel each other out.
                '\'' => quoted = !quoted,
                ',' if !quoted => {
                    end = at;
                    break;
                }
                _ => {}
            }
        }
        found.push(after[..end].to_owned());
        rest = &after[end..];
    }
    found
}

/// What is before the next `$n`, n, and what is after it.
fn next_parameter(sql: &str) -> Option<(&str, usize, &str)> {
    let (before, after) = sql.split_once('$')?;
    let end = after.find(|c: char| !c.is_ascii_digit());
    let (number, after) = after.split_at(end.unwrap_or(after.len()));
    Some((before, number.parse().expect("a parameter"), after))
}

/// What stands in the script for a parameter: something drawn anew for an id or
/// a hash that the service drew, the time for a time, and else the literal.
fn value(literal: &str, known: &[&str], drawn: &mut Vec<String>) -> String {
    let text = literal.trim_matches('\'');
    if let Some(elements) = elements(text) {
        let elements = elements.into_iter().map(|element| match element {
            // Only ids may be absent.
            None => "NULL::uuid".to_owned(),
            Some(element) => {
                // What `unnest` makes columns of has to have a type.
                let kind = match element.as_bytes() {
                    [b'[', ..] => "::jsonb",
                    _ if known.contains(&&*element) => "::uuid",
                    _ => "",
                };
                value(&format!("'{element}'"), known, drawn) + kind
            }
        });
        return format!("ARRAY[{}]", elements.collect::<Vec<_>>().join(", "));
    }
    let mut number = || {
        let found = drawn.iter().position(|other| other == text);
        found.unwrap_or_else(|| {
            drawn.push(text.to_owned());
            drawn.len() - 1
        })
    };
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if uuid::Uuid::try_parse(text).is_ok() && !known.contains(&text) {
        return format!("md5(:drawn{})::uuid", number());
    }
    if text.len() == 66 && text.strip_prefix("\\x").is_some_and(is_hex) {
        return format!("sha256(convert_to(:drawn{}, 'UTF8'))", number());
    }
    if chrono::DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").is_ok() {
        return "clock_timestamp()".to_owned();
    }
    if literal.contains(':') {
        // pgbench would take what follows a colon for a variable.
        let escaped = literal.replace('\\', "\\\\").replace(':', "\\x3a");
        return format!("E{escaped}");
    }
    literal.to_owned()
}

/// The elements of an array as Postgres writes it, `{a,"b \"c\"",NULL}`; `None` if it is
/// none, or has none, so that it can stay as it is.
fn elements(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    let (mut element, mut quoted, mut was_quoted) = (String::new(), false, false);
    let mut characters = inner.chars();
    loop {
        match characters.next() {
            Some('\\') => element.extend(characters.next()),
            Some('"') => (quoted, was_quoted) = (!quoted, true),
            Some(character) if quoted || character != ',' => element.push(character),
            end => {
                let text = std::mem::take(&mut element);
                let is_null = !was_quoted && text == "NULL";
                found.push((!is_null).then_some(text));
                was_quoted = false;
                if end.is_none() {
                    return Some(found);
                }
            }
        }
    }
}
