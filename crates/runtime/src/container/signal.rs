//! Signals by name and number.

/// The classic signals, at the place of their number.
const NAMES: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH",
    "IO", "PWR", "SYS",
];
/// First and last real-time signal that programs may use.
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

pub(crate) const SIGTERM: u32 = 15;
pub(crate) const SIGKILL: u32 = 9;

/// The signal that stops a container: the pod's wish, else the image's, else SIGTERM.
pub(crate) fn stop_signal(asked: i32, image: &str) -> u32 {
    let by_pod = cri::v1::Signal::try_from(asked).ok().filter(|signal| *signal != cri::v1::Signal::RuntimeDefault);
    let by_pod = by_pod.and_then(|signal| parse(&spelled(signal.as_str_name())));
    by_pod.or_else(|| parse(image)).unwrap_or(SIGTERM)
}

/// `SIGNAL_SIGRTMINPLUS3` → `SIGRTMIN+3`.
fn spelled(name: &str) -> String {
    name.trim_start_matches("SIGNAL_").replace("PLUS", "+").replace("MINUS", "-")
}

/// A signal by number, or by name with or without `SIG`.
fn parse(text: &str) -> Option<u32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let more: u32 = if rest.is_empty() { 0 } else { rest.strip_prefix('+')?.parse().ok()? };
        return Some(RTMIN + more).filter(|number| *number <= RTMAX);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let less: u32 = if rest.is_empty() { 0 } else { rest.strip_prefix('-')?.parse().ok()? };
        return RTMAX.checked_sub(less).filter(|number| *number >= RTMIN);
    }
    let name = match name {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        name => name,
    };
    let number = NAMES.iter().position(|known| !known.is_empty() && *known == name)?;
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_interface_has_a_number() {
        for number in 1..=65 {
            let signal = cri::v1::Signal::try_from(number).unwrap();
            assert!(parse(&spelled(signal.as_str_name())).is_some(), "{}", signal.as_str_name());
        }
    }

    #[test]
    fn the_pod_comes_before_the_image() {
        assert_eq!(stop_signal(0, ""), SIGTERM);
        assert_eq!(stop_signal(0, "SIGQUIT"), 3);
        assert_eq!(stop_signal(0, "37"), 37);
        assert_eq!(stop_signal(0, "SIGRTMIN+3"), 37);
        assert_eq!(stop_signal(0, "nonsense"), SIGTERM);
        assert_eq!(stop_signal(cri::v1::Signal::Sigusr1 as i32, "SIGQUIT"), 10);
        assert_eq!(stop_signal(cri::v1::Signal::Sigrtmaxminus1 as i32, ""), 63);
    }
}
