//! The file of static bearer tokens: `token,user,uid,"group1,group2"` a line, as upstream's `--token-auth-file`.

use std::path::Path;

use anyhow::{Context, bail};
use apiserver::{StaticToken, UserInfo};

/// Reads the file; none given is no tokens. Errors name the line, never the token.
pub fn read(path: Option<&Path>) -> anyhow::Result<Vec<StaticToken>> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut tokens = Vec::new();
    for (nth, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
        let Some(token) = parse(line) else {
            bail!("{} line {}: write token,user,uid,\"group1,group2\"", path.display(), nth + 1);
        };
        tokens.push(token);
    }
    Ok(tokens)
}

fn parse(line: &str) -> Option<StaticToken> {
    let mut fields = line.splitn(4, ',').map(str::trim);
    let (token, name, uid) = (fields.next()?, fields.next()?, fields.next()?);
    if token.is_empty() || name.is_empty() {
        return None;
    }
    let groups = fields.next().unwrap_or_default().trim_matches('"');
    let groups: Vec<&str> = groups.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    let mut user = UserInfo::new(name, &groups);
    user.uid = uid.into();
    Some(StaticToken { token: token.into(), user })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_token_user_uid_and_groups() {
        let token = parse("s3cret,ann,7,\"dev,ops\"").unwrap();
        assert_eq!((token.user.name.as_str(), token.user.uid.as_str()), ("ann", "7"));
        assert!(token.user.is_in("dev") && token.user.is_in("ops"));
        assert!(parse("only").is_none() && parse(",ann,7").is_none());
    }
}
