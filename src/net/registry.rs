//! Who an incoming connection is for, and how many may come from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::dial::Greeted;
use crate::base::{InfoHash, PeerId};

/// The torrents that answer, and the addresses that have come.
#[derive(Debug)]
pub(super) struct Registry {
    peer_id: PeerId,
    max_per_address: usize,
    torrents: Mutex<HashMap<InfoHash, mpsc::Sender<Greeted>>>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

impl Registry {
    pub(super) fn new(peer_id: PeerId, max_per_address: usize) -> Self {
        Self { peer_id, max_per_address, torrents: Mutex::default(), addresses: Mutex::default() }
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

    /// A place for one more connection from this address, unless all are taken.
    pub(super) fn place(self: &Arc<Self>, addr: IpAddr) -> Option<Place> {
        let network = network(addr);
        let mut addresses = lock(&self.addresses);
        let count = addresses.entry(network).or_default();
        if *count >= self.max_per_address {
            return None;
        }
        *count += 1;
        Some(Place { registry: self.clone(), network })
    }
}

/// One connection's place among those from its address; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    registry: Arc<Registry>,
    network: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = lock(&self.registry.addresses);
        if let Some(count) = addresses.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.network);
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
        let registry = Arc::new(Registry::new(PeerId([1; 20]), 2));
        let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff".parse().unwrap());
        let first = registry.place(one).unwrap();
        let _second = registry.place(other).unwrap();
        assert!(registry.place(one).is_none(), "both are of one /64");
        assert!(registry.place("2001:db8:0:1::1".parse().unwrap()).is_some());
        drop(first);
        assert!(registry.place(other).is_some());
    }

    #[test]
    fn nothing_is_remembered_of_addresses_that_are_gone() {
        let registry = Arc::new(Registry::new(PeerId([1; 20]), 2));
        drop(registry.place("192.0.2.1".parse().unwrap()));
        assert!(lock(&registry.addresses).is_empty());
    }
}
