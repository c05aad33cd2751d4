//! Who an incoming connection is for, how many may come from one address, and how many there may be at all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::dial::Greeted;
use crate::base::{InfoHash, PeerId};
use crate::storage::lowest_free_descriptor;

/// The torrents that answer, and the addresses that have come.
#[derive(Debug)]
pub(super) struct Registry {
    peer_id: PeerId,
    max_per_address: usize,
    torrents: Mutex<HashMap<InfoHash, mpsc::Sender<Greeted>>>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    /// Descriptors that connections may take: the rest is for files, the mount and ourselves.
    descriptors: Arc<Semaphore>,
    /// No connection gets a descriptor of this number or above.
    below: u64,
    /// Connections that may be being opened.
    half_open: Arc<Semaphore>,
}

impl Registry {
    /// `max_connections`: of all torrents, both directions; `max_half_open`: those of them that we are opening.
    pub(super) fn new(peer_id: PeerId, max_per_address: usize, max_connections: usize, max_half_open: usize) -> Self {
        let places = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let (descriptors, half_open) = (places(max_connections), places(max_half_open));
        Self {
            peer_id,
            max_per_address,
            torrents: Mutex::default(),
            addresses: Mutex::default(),
            descriptors,
            below: u64::MAX,
            half_open,
        }
    }

    /// From now on connections get descriptors below this number only.
    pub(super) fn keep_free(&mut self, below: u64) {
        self.below = below;
    }

    /// The right to open a connection now, held until it is open or is none; unless too many are being opened.
    pub(super) fn opening(&self) -> Option<OwnedSemaphorePermit> {
        self.half_open.clone().try_acquire_owned().ok()
    }

    /// What we call ourselves.
    pub(super) fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Adds a torrent; false when it is there already.
    pub(super) fn add(&self, hash: InfoHash, incoming: mpsc::Sender<Greeted>) -> bool {
        let mut torrents = lock(&self.torrents);
        let fresh = !torrents.contains_key(&hash);
        if fresh {
            torrents.insert(hash, incoming);
        }
        fresh
    }

    pub(super) fn remove(&self, hash: &InfoHash) {
        lock(&self.torrents).remove(hash);
    }

    /// The way to the task of a torrent.
    pub(super) fn torrent(&self, hash: &InfoHash) -> Option<mpsc::Sender<Greeted>> {
        lock(&self.torrents).get(hash).cloned()
    }

    /// Whether connections have taken all descriptors that they may.
    pub(super) fn is_full(&self) -> bool {
        self.descriptors.available_permits() == 0 || !self.has_descriptor()
    }

    /// Torrents and files may have taken what connections might have had.
    fn has_descriptor(&self) -> bool {
        lowest_free_descriptor() < self.below
    }

    /// A place for a connection that we open, unless all are taken.
    pub(super) fn outgoing(&self) -> Option<Place> {
        let descriptor = self.descriptors.clone().try_acquire_owned().ok().filter(|_| self.has_descriptor())?;
        Some(Place { network: None, _descriptor: descriptor })
    }

    /// A place for one more connection from this address, unless all are taken.
    pub(super) fn incoming(self: &Arc<Self>, addr: IpAddr) -> Option<Place> {
        let descriptor = self.descriptors.clone().try_acquire_owned().ok().filter(|_| self.has_descriptor())?;
        let network = network(addr);
        let mut addresses = lock(&self.addresses);
        let count = addresses.entry(network).or_default();
        if *count >= self.max_per_address {
            return None;
        }
        *count += 1;
        Some(Place { network: Some((self.clone(), network)), _descriptor: descriptor })
    }
}

/// One connection's place among all, and among those from its address if it came to us; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    network: Option<(Arc<Registry>, IpAddr)>,
    _descriptor: OwnedSemaphorePermit,
}

impl Place {
    /// Whether we open the connection.
    pub(super) fn is_outgoing(&self) -> bool {
        self.network.is_none()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((registry, network)) = &self.network else { return };
        let mut addresses = lock(&registry.addresses);
        if let Some(count) = addresses.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(network);
            }
        }
    }
}

/// What counts as one address: for IPv6 the /64, which one host has to itself.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6((u128::from(addr) & !u128::from(u64::MAX)).into()),
        addr => addr,
    }
}

/// The maps are whole after any panic: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_only_so_many_places_and_gets_them_back() {
        let registry = Arc::new(Registry::new(PeerId([1; 20]), 2, 10, 5));
        let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff".parse().unwrap());
        let first = registry.incoming(one).unwrap();
        let _second = registry.incoming(other).unwrap();
        assert!(registry.incoming(one).is_none(), "both are of one /64");
        assert!(registry.incoming("2001:db8:0:1::1".parse().unwrap()).is_some());
        drop(first);
        assert!(registry.incoming(other).is_some());
    }

    #[test]
    fn all_connections_share_the_descriptors() {
        let registry = Arc::new(Registry::new(PeerId([1; 20]), 2, 2, 5));
        let outgoing = registry.outgoing().unwrap();
        let _incoming = registry.incoming("192.0.2.1".parse().unwrap()).unwrap();
        assert!(registry.outgoing().is_none() && registry.incoming("192.0.2.2".parse().unwrap()).is_none());
        drop(outgoing);
        assert!(registry.outgoing().is_some());
    }

    #[test]
    fn only_so_many_connections_are_being_opened() {
        let registry = Registry::new(PeerId([1; 20]), 2, 10, 1);
        let opening = registry.opening().unwrap();
        assert!(registry.opening().is_none());
        drop(opening);
        assert!(registry.opening().is_some());
    }

    #[test]
    fn nothing_is_remembered_of_addresses_that_are_gone() {
        let registry = Arc::new(Registry::new(PeerId([1; 20]), 2, 10, 5));
        drop(registry.incoming("192.0.2.1".parse().unwrap()));
        assert!(lock(&registry.addresses).is_empty());
    }
}
