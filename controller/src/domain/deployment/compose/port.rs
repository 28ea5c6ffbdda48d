//! Published ports, short (`127.0.0.1:8080:80/tcp`) and long.

use core::net::IpAddr;
use std::collections::BTreeMap;

use protocol::deployment::limit::LIST_COUNT_MAX;
use protocol::deployment::spec::{Port, PortProtocol};

use super::key;
use super::problem::shown;
use super::reader::{Item, Reader};

/// The ports of a service.
pub(super) fn ports(reader: &mut Reader<'_>, item: &Item<'_>) -> Vec<Port> {
    let mut ports = Vec::new();
    for item in reader.list(item) {
        if item.is_map() {
            ports.extend(long(reader, &item));
        } else if let Some(found) = reader.parsed(&item, short) {
            ports.extend(found);
        }
        if ports.len() > LIST_COUNT_MAX {
            reader.invalid(
                &item,
                format!("is past {LIST_COUNT_MAX} ports of one service"),
            );
            break;
        }
    }
    ports.sort();
    ports.dedup();
    ports
}

fn long(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Port> {
    let mut table = reader.table(item)?;
    let target = reader.require(&mut table, "target");
    let target = target.and_then(|item| reader.parsed(&item, one));
    let published = reader.take_parsed(&mut table, "published", one);
    let protocol = reader.take_parsed(&mut table, "protocol", protocol);
    let host_ip = reader.take_parsed(&mut table, "host_ip", address);
    let mode = table.take("mode");
    if let Some(item) = mode
        && reader.text(&item).is_some_and(|mode| mode != "host")
    {
        reader.unsupported(
            &item,
            "a node publishes on itself only, which is the mode `host`",
        );
    }
    reader.finish(table, key::PORT);
    Some(Port {
        published,
        target: target?,
        protocol: protocol.unwrap_or_default(),
        host_ip,
    })
}

fn short(text: &str) -> Result<Vec<Port>, String> {
    let (rest, protocol) = match text.split_once('/') {
        Some((rest, name)) => (rest, protocol(name)?),
        None => (text, PortProtocol::default()),
    };
    // The address may hold colons, in brackets or, as Compose allows, without.
    let (rest, target) = rest.rsplit_once(':').map_or(("", rest), |(a, b)| (a, b));
    let (host_ip, published) = match rest.rsplit_once(':') {
        Some((ip, published)) => (Some(address(ip)?), published),
        None => (None, rest),
    };
    let target = range(target)?;
    let published = match published {
        "" => None,
        published => Some(range(published)?),
    };
    let count = target.1 - target.0;
    if let Some(published) = published
        && published.1 - published.0 != count
    {
        return Err(format!(
            "{} publishes a range on another number of ports",
            shown(text)
        ));
    }
    if usize::from(count) >= LIST_COUNT_MAX {
        return Err(format!(
            "{} is more than {LIST_COUNT_MAX} ports",
            shown(text)
        ));
    }
    Ok((0..=count)
        .map(|step| Port {
            published: published.map(|(first, _)| first + step),
            target: target.0 + step,
            protocol,
            host_ip: host_ip.clone(),
        })
        .collect())
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (one(first)?, one(last)?);
    if first > last {
        return Err(format!(
            "{} is a range that ends before it begins",
            shown(text)
        ));
    }
    Ok((first, last))
}

fn one(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("{} is no port from 1 to 65535", shown(text))),
        Ok(port) => Ok(port),
    }
}

fn address(text: &str) -> Result<String, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse::<IpAddr>()
        .map(|address| address.to_string())
        .map_err(|_| format!("{} is no IP address", shown(text)))
}

fn protocol(text: &str) -> Result<PortProtocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(PortProtocol::Tcp),
        "udp" => Ok(PortProtocol::Udp),
        "sctp" => Ok(PortProtocol::Sctp),
        _ => Err(format!("{} is none of tcp, udp and sctp", shown(text))),
    }
}

/// The ports of the node that services take, so that no two take one.
#[derive(Default)]
pub(super) struct Taken<'s>(BTreeMap<(u16, PortProtocol), BTreeMap<&'s str, &'s str>>);

/// Stands for every address of the node.
const EVERYWHERE: &str = "";

impl<'s> Taken<'s> {
    /// Takes a port for a service; who has it already, if someone has.
    pub(super) fn take(&mut self, port: &'s Port, by: &'s str) -> Option<&'s str> {
        let by_address = self.0.entry((port.published?, port.protocol)).or_default();
        let address = match port.host_ip.as_deref() {
            None | Some("0.0.0.0" | "::") => EVERYWHERE,
            Some(address) => address,
        };
        let other = match address {
            EVERYWHERE => by_address.values().next(),
            address => by_address
                .get(address)
                .or_else(|| by_address.get(EVERYWHERE)),
        };
        let other = other.copied();
        by_address.insert(address, by);
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Result<Vec<String>, String> {
        let show = |port: Port| {
            format!(
                "{}|{}|{}|{:?}",
                port.host_ip.as_deref().unwrap_or("*"),
                port.published.map_or("-".to_owned(), |p| p.to_string()),
                port.target,
                port.protocol
            )
        };
        Ok(short(text)?.into_iter().map(show).collect())
    }

    #[test]
    fn short_ports_are_read() {
        for (text, expected) in [
            ("80", &["*|-|80|Tcp"][..]),
            ("8080:80", &["*|8080|80|Tcp"]),
            ("53:53/UDP", &["*|53|53|Udp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1|8080|80|Tcp"]),
            ("127.0.0.1::80", &["127.0.0.1|-|80|Tcp"]),
            ("[::1]:8080:80", &["::1|8080|80|Tcp"]),
            ("::1:8080:80", &["::1|8080|80|Tcp"]),
            ("3000-3001", &["*|-|3000|Tcp", "*|-|3001|Tcp"]),
            ("9000-9001:80-81", &["*|9000|80|Tcp", "*|9001|81|Tcp"]),
        ] {
            assert_eq!(texts(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn wrong_ports_are_refused() {
        for text in [
            "", ":", "0", "65536", "a", "80:", "1-2:80", "1:80-81", "5-3", "80/icmp", "host:1:2",
            "1:2:3", "80/", "1-60000", "-1",
        ] {
            assert!(short(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_is_taken_once_on_an_address() {
        let port = |text: &str| short(text).unwrap().remove(0);
        for (a, b, expected) in [
            ("80:1", "80:2", true),
            ("80:1", "80:2/udp", false),
            ("127.0.0.1:80:1", "80:2", true),
            ("0.0.0.0:80:1", "127.0.0.1:80:2", true),
            ("127.0.0.1:80:1", "127.0.0.1:80:2", true),
            ("127.0.0.1:80:1", "127.0.0.2:80:2", false),
            ("1", "2", false),
        ] {
            let (a_port, b_port) = (port(a), port(b));
            let mut taken = Taken::default();
            assert_eq!(taken.take(&a_port, "a"), None);
            assert_eq!(taken.take(&b_port, "b"), expected.then_some("a"), "{a} {b}");
        }
    }
}
