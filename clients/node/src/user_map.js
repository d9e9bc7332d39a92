// The users that a source knows, those who were asked for last at the end.
//
// Must never keep more than USERS_MAX, but for those that a call is under way for; nor forget one of these, whose next caller
// would make a second.

// Most users of one source: their tokens and timers take about 3 KiB each.
export const USERS_MAX = 10_000;

// No two users have the same: the length says where the one name ends.
const keyOf = (merchantId, number) => `${merchantId.length}:${merchantId}${number}`;

export class UserMap {
  // A Map keeps the order in which its keys were set.
  #slots = new Map();

  get size() {
    return this.#slots.size;
  }

  // This user's slot, if there is one; nobody asked for it.
  find(merchantId, number) {
    return this.#slots.get(keyOf(merchantId, number));
  }

  // This user's slot, which is asked for now, if there is one.
  ask(merchantId, number) {
    const key = keyOf(merchantId, number);
    const slot = this.#slots.get(key);
    if (slot) {
      this.#slots.delete(key);
      this.#slots.set(key, slot);
      slot.noteAsked();
    }
    return slot;
  }

  add(merchantId, number, slot) {
    if (this.#slots.size >= USERS_MAX) this.#makeRoom();
    this.#slots.set(keyOf(merchantId, number), slot);
  }

  clear() {
    for (const slot of this.#slots.values()) slot.end();
    this.#slots.clear();
  }

  // Forgets who was not asked for for longest, and waits for nothing.
  #makeRoom() {
    for (const [key, slot] of this.#slots) {
      if (this.#slots.size < USERS_MAX) return;
      if (slot.isCalling) continue;
      slot.end();
      this.#slots.delete(key);
    }
  }
}
