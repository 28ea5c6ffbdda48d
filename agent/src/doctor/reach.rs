//! The way out: broker, controller, and the container engine beside.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use protocol::time::UnixMillis;

use super::dial::{DialError, dial, get};
use super::{Check, Subject};
use crate::chain;

/// Time that the container engine has for its answer.
const ENGINE_MAX: Duration = Duration::from_secs(5);

/// Whether a broker speaks TLS with this node. One of several is enough.
pub(super) fn broker(subject: &Subject) -> Check {
    const NAME: &str = "broker";
    let tls = match &subject.tls {
        Ok(tls) => tls,
        Err(problem) => return no_identity(NAME, problem),
    };
    let mut tried = Vec::new();
    for address in &subject.brokers {
        match dial(address, subject.proxy(), tls) {
            Ok(_) => {
                let detail = format!("{address} speaks TLS with this node's certificate");
                return after_others(NAME, detail, &tried);
            }
            Err(error) => tried.push(error),
        }
    }
    none_answered(NAME, "broker", &tried)
}

/// Whether the controller answers over HTTPS, and its clock.
pub(super) fn controller(subject: &Subject) -> (Check, Option<UnixMillis>) {
    const NAME: &str = "controller";
    let tls = match &subject.tls {
        Ok(tls) => tls,
        Err(problem) => return (no_identity(NAME, problem), None),
    };
    let mut tried = Vec::new();
    for address in &subject.controllers {
        let answer = dial(address, subject.proxy(), tls)
            .and_then(|mut connection| get(&mut connection, address, "/healthz"));
        match answer {
            Ok(head) => return said(NAME, address, &head, &tried),
            Err(error) => tried.push(error),
        }
    }
    (none_answered(NAME, "controller", &tried), None)
}

fn said(
    name: &'static str,
    address: &str,
    head: &str,
    tried: &[DialError],
) -> (Check, Option<UnixMillis>) {
    let time = header(head, "date").and_then(http_date);
    let status = head.split(' ').nth(1).unwrap_or_default();
    let check = if status == "200" {
        after_others(name, format!("{address} answers and is healthy"), tried)
    } else {
        let first = head.lines().next().unwrap_or("nothing").to_owned();
        Check::warning(
            name,
            format!("{address} answers: {first}"),
            "look at the controller's log and at 'flotilla doctor' there",
        )
    };
    (check, time)
}

fn after_others(name: &'static str, detail: String, tried: &[DialError]) -> Check {
    if tried.is_empty() {
        return Check::ok(name, detail);
    }
    let failed: Vec<String> = tried.iter().map(|error| chain(error)).collect();
    Check::warning(
        name,
        format!("{detail}; before it:\n{}", failed.join("\n")),
        "correct or remove the addresses that do not answer",
    )
}

fn none_answered(name: &'static str, what: &str, tried: &[DialError]) -> Check {
    match tried.first() {
        None => Check::skipped(name, format!("no {what}'s address is known")),
        Some(first) => {
            let failed: Vec<String> = tried.iter().map(|error| chain(error)).collect();
            Check::failed(name, failed.join("\n"), first.advice())
        }
    }
}

fn no_identity(name: &'static str, problem: &str) -> Check {
    Check::skipped(name, format!("not tried: {problem}"))
}

/// The value of a header.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A date as HTTP writes it: `Mon, 23 Nov 2026 20:30:00 GMT`.
fn http_date(text: &str) -> Option<UnixMillis> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let time = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(UnixMillis(protocol::time::millis(since)))
}

/// Whether a container engine answers. None is needed.
pub(super) fn engine(subject: &Subject) -> Check {
    const NAME: &str = "containers";
    let Ok(config) = &subject.config else {
        return Check::skipped(NAME, "the configuration names the engine's socket");
    };
    let socket = &config.docker.socket;
    if !socket.exists() {
        return Check::skipped(
            NAME,
            format!("{} does not exist: no container engine", socket.display()),
        );
    }
    let asked = UnixStream::connect(socket).and_then(|mut stream| {
        stream.set_read_timeout(Some(ENGINE_MAX))?;
        stream.set_write_timeout(Some(ENGINE_MAX))?;
        get(&mut stream, "localhost", "/_ping").map_err(std::io::Error::other)
    });
    match asked {
        Ok(head) if head.split(' ').nth(1) == Some("200") => {
            let version = header(&head, "server").unwrap_or("an engine").to_owned();
            Check::ok(NAME, format!("{version} answers at {}", socket.display()))
        }
        Ok(head) => Check::warning(
            NAME,
            format!(
                "{} says {:?}",
                socket.display(),
                head.lines().next().unwrap_or_default()
            ),
            "is docker.socket the container engine's?",
        ),
        Err(error) => Check::warning(
            NAME,
            format!("{} does not answer: {}", socket.display(), chain(&error)),
            "start the engine ('systemctl start docker'), or let the agent's user use its socket",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(
            http_date("Mon, 23 Nov 2026 20:30:00 GMT"),
            Some(UnixMillis(1_795_465_800_000))
        );
        for text in [
            "",
            "Mon",
            "Mon, 23 Nov 2026",
            "Mon, 23 Foo 2026 20:30:00 GMT",
            "Mon, x Nov y z",
        ] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let head = "HTTP/1.1 200 OK\r\nServer: Docker/20.10\r\ndate: x\r\n\r\n";
        assert_eq!(header(head, "server"), Some("Docker/20.10"));
        assert_eq!(header(head, "Date"), Some("x"));
        assert_eq!(header(head, "other"), None);
    }
}
