//! An image's reference, taken apart.

use std::fmt;

use reqwest::Url;

/// Docker Hub's name in references, and the host that answers for it.
const HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A reference in its long form: registry, repository and tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: String,
}

impl Reference {
    /// Takes `registry/repository:tag` apart; none for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (registry, path) = text.split_once('/')?;
        let (repository, tag) = path.rsplit_once(':')?;
        let is_path = |text: &str| {
            !text.is_empty()
                && !text.starts_with('/')
                && text.chars().all(|c| {
                    c.is_ascii_lowercase()
                        || c.is_ascii_digit()
                        || matches!(c, '.' | '_' | '-' | '/')
                })
                && text
                    .split('/')
                    .all(|part| !part.is_empty() && part != ".." && part != ".")
        };
        let is_tag = !tag.is_empty()
            && tag
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        let is_host = !registry.is_empty()
            && registry
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
        (is_path(repository) && is_tag && is_host).then(|| Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// Where its manifest is.
    pub(super) fn manifest_url(&self, scheme: &str) -> Option<Url> {
        let host = if self.registry == HUB.0 {
            HUB.1
        } else {
            &self.registry
        };
        let url = format!(
            "{scheme}://{host}/v2/{}/manifests/{}",
            self.repository, self.tag
        );
        Url::parse(&url).ok()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_taken_apart_and_asked_for_where_it_is() {
        for (text, url) in [
            (
                "docker.io/library/nginx:1.27",
                "https://registry-1.docker.io/v2/library/nginx/manifests/1.27",
            ),
            (
                "localhost:5000/a/b:latest",
                "https://localhost:5000/v2/a/b/manifests/latest",
            ),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), text);
            assert_eq!(reference.manifest_url("https").unwrap().as_str(), url);
        }
    }

    #[test]
    fn what_is_no_reference_with_a_tag_is_not_asked_for() {
        for text in [
            "",
            "nginx",
            "docker.io/nginx",
            "docker.io/../nginx:1",
            "docker.io/nginx:a?b",
            "user@host/nginx:1",
            "host/x/:1",
            "host/x#y:1",
        ] {
            assert_eq!(Reference::parse(text), None, "{text}");
        }
    }
}
