//! A lean MQTT 5 client: one TLS connection, QoS 1, no state that outlives it.
//!
//! Ten thousand of them share a process and two cores with the controller that
//! is measured, so there is no task, channel or timer here beyond the node's own.
//! The packets are coded by the same library as the agent's.
//!
//! **Invariant:** at most as many publishes wait for their PubAck as the broker
//! allows; the rest waits here, in order.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use protocol::limits::PACKET_BYTES_MAX;
use rumqttc::mqttbytes::v5::{
    Connect, ConnectAuth, ConnectProperties, ConnectReturnCode, Packet, PubAck, Publish, Subscribe,
    SubscribeFilter, SubscribeReasonCode,
};
use rumqttc::mqttbytes::{Error as CodecError, QoS};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Seconds without a packet before the broker gives a client up. Heartbeats keep
/// the connection busy; pings are sent like the agent's client does.
const KEEP_ALIVE_S: u16 = 30;

/// Publishes from the broker that may wait for our PubAck.
const RECEIVE_MAX: u16 = 16;

/// A peer that takes longer to read or answer is gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where and as whom to connect.
#[derive(Clone)]
pub(crate) struct Door {
    /// The loopback address to come from.
    pub(crate) source: IpAddr,
    /// The broker.
    pub(crate) broker: SocketAddr,
    /// The name in its certificate.
    pub(crate) name: ServerName<'static>,
    /// The node's certificate and key, and the fleet's CA.
    pub(crate) tls: Arc<ClientConfig>,
    /// The client's id, which is the node's.
    pub(crate) client: String,
}

/// A message from the broker.
pub(crate) struct Message {
    /// Its topic.
    pub(crate) topic: String,
    /// Its payload.
    pub(crate) payload: Vec<u8>,
}

/// One connection.
pub(crate) struct Link {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
    output: BytesMut,
    messages: VecDeque<Message>,
    waiting: VecDeque<Publish>,
    in_flight: u16,
    in_flight_max: u16,
    last_id: u16,
}

impl Link {
    /// Connects, and subscribes to the filters.
    pub(crate) async fn open(door: &Door, filters: &[String]) -> anyhow::Result<Self> {
        tokio::time::timeout(PATIENCE, Self::establish(door, filters))
            .await
            .context("the handshakes took too long")?
    }

    async fn establish(door: &Door, filters: &[String]) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(door.source, 0))?;
        let socket = socket.connect(door.broker).await.context("TCP")?;
        socket.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::clone(&door.tls))
            .connect(door.name.clone(), socket)
            .await
            .context("TLS")?;
        let mut link = Self {
            stream,
            input: BytesMut::with_capacity(512),
            output: BytesMut::with_capacity(512),
            messages: VecDeque::new(),
            waiting: VecDeque::new(),
            in_flight: 0,
            in_flight_max: RECEIVE_MAX,
            last_id: 1,
        };
        link.greet(&door.client).await?;
        link.subscribe(filters).await?;
        Ok(link)
    }

    async fn greet(&mut self, client: &str) -> anyhow::Result<()> {
        let mut properties = ConnectProperties::new();
        properties.receive_maximum = Some(RECEIVE_MAX);
        properties.max_packet_size = u32::try_from(PACKET_BYTES_MAX).ok();
        let connect = Connect {
            keep_alive: KEEP_ALIVE_S,
            client_id: client.to_owned(),
            clean_start: true,
            properties: Some(properties),
        };
        self.put(&Packet::Connect(connect, None, ConnectAuth::None))?;
        self.flush().await?;
        let Packet::ConnAck(answer) = self.next_packet().await? else {
            bail!("the broker's first packet is no CONNACK");
        };
        if answer.code != ConnectReturnCode::Success {
            bail!("the broker refused the connection: {:?}", answer.code);
        }
        let theirs = answer.properties.and_then(|p| p.receive_max);
        self.in_flight_max = theirs.unwrap_or(u16::MAX).min(RECEIVE_MAX);
        Ok(())
    }

    async fn subscribe(&mut self, filters: &[String]) -> anyhow::Result<()> {
        let filters: Vec<SubscribeFilter> = filters
            .iter()
            .map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce))
            .collect();
        let mut subscribe = Subscribe::new_many(filters, None);
        subscribe.pkid = self.last_id;
        self.put(&Packet::Subscribe(subscribe))?;
        self.flush().await?;
        loop {
            let packet = self.next_packet().await?;
            if let Packet::SubAck(answer) = packet {
                let all = answer
                    .return_codes
                    .iter()
                    .all(|code| matches!(code, SubscribeReasonCode::Success(_)));
                if !all {
                    bail!("a subscription was refused: {:?}", answer.return_codes);
                }
                return Ok(());
            }
            self.take(packet)?;
        }
    }

    fn put(&mut self, packet: &Packet) -> anyhow::Result<()> {
        packet.write(&mut self.output, None)?;
        Ok(())
    }

    /// Sends a message, or keeps it until the broker takes more.
    pub(crate) fn publish(&mut self, topic: String, payload: Vec<u8>) -> anyhow::Result<()> {
        let publish = Publish::new(topic, QoS::AtLeastOnce, payload, None);
        self.waiting.push_back(publish);
        self.advance()
    }

    fn advance(&mut self) -> anyhow::Result<()> {
        while self.in_flight < self.in_flight_max
            && let Some(mut publish) = self.waiting.pop_front()
        {
            // No id comes round again while it is in flight: there are 16 at most.
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            publish.pkid = self.last_id;
            self.in_flight += 1;
            self.put(&Packet::Publish(publish))?;
        }
        Ok(())
    }

    /// Says that the client lives.
    pub(crate) fn ping(&mut self) -> anyhow::Result<()> {
        self.put(&Packet::PingReq)
    }

    /// Writes out what is due.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(PATIENCE, written)
            .await
            .context("the broker does not read")??;
        self.output.clear();
        Ok(())
    }

    /// Waits for bytes of the broker. Cancelling it loses nothing.
    pub(crate) async fn read(&mut self) -> anyhow::Result<()> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => bail!("the broker closed the connection"),
            Ok(_) => Ok(()),
            Err(error) => Err(error).context("the connection broke"),
        }
    }

    /// The next message that was read, with its PubAck put out.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Message>> {
        while let Some(packet) = self.parse()? {
            self.take(packet)?;
        }
        Ok(self.messages.pop_front())
    }

    fn parse(&mut self) -> anyhow::Result<Option<Packet>> {
        let most = u32::try_from(PACKET_BYTES_MAX).ok();
        match Packet::read(&mut self.input, most) {
            Ok(packet) => Ok(Some(packet)),
            Err(CodecError::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn next_packet(&mut self) -> anyhow::Result<Packet> {
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(packet);
            }
            self.read().await?;
        }
    }

    fn take(&mut self, packet: Packet) -> anyhow::Result<()> {
        if let Packet::Publish(publish) = packet {
            self.put(&Packet::PubAck(PubAck::new(publish.pkid, None)))?;
            self.messages.push_back(Message {
                topic: String::from_utf8(publish.topic.to_vec())?,
                payload: publish.payload.to_vec(),
            });
        } else if let Packet::PubAck(_) = packet {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.advance()?;
        } else if let Packet::Disconnect(reason) = packet {
            bail!("the broker says goodbye: {:?}", reason.reason_code);
        }
        Ok(())
    }
}

/// Between two pings.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(KEEP_ALIVE_S as u64);

#[cfg(test)]
mod tests;
