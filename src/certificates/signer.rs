//! The door of the cluster's authority: a certificate for a request that somebody approved.
//!
//! The key is read for each signature and goes nowhere else. Subject, key and alternative names are the request's own,
//! byte for byte; everything else is decided here. Start at [`door`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use api::certificate::{Usage, usage};
use controllers::certificates::{Order, Signer};
use jiff::Timestamp;
use rand::RngCore;
use rcgen::{KeyPair, SigningKey};
use tower::util::BoxCloneSyncService;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_X509_EXT_SUBJECT_ALT_NAME, Oid};
use x509_parser::prelude::{FromDer, X509Certificate};
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, Tag, construct_der};

/// Upstream's least life, whatever was asked.
const SECONDS_MIN: i64 = 600;
/// Certificates begin a little before now, for machines whose clocks differ.
const BACKDATE_SECONDS: i64 = 300;
/// Lives shorter than this are not shortened by the backdating.
const SHORT_SECONDS: i64 = 8 * 3600;

const RSA: &[u64] = &[1, 2, 840, 113_549, 1, 1];

/// The door: whoever may use it gets a signature of the authority in `dir`. No certificate lives longer than `limit`.
pub fn door(dir: &Path, limit: Duration) -> Signer {
    let dir: PathBuf = dir.into();
    BoxCloneSyncService::new(tower::service_fn(move |order: Order| {
        let dir = dir.clone();
        async move { sign(&dir, &order, limit, Timestamp::now()).map_err(|error| format!("{error:#}")) }
    }))
}

fn sign(dir: &Path, order: &Order, limit: Duration, now: Timestamp) -> anyhow::Result<String> {
    let authority = super::load(dir, "ca")?.with_context(|| format!("{} has no authority", dir.display()))?;
    let (_, block) =
        x509_parser::pem::parse_x509_pem(authority.certificate.as_bytes()).context("read the authority")?;
    let ca = block.parse_x509().context("read the authority")?;
    let (_, request) = X509CertificationRequest::from_der(&order.request).context("read the request")?;
    let (begin, end) = validity(order.seconds, limit, now, ca.validity().not_after.timestamp())?;
    let body = body(&ca, &request, &order.usages, (begin, end))?;
    let key = KeyPair::from_pem(&authority.key).context("read the authority's key")?;
    let signature = key.sign(&body).context("sign")?;
    let der = construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&body);
            algorithm(&ca, writer.next());
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    });
    // An authority whose own signature is of another kind than its key makes would make certificates that nobody believes.
    let (_, made) = X509Certificate::from_der(&der).context("read what was made")?;
    made.verify_signature(Some(ca.public_key())).context("verify what was made")?;
    Ok(pem(&der))
}

/// From when to when, in seconds: what was asked, within the limits of upstream, of this cluster and of its authority.
fn validity(asked: Option<i64>, limit: Duration, now: Timestamp, ca_end: i64) -> anyhow::Result<(i64, i64)> {
    let limit = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let seconds = match asked {
        Some(asked) if asked <= limit => asked.max(SECONDS_MIN),
        _ => limit,
    };
    let now = now.as_second();
    if now >= ca_end {
        bail!("the authority has expired");
    }
    let begin = now - BACKDATE_SECONDS;
    let end = if seconds < SHORT_SECONDS { now.saturating_add(seconds) } else { begin.saturating_add(seconds) };
    Ok((begin, end.min(ca_end)))
}

/// What is signed (RFC 5280, 4.1.2).
fn body(
    ca: &X509Certificate<'_>,
    request: &X509CertificationRequest<'_>,
    usages: &[String],
    (begin, end): (i64, i64),
) -> anyhow::Result<Vec<u8>> {
    let info = &request.certification_request_info;
    let (begin, end) = (Timestamp::from_second(begin)?, Timestamp::from_second(end)?);
    let extensions = extensions(ca, request, usages)?;
    let mut serial = [0_u8; 16];
    rand::rng().fill_bytes(&mut serial);
    // Positive, and without a leading zero.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
            writer.next().write_bigint_bytes(&serial, true);
            algorithm(ca, writer.next());
            writer.next().write_der(ca.subject().as_raw());
            writer.next().write_sequence(|writer| {
                time(begin, writer.next());
                time(end, writer.next());
            });
            writer.next().write_der(info.subject.as_raw());
            writer.next().write_der(info.subject_pki.raw);
            writer.next().write_tagged(Tag::context(3), |writer| {
                writer.write_sequence(|writer| extensions.iter().for_each(|one| writer.next().write_der(one)));
            });
        });
    }))
}

/// The authority's way to sign, as its own certificate is signed.
fn algorithm(ca: &X509Certificate<'_>, writer: DERWriter<'_>) {
    let id = numbers(&ca.signature_algorithm.algorithm);
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(&id));
        if id.starts_with(RSA) {
            writer.next().write_null();
        }
    });
}

fn numbers(id: &Oid<'_>) -> Vec<u64> {
    id.iter().map(Iterator::collect).unwrap_or_default()
}

/// Until 2049 years have two digits.
fn time(time: Timestamp, writer: DERWriter<'_>) {
    let year = time.to_zoned(jiff::tz::TimeZone::UTC).year();
    let (tag, form) = match year < 2050 {
        true => (yasna::tags::TAG_UTCTIME, "%y%m%d%H%M%SZ"),
        false => (yasna::tags::TAG_GENERALIZEDTIME, "%Y%m%d%H%M%SZ"),
    };
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(time.strftime(form).to_string().as_bytes()));
}

fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_oid(&ObjectIdentifier::from_slice(id));
            if critical {
                writer.next().write_bool(true);
            }
            writer.next().write_bytes(value);
        });
    })
}

fn extensions(
    ca: &X509Certificate<'_>,
    request: &X509CertificationRequest<'_>,
    usages: &[String],
) -> anyhow::Result<Vec<Vec<u8>>> {
    let (mut bits, mut purposes) = (0_u16, Vec::<&[u64]>::new());
    for name in usages {
        match usage(name) {
            Some(Usage::Key(bit)) => bits |= 0x8000 >> bit,
            Some(Usage::Extended(id)) if !purposes.contains(&id) => purposes.push(id),
            Some(Usage::Extended(_)) => {}
            None => bail!("unrecognized usage {name:?}"),
        }
    }
    let mut all = Vec::new();
    if bits != 0 {
        let length = 16 - bits.trailing_zeros() as usize;
        let bits = construct_der(|writer| writer.write_bitvec_bytes(&bits.to_be_bytes()[..length.div_ceil(8)], length));
        all.push(extension(&[2, 5, 29, 15], true, &bits));
    }
    if !purposes.is_empty() {
        let purposes = construct_der(|writer| {
            writer.write_sequence(|writer| {
                purposes.iter().for_each(|id| writer.next().write_oid(&ObjectIdentifier::from_slice(id)));
            });
        });
        all.push(extension(&[2, 5, 29, 37], false, &purposes));
    }
    all.push(extension(&[2, 5, 29, 19], true, &construct_der(|writer| writer.write_sequence(|_| ()))));
    if let Some(key) = key_of(ca) {
        let key = construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(key));
            });
        });
        all.push(extension(&[2, 5, 29, 35], false, &key));
    }
    all.extend(alternative_names(request).map(|names| extension(&[2, 5, 29, 17], false, names)));
    Ok(all)
}

/// By what the authority's certificate calls its key.
fn key_of<'a>(ca: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    ca.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    })
}

/// The alternative names of a request as they are written there.
fn alternative_names<'a>(request: &'a X509CertificationRequest<'_>) -> Option<&'a [u8]> {
    request.certification_request_info.iter_attributes().find_map(|attribute| {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { return None };
        let names = requested.extensions.iter().find(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME)?;
        Some(names.value)
    })
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, UnixTime};

    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    fn order(key: &KeyPair, usages: &[&str], seconds: Option<i64>) -> Order {
        let mut params = CertificateParams::new(vec!["node.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 7].into()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "dev");
        // A second organisation.
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 10]), "ops");
        params.distinguished_name.push(DnType::CommonName, "ann");
        let request = params.serialize_request(key).unwrap().der().to_vec();
        Order { request, usages: usages.iter().map(|usage| (*usage).to_owned()).collect(), seconds }
    }

    fn authority() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        super::super::Certificates::ensure(dir.path(), "n", &[]).unwrap();
        dir
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_is_believed() {
        let dir = authority();
        let ca = super::super::load(dir.path(), "ca").unwrap().unwrap().certificate;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let provider = super::super::provider();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        for key in [KeyPair::generate().unwrap(), p384, KeyPair::generate_for(&PKCS_ED25519).unwrap()] {
            let order = order(&key, &["digital signature", "key encipherment", "client auth"], None);
            let pem = sign(dir.path(), &order, YEAR, Timestamp::now()).unwrap();
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            verifier.verify_client_cert(&der, &[], UnixTime::now()).unwrap();
            let (_, made) = X509Certificate::from_der(&der).unwrap();
            let groups: Vec<&str> = made.subject().iter_organization().map(|name| name.as_str().unwrap()).collect();
            assert_eq!(groups, ["dev", "ops"], "all groups, in their order");
            let usage = made.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
            let purposes = made.extended_key_usage().unwrap().unwrap().value;
            assert!(purposes.client_auth && !purposes.server_auth && !made.is_ca());
            assert!(super::super::has_address(&made, [192, 0, 2, 7].into()));
            assert_eq!(made.public_key().raw, {
                let (_, request) = X509CertificationRequest::from_der(&order.request).unwrap();
                request.certification_request_info.subject_pki.raw
            });
        }
    }

    #[test]
    fn a_life_is_as_long_as_asked_within_the_limits() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let end = |asked, limit, ca_end| {
            let (begin, end) = validity(asked, Duration::from_secs(limit), now, ca_end).unwrap();
            assert_eq!(begin, 1_000_000 - 300);
            end - 1_000_000
        };
        let far = i64::MAX;
        assert_eq!(end(Some(900), 86_400, far), 900);
        assert_eq!(end(Some(1), 86_400, far), 600);
        assert_eq!(end(Some(90_000), 86_400, far), 86_400 - 300);
        assert_eq!(end(None, 86_400, far), 86_400 - 300);
        assert_eq!(end(Some(900), 60, far), 60, "a cluster's limit is below upstream's least");
        assert_eq!(end(None, 86_400, 1_000_100), 100);
        assert!(validity(None, YEAR, now, 1_000_000).is_err());
    }

    #[test]
    fn what_nobody_knows_is_not_signed() {
        let (dir, key) = (authority(), KeyPair::generate().unwrap());
        let unknown = sign(dir.path(), &order(&key, &["spying"], None), YEAR, Timestamp::now()).unwrap_err();
        assert_eq!(unknown.to_string(), "unrecognized usage \"spying\"");
        let empty = tempfile::tempdir().unwrap();
        let told = sign(empty.path(), &order(&key, &["any"], None), YEAR, Timestamp::now()).unwrap_err().to_string();
        assert!(told.ends_with("has no authority"), "{told}");
    }
}
