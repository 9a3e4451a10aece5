//! The memory that uploads may hold, all together and each client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access::Client;
use crate::error::ApiError;

/// The bytes that all uploads of a server may hold together, and those of one client; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct UploadMemory(Arc<Mutex<Ledger>>);

/// Who holds how much.
#[derive(Debug)]
struct Ledger {
    bounds: UploadBounds,
    held: usize,
    /// Clients that hold something.
    by_client: HashMap<Client, usize>,
}

/// Most bytes that uploads hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadBounds {
    /// All of them together.
    pub(crate) all: usize,
    /// Those of one client.
    pub(crate) client: usize,
}

impl UploadBounds {
    /// Whether there is room for `more` bytes of a client that holds `of_client`, where all hold `held`.
    ///
    /// # Errors
    /// There is none: of the client's share, or for anybody.
    fn check(self, held: usize, of_client: usize, more: usize) -> Result<(), ApiError> {
        if of_client.saturating_add(more) > self.client {
            Err(ApiError::ClientUploadsFull)
        } else if held.saturating_add(more) > self.all {
            Err(ApiError::UploadsFull)
        } else {
            Ok(())
        }
    }
}

impl UploadMemory {
    pub(crate) fn new(bounds: UploadBounds) -> Self {
        UploadMemory(Arc::new(Mutex::new(Ledger { bounds, held: 0, by_client: HashMap::new() })))
    }

    /// Without a bound for one client.
    #[cfg(test)]
    pub(crate) fn of(bytes: usize) -> Self {
        UploadMemory::new(UploadBounds { all: bytes, client: usize::MAX })
    }

    /// Bytes that are free.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        let ledger = self.ledger();
        ledger.bounds.all - ledger.held
    }

    /// None of its bytes, for an upload of `client` to add to.
    pub(crate) fn none(&self, client: Client) -> HeldMemory {
        HeldMemory { memory: self.clone(), client, bytes: 0 }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one upload holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldMemory {
    memory: UploadMemory,
    client: Client,
    bytes: usize,
}

impl HeldMemory {
    /// Who holds it.
    pub(super) fn client(&self) -> Client {
        self.client
    }

    /// So many bytes beside these, of the same client.
    ///
    /// # Errors
    /// There is no room for them.
    pub(super) fn beside(&self, bytes: usize) -> Result<HeldMemory, ApiError> {
        let mut more = self.memory.none(self.client);
        more.take(bytes)?;
        Ok(more)
    }

    /// Holds more.
    ///
    /// # Errors
    /// There is no room for it; what was held stays held.
    pub(crate) fn take(&mut self, more: usize) -> Result<(), ApiError> {
        let mut ledger = self.memory.ledger();
        let of_client = ledger.by_client.get(&self.client).copied().unwrap_or(0);
        ledger.bounds.check(ledger.held, of_client, more)?;
        ledger.held += more;
        ledger.by_client.insert(self.client, of_client + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut ledger = self.memory.ledger();
        ledger.held -= self.bytes;
        let of_client = ledger.by_client.get(&self.client).copied().unwrap_or(0) - self.bytes;
        if of_client == 0 {
            ledger.by_client.remove(&self.client);
        } else {
            ledger.by_client.insert(self.client, of_client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(held: &mut HeldMemory, bytes: usize) -> &'static str {
        held.take(bytes).map_or_else(|err| err.code(), |()| "taken")
    }

    #[test]
    fn a_client_holds_no_more_than_its_share() {
        let memory = UploadMemory::new(UploadBounds { all: 100, client: 40 });
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|address| Client::at(address.parse().unwrap()));
        let (mut first, mut second) = (memory.none(one), memory.none(one));
        assert_eq!(
            [taken(&mut first, 30), taken(&mut second, 10), taken(&mut second, 1)],
            ["taken", "taken", "uploads_full"]
        );
        assert!(matches!(second.take(1), Err(ApiError::ClientUploadsFull)));
        let mut others: Vec<_> = (0..2).map(|_| memory.none(other)).collect();
        assert_eq!(taken(&mut others[0], 40), "taken", "somebody else has a share too");
        assert_eq!(memory.left(), 20);
        drop(first);
        assert_eq!((taken(&mut second, 30), memory.left()), ("taken", 20));
        drop((second, others));
        assert_eq!((memory.left(), memory.ledger().by_client.len()), (100, 0), "nobody is remembered");
    }

    #[test]
    fn all_clients_together_hold_no_more_than_all() {
        let memory = UploadMemory::new(UploadBounds { all: 100, client: 40 });
        let mut held: Vec<_> = (0..3_u8).map(|i| memory.none(Client::at([10, 0, 0, i].into()))).collect();
        assert_eq!([taken(&mut held[0], 40), taken(&mut held[1], 40)], ["taken"; 2]);
        assert!(matches!(held[2].take(21), Err(ApiError::UploadsFull)));
        assert_eq!(taken(&mut held[2], 20), "taken");
        assert!(matches!(held[0].take(usize::MAX), Err(ApiError::ClientUploadsFull)), "sums stay in range");
    }
}
