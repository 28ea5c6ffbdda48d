//! Image references with registry and tag spelled out.

use protocol::deployment::spec::Image;

/// Bytes of a reference; what registries allow.
const REFERENCE_BYTES_MAX: usize = 255;

/// Spells a reference out: `nginx` is `docker.io/library/nginx:latest`. One that
/// names a digest and no tag gets none.
///
/// # Errors
/// What is wrong, as a fragment that follows the place.
pub fn normalise(text: &str) -> Result<Image, String> {
    let wrong = |why: &str| Err(format!("{:?} is no image: {why}", cut(text)));
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest
        && !digest.strip_prefix("sha256:").is_some_and(is_sha256)
    {
        return wrong("a digest is `sha256:` and 64 lowercase hexadecimal digits");
    }
    // A colon in front of the last slash is the registry's port.
    let (path, tag) = match named.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        Some(_) | None => (named, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return wrong("a tag is at most 128 of A-Z a-z 0-9 _ . -");
    }
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (first, rest),
        Some(_) | None => ("docker.io", path),
    };
    let registry = match registry {
        "index.docker.io" => "docker.io",
        other => other,
    };
    if !is_registry(registry) {
        return wrong("the registry is no host name");
    }
    if !repository.split('/').all(is_part) {
        return wrong("a name is lowercase letters and digits, with . _ - between them");
    }
    let library = if registry == "docker.io" && !repository.contains('/') {
        "library/"
    } else {
        ""
    };
    let tag = match (tag, digest) {
        (Some(tag), _) => format!(":{tag}"),
        (None, Some(_)) => String::new(),
        (None, None) => ":latest".to_owned(),
    };
    let reference = format!("{registry}/{library}{repository}{tag}");
    if reference.len() > REFERENCE_BYTES_MAX {
        return wrong("it is too long");
    }
    Ok(Image {
        reference,
        digest: digest.map(str::to_owned),
        archive: None,
    })
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

fn is_registry(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        Some(_) | None => (host, None),
    };
    let name_holds = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name.split('.').all(|label| {
                    !label.is_empty()
                        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                })
        }
    };
    name_holds && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_part(part: &str) -> bool {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(ends)
        && part.ends_with(ends)
        && part
            .chars()
            .all(|c| ends(c) || matches!(c, '.' | '_' | '-'))
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_and_tag_are_spelled_out() {
        for (text, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("acme/web", "docker.io/acme/web:latest"),
            ("ghcr.io/acme/a/b:v1", "ghcr.io/acme/a/b:v1"),
            ("localhost/x", "localhost/x:latest"),
            ("registry:5000/x", "registry:5000/x:latest"),
            ("[::1]:5000/x:a", "[::1]:5000/x:a"),
        ] {
            let image = normalise(text).unwrap();
            assert_eq!((image.reference.as_str(), image.digest), (expected, None));
            assert_eq!(normalise(expected).unwrap().reference, expected);
        }
    }

    #[test]
    fn a_digest_is_kept_and_needs_no_tag() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let image = normalise(&format!("nginx@{digest}")).unwrap();
        assert_eq!(image.reference, "docker.io/library/nginx");
        assert_eq!(image.digest.as_deref(), Some(digest.as_str()));
        let image = normalise(&format!("nginx:1@{digest}")).unwrap();
        assert_eq!(image.reference, "docker.io/library/nginx:1");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let long = "a".repeat(300);
        for text in [
            "",
            ":",
            "Nginx",
            "nginx:",
            "nginx:a b",
            "a//b",
            "/a",
            "a/",
            "nginx@sha256:00",
            "nginx@md5:00",
            "-a",
            "a..b",
            "host.:x/y",
            "a.b:99999/c",
            "http://a.b/c",
            "a b",
            &long,
        ] {
            assert!(normalise(text).is_err(), "{text}");
        }
    }
}
