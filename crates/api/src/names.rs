//! What names, labels, keys and ports may look like, with upstream's explanations.
//!
//! Each function returns the complaints, none when the text is good. Matching is by hand: no regular expressions.

use std::net::IpAddr;

/// Complaints about one text.
pub type Complaints = Vec<String>;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// Longest name of a subdomain, in bytes.
pub const SUBDOMAIN_BYTES_MAX: usize = 253;

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// First and last byte pass `edge`, all pass `edge` or `inner`; not empty.
fn edged(text: &str, edge: fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| edge(*b) || inner.contains(b)),
        _ => false,
    }
}

fn is_label(text: &str) -> bool {
    edged(text, lower_alnum, b"-")
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_label_key_part(text: &str) -> bool {
    edged(text, |b| b.is_ascii_alphanumeric(), b"-_.")
}

fn too_long(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

fn too_long_characters(count_max: usize) -> String {
    format!("must be no more than {count_max} characters")
}

fn pattern(message: &str, pattern: &str, examples: &[&str]) -> String {
    let shown: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", shown.join("or "))
}

/// A DNS-1123 label: names of containers, namespaces, volumes.
pub fn label(text: &str) -> Complaints {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push(too_long(63));
    }
    if !is_label(text) {
        out.push(match is_subdomain(text) {
            true => "must not contain dots".to_owned(),
            false => pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            ),
        });
    }
    out
}

/// A DNS-1123 subdomain: names of most objects.
pub fn subdomain(text: &str) -> Complaints {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        out.push(too_long(SUBDOMAIN_BYTES_MAX));
    }
    if !is_subdomain(text) {
        out.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        ));
    }
    out
}

/// The key of a label, an annotation or a node selector: `name` or `prefix/name`.
pub fn label_key(text: &str) -> Complaints {
    let explain = || {
        pattern(
            "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character",
            LABEL_KEY,
            &["MyName", "my.name", "123-abc"],
        )
    };
    let mut out = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            match prefix.is_empty() {
                true => out.push("prefix part must be non-empty".to_owned()),
                false => out.extend(subdomain(prefix).into_iter().map(|text| format!("prefix part {text}"))),
            }
            name
        }
        _ => {
            let suffix = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {}{suffix}", explain())];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push(format!("name part {}", too_long(63)));
    }
    if !is_label_key_part(name) {
        out.push(format!("name part {}", explain()));
    }
    out
}

/// The value of a label.
pub fn label_value(text: &str) -> Complaints {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push(too_long(63));
    }
    if !text.is_empty() && !is_label_key_part(text) {
        out.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// The name of a port (IANA service name).
pub fn port_name(text: &str) -> Complaints {
    let mut out = Vec::new();
    if text.len() > 15 {
        out.push(too_long_characters(15));
    }
    if text.is_empty() || !text.bytes().all(|b| lower_alnum(b) || b == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A port number from 1 to 65535.
pub fn port_number(port: i64) -> Complaints {
    in_range(port, 1, 65535)
}

/// A number within bounds, both allowed.
pub fn in_range(number: i64, low: i64, high: i64) -> Complaints {
    match (low..=high).contains(&number) {
        true => Vec::new(),
        false => vec![format!("must be between {low} and {high}, inclusive")],
    }
}

/// A numeric user or group id.
pub fn user_id(id: i64) -> Complaints {
    in_range(id, 0, i64::from(i32::MAX))
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_name(text: &str) -> Complaints {
    let mut out = Vec::new();
    if text.is_empty() {
        out.push("environment variable name must be non-empty".to_owned());
    }
    if text.chars().any(|c| !(' '..='~').contains(&c) || c == '=') {
        let message =
            "a valid environment variable name must consist only of printable ASCII characters other than '='";
        out.push(message.to_owned());
    }
    out
}

/// A key of a ConfigMap or a Secret.
pub fn config_key(text: &str) -> Complaints {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        out.push(too_long_characters(SUBDOMAIN_BYTES_MAX));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        out.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// The name of an HTTP header.
pub fn header_name(text: &str) -> Complaints {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        true => Vec::new(),
        false => vec![pattern(
            "a valid HTTP header must consist of alphanumeric characters or '-'",
            "[-A-Za-z0-9]+",
            &["X-Header-Name"],
        )],
    }
}

/// An IP address in its usual text form.
pub fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// A segment of a URL path: what the names of PriorityClasses and other path-like names may not hold.
pub fn path_segment(text: &str) -> Complaints {
    match text {
        "." | ".." => return vec![format!("may not be '{text}'")],
        _ => {}
    }
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// The prefix of a generated name: a trailing dash is fine, a random text follows it.
pub fn mask_trailing_dash(text: &str) -> String {
    match text.len() > 1 && text.ends_with('-') {
        true => format!("{}a", &text[..text.len() - 1].trim_end_matches('-')),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(complaints: fn(&str) -> Complaints, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(complaints(text), Vec::<String>::new(), "{text:?} is good");
        }
        for text in bad {
            assert!(!complaints(text).is_empty(), "{text:?} is bad");
        }
    }

    #[test]
    fn labels_and_subdomains() {
        let long = "a".repeat(64);
        check(label, &["a", "0", "a-b", "runc", "kata-qemu"], &["", "A", "a.b", "-a", "a-", "a_b", &long]);
        let longest = format!("{}.{}", "a".repeat(126), "b".repeat(126));
        check(subdomain, &["a.b-c", "a", &longest], &["", "A", "a_b", "-a", "a..b", ".a", &format!("{longest}c")]);
        assert_eq!(label("a.b"), ["must not contain dots"]);
        assert!(label("Kata")[0].starts_with("a lowercase RFC 1123 label must consist of"));
    }

    #[test]
    fn label_keys_and_values() {
        let long = "a".repeat(64);
        check(label_key, &["a", "a.B_c", "x.y/Z", "1"], &["", "/a", "a/", "a/b/c", "a b", "-a", "X/a", &long]);
        check(label_value, &["", "a", "A.b_c-1"], &[" ", "-", "a-", &long]);
    }

    #[test]
    fn ports_headers_and_keys() {
        check(port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "a-", "Http", "a_b", "abcdefghijklmnop"]);
        check(header_name, &["X-A"], &["", "a b", "a_b"]);
        check(config_key, &["a", ".a", "A_b-c.d"], &["", ".", "..", "..a", "a/b"]);
        check(env_name, &["A", "1a", "a.b-c", "a b"], &["", "a=b", "ä"]);
        check(path_segment, &["a", "a b"], &[".", "..", "a/b", "a%b"]);
    }
}
