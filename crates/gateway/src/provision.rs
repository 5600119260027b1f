//! How a peer comes to be, changes its key, and ends.
//!
//! Created: checked, given addresses, on disk, known to the device, answered. Whoever has the answer can send its first
//! handshake at once, and finds the peer after a crash; who has none may ask again, and gets the same peer if it names
//! the same key. Ended: off the disk, its sessions cut, answered.

use std::sync::Arc;
use std::time::Duration;

use edgeproxy_overlay::OsRandom;
use edgeproxy_store::peers::{FormerKey, PeerId, PeerRecord, PeerRow, PeerWrite, Released};
use edgeproxy_tunnel::{KeyError, Prefix, PresharedKey, PrivateKey, PublicKey, Random, Tai64N};

use crate::addresses::Pair;
use crate::error::GatewayError;
use crate::gateway::Gateway;
use crate::register::unix_now;
use crate::request::{PeerRequest, RequestError};
use crate::rows::Row;

/// Peers of a batch that are prepared at once: to make a key pair takes some 20 us.
const PIECE: usize = 16;

/// A peer that there is now.
#[derive(Debug)]
pub struct Created {
    /// All of it.
    pub peer: PeerRecord,
    /// Its private key, if it was made here: it is kept nowhere.
    pub private: Option<PrivateKey>,
    /// It was there already, as it is.
    pub existing: bool,
}

/// What is taken for a peer before it is on disk. Dropped, it is given back.
struct Claim<'a> {
    gateway: &'a Gateway,
    public: PublicKey,
    pair: Pair,
    networks: Vec<Prefix>,
}

impl Gateway {
    /// Creates a peer. One with this key that is there already is returned as it is.
    ///
    /// # Errors
    /// [`GatewayError`]; nothing is left of it.
    pub async fn create(&self, request: PeerRequest) -> Result<Created, GatewayError> {
        let mut results = self.create_all(vec![request]).await;
        results.pop().expect("one was asked for")
    }

    /// Creates several peers with one flush to disk; each succeeds or fails for itself.
    pub async fn create_all(&self, requests: Vec<PeerRequest>) -> Vec<Result<Created, GatewayError>> {
        let mut prepared = Vec::with_capacity(requests.len());
        for request in requests {
            if prepared.len() % PIECE == PIECE - 1 {
                tokio::task::yield_now().await;
            }
            prepared.push(self.prepare(request).await);
        }
        let records: Vec<_> =
            prepared.iter().flatten().filter_map(|draft| draft.claim.as_ref().map(|_| draft.peer.clone())).collect();
        let written = if records.is_empty() { Ok(()) } else { self.journal.write(PeerWrite::Add(records)).await };
        let finish = |draft: Draft<'_>| {
            if let Some(claim) = draft.claim {
                written.clone()?;
                claim.fulfil(&draft.peer.row);
            }
            Ok(Created { peer: draft.peer, private: draft.private, existing: draft.existing })
        };
        prepared.into_iter().map(|draft| draft.and_then(finish)).collect()
    }

    /// Checks it, and takes what it needs.
    async fn prepare(&self, request: PeerRequest) -> Result<Draft<'_>, GatewayError> {
        request.check()?;
        let mut random = OsRandom::new();
        let private = request.public.is_none().then(|| PrivateKey::from_bytes(random.bytes()));
        let public = request.public.or(private.as_ref().map(PrivateKey::public)).expect("one of the two is there");
        self.check_key(&public)?;
        if let Some(peer) = self.existing(&public).await? {
            return Ok(Draft { peer, private: None, existing: true, claim: None });
        }
        let claim = self.claim(public, &request)?;
        let preshared = match request.make_preshared {
            true => PresharedKey::from_bytes(random.bytes()),
            false => request.preshared.unwrap_or_default(),
        };
        let now = unix_now();
        let row = PeerRow {
            id: self.next_id(),
            public,
            preshared,
            v4: claim.pair.v4,
            v6: claim.pair.v6,
            prefixes: request.prefixes,
            created: now,
            expires: request.ttl.map(|ttl| now.saturating_add(ttl.as_secs())),
            idle: request.idle_ttl.map(|idle| idle.as_secs()),
            keep: request.keep,
            handshake: None,
            greatest: Tai64N::default(),
            former: None,
        };
        let PeerRequest { name, region, tags, owner, .. } = request;
        let peer = PeerRecord { row, name, region, tags, owner, endpoint: None, received: 0, sent: 0 };
        Ok(Draft { peer, private, existing: false, claim: Some(claim) })
    }

    fn check_key(&self, public: &PublicKey) -> Result<(), GatewayError> {
        if *public == self.device().public() {
            return Err(GatewayError::OwnKey(*public));
        }
        if public.is_of_low_order() {
            let rule = KeyError::LowOrder.to_string();
            return Err(RequestError { field: "public_key", rule }.into());
        }
        Ok(())
    }

    /// The peer with this key.
    async fn existing(&self, public: &PublicKey) -> Result<Option<PeerRecord>, GatewayError> {
        let (id, was_replaced) = {
            let rows = self.register.rows.read();
            let Some((place, was_replaced)) = rows.find(public) else { return Ok(None) };
            (rows.get(place).map(|row| row.id), was_replaced)
        };
        match id {
            Some(_) if was_replaced => Err(GatewayError::KeyTaken(*public)),
            Some(id) => Ok(self.show(id).await?.map(|shown| shown.peer)),
            None => Ok(None),
        }
    }

    fn claim(&self, public: PublicKey, request: &PeerRequest) -> Result<Claim<'_>, GatewayError> {
        let mut claims = self.claims.lock();
        if claims.keys.contains(&public) {
            return Err(GatewayError::Busy(public));
        }
        // Once more, as the key was free before the lock was taken.
        if self.register.rows.read().find(&public).is_some() {
            return Err(GatewayError::Busy(public));
        }
        // One of the wg-quick file's, or one whose sessions are being cut.
        if self.device().peer(&public).is_some() {
            return Err(GatewayError::KeyTaken(public));
        }
        let count = self.register.rows.read().len() + claims.keys.len();
        if count >= self.settings.max_peers {
            return Err(GatewayError::Full(count));
        }
        let pair = claims.addresses.allocate(&request.addresses, request.region.as_deref())?;
        if let Err(error) = claims.addresses.take_networks(&request.prefixes) {
            claims.addresses.give_back(pair.iter());
            return Err(error.into());
        }
        claims.keys.insert(public);
        Ok(Claim { gateway: self, public, pair, networks: request.prefixes.clone() })
    }

    /// Ends a peer: once this returns nothing is taken from it and nothing sent to it, and after a crash it is gone.
    ///
    /// # Errors
    /// There is none, or the disk fails: then it is as it was.
    pub async fn remove(&self, id: PeerId) -> Result<(), GatewayError> {
        match self.remove_all(&[id]).await?.is_empty() {
            true => Err(GatewayError::Unknown(id)),
            false => Ok(()),
        }
    }

    /// Ends several with one flush to disk; returns those that there were.
    ///
    /// # Errors
    /// The disk fails: then all are as they were.
    pub(crate) async fn remove_all(&self, ids: &[PeerId]) -> Result<Vec<PeerId>, GatewayError> {
        let until = unix_now() + self.settings.quarantine.as_secs();
        let peers: Vec<PeerRow> = ids.iter().filter_map(|id| self.peer(*id)).collect();
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        let released = |peer: &PeerRow| {
            let pair = Pair { v4: peer.v4, v6: peer.v6 };
            pair.iter().map(move |address| Released { address, until }).collect::<Vec<_>>()
        };
        let write = PeerWrite::Remove {
            ids: peers.iter().map(|peer| peer.id).collect(),
            released: peers.iter().flat_map(released).collect(),
        };
        self.journal.write(write).await?;
        // Those that somebody else removed while this waited for the disk are no longer there.
        let removed: Vec<PeerRow> = {
            let mut rows = self.register.rows.write();
            peers.iter().filter_map(|peer| rows.by_id(peer.id).and_then(|place| rows.remove(place))).collect()
        };
        let former = removed.iter().filter_map(|peer| peer.former.map(|former| (peer.id, former.public)));
        self.cut(removed.iter().map(|peer| (peer.id, peer.public)).chain(former).collect()).await;
        self.cut_flows(&removed).await;
        let mut claims = self.claims.lock();
        for peer in &removed {
            claims.addresses.free_networks(&peer.prefixes);
            claims.addresses.rest(released(peer));
        }
        Ok(removed.iter().map(|peer| peer.id).collect())
    }

    /// Gives a peer another key. The former counts until the new one is first used, but no longer than `overlap`.
    ///
    /// # Errors
    /// There is no such peer, the key is somebody's, or the disk fails: then all is as it was.
    pub async fn rotate(
        &self,
        id: PeerId,
        public: Option<PublicKey>,
        overlap: Duration,
    ) -> Result<Created, GatewayError> {
        let private = public.is_none().then(|| PrivateKey::from_bytes(OsRandom::new().bytes()));
        let public = public.or(private.as_ref().map(PrivateKey::public)).expect("one of the two is there");
        let _turn = self.turn(id).await;
        let mut record = self.show(id).await?.ok_or(GatewayError::Unknown(id))?.peer;
        // Asked again, because the answer was lost.
        if record.row.public == public {
            return Ok(Created { peer: record, private: None, existing: true });
        }
        self.check_key(&public)?;
        let claim = self.claim_key(public)?;
        // Once more, as it may have been heard while this waited for the disk.
        let mut peer = self.peer(id).ok_or(GatewayError::Unknown(id))?;
        let outlived = peer.former.map(|former| former.public);
        let until = unix_now().saturating_add(overlap.as_secs());
        let replaced = FormerKey { public: peer.public, until, greatest: peer.greatest };
        peer.former = (!overlap.is_zero()).then_some(replaced);
        (peer.public, peer.greatest) = (public, Tai64N::default());
        self.journal.write(PeerWrite::Rotate { row: Box::new(peer.clone()) }).await?;
        {
            let mut rows = self.register.rows.write();
            let place = rows.by_id(id).ok_or(GatewayError::Unknown(id))?;
            rows.rekey(place, &peer);
        }
        drop(claim);
        match peer.former {
            None => self.cut(outlived.into_iter().chain([replaced.public]).map(|key| (id, key)).collect()).await,
            Some(former) => {
                self.deadlines.lock().set(former.until, id);
                self.cut(outlived.into_iter().map(|key| (id, key)).collect()).await;
            }
        }
        record.row = peer;
        Ok(Created { peer: record, private, existing: false })
    }

    /// The keys these peers had before count no more, of those whose is over. One flush.
    pub(crate) async fn end_former(
        &self,
        ids: &[PeerId],
        is_over: impl Fn(&Row, &FormerKey) -> bool,
    ) -> Result<(), GatewayError> {
        let former: Vec<(PeerId, PublicKey)> = {
            let rows = self.register.rows.read();
            let over = |id: &PeerId| {
                let place = rows.by_id(*id)?;
                let former =
                    rows.former(place).filter(|former| rows.get(place).is_some_and(|row| is_over(row, former)));
                Some((*id, former?.public))
            };
            ids.iter().filter_map(over).collect()
        };
        if former.is_empty() {
            return Ok(());
        }
        self.journal.write(PeerWrite::EndFormer(former.clone())).await?;
        {
            // A peer that got yet another key meanwhile has another former one: that one stays, here as on disk.
            let mut rows = self.register.rows.write();
            for (id, public) in &former {
                if let Some(place) = rows.by_id(*id) {
                    rows.drop_former(place, public);
                }
            }
        }
        self.cut(former).await;
        Ok(())
    }

    fn claim_key(&self, public: PublicKey) -> Result<Claim<'_>, GatewayError> {
        let mut claims = self.claims.lock();
        if self.register.rows.read().find(&public).is_some() || self.device().peer(&public).is_some() {
            return Err(GatewayError::KeyTaken(public));
        }
        if !claims.keys.insert(public) {
            return Err(GatewayError::Busy(public));
        }
        Ok(Claim { gateway: self, public, pair: Pair::default(), networks: Vec::new() })
    }

    /// The device forgets whoever has these keys. The caller has seen that nobody is woken by them any more. What they moved
    /// stays with peers that are there still.
    async fn cut(&self, keys: Vec<(PeerId, PublicKey)>) {
        let device = Arc::clone(self.device());
        // Not to be put off until one was seen there: it may be waking at this moment.
        let mut were_there = 0;
        for (id, key) in keys {
            if let Some(status) = device.begin_removing(&key) {
                self.register.note_forgotten(id, &status);
                were_there += 1;
            }
        }
        if were_there > 0
            && let Err(error) = tokio::task::spawn_blocking(move || device.wait_for_all()).await
        {
            tracing::error!(%error, "cannot wait until sessions of peers are cut");
        }
    }

    /// What peers that are gone had open to services here ends.
    async fn cut_flows(&self, removed: &[PeerRow]) {
        let flows = Arc::clone(self.flows());
        if removed.is_empty() || !flows.any() {
            return;
        }
        let own = |peer: &PeerRow| Pair { v4: peer.v4, v6: peer.v6 }.iter().map(Prefix::host).collect::<Vec<_>>();
        let from: Vec<_> = removed.iter().flat_map(|peer| [own(peer), peer.prefixes.clone()].concat()).collect();
        if let Err(error) = tokio::task::spawn_blocking(move || flows.cut(&from)).await {
            tracing::error!(%error, "cannot cut the connections of removed peers");
        }
    }
}

/// A peer that is checked and not yet on disk.
struct Draft<'a> {
    peer: PeerRecord,
    private: Option<PrivateKey>,
    existing: bool,
    claim: Option<Claim<'a>>,
}

impl Claim<'_> {
    /// It is on disk: from now on the device knows it.
    fn fulfil(mut self, row: &PeerRow) {
        let due = {
            let mut rows = self.gateway.register.rows.write();
            let place = rows.insert(row);
            rows.due(place, self.gateway.started, self.gateway.settings.grace.as_secs())
        };
        due.into_iter().for_each(|at| self.gateway.deadlines.lock().set(at, row.id));
        (self.pair, self.networks) = (Pair::default(), Vec::new());
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = self.gateway.claims.lock();
        claims.keys.remove(&self.public);
        claims.addresses.give_back(self.pair.iter());
        claims.addresses.free_networks(&self.networks);
    }
}
