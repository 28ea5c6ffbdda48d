//! The `WWW-Authenticate: Bearer` header of a registry.

use reqwest::Url;

/// Where a token is to be had, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// Reads the header; none when it asks for anything but a token.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut challenge = Self {
            realm: String::new(),
            service: None,
            scope: None,
        };
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            let Some((key, after)) = rest.split_once('=') else {
                break;
            };
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match key.trim() {
                "realm" => value.clone_into(&mut challenge.realm),
                "service" => challenge.service = Some(value.to_owned()),
                "scope" => challenge.scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        (!challenge.realm.is_empty()).then_some(challenge)
    }

    /// Where to ask for the token; `scope` counts when the registry names none.
    pub(super) fn token_url(&self, scope: &str) -> Option<Url> {
        let mut url = Url::parse(&self.realm).ok()?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", self.scope.as_deref().unwrap_or(scope));
        }
        Some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_public_registry_is_read() {
        let challenge = Challenge::parse(
            r#"Bearer realm="https://auth.example.net/token",service="registry.example.net",scope="repository:library/nginx:pull,push""#,
        )
        .unwrap();
        let url = challenge.token_url("unused").unwrap();
        assert_eq!(
            url.as_str(),
            "https://auth.example.net/token?service=registry.example.net&scope=repository%3Alibrary%2Fnginx%3Apull%2Cpush"
        );
    }

    #[test]
    fn garbage_and_other_schemes_are_no_challenge() {
        for text in [
            "",
            "Bearer",
            "Bearer ",
            "Basic realm=\"x\"",
            "Bearer realm=\"open",
            "Bearer service=\"x\"",
        ] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
        let bare = Challenge::parse("bearer realm=https://a.example/t").unwrap();
        let url = bare.token_url("repository:a:pull").unwrap();
        assert_eq!(
            url.as_str(),
            "https://a.example/t?scope=repository%3Aa%3Apull"
        );
    }
}
