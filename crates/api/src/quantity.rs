//! Quantities: exact numbers with a suffix, such as `100m`, `1.5Gi`, `1e3`.
//!
//! A value is kept exactly as an integer of nano-units. Everything that a Pod can mean fits into 128 bits; a number too
//! large is held at the largest value, as upstream caps it too.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
/// Largest value, in nano-units: 2^63 - 1 units, upstream's cap.
const NANO_MAX: i128 = (i64::MAX as i128) * NANO;

/// How a quantity writes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Format {
    /// `m`, none, `k`, `M`, … powers of 1000.
    #[default]
    Decimal,
    /// `Ki`, `Mi`, … powers of 1024.
    Binary,
    /// `e3`, `e6`, …
    Exponent,
}

/// An exact quantity. Comparison and equality are by value alone: `1` equals `1000m`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// A text that is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form number + suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    /// A number that cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// An unknown suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::Decimal };

    /// Reads a quantity.
    ///
    /// # Errors
    /// When the text is not a number with a known suffix.
    pub fn parse(text: &str) -> Result<Quantity, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(ParseError::Form),
        };
        let end = rest.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(ParseError::Form);
        }
        let (base, exponent, format) = suffix_scale(suffix)?;
        let nanos = scaled(whole, fraction, base, exponent);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Reads a JSON value: a text, or a number.
    ///
    /// # Errors
    /// When it is neither, or not a quantity.
    pub fn from_value(value: &Value) -> Result<Quantity, ParseError> {
        match value {
            Value::String(text) => Quantity::parse(text),
            Value::Number(number) => Quantity::parse(&number.to_string()),
            _ => Err(ParseError::Form),
        }
    }

    /// So many whole units.
    pub fn units(units: i64) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, format: Format::Decimal }
    }

    /// So many thousandths, e.g. of a processor.
    pub fn milli(thousandths: i64) -> Quantity {
        Quantity { nanos: i128::from(thousandths) * (NANO / 1000), format: Format::Decimal }
    }

    /// So many bytes, written with binary suffixes.
    pub fn bytes(bytes: i64) -> Quantity {
        Quantity { nanos: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// Whether the value is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether the value is below nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether the value is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whole units, rounded up (away from zero).
    pub fn value(self) -> i64 {
        clamp(divide_up(self.nanos, NANO))
    }

    /// Thousandths, rounded up (away from zero), capped.
    pub fn milli_value(self) -> i64 {
        clamp(divide_up(self.nanos, NANO / 1000))
    }

    /// The value rounded up to whole thousandths, as the API stores resource lists.
    #[must_use]
    pub fn rounded_to_milli(self) -> Quantity {
        let step = NANO / 1000;
        Quantity { nanos: divide_up(self.nanos, step) * step, ..self }
    }

    /// How many times as large as another, which is not nothing, this is; roughly.
    pub fn ratio_to(self, other: Quantity) -> f64 {
        self.nanos as f64 / other.nanos as f64
    }

    /// Sum, held within bounds. The left side's format stays, unless it is zero.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-NANO_MAX, NANO_MAX), format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The canonical text: the largest suffix that leaves a whole number.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.nanos.unsigned_abs();
        if self.nanos < 0 {
            f.write_str("-")?;
        }
        // Binary suffixes cannot show fractions: below 1024 and off whole numbers upstream falls back to decimal.
        if self.format == Format::Binary && self.is_whole() && magnitude >= 1024 * NANO as u128 {
            return write_binary(f, magnitude / NANO as u128);
        }
        write_decimal(f, magnitude, self.format == Format::Exponent)
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut units: u128) -> fmt::Result {
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
    let mut suffix = suffixes.next().unwrap_or("");
    for next in suffixes {
        if !units.is_multiple_of(1024) {
            break;
        }
        units /= 1024;
        suffix = next;
    }
    write!(f, "{units}{suffix}")
}

fn write_decimal(f: &mut fmt::Formatter<'_>, mut number: u128, exponent: bool) -> fmt::Result {
    if number == 0 {
        return f.write_str("0");
    }
    let mut power = -9;
    while number.is_multiple_of(1000) && power < 18 {
        number /= 1000;
        power += 3;
    }
    let suffix = match (power, exponent) {
        (0, _) => String::new(),
        (_, true) => format!("e{power}"),
        (-9, _) => "n".to_owned(),
        (-6, _) => "u".to_owned(),
        (-3, _) => "m".to_owned(),
        (3, _) => "k".to_owned(),
        (6, _) => "M".to_owned(),
        (9, _) => "G".to_owned(),
        (12, _) => "T".to_owned(),
        (15, _) => "P".to_owned(),
        (_, _) => "E".to_owned(),
    };
    write!(f, "{number}{suffix}")
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn divide_up(value: i128, step: i128) -> i128 {
    let quotient = value / step;
    match value % step {
        0 => quotient,
        _ if (value < 0) == (step < 0) => quotient + 1,
        _ => quotient - 1,
    }
}

/// Base (2 or 10), exponent and format of a suffix.
fn suffix_scale(suffix: &str) -> Result<(u32, i32, Format), ParseError> {
    let decimal = |exponent| Ok((10, exponent, Format::Decimal));
    let binary = |exponent| Ok((2, exponent, Format::Binary));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ if suffix.starts_with(['e', 'E']) => {
            let digits = &suffix[1..];
            let shaped = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if shaped.is_empty() || !shaped.bytes().all(|b| b.is_ascii_digit()) {
                return Err(ParseError::Suffix);
            }
            Ok((10, digits.parse::<i32>().map_err(|_| ParseError::Suffix)?, Format::Exponent))
        }
        _ if suffix.bytes().all(|b| b"einumkKMGTPE+-0123456789".contains(&b)) => Err(ParseError::Suffix),
        _ => Err(ParseError::Form),
    }
}

/// The magnitude in nano-units: digits times base to the exponent, rounded up below a nano-unit, capped.
fn scaled(whole: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    let digits: String = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    // Beyond 40 significant digits nothing matters but whether it is capped or rounded.
    let shift = match base {
        10 => 9 + i64::from(exponent) - fraction.len() as i64,
        _ => 9 - fraction.len() as i64,
    };
    if digits.len() as i64 + shift > 30 {
        return NANO_MAX;
    }
    if digits.len() as i64 + shift < -40 {
        return 1;
    }
    let factor: u128 = if base == 2 { 1u128 << exponent } else { 1 };
    let (kept, dropped) = digits.split_at(digits.len().min(30));
    let mut number: u128 = kept.parse().unwrap_or(u128::MAX);
    let mut shift = shift + dropped.len() as i64;
    let mut inexact = dropped.bytes().any(|b| b != b'0');
    number = match number.checked_mul(factor) {
        Some(number) => number,
        // Too many digits for the factor: whole part alone decides, and it is far above the cap or cut below.
        None => return scaled_roughly(number, factor, shift),
    };
    while shift > 0 {
        match number.checked_mul(10) {
            Some(larger) => number = larger,
            None => return NANO_MAX,
        }
        shift -= 1;
    }
    while shift < 0 {
        inexact |= !number.is_multiple_of(10);
        number /= 10;
        shift += 1;
    }
    let number = i128::try_from(number).unwrap_or(NANO_MAX).saturating_add(i128::from(inexact));
    number.min(NANO_MAX)
}

/// A product that does not fit into 128 bits: divides before it multiplies and rounds up.
fn scaled_roughly(mut number: u128, factor: u128, mut shift: i64) -> i128 {
    while shift < 0 && number.checked_mul(factor).is_none() {
        number = number.div_ceil(10);
        shift += 1;
    }
    let Some(mut number) = number.checked_mul(factor) else { return NANO_MAX };
    while shift < 0 {
        number = number.div_ceil(10);
        shift += 1;
    }
    match shift {
        0 => i128::try_from(number).unwrap_or(NANO_MAX).min(NANO_MAX),
        _ => NANO_MAX,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    #[test]
    fn canonical_texts() {
        let cases = [
            ("0", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("0.1Ki", "102400m"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("-1.5", "-1500m"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("1n", "1n"),
            ("0.0000000001", "1n"),
            ("100000000", "100M"),
            ("123456789", "123456789"),
        ];
        for (text, canonical) in cases {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in ["", "a", "1.2.3", "1x", "1 ", " 1", "-", "1ki", "1e", "1e1.5", "1mm", "--1", "."] {
            assert!(Quantity::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn values_compare_and_round() {
        assert_eq!(q("250m"), q("0.25"));
        assert!(q("1Mi") > q("1M"));
        assert_eq!(q("1.1").value(), 2);
        assert_eq!(q("-1.1").value(), -2);
        assert_eq!(q("1u").milli_value(), 1);
        assert_eq!(q("100.2Mi").rounded_to_milli(), q("100.2Mi").rounded_to_milli().rounded_to_milli());
        assert_eq!(q("99999999999999999999E").value(), i64::MAX);
        assert_eq!(q("1").plus(q("500m")).to_string(), "1500m");
        assert_eq!(Quantity::ZERO.plus(q("64Mi")).to_string(), "64Mi");
        assert_eq!(q("8Ei"), q("9223372036854775807"), "capped as upstream caps it");
    }

    proptest! {
        #[test]
        fn a_canonical_text_reads_back_as_itself(nanos in -NANO_MAX..NANO_MAX, format in 0..3) {
            let format = [Format::Decimal, Format::Binary, Format::Exponent][format as usize];
            let quantity = Quantity { nanos, format };
            let text = quantity.to_string();
            let back = q(&text);
            prop_assert_eq!(back, quantity);
            prop_assert_eq!(back.to_string(), text);
        }

        #[test]
        fn no_text_panics(text in "[-+]?[0-9.]{0,50}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            let _ = Quantity::parse(&text);
        }
    }
}
