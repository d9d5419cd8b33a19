//! Reading `WWW-Authenticate` (IMG-124). Pure.

use http::HeaderMap;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// One challenge: its scheme in lower case and its parameters, with names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The challenge to answer: Bearer before Basic; no other scheme is known.
pub(crate) fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let all: Vec<Challenge> = headers
        .get_all(http::header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse)
        .collect();
    let find = |scheme: &str| all.iter().find(|challenge| challenge.scheme == scheme).cloned();
    find("bearer").or_else(|| find("basic"))
}

/// All challenges of one header value.
pub(crate) fn parse(value: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = value.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        let word = token(&mut rest);
        if word.is_empty() {
            // Neither a word nor a separator: skip the stray character, or end.
            if rest.next().is_none() {
                return found;
            }
            continue;
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        match found.last_mut() {
            Some(challenge) if rest.next_if_eq(&'=').is_some() => {
                while rest.next_if(|c| c.is_whitespace()).is_some() {}
                challenge.parameters.insert(word.to_ascii_lowercase(), parameter_value(&mut rest));
            }
            _ => found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: BTreeMap::new() }),
        }
    }
}

fn token(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !matches!(c, ',' | '=' | '"')) {
        word.push(c);
    }
    word
}

fn parameter_value(rest: &mut Peekable<Chars<'_>>) -> String {
    if rest.next_if_eq(&'"').is_none() {
        return token(rest);
    }
    let mut value = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => value.extend(rest.next()),
            other => value.push(other),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(value: &str, expected: &[(&str, &[(&str, &str)])]) {
        let expected: Vec<Challenge> = expected
            .iter()
            .map(|(scheme, parameters)| Challenge {
                scheme: (*scheme).to_owned(),
                parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            })
            .collect();
        assert_eq!(parse(value), expected, "{value}");
    }

    #[test]
    fn challenges_are_read_with_quotes_escapes_and_in_any_case() {
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            &[(
                "bearer",
                &[
                    ("realm", "https://auth.docker.io/token"),
                    ("service", "registry.docker.io"),
                    ("scope", "repository:a/b:pull,push"),
                ],
            )],
        );
        check(r#"BASIC realm="a \"b\"""#, &[("basic", &[("realm", "a \"b\"")])]);
        check(
            r#"Basic realm="x", bearer Realm = "y" , service=z"#,
            &[("basic", &[("realm", "x")]), ("bearer", &[("realm", "y"), ("service", "z")])],
        );
        check("Negotiate", &[("negotiate", &[])]);
        check("", &[]);
        check(r#"Basic realm="open"#, &[("basic", &[("realm", "open")])]);
    }

    #[test]
    fn bearer_is_preferred_over_several_headers() {
        let mut headers = HeaderMap::new();
        headers.append("www-authenticate", "Basic realm=\"x\"".parse().unwrap());
        headers.append("www-authenticate", "Bearer realm=\"y\"".parse().unwrap());
        assert_eq!(choose(&headers).unwrap().scheme, "bearer");
        assert_eq!(choose(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_hang(value in ".{0,60}") {
            let _ = parse(&value);
        }
    }
}
