import type { Conversation, Message } from "./types";

/** The conversations of this browser, in IndexedDB. Nothing of them is on the server. */

const NAME = "deepwell-chat";
const PIECE = 1000; // messages read at once, so that a long conversation does not hold the page up

let opened: Promise<IDBDatabase> | undefined;

function database(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("messages", { keyPath: ["conversation", "id"] });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("the browser's storage is held by another tab"));
  });
  return opened;
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

function messagesOf(conversation: string): IDBKeyRange {
  return IDBKeyRange.bound([conversation, ""], [conversation, "\uffff"]);
}

/** Returns all conversations, the latest first. */
export async function listConversations(): Promise<Conversation[]> {
  const store = (await database()).transaction("conversations").objectStore("conversations");
  const found: Conversation[] = await done(store.getAll());
  return found.sort((a, b) => b.updated - a.updated);
}

/** Returns the messages of a conversation, in no order. */
export async function readMessages(conversation: string): Promise<Message[]> {
  const db = await database();
  const found: Message[] = [];
  let range = messagesOf(conversation);
  for (;;) {
    const store = db.transaction("messages").objectStore("messages");
    const piece: Message[] = await done(store.getAll(range, PIECE));
    for (const one of piece) found.push(one);
    const last = piece.at(-1);
    if (piece.length < PIECE || !last) return found;
    range = IDBKeyRange.bound([conversation, last.id], [conversation, "\uffff"], true);
  }
}

/** Writes a conversation, and messages of it. */
export async function save(conversation: Conversation, messages: readonly Message[] = []): Promise<void> {
  const transaction = (await database()).transaction(["conversations", "messages"], "readwrite");
  transaction.objectStore("conversations").put(conversation);
  for (const message of messages) transaction.objectStore("messages").put(message);
  await finished(transaction);
}

/** Removes messages of a conversation. */
export async function removeMessages(conversation: string, ids: readonly string[]): Promise<void> {
  const transaction = (await database()).transaction("messages", "readwrite");
  for (const id of ids) transaction.objectStore("messages").delete([conversation, id]);
  await finished(transaction);
}

/** Removes a conversation with all its messages. */
export async function removeConversation(id: string): Promise<void> {
  const transaction = (await database()).transaction(["conversations", "messages"], "readwrite");
  transaction.objectStore("conversations").delete(id);
  transaction.objectStore("messages").delete(messagesOf(id));
  await finished(transaction);
}

/** Removes everything that this browser keeps of conversations. */
export async function removeAll(): Promise<void> {
  const transaction = (await database()).transaction(["conversations", "messages"], "readwrite");
  transaction.objectStore("conversations").clear();
  transaction.objectStore("messages").clear();
  await finished(transaction);
}
