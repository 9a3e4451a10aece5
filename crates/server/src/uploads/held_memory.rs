//! Memory limits for requests, in total and for each client: one ledger for what they upload, and one for the decoded
//! pictures.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytesize::ByteSize;

use super::client::Client;
use crate::api::bounds::{MemoryFull, Purpose, Whose};

/// Most bytes that may be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryBounds {
    /// By all clients together.
    pub(crate) all: usize,
    /// By one client.
    pub(crate) client: usize,
}

impl MemoryBounds {
    /// Returns which bound has no room for `more` bytes of a client that holds `of_client`, if all hold `held`.
    fn exceeded(self, held: usize, of_client: usize, more: usize) -> Option<Whose> {
        if of_client.saturating_add(more) > self.client {
            Some(Whose::Client)
        } else if held.saturating_add(more) > self.all {
            Some(Whose::All)
        } else {
            None
        }
    }
}

/// Bytes held for one purpose, in total and for each client; a cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct MemoryLedger {
    what: Purpose,
    bounds: MemoryBounds,
    books: Arc<Mutex<Books>>,
}

/// The bytes held by each client.
#[derive(Debug, Default)]
struct Books {
    held: usize,
    /// Clients that hold bytes.
    by_client: HashMap<Client, usize>,
}

impl MemoryLedger {
    pub(crate) fn new(what: Purpose, bounds: MemoryBounds) -> Self {
        MemoryLedger { what, bounds, books: Arc::default() }
    }

    /// Without a bound for each client.
    #[cfg(test)]
    pub(crate) fn of(what: Purpose, bytes: usize) -> Self {
        MemoryLedger::new(what, MemoryBounds { all: bytes, client: usize::MAX })
    }

    /// Free bytes.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.bounds.all - self.books().held
    }

    /// An empty hold for `client`, to add bytes to.
    pub(crate) fn none(&self, client: Client) -> HeldMemory {
        HeldMemory { ledger: self.clone(), client, bytes: 0 }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that one request holds until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldMemory {
    ledger: MemoryLedger,
    client: Client,
    bytes: usize,
}

impl HeldMemory {
    /// The client that holds the bytes.
    pub(super) fn client(&self) -> Client {
        self.client
    }

    /// Holds further bytes for the same client.
    ///
    /// # Errors
    /// There is no room for them.
    pub(super) fn beside(&self, bytes: usize) -> Result<HeldMemory, MemoryFull> {
        let mut more = self.ledger.none(self.client);
        more.take(bytes)?;
        Ok(more)
    }

    /// Checks whether these bytes would fit if the ledger were empty.
    ///
    /// # Errors
    /// They never fit; the error is the bound in words.
    pub(super) fn could_take(&self, bytes: usize) -> Result<(), String> {
        let MemoryLedger { what, bounds, .. } = &self.ledger;
        let Some(whose) = bounds.exceeded(0, 0, bytes) else { return Ok(()) };
        let bound = match whose {
            Whose::All => bounds.all,
            Whose::Client => bounds.client,
        };
        Err(format!("{} (the server's {})", shown(bound), what.flag(whose)))
    }

    /// Holds `more` bytes.
    ///
    /// # Errors
    /// There is no room for them. The bytes held before stay held.
    pub(crate) fn take(&mut self, more: usize) -> Result<(), MemoryFull> {
        let MemoryLedger { what, bounds, .. } = self.ledger;
        let mut books = self.ledger.books();
        let of_client = books.by_client.get(&self.client).copied().unwrap_or(0);
        if let Some(whose) = bounds.exceeded(books.held, of_client, more) {
            return Err(MemoryFull { what, whose });
        }
        books.held += more;
        books.by_client.insert(self.client, of_client + more);
        self.bytes += more;
        Ok(())
    }

    /// Reduces the held bytes to at most `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let freed = self.bytes.saturating_sub(bytes);
        self.bytes -= freed;
        let mut books = self.ledger.books();
        books.held -= freed;
        let of_client = books.by_client.get(&self.client).copied().unwrap_or(0) - freed;
        if of_client == 0 {
            books.by_client.remove(&self.client);
        } else {
            books.by_client.insert(self.client, of_client);
        }
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Formats bytes for errors.
pub(super) fn shown(bytes: usize) -> ByteSize {
    ByteSize::b(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(held: &mut HeldMemory, bytes: usize) -> &'static str {
        held.take(bytes).map_or_else(
            |full| match full.whose {
                Whose::All => "full",
                Whose::Client => "its share",
            },
            |()| "taken",
        )
    }

    #[test]
    fn a_client_holds_no_more_than_its_share() {
        let memory = MemoryLedger::new(Purpose::Uploads, MemoryBounds { all: 100, client: 40 });
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|address| Client::at(address.parse().unwrap()));
        let (mut first, mut second) = (memory.none(one), memory.none(one));
        assert_eq!(
            [taken(&mut first, 30), taken(&mut second, 10), taken(&mut second, 1)],
            ["taken", "taken", "its share"]
        );
        let mut others: Vec<_> = (0..2).map(|_| memory.none(other)).collect();
        assert_eq!(taken(&mut others[0], 40), "taken", "somebody else has a share too");
        assert_eq!(memory.left(), 20);
        drop(first);
        assert_eq!((taken(&mut second, 30), memory.left()), ("taken", 20));
        drop((second, others));
        assert_eq!((memory.left(), memory.books().by_client.len()), (100, 0), "nobody is remembered");
    }

    #[test]
    fn all_clients_together_hold_no_more_than_all() {
        let memory = MemoryLedger::new(Purpose::Uploads, MemoryBounds { all: 100, client: 40 });
        let mut held: Vec<_> = (0..3_u8).map(|i| memory.none(Client::at([10, 0, 0, i].into()))).collect();
        assert_eq!([taken(&mut held[0], 40), taken(&mut held[1], 40)], ["taken"; 2]);
        assert_eq!(taken(&mut held[2], 21), "full");
        assert_eq!(taken(&mut held[2], 20), "taken");
        assert_eq!(taken(&mut held[0], usize::MAX), "its share", "sums stay in range");
    }

    #[test]
    fn what_is_not_needed_any_more_is_free_for_others() {
        let memory = MemoryLedger::of(Purpose::Pictures, 100);
        let (mut first, mut second) = (memory.none(Client::Unknown), memory.none(Client::Unknown));
        assert_eq!([taken(&mut first, 80), taken(&mut second, 30)], ["taken", "full"]);
        first.shrink_to(90);
        assert_eq!(memory.left(), 20, "it grows by taking alone");
        first.shrink_to(20);
        assert_eq!((taken(&mut second, 80), memory.left()), ("taken", 0));
        drop((first, second));
        assert_eq!((memory.left(), memory.books().by_client.len()), (100, 0));
    }

    #[test]
    fn what_can_never_be_held_is_told_its_bound() {
        let memory = MemoryLedger::new(Purpose::Pictures, MemoryBounds { all: 2048, client: 1024 });
        let held = memory.none(Client::Unknown);
        assert_eq!(held.could_take(1024), Ok(()));
        assert_eq!(held.could_take(1025), Err("1.0 KiB (the server's --max-client-picture-memory)".into()));
        let held = MemoryLedger::of(Purpose::Pictures, 2048).none(Client::Unknown);
        assert_eq!(held.could_take(2049), Err("2.0 KiB (the server's --max-picture-memory)".into()));
    }
}
