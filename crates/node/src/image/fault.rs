//! Why a pull failed: the class of the error, the host that it is about, and the words of `waiting` (IMG-50, IMG-51).
//!
//! The embedded runtime tells class and host as metadata of its answer; other runtimes are understood by [`TEXTS`], the
//! committed table of their texts. Pure. Start at [`Fault::of`].

/// Metadata key of the class (docs/walls/cri.md).
pub const CLASS_KEY: &str = "sampan-error-class";
/// Metadata key of the host that failed.
pub const HOST_KEY: &str = "sampan-error-host";

/// What has to change before a pull can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The words of docs/walls/cri.md.
pub enum Class {
    Credentials,
    NotFound,
    RateLimit,
    Server,
    Dns,
    Tls,
    Refused,
    Timeout,
    Disk,
    Platform,
    Invalid,
    Canceled,
    Other,
}

impl Class {
    /// From the word in the metadata.
    pub fn parse(word: &str) -> Self {
        match word {
            "credentials" => Self::Credentials,
            "not-found" => Self::NotFound,
            "rate-limit" => Self::RateLimit,
            "server" => Self::Server,
            "dns" => Self::Dns,
            "tls" => Self::Tls,
            "refused" => Self::Refused,
            "timeout" => Self::Timeout,
            "disk" => Self::Disk,
            "platform" => Self::Platform,
            "invalid" => Self::Invalid,
            "canceled" => Self::Canceled,
            _ => Self::Other,
        }
    }

    /// True if the host itself did not serve, so that asking whether it answers again makes sense.
    pub fn is_unreachable(self) -> bool {
        matches!(self, Self::Dns | Self::Refused | Self::Timeout | Self::Tls | Self::Server)
    }

    /// True if other credentials may help. Registries hide a private image behind "not found", and count anonymous
    /// pulls more strictly.
    pub fn may_lack_credentials(self) -> bool {
        matches!(self, Self::Credentials | Self::NotFound | Self::RateLimit | Self::Other)
    }

    /// What is waited for, in words: "waiting for …".
    pub fn awaited(self, host: &str) -> String {
        let host = host.split_once("://").map_or(host, |(_, host)| host);
        match self {
            Self::Credentials => format!("credentials that {host} accepts"),
            Self::NotFound => format!("the image to appear at {host}"),
            Self::RateLimit => format!("the rate limit of {host} to pass"),
            Self::Server => format!("{host} to recover"),
            Self::Dns => format!("the name {host} to resolve"),
            Self::Tls => format!("a TLS certificate of {host} that this node trusts"),
            Self::Refused => format!("{host} to accept connections"),
            Self::Timeout => format!("{host} to answer"),
            Self::Disk => "free disk space on this node".to_owned(),
            Self::Platform => "an image for the platform of this node".to_owned(),
            Self::Invalid => "a valid image".to_owned(),
            Self::Canceled | Self::Other => "the next try".to_owned(),
        }
    }
}

/// Texts of runtimes without metadata, in lower case, the more telling first: containerd 1.6 and 2.x, CRI-O, and the
/// Go library below both. Held by a test with texts that they really gave.
const TEXTS: &[(&str, Class)] = &[
    ("no such host", Class::Dns),
    ("dial tcp: lookup", Class::Dns),
    ("server misbehaving", Class::Dns),
    ("temporary failure in name resolution", Class::Dns),
    ("cannot be looked up", Class::Dns),
    ("no space left", Class::Disk),
    ("disk quota exceeded", Class::Disk),
    ("toomanyrequests", Class::RateLimit),
    ("429 too many requests", Class::RateLimit),
    ("too many requests", Class::RateLimit),
    ("rate limit", Class::RateLimit),
    ("no match for platform", Class::Platform),
    ("no image found in image index for architecture", Class::Platform),
    ("node is linux/", Class::Platform),
    ("x509:", Class::Tls),
    ("tls: ", Class::Tls),
    ("no tls connection", Class::Tls),
    ("server gave http response to https client", Class::Tls),
    ("connection refused", Class::Refused),
    ("refuses connections", Class::Refused),
    ("no route to host", Class::Refused),
    ("network is unreachable", Class::Refused),
    ("i/o timeout", Class::Timeout),
    ("tls handshake timeout", Class::Timeout),
    ("client.timeout exceeded", Class::Timeout),
    ("deadline exceeded", Class::Timeout),
    ("does not answer in time", Class::Timeout),
    ("connection reset by peer", Class::Timeout),
    ("500 internal server error", Class::Server),
    ("502 bad gateway", Class::Server),
    ("503 service unavailable", Class::Server),
    ("504 gateway timeout", Class::Server),
    ("the registry fails", Class::Server),
    ("pull access denied", Class::Credentials),
    ("unauthorized", Class::Credentials),
    ("authentication required", Class::Credentials),
    ("authorization failed", Class::Credentials),
    ("failed to authorize", Class::Credentials),
    ("no basic auth credentials", Class::Credentials),
    ("insufficient_scope", Class::Credentials),
    ("401 ", Class::Credentials),
    ("403 ", Class::Credentials),
    ("requested access to the resource is denied", Class::Credentials),
    ("unexpected commit", Class::Invalid),
    ("wrong diff id", Class::Invalid),
    ("number of layers and diffids", Class::Invalid),
    ("no longer supported", Class::Invalid),
    ("mediatype", Class::Invalid),
    ("media type", Class::Invalid),
    ("invalid reference format", Class::Invalid),
    ("manifest unknown", Class::NotFound),
    ("name unknown", Class::NotFound),
    ("404 not found", Class::NotFound),
    ("not found", Class::NotFound),
    ("context canceled", Class::Canceled),
    ("was cancelled", Class::Canceled),
];

/// An error that a runtime tells by the beginning of its text (IMG-51).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Typed {
    reason: &'static str,
    clause: &'static str,
}

const TYPED: [Typed; 2] = [
    Typed { reason: "RegistryUnavailable", clause: "the registry is unavailable" },
    Typed { reason: "SignatureValidationFailed", clause: "the signature validation failed" },
];

/// A failed pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What has to change.
    pub class: Class,
    /// The host that it is about; the image's registry if the runtime does not say.
    pub host: String,
    /// The runtime's text.
    pub text: String,
    typed: Option<Typed>,
}

impl Fault {
    /// From the runtime's answer to a pull of `image`; `text` is the answer in the words that users know.
    pub fn of(image: &str, status: &tonic::Status, text: String) -> Self {
        let metadata = |key: &str| status.metadata().get(key).and_then(|value| value.to_str().ok());
        let class = match metadata(CLASS_KEY) {
            Some(word) => Class::parse(word),
            None => by_code(status.code()).unwrap_or_else(|| by_text(&text)),
        };
        let host = metadata(HOST_KEY).filter(|host| !host.is_empty()).map_or_else(|| registry_of(image), str::to_owned);
        let typed = TYPED.into_iter().find(|typed| text.starts_with(typed.reason));
        Self { class, host, text, typed }
    }

    /// A fault that the node itself found.
    pub fn own(image: &str, text: String) -> Self {
        Self { class: Class::Other, host: registry_of(image), text, typed: None }
    }

    /// The failures of several credentials as one: each text once (IMG-181), and the class of what was more than a
    /// refused credential, because that is what stands in the way.
    pub fn join(mut faults: Vec<Self>) -> Option<Self> {
        let mut seen: Vec<String> = Vec::new();
        faults.retain(|fault| {
            let fresh = !seen.contains(&fault.text);
            seen.push(fault.text.clone());
            fresh
        });
        if faults.len() < 2 {
            return faults.pop();
        }
        let decisive = faults.iter().find(|fault| fault.class != Class::Credentials).unwrap_or(&faults[0]);
        let texts: Vec<&str> = faults.iter().map(|fault| fault.text.as_str()).collect();
        Some(Self {
            class: decisive.class,
            host: decisive.host.clone(),
            text: format!("[{}]", texts.join(", ")),
            typed: faults.iter().find_map(|fault| fault.typed),
        })
    }

    /// IMG-51: the reason and the message of `waiting`. A typed error keeps its reason also among several texts.
    pub fn refusal(&self, image: &str) -> Refusal {
        let fault = Some(Box::new(self.clone()));
        let Some(Typed { reason, clause }) = self.typed else {
            return Refusal { reason: "ErrImagePull", message: self.text.clone(), fault };
        };
        let rest = match self.text.strip_prefix(reason) {
            Some(rest) => rest.to_owned(),
            None => format!(": {}", self.text.replace(&format!("{reason}: "), "")),
        };
        Refusal { reason, message: format!("image pull failed for {image} because {clause}{rest}"), fault }
    }
}

/// True for a reason of `waiting` that is about the image.
pub fn is_reason(reason: &str) -> bool {
    let without_pull = ["ErrImagePull", "ErrImageNeverPull", "ImageInspectError", "InvalidImageName"];
    without_pull.contains(&reason) || TYPED.iter().any(|typed| typed.reason == reason)
}

/// A failed attempt to have an image, in the words of `waiting`.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// `waiting.reason`.
    pub reason: &'static str,
    /// `waiting.message`.
    pub message: String,
    /// The failed pull, which starts or lengthens the back-off (IMG-76); `None` if nothing was pulled.
    pub fault: Option<Box<Fault>>,
}

impl Refusal {
    /// A refusal without a pull: it is looked at again soon, without back-off.
    pub fn without_pull(reason: &'static str, message: String) -> Self {
        Self { reason, message, fault: None }
    }
}

fn by_code(code: tonic::Code) -> Option<Class> {
    match code {
        tonic::Code::Cancelled => Some(Class::Canceled),
        tonic::Code::DeadlineExceeded => Some(Class::Timeout),
        tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => Some(Class::Credentials),
        _ => None,
    }
}

fn by_text(text: &str) -> Class {
    let text = text.to_lowercase();
    TEXTS.iter().find(|(part, _)| text.contains(part)).map_or(Class::Other, |(_, class)| *class)
}

/// The host that serves the image's name; Docker Hub is served by another host than its name says (IMG-120).
pub fn registry_of(image: &str) -> String {
    let domain = reference::Reference::parse(image).map(|reference| reference.domain().to_owned()).unwrap_or_default();
    match domain.as_str() {
        "docker.io" => "registry-1.docker.io".to_owned(),
        _ => domain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Fault {
        Fault::of("reg.test/app:1", &tonic::Status::unknown(text), text.to_owned())
    }

    #[test]
    fn metadata_tells_class_and_host() {
        let mut status = tonic::Status::unknown("no such host");
        for (key, value) in [(CLASS_KEY, "rate-limit"), (HOST_KEY, "mirror.test:5000")] {
            status.metadata_mut().insert(key, value.parse().unwrap());
        }
        let fault = Fault::of("reg.test/app:1", &status, "no such host".into());
        assert_eq!((fault.class, fault.host.as_str()), (Class::RateLimit, "mirror.test:5000"));
    }

    #[test]
    fn texts_of_other_runtimes_tell_the_class() {
        for (text, class) in [
            (
                r#"failed to pull and unpack image "r/a:1": failed to resolve reference "r/a:1": r/a:1: not found"#,
                Class::NotFound,
            ),
            (
                r#"failed to resolve reference "r/a:1": pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"#,
                Class::Credentials,
            ),
            (
                r#"failed to resolve reference "r/a:1": failed to do request: Head "https://r/v2/a/manifests/1": dial tcp 127.0.0.1:5000: connect: connection refused"#,
                Class::Refused,
            ),
            (r#"Head "https://r/v2/": dial tcp: lookup r on 10.0.0.2:53: no such host"#, Class::Dns),
            (r#"dial tcp: lookup r on 10.0.0.2:53: read udp 10.0.0.1:1->10.0.0.2:53: i/o timeout"#, Class::Dns),
            (r#"dial tcp 192.0.2.1:443: i/o timeout"#, Class::Timeout),
            (r#"tls: failed to verify certificate: x509: certificate signed by unknown authority"#, Class::Tls),
            (
                r#"unexpected status from HEAD request to https://r/v2/a/manifests/1: 503 Service Unavailable"#,
                Class::Server,
            ),
            (
                r#"429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit"#,
                Class::RateLimit,
            ),
            (r#"failed to extract layer: write /var/lib/x: no space left on device"#, Class::Disk),
            (r#"no match for platform in manifest sha256:0: not found"#, Class::Platform),
            (r#"reading manifest 1 in r/a: unauthorized: authentication required"#, Class::Credentials),
            (r#"reading manifest 1 in docker.io/a: requested access to the resource is denied"#, Class::Credentials),
            (r#"unexpected commit digest sha256:1, expected sha256:2: failed precondition"#, Class::Invalid),
            ("something else", Class::Other),
        ] {
            assert_eq!(fault(text).class, class, "{text}");
        }
        assert_eq!(Fault::of("a", &tonic::Status::cancelled("x"), "x".into()).class, Class::Canceled);
    }

    #[test]
    fn the_host_is_the_images_registry_unless_told() {
        assert_eq!(fault("x").host, "reg.test");
        assert_eq!(registry_of("busybox"), "registry-1.docker.io");
        assert_eq!(registry_of("localhost:5000/a:1"), "localhost:5000");
    }

    #[test]
    fn typed_errors_keep_their_reason() {
        let refusal = fault("RegistryUnavailable: dial tcp refused").refusal("img");
        assert_eq!(refusal.reason, "RegistryUnavailable");
        assert_eq!(refusal.message, "image pull failed for img because the registry is unavailable: dial tcp refused");
        let refusal = fault("SignatureValidationFailed").refusal("img");
        assert_eq!(refusal.message, "image pull failed for img because the signature validation failed");
        assert_eq!(refusal.reason, "SignatureValidationFailed");
        assert_eq!(fault("not found").refusal("img").reason, "ErrImagePull");
    }

    #[test]
    fn several_credentials_fail_as_one_and_keep_the_typed_reason() {
        let join = |texts: &[&str]| Fault::join(texts.iter().map(|text| fault(text)).collect()).unwrap();
        assert_eq!(join(&["401 a"]).text, "401 a");
        assert_eq!(join(&["401 a", "401 a"]).text, "401 a");
        let both = join(&["401 a", "RegistryUnavailable: connection refused"]);
        assert_eq!(both.text, "[401 a, RegistryUnavailable: connection refused]");
        assert_eq!(both.class, Class::Refused);
        let refusal = both.refusal("img");
        assert_eq!(refusal.reason, "RegistryUnavailable");
        assert_eq!(
            refusal.message,
            "image pull failed for img because the registry is unavailable: [401 a, connection refused]"
        );
        assert_eq!(join(&["401 a", "401 b"]).refusal("img").reason, "ErrImagePull");
    }
}
