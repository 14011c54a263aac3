//! A part of OData's `$filter`: comparisons of properties with literals, `startswith`, `endsWith`,
//! `in`, `and`, `or`, `not` and parentheses.

use serde_json::Value;

/// Properties of users and groups by which they can be filtered.
const FILTERABLE: [&str; 16] = [
    "accountEnabled",
    "companyName",
    "department",
    "displayName",
    "givenName",
    "id",
    "jobTitle",
    "mail",
    "mailEnabled",
    "mailNickname",
    "officeLocation",
    "securityEnabled",
    "surname",
    "userPrincipalName",
    "userType",
    "createdDateTime",
];
/// Properties that `endsWith` works on.
const WITH_ENDINGS: [&str; 2] = ["mail", "userPrincipalName"];

/// A parsed filter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ODataFilter {
    And(Box<ODataFilter>, Box<ODataFilter>),
    Or(Box<ODataFilter>, Box<ODataFilter>),
    Not(Box<ODataFilter>),
    Equals(&'static str, Value),
    StartsWith(&'static str, String),
    EndsWith(&'static str, String),
    In(&'static str, Vec<Value>),
}

/// Why a filter is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FilterError {
    /// It cannot be parsed, or names an unknown property.
    Invalid(String),
    /// Graph cannot filter so.
    Unsupported(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FilterToken {
    Word(String),
    Text(String),
    Open,
    Close,
    Comma,
}

impl ODataFilter {
    /// Parses a filter.
    pub(super) fn parse(text: &str) -> Result<Self, FilterError> {
        let mut parser = FilterParser { text, tokens: tokens(text)?, at: 0 };
        let filter = parser.any()?;
        if parser.at < parser.tokens.len() { Err(parser.unexpected()) } else { Ok(filter) }
    }

    /// Whether an object's properties match. Texts are compared without case, as Graph does.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let text = |property: &str| object[property].as_str().unwrap_or_default().to_lowercase();
        let equals = |property: &str, value: &Value| match value.as_str() {
            Some(value) => object[property].is_string() && text(property) == value.to_lowercase(),
            None => object[property] == *value,
        };
        match self {
            Self::And(one, other) => one.matches(object) && other.matches(object),
            Self::Or(one, other) => one.matches(object) || other.matches(object),
            Self::Not(one) => !one.matches(object),
            Self::Equals(property, value) => equals(property, value),
            Self::StartsWith(property, start) => text(property).starts_with(&start.to_lowercase()),
            Self::EndsWith(property, end) => text(property).ends_with(&end.to_lowercase()),
            Self::In(property, values) => values.iter().any(|value| equals(property, value)),
        }
    }

    /// Whether Graph answers it only with `ConsistencyLevel: eventual` and `$count=true`: `ne`,
    /// `not`, `endsWith`, and comparisons with null.
    pub(super) fn is_advanced(&self) -> bool {
        match self {
            Self::And(one, other) | Self::Or(one, other) => {
                one.is_advanced() || other.is_advanced()
            }
            Self::Not(_) | Self::EndsWith(..) | Self::Equals(_, Value::Null) => true,
            Self::Equals(..) | Self::StartsWith(..) | Self::In(..) => false,
        }
    }
}

fn tokens(text: &str) -> Result<Vec<FilterToken>, FilterError> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' => (FilterToken::Open, 1),
            ')' => (FilterToken::Close, 1),
            ',' => (FilterToken::Comma, 1),
            '\'' => {
                // A quote inside is doubled.
                let (mut value, mut at, mut closed) = (String::new(), 1, false);
                while let Some(c) = rest[at..].chars().next() {
                    at += c.len_utf8();
                    if c == '\'' {
                        if !rest[at..].starts_with('\'') {
                            closed = true;
                            break;
                        }
                        at += 1;
                    }
                    value.push(c);
                }
                if !closed {
                    return Err(FilterError::Invalid(format!(
                        "There is an unterminated literal at position {} in '{text}'.",
                        text.len()
                    )));
                }
                (FilterToken::Text(value), at)
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || "(),'".contains(c));
                let word = &rest[..end.unwrap_or(rest.len())];
                (FilterToken::Word(word.to_owned()), word.len())
            }
        };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

struct FilterParser<'a> {
    text: &'a str,
    tokens: Vec<FilterToken>,
    at: usize,
}

impl FilterParser<'_> {
    fn unexpected(&self) -> FilterError {
        FilterError::Invalid(format!("Syntax error at token {} in '{}'.", self.at, self.text))
    }

    fn take(&mut self) -> Result<FilterToken, FilterError> {
        let token = self.tokens.get(self.at).cloned().ok_or_else(|| self.unexpected())?;
        self.at += 1;
        Ok(token)
    }

    fn expect(&mut self, wanted: &FilterToken) -> Result<(), FilterError> {
        if self.take()? == *wanted { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Whether the next token is that word, which is then skipped. Keywords are in lower case.
    fn skip(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at) == Some(&FilterToken::Word(word.to_owned()));
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<ODataFilter, FilterError> {
        let mut filter = self.all()?;
        while self.skip("or") {
            filter = ODataFilter::Or(filter.into(), self.all()?.into());
        }
        Ok(filter)
    }

    fn all(&mut self) -> Result<ODataFilter, FilterError> {
        let mut filter = self.one()?;
        while self.skip("and") {
            filter = ODataFilter::And(filter.into(), self.one()?.into());
        }
        Ok(filter)
    }

    fn one(&mut self) -> Result<ODataFilter, FilterError> {
        if self.skip("not") {
            return Ok(ODataFilter::Not(self.one()?.into()));
        }
        match self.take()? {
            FilterToken::Open => {
                let filter = self.any()?;
                self.expect(&FilterToken::Close)?;
                Ok(filter)
            }
            FilterToken::Word(word) => match word.to_lowercase().as_str() {
                "startswith" => {
                    let (property, text) = self.arguments()?;
                    Ok(ODataFilter::StartsWith(property, text))
                }
                "endswith" => {
                    let (property, text) = self.arguments()?;
                    if !WITH_ENDINGS.contains(&property) {
                        return Err(unsupported(property));
                    }
                    Ok(ODataFilter::EndsWith(property, text))
                }
                _ => self.comparison(property(&word)?),
            },
            _ => Err(self.unexpected()),
        }
    }

    /// The arguments of `startswith` and `endsWith`.
    fn arguments(&mut self) -> Result<(&'static str, String), FilterError> {
        self.expect(&FilterToken::Open)?;
        let FilterToken::Word(word) = self.take()? else { return Err(self.unexpected()) };
        let property = property(&word)?;
        self.expect(&FilterToken::Comma)?;
        let FilterToken::Text(text) = self.take()? else { return Err(self.unexpected()) };
        self.expect(&FilterToken::Close)?;
        Ok((property, text))
    }

    fn comparison(&mut self, property: &'static str) -> Result<ODataFilter, FilterError> {
        if property == "officeLocation" || property == "createdDateTime" {
            return Err(unsupported(property));
        }
        if self.skip("eq") {
            return Ok(ODataFilter::Equals(property, self.literal()?));
        }
        if self.skip("ne") {
            let equals = ODataFilter::Equals(property, self.literal()?);
            return Ok(ODataFilter::Not(equals.into()));
        }
        if !self.skip("in") {
            return Err(self.unexpected());
        }
        self.expect(&FilterToken::Open)?;
        let mut values = vec![self.literal()?];
        while self.tokens.get(self.at) == Some(&FilterToken::Comma) {
            self.at += 1;
            values.push(self.literal()?);
        }
        self.expect(&FilterToken::Close)?;
        Ok(ODataFilter::In(property, values))
    }

    fn literal(&mut self) -> Result<Value, FilterError> {
        match self.take()? {
            FilterToken::Text(text) => Ok(text.into()),
            FilterToken::Word(word) => match word.as_str() {
                "true" => Ok(true.into()),
                "false" => Ok(false.into()),
                "null" => Ok(Value::Null),
                _ => Err(self.unexpected()),
            },
            _ => Err(self.unexpected()),
        }
    }
}

fn property(name: &str) -> Result<&'static str, FilterError> {
    FILTERABLE.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().ok_or_else(|| {
        FilterError::Invalid(format!(
            "Could not find a property named '{name}' on type 'microsoft.graph.user'."
        ))
    })
}

fn unsupported(property: &str) -> FilterError {
    FilterError::Unsupported(format!(
        "Unsupported or invalid query filter clause specified for property '{property}' of \
         resource 'User'."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(filter: &str) -> bool {
        let object = json!({"mail": "Amara.O'Neil@contoso.example", "accountEnabled": true,
            "department": "Sales", "jobTitle": null});
        ODataFilter::parse(filter).unwrap().matches(&object)
    }

    #[test]
    fn filters_are_evaluated_with_their_precedence() {
        for filter in [
            "accountEnabled eq true",
            "mail eq 'amara.o''neil@CONTOSO.example'",
            "startswith(mail,'amara') and department eq 'sales'",
            "department eq 'x' and department eq 'y' or accountEnabled eq true",
            "endsWith(mail, '@contoso.example')",
            "department in ('Marketing', 'Sales')",
            "not (department eq 'Finance')",
            "jobTitle eq null",
            "department ne 'Finance'",
        ] {
            assert!(matches(filter), "{filter}");
        }
        for filter in [
            "accountEnabled eq false",
            "department eq 'x' and (department eq 'y' or accountEnabled eq true)",
            "not startswith(mail,'amara')",
            "jobTitle eq 'null'",
            "accountEnabled eq 'true'",
        ] {
            assert!(!matches(filter), "{filter}");
        }
    }

    #[test]
    fn what_graph_answers_only_eventually_is_known() {
        let advanced = |filter: &str| ODataFilter::parse(filter).unwrap().is_advanced();
        for filter in ["department ne 'x'", "not (mail eq 'x')", "endswith(mail,'x')"] {
            assert!(advanced(filter), "{filter}");
            assert!(advanced(&format!("accountEnabled eq true and {filter}")), "{filter}");
        }
        assert!(!advanced("accountEnabled eq true or startswith(mail,'x')"));
    }

    #[test]
    fn malformed_filters_are_refused() {
        for filter in [
            "",
            "accountEnabled",
            "accountEnabled eq",
            "accountEnabled eq True",
            "accountEnabled EQ true",
            "mail eq 'x",
            "mail eq x",
            "startswith(mail)",
            "(mail eq 'x'",
            "mail eq 'x')",
            "shoeSize eq 'x'",
            "é",
        ] {
            let parsed = ODataFilter::parse(filter);
            assert!(matches!(parsed, Err(FilterError::Invalid(_))), "{filter}: {parsed:?}");
        }
        for filter in ["endswith(displayName,'x')", "officeLocation eq 'x'"] {
            let parsed = ODataFilter::parse(filter);
            assert!(matches!(parsed, Err(FilterError::Unsupported(_))), "{filter}: {parsed:?}");
        }
    }
}
