//! What one address may have at a time, so that none takes what is there for all.
//!
//! Of more connections than that, one that waits for a request makes room for the newest: whoever opens many and says
//! nothing is in the way of himself alone, and somebody else at the same address is still served.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// What one address (IPv6: a network of 64 bits, which is what one customer has) may have at a time. 0: no bound.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// HTTP connections.
    pub connections: usize,
    /// Uploads to the index that are being read; more wait for some seconds, then they are told to come again.
    pub uploads: usize,
    /// Who is not bound.
    pub exempt: Vec<IpNet>,
}

impl Bounds {
    /// Of connections as many as a household, an office or a machine with many torrents needs; this machine is not bound,
    /// since a proxy may run on it.
    pub fn usual() -> Self {
        let own = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network"));
        Self { connections: 128, uploads: 1, exempt: own.to_vec() }
    }

    /// What counts as one address; `None`: it is not bound.
    fn key(&self, ip: IpAddr) -> Option<IpAddr> {
        let ip = ip.to_canonical();
        if self.exempt.iter().any(|net| net.contains(&ip)) {
            return None;
        }
        Some(match ip {
            IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

/// All connections of addresses that are bound.
#[derive(Debug)]
pub(super) struct Crowd {
    bounds: Bounds,
    /// In the order in which they came.
    guests: Mutex<HashMap<IpAddr, Vec<Arc<Guest>>>>,
}

/// A connection, as others see it.
#[derive(Debug, Default)]
pub(super) struct Guest {
    busy: AtomicBool,
    leave: Notify,
}

/// A connection that was let in; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    key: Option<IpAddr>,
    guest: Arc<Guest>,
}

impl Crowd {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, guests: Mutex::default() }
    }

    /// Lets a connection in, perhaps in the place of another; `None` when all of its address are being answered.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let guest = Arc::new(Guest::default());
        let key = if self.bounds.connections == 0 { None } else { self.bounds.key(ip) };
        if let Some(key) = key {
            let mut guests = self.lock();
            let all = guests.entry(key).or_default();
            if all.len() >= self.bounds.connections {
                let idle = all.iter().position(|guest| !guest.busy.load(Ordering::Acquire))?;
                all.remove(idle).leave.notify_one();
            }
            all.push(guest.clone());
        }
        Some(Place { crowd: self.clone(), key, guest })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<Arc<Guest>>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut guests = self.crowd.lock();
        if let Some(all) = guests.get_mut(&key) {
            all.retain(|guest| !Arc::ptr_eq(guest, &self.guest));
            if all.is_empty() {
                guests.remove(&key);
            }
        }
    }
}

impl Guest {
    /// From now on, and until what this returns is dropped, it is being answered.
    pub(super) fn answered(&self) -> impl Drop {
        struct Busy<'g>(&'g Guest);
        impl Drop for Busy<'_> {
            fn drop(&mut self) {
                self.0.busy.store(false, Ordering::Release);
            }
        }
        self.busy.store(true, Ordering::Release);
        Busy(self)
    }

    /// Ends when the connection has to make room for another one. Cancel-safe.
    pub(super) async fn has_to_leave(&self) {
        self.leave.notified().await;
    }
}

/// Turns of addresses at something that takes memory and time.
#[derive(Debug)]
pub(super) struct Turns {
    /// Of one address; 0: no bound.
    most: usize,
    bounds: Bounds,
    held: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl Turns {
    /// At uploads.
    pub(super) fn at_uploads(bounds: Bounds) -> Self {
        Self { most: bounds.uploads, bounds, held: Mutex::default() }
    }

    /// At answers that are long, by the KiB.
    pub(super) fn at_answers(bounds: Bounds, most: usize) -> Self {
        Self { most, bounds, held: Mutex::default() }
    }

    /// Waits for a turn, which ends when it is dropped; `None`: the address is not bound.
    pub(super) async fn wait(&self, ip: IpAddr) -> Option<OwnedSemaphorePermit> {
        self.of(ip)?.acquire_owned().await.ok()
    }

    /// So many turns at once, or all where that is more: `Some(None)` when the address is not bound, `None` when too many of
    /// its turns are taken.
    pub(super) fn take(&self, ip: IpAddr, turns: u32) -> Option<Option<OwnedSemaphorePermit>> {
        let Some(own) = self.of(ip) else { return Some(None) };
        let turns = turns.min(u32::try_from(self.most).unwrap_or(u32::MAX));
        own.try_acquire_many_owned(turns).ok().map(Some)
    }

    fn of(&self, ip: IpAddr) -> Option<Arc<Semaphore>> {
        let key = self.bounds.key(ip).filter(|_| self.most > 0)?;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody holds or awaits a turn of those that only this map has.
        held.retain(|_, turns| Arc::strong_count(turns) > 1);
        Some(held.entry(key).or_insert_with(|| Arc::new(Semaphore::new(self.most))).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_is_a_network_of_64_bits_or_one_of_ipv4() {
        let bounds = Bounds::usual();
        for (a, b, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::2:3:4:5", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(bounds.key(ip(a)) == bounds.key(ip(b)), same, "{a} {b}");
        }
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(bounds.key(ip(own)), None, "{own}");
        }
    }

    #[test]
    fn who_waits_makes_room_and_who_is_answered_does_not() {
        let crowd = Arc::new(Crowd::new(Bounds { connections: 2, ..Bounds::default() }));
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        let first = crowd.enter(one).unwrap();
        let second = crowd.enter(one).unwrap();
        let busy = first.guest().answered();
        let third = crowd.enter(one).unwrap();
        let left = |place: &Place| {
            let mut leaving = std::pin::pin!(place.guest().has_to_leave());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            leaving.as_mut().poll(&mut context).is_ready()
        };
        assert!(!left(&first) && left(&second) && !left(&third));
        let busy_too = third.guest().answered();
        assert!(crowd.enter(one).is_none() && crowd.enter(other).is_some());
        drop(busy);
        let fourth = crowd.enter(one).unwrap();
        assert!(left(&first));
        drop(busy_too);
        drop((first, second, third, fourth));
        assert!(crowd.lock().is_empty());
    }

    #[tokio::test]
    async fn a_turn_is_free_for_others_of_the_address_when_it_ends() {
        let turns = Turns::at_uploads(Bounds { uploads: 1, ..Bounds::default() });
        let (one, near) = (ip("2001:db8::1"), ip("2001:db8::2"));
        let first = turns.wait(one).await.unwrap();
        assert!(turns.wait(ip("2001:db8:1::1")).await.is_some());
        let mut second = std::pin::pin!(turns.wait(near));
        assert!(futures_poll(second.as_mut()).is_pending());
        drop(first);
        assert!(second.await.is_some());
        assert!(turns.held.lock().unwrap().len() <= 2);
        assert!(Turns::at_uploads(Bounds::default()).wait(one).await.is_none());
    }

    fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }
}
