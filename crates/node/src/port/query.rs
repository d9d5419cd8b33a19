//! Query strings.
//!
//! Pure: pairs in order, percent and plus decoded.

/// The parameters of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`; a name without `=` has the value "".
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All values of that name, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// True for `1`, `true`, `t`.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true" | "t" | "T" | "TRUE" | "True"))
    }

    /// A number; an error in words when it is none or negative.
    pub fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("Unable to decode query parameter {name}: {text:?}"))
    }
}

/// Undoes percent and plus encoding; what is malformed stays as it is.
pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_keep_their_order_and_their_bytes() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22+100%25&tty=1&x");
        assert_eq!(query.all("command"), ["sh", "-c", "echo \"a&b\" 100%"]);
        assert!(query.flag("tty") && !query.flag("x"));
        assert_eq!(Query::parse("tailLines=5").number("tailLines"), Ok(Some(5)));
        assert!(Query::parse("tailLines=-1").number("tailLines").is_err());
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
