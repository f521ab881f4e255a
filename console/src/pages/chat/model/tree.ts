import type { Message } from "./types";

/** The messages of one conversation: who follows whom, and which branch is shown. Pure, and knows no storage. */
export class Tree {
  #messages = new Map<string, Message>();
  #children = new Map<string | null, string[]>();
  leaf: string | null = null;

  /** Builds a tree of stored messages. A leaf that is gone gives way to the newest branch. */
  constructor(messages: Iterable<Message> = [], leaf: string | null = null) {
    for (const message of messages) this.#take(message);
    for (const children of this.#children.values()) {
      children.sort((a, b) => (this.#messages.get(a)?.created ?? 0) - (this.#messages.get(b)?.created ?? 0));
    }
    this.leaf = leaf !== null && this.#messages.has(leaf) ? leaf : this.#newest(null);
  }

  #take(message: Message): void {
    this.#messages.set(message.id, message);
    const siblings = this.#children.get(message.parent);
    if (siblings) siblings.push(message.id);
    else this.#children.set(message.parent, [message.id]);
  }

  get size(): number {
    return this.#messages.size;
  }

  get(id: string): Message | undefined {
    return this.#messages.get(id);
  }

  /** Adds a message after its parent and shows the branch that it makes. */
  add(message: Message): void {
    this.#take(message);
    this.leaf = message.id;
  }

  /** Puts a changed message in the place of the one with its id. */
  replace(message: Message): void {
    if (this.#messages.has(message.id)) this.#messages.set(message.id, message);
  }

  /** The ids of the branch that ends at the leaf, from the first message on. */
  path(): string[] {
    const found: string[] = [];
    for (let id = this.leaf; id !== null; ) {
      const message = this.#messages.get(id);
      if (!message) break;
      found.push(id);
      id = message.parent;
    }
    return found.reverse();
  }

  /** The messages before one, from the first on, with itself if `inclusive`. */
  until(id: string | null, inclusive = true): Message[] {
    const found: Message[] = [];
    let at = id;
    if (!inclusive && at !== null) at = this.#messages.get(at)?.parent ?? null;
    while (at !== null) {
      const message = this.#messages.get(at);
      if (!message) break;
      found.push(message);
      at = message.parent;
    }
    return found.reverse();
  }

  /** Where a message stands among the branches at its place: the second of three is `{ place: 1, count: 3 }`. */
  branch(id: string): { place: number; count: number } {
    const siblings = this.#siblings(id);
    return { place: Math.max(siblings.indexOf(id), 0), count: Math.max(siblings.length, 1) };
  }

  /** Shows the branch `step` places away from a message, down to its newest end. */
  turn(id: string, step: number): void {
    const siblings = this.#siblings(id);
    const next = siblings[siblings.indexOf(id) + step];
    if (next !== undefined) this.leaf = this.#newest(next);
  }

  /** Removes a message with all that follows it, and returns the ids that are gone. */
  remove(id: string): string[] {
    const message = this.#messages.get(id);
    if (!message) return [];
    const gone: string[] = [];
    const open = [id];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      gone.push(next);
      open.push(...(this.#children.get(next) ?? []));
    }
    const siblings = this.#siblings(id);
    const place = siblings.indexOf(id);
    const shown = this.path().includes(id);
    for (const one of gone) {
      this.#messages.delete(one);
      this.#children.delete(one);
    }
    const left = siblings.filter((one) => one !== id);
    this.#children.set(message.parent, left);
    if (shown) {
      const beside = left[Math.min(place, left.length - 1)];
      this.leaf = beside !== undefined ? this.#newest(beside) : message.parent;
    }
    return gone;
  }

  #siblings(id: string): string[] {
    const message = this.#messages.get(id);
    return message ? (this.#children.get(message.parent) ?? []) : [];
  }

  /** The end of the newest branch below a message. */
  #newest(from: string | null): string | null {
    let at = from;
    for (;;) {
      const next = this.#children.get(at)?.at(-1);
      if (next === undefined) return at;
      at = next;
    }
  }
}
