// Pictures in IndexedDB, newest first, within bounds.

const MAX_PICTURES = 200;
const MAX_BYTES = 256 * 2 ** 20;

/** Opens this browser's pictures; rejects if there is no IndexedDB, as in some private windows. */
export async function openStore() {
  const opening = indexedDB.open("latentd", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
  return new Store(await settled(opening));
}

class Store {
  #database;

  constructor(database) {
    this.#database = database;
  }

  /** Every picture, newest first. */
  async all() {
    const pictures = await settled(this.#pictures("readonly").getAll());
    return pictures.reverse();
  }

  /** Stores a picture and deletes the oldest ones that no longer fit. Returns its id. */
  async add(picture) {
    const id = await settled(this.#pictures("readwrite").add(picture));
    for (const old of beyondBounds(await this.all())) await this.delete(old.id);
    return id;
  }

  delete(id) {
    return settled(this.#pictures("readwrite").delete(id));
  }

  clear() {
    return settled(this.#pictures("readwrite").clear());
  }

  #pictures(mode) {
    return this.#database.transaction("pictures", mode).objectStore("pictures");
  }
}

/** Selects the pictures to delete from a list, newest first. The newest is never deleted. */
export function beyondBounds(pictures) {
  let bytes = 0;
  return pictures.filter(({ blob }, i) => {
    bytes += blob.size;
    return i > 0 && (i >= MAX_PICTURES || bytes > MAX_BYTES);
  });
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
