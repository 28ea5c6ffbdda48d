//! The shapes that secrets have as text, and taking them out of texts that
//! people pass on: logs, statuses, configurations in a support bundle.
//!
//! **Invariant:** [`redact`] takes out more rather than less. It is the second
//! line of defence: what gathers texts must not gather secrets in the first
//! place. It cannot fail.

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";

/// Beginnings of our own secrets: join tokens and API keys.
const PREFIXES: [&str; 2] = ["flj1_", "flk1_"];

/// Words of an HTTP `Authorization`, behind which the secret stands.
const SCHEMES: [&str; 4] = ["Bearer ", "bearer ", "Basic ", "basic "];

/// Names whose values are secrets, in lower case. A name that goes on, such as
/// `password_file`, is another one.
const NAMES: [&str; 8] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "private_key",
];

/// A text without the secrets that can be recognised in it: join tokens, API
/// keys, private keys in PEM, logins in URLs and in `Authorization`, and values
/// of names such as `password`.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN ") && line.contains("PRIVATE KEY");
        if begins {
            clean.push_str("[redacted private key]\n");
        }
        if !in_key && !begins {
            clean.push_str(&redact_line(line));
        }
        in_key = (in_key || begins) && !line.contains("-----END ");
    }
    clean
}

fn redact_line(line: &str) -> String {
    let mut line = line.to_owned();
    for prefix in PREFIXES {
        line = cut_after(&line, prefix, |c| {
            !c.is_ascii_alphanumeric() && c != '_' && c != '-'
        });
    }
    for scheme in SCHEMES {
        line = cut_after(&line, scheme, ends_value);
    }
    line = cut_logins(&line);
    for name in NAMES {
        line = cut_values(&line, name);
    }
    line
}

fn ends_value(c: char) -> bool {
    c.is_whitespace() || "\"'`,;&<>()[]{}".contains(c)
}

/// Takes out what follows each `marker` up to a character that ends it.
fn cut_after(line: &str, marker: &str, ends: impl Fn(char) -> bool) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once(marker) {
        clean.push_str(before);
        clean.push_str(marker);
        let end = after.find(&ends).unwrap_or(after.len());
        if end > 0 {
            clean.push_str(REDACTED);
        }
        rest = after.get(end..).unwrap_or_default();
    }
    clean.push_str(rest);
    clean
}

/// Takes out user and password of each URL.
fn cut_logins(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let end = after
            .find(|c: char| c.is_whitespace() || "/\"'`<>".contains(c))
            .unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                clean.push_str(REDACTED);
                clean.push('@');
                clean.push_str(host);
            }
            None => clean.push_str(authority),
        }
        rest = tail;
    }
    clean.push_str(rest);
    clean
}

/// Takes out the value behind each `name =`, `name:` or `"name":`.
fn cut_values(line: &str, name: &str) -> String {
    // Lower case of ASCII keeps every byte's place.
    let lower = line.to_ascii_lowercase();
    let mut clean = String::with_capacity(line.len());
    let mut done = 0;
    let mut from = 0;
    while let Some(found) = lower.get(from..).and_then(|rest| rest.find(name)) {
        from += found + name.len();
        let rest = line.get(from..).unwrap_or_default();
        let Some(start) = value_start(rest) else {
            continue;
        };
        let value = rest.get(start..).unwrap_or_default();
        // A quoted value may hold anything but its quote.
        let quote = rest.get(..start).and_then(|before| before.chars().last());
        let quote = quote.filter(|quote| "\"'".contains(*quote));
        let end = value.find(|c: char| match quote {
            Some(quote) => c == quote || c == '\n',
            None => ends_value(c),
        });
        let end = end.unwrap_or(value.len());
        if end > 0 {
            clean.push_str(line.get(done..from + start).unwrap_or_default());
            clean.push_str(REDACTED);
            done = from + start + end;
            from = done;
        }
    }
    clean.push_str(line.get(done..).unwrap_or_default());
    clean
}

/// Where the value begins in what follows a name; none when none does.
fn value_start(rest: &str) -> Option<usize> {
    let trimmed = rest.trim_start_matches(['"', '\'', ' ']);
    let value = trimmed.strip_prefix(['=', ':'])?;
    let value = value.trim_start_matches(' ');
    let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
    Some(rest.len() - value.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_taken_out_and_their_surroundings_stay() {
        for (text, clean) in [
            ("token flj1_AbC-_9 used", "token flj1_[redacted] used"),
            ("key=flk1_abc23 end", "key=flk1_[redacted] end"),
            (
                "Authorization: Bearer abc.def-1 x",
                "Authorization: Bearer [redacted] x",
            ),
            ("https://ana:pw@host:1/x?y", "https://[redacted]@host:1/x?y"),
            ("https://host/x@y", "https://host/x@y"),
            (
                "password = \"a b\" # why",
                "password = \"[redacted]\" # why",
            ),
            ("PASSWORD=abc next=1", "PASSWORD=[redacted] next=1"),
            (
                "{\"secret\": \"x\", \"a\": 1}",
                "{\"secret\": \"[redacted]\", \"a\": 1}",
            ),
            ("password_file = \"/etc/x\"", "password_file = \"/etc/x\""),
            ("no secrets here\n", "no secrets here\n"),
            ("", ""),
        ] {
            assert_eq!(redact(text), clean);
        }
    }

    #[test]
    fn private_keys_are_taken_out_whole_even_when_cut_short() {
        let key =
            "before\n-----BEGIN PRIVATE KEY-----\nMIGH\nAgEA\n-----END PRIVATE KEY-----\nafter\n";
        assert_eq!(redact(key), "before\n[redacted private key]\nafter\n");
        let cut = "x\n-----BEGIN EC PRIVATE KEY-----\nMIGH\nAgEA";
        assert_eq!(redact(cut), "x\n[redacted private key]\n");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(redact(certificate), certificate);
    }

    proptest! {
        #[test]
        fn invariant_no_token_survives(
            before in "[ -~\\n]{0,40}", secret in "[A-Z]{20}", after in "[ \\n,\"'][ -~\\n]{0,40}",
        ) {
            for prefix in PREFIXES {
                let clean = redact(&format!("{before}{prefix}{secret}{after}"));
                prop_assert!(!clean.contains(&secret), "{clean}");
            }
        }

        #[test]
        fn invariant_any_text_is_taken(text in "\\PC{0,200}") {
            let _clean = redact(&text);
        }
    }
}
