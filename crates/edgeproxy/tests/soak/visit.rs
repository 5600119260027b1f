//! One client of one kind, from its connect to its end.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;

use edgeproxy_world::{Client, Ending, Header, Pattern, read_pattern, write_pattern};
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::dice::Dice;
use crate::load::{Kind, Load, MIB};
use crate::stage::{BEHIND_PROXY, TIGHT};

/// Where clients behind a proxy come from: the countries of the backends.
const COUNTRIES: [&str; 6] = ["BR", "US", "DE", "FR", "JP", "SG"];

/// A visit under way: what is known of it should it fail.
pub(crate) struct Visit {
    pub(crate) kind: Kind,
    pub(crate) client: Option<Client>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) backend: Option<String>,
    pub(crate) bytes: u64,
}

impl Visit {
    pub(crate) async fn make(&mut self, load: &Load, dice: &mut Dice) -> io::Result<()> {
        match self.kind {
            Kind::Short => {
                self.connect_anywhere(load, dice).await?;
                for _ in 0..dice.between(1, 3) {
                    self.exchange(dice.length(1, 2048), dice).await?;
                }
                self.finish().await
            }
            Kind::Chat => {
                self.connect_anywhere(load, dice).await?;
                for _ in 0..dice.length(4, 256) {
                    if load.over.load(Relaxed) {
                        break;
                    }
                    self.exchange(dice.between(1, 200), dice).await?;
                    sleep(dice.millis(0, 30)).await;
                }
                self.finish().await
            }
            Kind::Bulk => {
                self.connect_anywhere(load, dice).await?;
                let length = dice.length(MIB, load.largest);
                self.bulk(length, dice).await
            }
            Kind::Idle => {
                self.connect_anywhere(load, dice).await?;
                for _ in 0..dice.between(1, 3) {
                    self.exchange(dice.between(1, 5000), dice).await?;
                    sleep(dice.millis(100, 1500)).await;
                }
                self.finish().await
            }
            Kind::HalfClose => {
                self.connect_anywhere(load, dice).await?;
                self.half_close(dice).await
            }
            Kind::Abort => {
                self.connect_anywhere(load, dice).await?;
                let length = dice.length(1, MIB);
                let bytes = Pattern::new(dice.next()).take(usize::try_from(length).unwrap());
                // With the answer on the way, or not even the question.
                let _ = tokio::time::timeout(dice.millis(0, 50), self.client().stream.write_all(&bytes)).await;
                sleep(dice.millis(0, 400)).await;
                self.client.take().map_or(Ok(()), Client::abort)
            }
            Kind::Trickle => {
                self.connect_anywhere(load, dice).await?;
                for _ in 0..dice.between(10, 60) {
                    self.exchange(1, dice).await?;
                    sleep(dice.millis(1, 40)).await;
                }
                self.finish().await
            }
            Kind::Proxied => {
                self.connect_proxied(load, dice).await?;
                self.exchange(dice.length(1, 64 * 1024), dice).await?;
                self.finish().await
            }
            Kind::BadHeader => self.be_refused(load, dice).await,
            Kind::Impatient => {
                self.connect(load.pop.addresses()[TIGHT]).await?;
                sleep(dice.millis(0, 30)).await;
                self.leave().await
            }
            Kind::Queued => {
                self.connect(load.pop.addresses()[TIGHT]).await?;
                self.greeted().await?;
                self.exchange(dice.between(1, 100), dice).await?;
                sleep(dice.millis(0, 15)).await;
                self.finish().await
            }
        }
    }

    fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("connected before")
    }

    async fn connect(&mut self, addr: SocketAddr) -> io::Result<()> {
        let client = Client::connect(addr).await?;
        self.address = Some(client.address());
        self.client = Some(client);
        Ok(())
    }

    async fn greeted(&mut self) -> io::Result<()> {
        // A place in the queue may take its time.
        self.backend = Some(self.client().line().await?);
        Ok(())
    }

    async fn connect_anywhere(&mut self, load: &Load, dice: &mut Dice) -> io::Result<()> {
        let listener = usize::try_from(dice.below(4)).unwrap();
        if listener == BEHIND_PROXY {
            return self.connect_proxied(load, dice).await;
        }
        self.connect(load.pop.addresses()[listener]).await?;
        self.greeted().await
    }

    async fn connect_proxied(&mut self, load: &Load, dice: &mut Dice) -> io::Result<()> {
        let country = dice.pick(&COUNTRIES);
        let ip = dice.pick(load.census.addresses(country));
        let address = SocketAddr::new(IpAddr::V4(ip), 5555);
        let header = if dice.below(2) == 0 { Header::V1(address) } else { Header::V2(address) };
        self.connect(load.pop.addresses()[BEHIND_PROXY]).await?;
        let bytes = header.bytes();
        let cut = usize::try_from(dice.below(bytes.len() as u64)).unwrap();
        self.client().send(&bytes[..cut]).await?;
        if dice.below(4) == 0 {
            sleep(dice.millis(1, 20)).await;
        }
        self.client().send(&bytes[cut..]).await?;
        self.greeted().await
    }

    async fn be_refused(&mut self, load: &Load, dice: &mut Dice) -> io::Result<()> {
        self.connect(load.pop.addresses()[BEHIND_PROXY]).await?;
        let header: &[u8] = dice.pick(&[
            b"PROXY TCP4 198.51.100.7\r\n" as &[u8],
            b"PROXY TCP4 198.51.100.7 203.0.113.1 99999 80\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        ]);
        self.client().send(header).await?;
        match self.client().ending().await? {
            (bytes, Ending::Reset) if bytes.is_empty() => Ok(()),
            other => Err(io::Error::new(ErrorKind::InvalidData, format!("not refused: {other:?}"))),
        }
    }

    /// Finishes without a word, be it served already or still in the queue. (By a reset the backend would learn of it
    /// later than the next client comes, and count both.)
    async fn leave(&mut self) -> io::Result<()> {
        self.client().finish().await?;
        match self.client().ending().await? {
            (bytes, Ending::Reset) if bytes.is_empty() => Ok(()),
            (greeting, Ending::Finished) if greeting == b"tight\n" => Ok(()),
            (rest, ending) => Err(bad_end(rest.len() as u64, 0, ending)),
        }
    }

    async fn exchange(&mut self, length: u64, dice: &mut Dice) -> io::Result<()> {
        let bytes = Pattern::new(dice.next()).take(usize::try_from(length).unwrap());
        self.client().exchange(&bytes).await?;
        self.bytes += length;
        Ok(())
    }

    /// Leaves in the usual way, and sees the other side do so.
    async fn finish(&mut self) -> io::Result<()> {
        self.client().finish().await?;
        match self.client().ending().await? {
            (rest, Ending::Finished) if rest.is_empty() => Ok(()),
            (rest, ending) => Err(bad_end(rest.len() as u64, 0, ending)),
        }
    }

    /// Sends all, says so, and only then begins to read.
    async fn half_close(&mut self, dice: &mut Dice) -> io::Result<()> {
        let bytes = Pattern::new(dice.next()).take(usize::try_from(dice.length(1, 32 * 1024)).unwrap());
        self.client().send(&bytes).await?;
        self.client().finish().await?;
        sleep(dice.millis(0, 500)).await;
        match self.client().ending().await? {
            (back, Ending::Finished) if back == bytes => {
                self.bytes += bytes.len() as u64;
                Ok(())
            }
            (back, ending) => Err(bad_end(back.len() as u64, bytes.len() as u64, ending)),
        }
    }

    async fn bulk(&mut self, length: u64, dice: &mut Dice) -> io::Result<()> {
        let seed = dice.next();
        let (mut reads, mut writes) = self.client().stream.split();
        let up = async {
            write_pattern(&mut writes, seed, length).await?;
            writes.shutdown().await
        };
        let ((), back) = tokio::try_join!(up, read_pattern(&mut reads, seed))?;
        if back != length {
            return Err(bad_end(back, length, Ending::Finished));
        }
        self.bytes += length;
        Ok(())
    }
}

fn bad_end(got: u64, wanted: u64, ending: Ending) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, format!("{ending:?} after {got} of {wanted} bytes"))
}
