//! Sizes, times and fractions as Compose writes them.

use super::problem::shown;

/// Bytes: `64m`, `1.5gb`, `1024`. Units are powers of 1024, as the engine takes
/// them.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{} is no size such as `512m` or `1.5g`", shown(text));
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = match lower.strip_prefix(digits).unwrap_or_default() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(wrong()),
    };
    scaled(digits.trim_end(), 1 << (10 * power)).ok_or_else(wrong)
}

/// Billionths: `0.5` is 500,000,000.
pub(super) fn billionths(text: &str) -> Result<u64, String> {
    scaled(text.trim(), 1_000_000_000)
        .ok_or_else(|| format!("{} is no number such as `0.5`", shown(text)))
}

/// Milliseconds: `1m30s`, `500ms`, `1.5h`. A time that is not zero and below a
/// millisecond is refused, because engines do.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{} is no time such as `1m30s`", shown(text));
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    if rest == "0" {
        return Ok(0);
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = cut(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = cut(after, |c| c.is_alphabetic());
        let scale = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        let part = scaled(number, scale).ok_or_else(wrong)?;
        nanos = nanos.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    match nanos {
        1..=999_999 => Err(format!("{} is below a millisecond", shown(text))),
        nanos => Ok(nanos / 1_000_000),
    }
}

fn cut(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// A decimal number times `scale`, rounded down; none when it is no number or too
/// large.
fn scaled(text: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let number = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<u128>().ok(),
    };
    let unit = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value = number(whole)? * unit + number(fraction)?;
    u64::try_from(value.checked_mul(u128::from(scale))? / unit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("10b", Some(10)),
            ("1k", Some(1024)),
            ("64M", Some(64 << 20)),
            ("1.5gb", Some(3 << 29)),
            ("1 GiB", Some(1 << 30)),
            ("", None),
            ("-1", None),
            ("k", None),
            ("1.2.3m", None),
            ("1x", None),
            ("99999999999999999999g", None),
            ("999999999999999999t", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("2h3m4s5ms", Some(7_384_005)),
            ("1500us", Some(1)),
            ("999us", None),
            ("10", None),
            ("s", None),
            ("1d", None),
            ("-1s", None),
            ("", None),
            ("999999999999999999h", None),
        ] {
            assert_eq!(milliseconds(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn fractions_are_read() {
        for (text, expected) in [
            ("0.5", Some(500_000_000)),
            (".25", Some(250_000_000)),
            ("2", Some(2_000_000_000)),
            ("1e3", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(billionths(text).ok(), expected, "{text}");
        }
    }
}
