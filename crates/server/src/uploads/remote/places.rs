//! Limits on concurrent fetches, in total and for each client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::uploads::Client;

/// Most concurrent fetches of all clients.
const ALL: usize = 32;
/// Most concurrent fetches of one client: its URLs may answer slowly on purpose.
const OF_CLIENT: usize = 8;

/// The places for concurrent fetches.
pub(super) struct FetchPlaces {
    all: Arc<Semaphore>,
    /// Clients that have a place, or wait for one.
    by_client: Mutex<HashMap<Client, Weak<Semaphore>>>,
}

/// A place; it is free again when dropped.
pub(super) struct FetchPlace {
    _of_client: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Default for FetchPlaces {
    fn default() -> Self {
        FetchPlaces { all: Arc::new(Semaphore::new(ALL)), by_client: Mutex::default() }
    }
}

impl FetchPlaces {
    /// Waits for a place for `client`.
    pub(super) async fn take(&self, client: Client) -> FetchPlace {
        // The client's own place first: a client that waits for it takes no common place.
        let of_client = acquire(self.of_client(client)).await;
        FetchPlace { _of_client: of_client, _of_all: acquire(self.all.clone()).await }
    }

    fn of_client(&self, client: Client) -> Arc<Semaphore> {
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = by_client.get(&client).and_then(Weak::upgrade) {
            return places;
        }
        by_client.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(OF_CLIENT));
        by_client.insert(client, Arc::downgrade(&places));
        places
    }
}

async fn acquire(places: Arc<Semaphore>) -> OwnedSemaphorePermit {
    places.acquire_owned().await.expect("nobody closes the semaphore. This is a bug.")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Takes the places that this client gets without waiting.
    fn taken(places: &FetchPlaces, client: u8) -> Vec<FetchPlace> {
        let client = Client::at([10, 0, 0, client].into());
        std::iter::from_fn(|| places.take(client).now_or_never()).collect()
    }

    #[test]
    fn a_client_has_a_share_of_the_places() {
        let places = FetchPlaces::default();
        let mut held: Vec<_> = (0..6).map(|client| taken(&places, client)).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 8, 8, 0, 0]);
        held[0].truncate(5);
        assert_eq!(taken(&places, 1).len(), 0, "it has its share already");
        assert_eq!(taken(&places, 5).len(), 3);
        held.clear();
        assert_eq!(taken(&places, 7).len(), 8);
        assert_eq!(places.by_client.lock().unwrap().len(), 1, "nobody else is remembered");
    }
}
