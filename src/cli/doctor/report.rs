//! What `doctor` found, for people and for programs.

use serde_json::{Value, json};

use super::{Failure, print};
use crate::domain::token::without_tokens;

/// The width of the longest name of a check.
const NAME_WIDTH: usize = 14;

/// The result of a check.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    status: Status,
    message: String,
    /// What to do about it; empty if it is good.
    advice: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    /// A server works, but not as it should, or not for long.
    Warning,
    /// A server does not work.
    Error,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Finding {
    /// All is well.
    pub(super) fn ok(message: impl Into<String>) -> Self {
        Self::new(Status::Ok, message, "")
    }

    /// A server works, but not as it should, or not for long.
    pub(super) fn warning(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Status::Warning, message, advice)
    }

    /// A server does not work.
    pub(super) fn error(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(Status::Error, message, advice)
    }

    fn new(status: Status, message: impl Into<String>, advice: impl Into<String>) -> Self {
        // One line for each check, whatever an error message contains, and without a token that
        // was given in the place of a file or an address.
        let line = |text: String| {
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            without_tokens(&line).into_owned()
        };
        Self {
            status,
            message: line(message.into()),
            advice: line(advice.into()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Report {
    is_json: bool,
    findings: Vec<(&'static str, Finding)>,
}

impl Report {
    pub(super) const fn new(is_json: bool) -> Self {
        Self {
            is_json,
            findings: Vec::new(),
        }
    }

    /// Adds a finding, and prints it if the output is for people.
    pub(super) fn add(&mut self, check: &'static str, finding: Finding) -> Result<(), Failure> {
        if !self.is_json {
            let Finding {
                status,
                message,
                advice,
            } = &finding;
            let status = status.as_str();
            let separator = if advice.is_empty() { "" } else { ": " };
            print(&format!(
                "{status:<7}  {check:<NAME_WIDTH$}  {message}{separator}{advice}"
            ))?;
        }
        self.findings.push((check, finding));
        Ok(())
    }

    /// Prints all findings if the output is for programs.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        if !self.is_json {
            return Ok(());
        }
        let checks = self.findings.iter().map(|(check, finding)| {
            let advice = Some(&finding.advice).filter(|advice| !advice.is_empty());
            json!({
                "check": check,
                "status": finding.status.as_str(),
                "message": finding.message,
                "advice": advice,
            })
        });
        let checks: Vec<Value> = checks.collect();
        let count = |status| {
            let all = self.findings.iter();
            all.filter(|(_, finding)| finding.status == status).count()
        };
        let report = json!({
            "errors": count(Status::Error),
            "warnings": count(Status::Warning),
            "checks": checks,
        });
        print(&report.to_string())
    }

    pub(super) fn has_errors(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|(_, finding)| finding.status == Status::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let finding = Finding::error("two\nlines", "do\r\n\tthis");
        assert_eq!(finding.message, "two lines");
        assert_eq!(finding.advice, "do this");
    }

    #[test]
    fn a_finding_has_no_token() {
        let token = "hks_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf48My2h";
        let finding = Finding::error(format!("{token} cannot be read"), format!("make {token}"));
        assert_eq!(finding.message, "[token] cannot be read");
        assert_eq!(finding.advice, "make [token]");
    }
}
