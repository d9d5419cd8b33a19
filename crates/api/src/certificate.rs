//! Requests for certificates (PKCS #10): what is in one, what usages mean, and which form each of Kubernetes' signers wants.
//!
//! The bytes are untrusted. Pure. Start at [`Request::of`] and [`complaint`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::look;

/// API group of requests, and of the rights to approve and to sign them.
pub const GROUP: &str = "certificates.k8s.io";
/// Plural of requests.
pub const PLURAL: &str = "certificatesigningrequests";
/// Signs client certificates for anybody; never approved without a person.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs client certificates of nodes.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes; never approved without a person.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The signer of old versions of the API.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// What names of nodes' users begin with.
pub const NODE_PREFIX: &str = "system:node:";

const LABEL: &str = "CERTIFICATE REQUEST";

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// DER of all of it.
    pub der: Vec<u8>,
    /// Common name of the subject: the user.
    pub common_name: String,
    /// Organisations of the subject: the groups.
    pub organisations: Vec<String>,
    /// Alternative names.
    pub names: Names,
}

/// How many alternative names of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: usize,
    /// IP addresses.
    pub addresses: usize,
    /// Mail addresses.
    pub emails: usize,
    /// URIs.
    pub uris: usize,
}

impl Request {
    /// What `spec.request` of a CertificateSigningRequest asks for, if its signature is of the key in it.
    ///
    /// # Errors
    /// Why it is none.
    pub fn of(object: &Value) -> Result<Request, String> {
        let pem = STANDARD.decode(look::text_at(object, &["spec", "request"])).map_err(|error| error.to_string())?;
        Request::from_pem(&pem)
    }

    /// The same from its PEM.
    ///
    /// # Errors
    /// Why it is none.
    pub fn from_pem(pem: &[u8]) -> Result<Request, String> {
        let block = parse_x509_pem(pem).ok().map(|(_, block)| block).filter(|block| block.label == LABEL);
        let der = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?.contents;
        let (rest, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|error| format!("the request cannot be parsed: {error}"))?;
        if !rest.is_empty() {
            return Err("the request has trailing data".to_owned());
        }
        parsed.verify_signature().map_err(|error| format!("the signature of the request is wrong: {error}"))?;
        let subject = &parsed.certification_request_info.subject;
        let texts = |texts: Vec<_>| -> Result<Vec<String>, String> {
            texts.into_iter().collect::<Result<_, _>>().map_err(|_| "the subject is no text".to_owned())
        };
        let mut common_names =
            texts(subject.iter_common_name().map(|name| name.as_str().map(str::to_owned)).collect())?;
        if common_names.len() > 1 {
            // Whoever reads the certificate might take another one than who judged the request.
            return Err("the subject has more than one common name".to_owned());
        }
        let organisations = texts(subject.iter_organization().map(|name| name.as_str().map(str::to_owned)).collect())?;
        let names = names(&parsed)?;
        Ok(Request { common_name: common_names.pop().unwrap_or_default(), organisations, names, der: der.clone() })
    }
}

fn names(request: &X509CertificationRequest<'_>) -> Result<Names, String> {
    let mut names = Names::default();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension else { continue };
        for name in &alternative.general_names {
            match name {
                GeneralName::DNSName(_) => names.dns += 1,
                GeneralName::IPAddress(_) => names.addresses += 1,
                GeneralName::RFC822Name(_) => names.emails += 1,
                GeneralName::URI(_) => names.uris += 1,
                _ => return Err("the request has an alternative name of a kind that is not supported".to_owned()),
            }
        }
    }
    Ok(names)
}

/// What is wrong with certificates in PEM, as `status.certificate` holds them.
pub fn chain_complaint(pem: &[u8]) -> Option<String> {
    let mut count = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(pem) {
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        count += 1;
        if let Err(error) = X509Certificate::from_der(&block.contents) {
            return Some(format!("the certificate cannot be parsed: {error}"));
        }
    }
    (count == 0).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

/// When the first of certificates in PEM ends, in seconds since the epoch.
pub fn end(pem: &[u8]) -> Option<i64> {
    let (_, block) = parse_x509_pem(pem).ok()?;
    Some(block.parse_x509().ok()?.validity().not_after.timestamp())
}

/// What a usage becomes in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The bit of this number in the key usage.
    Key(u8),
    /// This object identifier in the extended key usage.
    Extended(&'static [u64]),
}

/// Every usage, in the order of their names.
pub const USAGES: &[(&str, Usage)] = &[
    ("any", Usage::Extended(&[2, 5, 29, 37, 0])),
    ("cert sign", Usage::Key(5)),
    ("client auth", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 2])),
    ("code signing", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 3])),
    ("content commitment", Usage::Key(1)),
    ("crl sign", Usage::Key(6)),
    ("data encipherment", Usage::Key(3)),
    ("decipher only", Usage::Key(8)),
    ("digital signature", Usage::Key(0)),
    ("email protection", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("encipher only", Usage::Key(7)),
    ("ipsec end system", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 5])),
    ("ipsec tunnel", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 6])),
    ("ipsec user", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 7])),
    ("key agreement", Usage::Key(4)),
    ("key encipherment", Usage::Key(2)),
    ("microsoft sgc", Usage::Extended(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
    ("netscape sgc", Usage::Extended(&[2, 16, 840, 1, 113730, 4, 1])),
    ("ocsp signing", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 9])),
    ("s/mime", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("server auth", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 1])),
    ("signing", Usage::Key(0)),
    ("timestamping", Usage::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 8])),
];

/// What a usage of this name becomes.
pub fn usage(name: &str) -> Option<Usage> {
    USAGES.iter().find(|(known, _)| *known == name).map(|(_, usage)| *usage)
}

/// Why a signer refuses a request of this form; None if it is as it wants it. Signers of others want nothing.
pub fn complaint(signer: &str, request: &Request, usages: &[&str]) -> Option<String> {
    match signer {
        CLIENT => client_usages(usages),
        NODE_CLIENT => {
            let names = request.names;
            let rest = [
                (names.dns > 0).then_some("DNS subjectAltNames are not allowed"),
                (names.emails > 0).then_some("Email subjectAltNames are not allowed"),
                (names.addresses > 0).then_some("IP subjectAltNames are not allowed"),
                (names.uris > 0).then_some("URI subjectAltNames are not allowed"),
            ];
            let first = of_node(request).or_else(|| rest.into_iter().flatten().next().map(str::to_owned));
            first.or_else(|| node_name(request)).or_else(|| exactly(usages, "client auth"))
        }
        NODE_SERVING => {
            let names = request.names;
            let rest = [
                (names.dns + names.addresses == 0).then_some("DNS or IP subjectAltName is required"),
                (names.emails > 0).then_some("Email subjectAltNames are not allowed"),
                (names.uris > 0).then_some("URI subjectAltNames are not allowed"),
            ];
            let first = of_node(request).or_else(|| rest.into_iter().flatten().next().map(str::to_owned));
            first.or_else(|| exactly(usages, "server auth")).or_else(|| node_name(request))
        }
        _ => None,
    }
}

fn of_node(request: &Request) -> Option<String> {
    let right = request.organisations == ["system:nodes"];
    (!right).then(|| "subject organization is not system:nodes".to_owned())
}

fn node_name(request: &Request) -> Option<String> {
    let right = request.common_name.starts_with(NODE_PREFIX);
    (!right).then(|| "subject common name does not begin with system:node:".to_owned())
}

/// Digital signatures and this, with or without the encipherment of keys, which RSA alone can do.
fn exactly(usages: &[&str], this: &str) -> Option<String> {
    let mut held: Vec<&str> = usages.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    held.sort_unstable();
    held.dedup();
    let mut wanted = [this, "digital signature"];
    wanted.sort_unstable();
    let told = {
        let mut told = [this, "digital signature", "key encipherment"];
        told.sort_unstable();
        told.join(" ")
    };
    (held != wanted).then(|| format!("usages did not match [{told}]"))
}

fn client_usages(usages: &[&str]) -> Option<String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(usage)) {
        return Some(format!("invalid usage for client certificate: {other}"));
    }
    let has = usages.contains(&"client auth");
    (!has).then(|| "missing required usage for client certificate: client auth".to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    /// A request in PEM.
    fn pem(common_name: &str, organisation: &str, names: Vec<SanType>) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn request(common_name: &str, organisation: &str, names: Vec<SanType>) -> Request {
        Request::from_pem(pem(common_name, organisation, names).as_bytes()).unwrap()
    }

    #[test]
    fn a_request_says_its_subject_and_its_names() {
        let names = vec![
            SanType::DnsName("a".try_into().unwrap()),
            SanType::IpAddress([192, 0, 2, 1].into()),
            SanType::Rfc822Name("a@b".try_into().unwrap()),
            SanType::URI("a:b".try_into().unwrap()),
        ];
        let request = request("system:node:n", "system:nodes", names);
        assert_eq!(
            (&*request.common_name, &*request.organisations),
            ("system:node:n", &["system:nodes".to_owned()][..])
        );
        assert_eq!(request.names, Names { dns: 1, addresses: 1, emails: 1, uris: 1 });
    }

    #[test]
    fn what_is_no_request_or_was_changed_is_refused_whatever_it_is() {
        let good = pem("ann", "dev", vec![]);
        let label = "PEM block type must be CERTIFICATE REQUEST";
        assert_eq!(Request::from_pem(b"").unwrap_err(), label);
        assert_eq!(Request::from_pem(good.replace(" REQUEST", "").as_bytes()).unwrap_err(), label);
        let der = Request::from_pem(good.as_bytes()).unwrap().der;
        let wrapped = |der: &[u8]| {
            format!("-----BEGIN {LABEL}-----\n{}\n-----END {LABEL}-----\n", STANDARD.encode(der)).into_bytes()
        };
        assert!(Request::from_pem(&wrapped(&der)).is_ok());
        for at in 0..der.len() {
            let mut bad = der.clone();
            bad[at] ^= 1;
            // What is not signed is how the signature is packed.
            let same = |bad: Request| (bad.common_name, bad.organisations) == ("ann".into(), vec!["dev".into()]);
            assert!(Request::from_pem(&wrapped(&bad)).map_or(true, same), "byte {at}");
            assert!(Request::from_pem(&wrapped(&der[..at])).is_err(), "cut at {at}");
        }
        let longer = [&der[..], b"x"].concat();
        assert_eq!(Request::from_pem(&wrapped(&longer)).unwrap_err(), "the request has trailing data");
    }

    #[test]
    fn two_common_names_are_refused() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:mine");
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "system:node:theirs");
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        assert_eq!(Request::from_pem(pem.as_bytes()).unwrap_err(), "the subject has more than one common name");
    }

    fn check(signer: &str, request: &Request, usages: &[&str], expected: Option<&str>) {
        assert_eq!(complaint(signer, request, usages).as_deref(), expected, "{signer} {usages:?}");
    }

    #[test]
    fn a_nodes_client_certificate_is_of_one_form() {
        let good = request("system:node:n", "system:nodes", vec![]);
        let usages = ["digital signature", "client auth"];
        check(NODE_CLIENT, &good, &usages, None);
        check(NODE_CLIENT, &good, &["key encipherment", "client auth", "digital signature"], None);
        let did_not = Some("usages did not match [client auth digital signature key encipherment]");
        check(NODE_CLIENT, &good, &["client auth"], did_not);
        check(NODE_CLIENT, &good, &["digital signature", "client auth", "server auth"], did_not);
        let organisation = Some("subject organization is not system:nodes");
        check(NODE_CLIENT, &request("system:node:n", "system:masters", vec![]), &usages, organisation);
        let name = Some("subject common name does not begin with system:node:");
        check(NODE_CLIENT, &request("ann", "system:nodes", vec![]), &usages, name);
        for (san, told) in [
            (SanType::DnsName("a".try_into().unwrap()), "DNS subjectAltNames are not allowed"),
            (SanType::IpAddress([192, 0, 2, 1].into()), "IP subjectAltNames are not allowed"),
            (SanType::Rfc822Name("a@b".try_into().unwrap()), "Email subjectAltNames are not allowed"),
            (SanType::URI("a:b".try_into().unwrap()), "URI subjectAltNames are not allowed"),
        ] {
            check(NODE_CLIENT, &request("system:node:n", "system:nodes", vec![san]), &usages, Some(told));
        }
    }

    #[test]
    fn other_signers_have_forms_of_their_own() {
        let address = SanType::IpAddress([192, 0, 2, 1].into());
        let serving = request("system:node:n", "system:nodes", vec![address]);
        check(NODE_SERVING, &serving, &["digital signature", "server auth"], None);
        let did_not = Some("usages did not match [digital signature key encipherment server auth]");
        check(NODE_SERVING, &serving, &["digital signature", "client auth"], did_not);
        let bare = request("system:node:n", "system:nodes", vec![]);
        let required = Some("DNS or IP subjectAltName is required");
        check(NODE_SERVING, &bare, &["digital signature", "server auth"], required);
        let ann = request("ann", "dev", vec![]);
        check(CLIENT, &ann, &["client auth"], None);
        check(CLIENT, &ann, &["server auth"], Some("invalid usage for client certificate: server auth"));
        let missing = Some("missing required usage for client certificate: client auth");
        check(CLIENT, &ann, &["digital signature"], missing);
        check("example.com/mine", &ann, &["any"], None);
    }

    #[test]
    fn usages_are_sorted_and_a_chain_is_certificates_alone() {
        assert!(USAGES.is_sorted_by_key(|(name, _)| *name));
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        assert_eq!(chain_complaint(format!("{certificate}{certificate}").as_bytes()), None);
        assert_eq!(chain_complaint(b"x").unwrap(), "must contain at least one CERTIFICATE PEM block");
        let with_key = format!("{certificate}{}", key.serialize_pem());
        assert_eq!(
            chain_complaint(with_key.as_bytes()).unwrap(),
            "only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\""
        );
        assert!(end(certificate.as_bytes()).is_some() && end(b"x").is_none());
    }
}
