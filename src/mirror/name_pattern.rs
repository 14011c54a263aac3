//! Patterns for names of windows.

/// A name in which `*` matches any text, also none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamePattern {
    text: Box<str>,
    /// Whether `*` stands for itself.
    is_literal: bool,
}

impl NamePattern {
    /// A pattern. Every text is one.
    pub fn new(text: &str) -> Self {
        // Several stars in a row mean the same as one, and each costs a step.
        let mut chars: Vec<char> = text.chars().collect();
        chars.dedup_by(|a, b| *a == '*' && *b == '*');
        let text: String = chars.into_iter().collect();
        Self { is_literal: !text.contains('*'), text: text.into() }
    }

    /// The pattern that only this name matches.
    pub fn literal(name: &str) -> Self {
        Self { text: name.into(), is_literal: true }
    }

    /// The text of the pattern.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is the name of one window.
    pub fn is_plain(&self) -> bool {
        self.is_literal
    }

    /// Whether a name matches.
    pub fn matches(&self, name: &str) -> bool {
        if self.is_literal {
            return *self.text == *name;
        }
        let Some((first, rest)) = self.text.split_once('*') else { return false };
        let Some(mut name) = name.strip_prefix(first) else { return false };
        let mut parts = rest.split('*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return name.ends_with(part);
            }
            // The first place is the best one: it leaves most of the name to the other parts.
            let Some(at) = name.find(part) else { return false };
            name = name.get(at + part.len()..).unwrap_or_default();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_text() {
        for (pattern, name, matches) in [
            ("alice", "alice", true),
            ("alice", "alice2", false),
            ("*", "", true),
            ("*", "anything", true),
            ("room-*", "room-1", true),
            ("room-*", "room-", true),
            ("room-*", "broom-1", false),
            ("*-1", "room-1", true),
            ("*-1", "room-12", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("**", "x", true),
            ("é*é", "éé", true),
            ("a*bc*bc", "abc", false),
        ] {
            assert_eq!(NamePattern::new(pattern).matches(name), matches, "{pattern} {name}");
        }
        assert!(NamePattern::literal("a*").matches("a*"));
        assert!(!NamePattern::literal("a*").matches("ab"));
    }
}
