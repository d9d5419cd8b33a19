//! Which file counts, and what is said of one that cannot be understood.

use super::*;

fn rules(text: &str) -> Rules {
    parse_hosts_toml(text, Path::new("/etc/certs.d/r")).unwrap_or_else(|bad| panic!("{bad:?}"))
}

fn bad(text: &str) -> (usize, String) {
    let bad = parse_hosts_toml(text, Path::new("/d")).unwrap_err();
    (bad.line, bad.detail)
}

#[test]
fn a_hosts_file_lists_its_hosts_in_their_order_with_all_fields() {
    let found = rules(
        r#"
server = "https://upstream.io/root"
ca = "own.pem"

[host."https://z.io"]
  capabilities = ["pull"]
  ca = ["one.pem", "/abs/two.pem"]
  client = [["node.pem", "node.key"], ["second.pem", ""]]
  skip_verify = true
  dial_timeout = "1m30s"
  future_field = 7
  [host."https://z.io".header]
    x-one = "1"
    x-two = ["a", "b"]

[host."http://a.io:5000/prefix"]
  capabilities = ["Resolve", "push", "referrers"]
  client = "both.pem"
  override_path = true

[host."m.io/some/v2"]
  client = ["listed.pem"]
"#,
    );
    let addresses: Vec<(Option<Scheme>, String)> = found
        .mirrors
        .iter()
        .chain([&found.server])
        .map(|rule| rule.address.clone().unwrap())
        .map(|address| (address.scheme, format!("{}{}", address.authority, address.base)))
        .collect();
    let expected = [
        (Some(Scheme::Https), "z.io/v2"),
        (Some(Scheme::Http), "a.io:5000/prefix"),
        (None, "m.io/some/v2"),
        (Some(Scheme::Https), "upstream.io/root/v2"),
    ];
    assert_eq!(addresses, expected.map(|(scheme, text)| (scheme, text.to_owned())));
    let [first, second, third] = found.mirrors.as_slice() else { panic!("{:?}", found.mirrors) };
    let at = |name: &str| Path::new("/etc/certs.d/r").join(name);
    assert_eq!((first.can_pull, first.can_resolve), (true, false));
    assert_eq!(first.tls.authorities, [at("one.pem"), "/abs/two.pem".into()]);
    assert_eq!(first.tls.client, Some((at("node.pem"), at("node.key"))));
    assert!(first.tls.skips_verification && first.dial_timeout == Some(Duration::from_secs(90)));
    let headers: Vec<String> = first.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(headers, ["x-one=1", "x-two=a", "x-two=b"]);
    assert_eq!((second.can_pull, second.can_resolve), (false, true));
    assert_eq!(second.tls.client, Some((at("both.pem"), at("both.pem"))));
    assert_eq!(third.tls.client, Some((at("listed.pem"), at("listed.pem"))));
    assert_eq!((found.server.tls.authorities.as_slice(), found.server.can_pull), ([at("own.pem")].as_slice(), true));
    assert_eq!(rules(""), Rules::default());
}

#[test]
fn a_mistake_is_named_with_its_line() {
    assert_eq!(
        bad("server = \"https://a\"\n[host.\"https://b\"]\ncapabilities = [\"pull\",\n \"fly\"]"),
        (4, "unknown capability \"fly\"".into())
    );
    assert_eq!(bad("\nserver = \"ftp://a\"").0, 2);
    assert_eq!(bad("\n\n[host.\"https://u:p@b\"]").0, 3);
    assert_eq!(bad("[host.\"https://b\"]\ndial_timeout = \"soon\""), (2, "bad duration \"soon\"".into()));
    assert_eq!(bad("[host.\"https://b\"]\nskip_verify = \"yes\"").0, 2);
    assert_eq!(bad("server = \n").0, 1);
    assert_eq!(bad("[host.\"https://b\"\n").0, 1);
    let yaml = parse_registries_yaml("mirrors:\n  a:\n    endpoint: x\n").unwrap_err();
    assert_eq!(yaml.line, 3, "{yaml:?}");
    assert!(parse_registries_yaml("mirror: {}").unwrap_err().detail.contains("mirror"));
    let secret =
        parse_registries_yaml("configs:\n  a:\n    auth: {username: u, password: hunter2, passwort: x}\n").unwrap_err();
    assert!(!secret.detail.contains("hunter2") && secret.line == 3, "{secret:?}");
    assert!(parse_registries_yaml("mirrors: {a: {rewrite: {\"(\": x}}}").unwrap_err().detail.contains("mirror \"a\""));
    assert_eq!(parse_registries_yaml("").unwrap(), Registries::default());
}

#[test]
fn the_first_directory_that_knows_the_registry_counts() {
    let root = tempfile::tempdir().unwrap();
    let places = ["one", "two"].map(|name| root.path().join(name));
    let write = |place: usize, directory: &str, file: &str, text: &str| {
        let path = places[place].join(directory);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(file), text).unwrap();
    };
    let found = |domain: &str| -> String {
        let rules = load(&Places { directories: &places, registries: &[] }, domain).unwrap();
        rules.mirrors.first().map_or("", |rule| &rule.address.as_ref().unwrap().authority).to_owned()
    };
    let toml = |host: &str| format!("[host.\"https://{host}\"]");
    assert_eq!(found("r.io:5000"), "");
    write(1, "_default", "hosts.toml", &toml("default-two"));
    assert_eq!(found("r.io:5000"), "default-two");
    write(1, "r.io:5000", "hosts.toml", &toml("colon"));
    assert_eq!(found("r.io:5000"), "colon");
    write(1, "r.io_5000_", "hosts.toml", &toml("underscore"));
    assert_eq!(found("r.io:5000"), "underscore");
    assert_eq!(found("r.io"), "default-two");
    write(0, "_default", "hosts.toml", &toml("default-one"));
    assert_eq!(found("r.io:5000"), "default-one", "one place after the other");
    write(0, "[::1]:5000", "hosts.toml", &toml("six"));
    assert_eq!(found("[::1]:5000"), "six");
    write(0, "[::1]_5001_", "hosts.toml", &toml("six-underscore"));
    assert_eq!(found("[::1]:5001"), "six-underscore");
    // Docker's layout, where there is no hosts.toml.
    for file in ["ca.crt", "more.crt", "client.cert", "client.key"] {
        write(0, "docker.test", file, "");
    }
    let rules = load(&Places { directories: &places, registries: &[] }, "docker.test").unwrap();
    let at = |name: &str| places[0].join("docker.test").join(name);
    assert_eq!(rules.server.tls.authorities, [at("ca.crt"), at("more.crt")]);
    assert_eq!(rules.server.tls.client, Some((at("client.cert"), at("client.key"))));
    write(0, "half.test", "client.cert", "");
    let error = load(&Places { directories: &places, registries: &[] }, "half.test").unwrap_err();
    assert!(error.detail.contains("client.key"), "{error:?}");
}

#[test]
fn registries_yaml_serves_registries_that_no_directory_knows() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("registries.yaml");
    std::fs::write(&file, "mirrors: {r.io: {endpoint: [m.io]}, \"*\": {endpoint: [any.io]}}").unwrap();
    let missing = root.path().join("missing.yaml");
    let registries = [missing, file.clone()];
    let places = Places { directories: &[], registries: &registries };
    let first = |domain: &str| load(&places, domain).unwrap().mirrors[0].address.as_ref().unwrap().authority.clone();
    assert_eq!((first("r.io").as_str(), first("other.io").as_str()), ("m.io", "any.io"));
    std::fs::write(&file, "mirrors: [").unwrap();
    let error = load(&places, "r.io").unwrap_err();
    assert_eq!((error.path, error.line), (file, 1));
}
