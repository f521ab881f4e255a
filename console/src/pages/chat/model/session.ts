import { batch, type Signal, signal } from "@preact/signals";
import { stored } from "../../../state/stored";
import { toastError } from "../../../ui/Toast";
import { run } from "./run";
import * as store from "./store";
import { Tree } from "./tree";
import { type Attachment, type Conversation, type Message, NO_SETTINGS, type Settings } from "./types";

/** The conversations, and the one that is open. All that the page does to them is here. */

const TITLE_LENGTH = 60;

/** Settings that a new conversation begins with: those of the last one. */
export const lastSettings = stored<Settings>("chat.settings", NO_SETTINGS, (value) => typeof value === "object" && value !== null);

export const conversations = signal<readonly Conversation[]>([]);
export const current = signal<Conversation | null>(null);
/** Ids of the messages that are shown, in order. */
export const path = signal<readonly string[]>([]);
/** What is being loaded or went wrong with the browser's storage. */
export const storageError = signal<unknown>(null);
export const loading = signal(false);

let tree = new Tree();
let messages = new Map<string, Signal<Message>>();

interface Running {
  conversation: string;
  left: AbortController;
}

/** The answers that are being written, by the id of their message. They go on while another conversation is open. */
export const running = signal<ReadonlyMap<string, Running>>(new Map());

/** The id of the message that is being written in the open conversation, or null. */
export function writing(): string | null {
  const open = current.value?.id;
  for (const [id, one] of running.value) if (one.conversation === open) return id;
  return null;
}

/** The message with an id, as a signal that follows its changes. */
export function messageOf(id: string): Signal<Message> | undefined {
  let found = messages.get(id);
  const message = found ? undefined : tree.get(id);
  if (message) {
    found = signal(message);
    messages.set(id, found);
  }
  return found;
}

export function branchOf(id: string): { place: number; count: number } {
  return tree.branch(id);
}

/** Settings of the open conversation, or those of the next. */
export function settings(): Settings {
  return { ...NO_SETTINGS, ...(current.value?.settings ?? lastSettings.value) };
}

export function changeSettings(change: Partial<Settings>): void {
  const changed = { ...settings(), ...change };
  lastSettings.value = changed;
  const conversation = current.value;
  if (conversation) keep({ ...conversation, settings: changed });
}

export async function loadConversations(): Promise<void> {
  try {
    const read = await store.listConversations();
    const begun = conversations.value.filter((one) => !read.some((other) => other.id === one.id));
    conversations.value = [...begun, ...read];
  } catch (error) {
    storageError.value = error;
  }
}

/** Opens a conversation, or with null an empty page for a new one. Returns whether there is such a conversation. */
export async function open(id: string | null): Promise<boolean> {
  wanted = id;
  if (id === (current.value?.id ?? null)) return true;
  if (id === null) {
    show(null, new Tree());
    return true;
  }
  const found = conversations.value.find((one) => one.id === id);
  if (!found) return false;
  loading.value = true;
  try {
    const read = await store.readMessages(id);
    if (wanted !== id) return true; // another one was opened meanwhile
    const fresh = read.map((one) => parked.get(one.id)?.peek() ?? late.get(one.id) ?? one);
    show(conversations.value.find((one) => one.id === id) ?? found, new Tree(fresh, found.leaf));
    for (const one of read) {
      late.delete(one.id);
      const live = parked.get(one.id);
      if (live) messages.set(one.id, live);
    }
  } catch (error) {
    storageError.value = error;
  } finally {
    loading.value = false;
  }
  return true;
}

/** The conversation that was asked for last. */
let wanted: string | null = null;
/** Answers that ended while their conversation was not open: newer than what a reading of the storage may have found. */
const late = new Map<string, Message>();
/** Signals of messages that are being written, also while their conversation is not open. */
const parked = new Map<string, Signal<Message>>();

function show(conversation: Conversation | null, next: Tree): void {
  batch(() => {
    tree = next;
    messages = new Map();
    current.value = conversation;
    path.value = tree.path();
  });
}

function begin(title: string): Conversation {
  const now = Date.now();
  const made: Conversation = { id: newId(), title, created: now, updated: now, leaf: null, settings: settings() };
  wanted = made.id;
  show(made, new Tree());
  return made;
}

/** Writes a conversation down, here and in the browser. */
function keep(conversation: Conversation, changed: readonly Message[] = []): void {
  const rest = conversations.value.filter((one) => one.id !== conversation.id);
  batch(() => {
    conversations.value = [conversation, ...rest].sort((a, b) => b.updated - a.updated);
    if (current.value === null || current.value.id === conversation.id) current.value = conversation;
  });
  store.save(conversation, changed).catch((error: unknown) => {
    storageError.value = error;
  });
}

function shown(): void {
  path.value = tree.path();
}

function newId(): string {
  return crypto.randomUUID();
}

/** The first words of a text. */
function titleOf(text: string): string {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= TITLE_LENGTH) return line;
  return `${line.slice(0, TITLE_LENGTH).replace(/ \S*$/, "")} …`;
}

/** Says something and asks for the answer. Returns the conversation, which is new if none was open. */
export function say(content: string, attachments: Attachment[] = []): Conversation {
  const title = titleOf(content) || (attachments[0]?.name ?? "");
  const conversation = current.value ?? begin(title);
  const message: Message = {
    id: newId(),
    conversation: conversation.id,
    parent: tree.leaf,
    role: "user",
    content,
    created: Date.now(),
    ...(attachments.length > 0 ? { attachments } : {}),
  };
  tree.add(message);
  answer(conversation, message.id, [message]);
  return conversation;
}

/** Says something else in the place of a message, as a branch beside it, and asks for the answer. */
export function edit(id: string, content: string): void {
  const before = tree.get(id);
  const conversation = current.value;
  if (!before || !conversation) return;
  const { attachments } = before;
  const message: Message = {
    id: newId(),
    conversation: conversation.id,
    parent: before.parent,
    role: "user",
    content,
    created: Date.now(),
    ...(attachments ? { attachments } : {}),
  };
  tree.add(message);
  answer(conversation, message.id, [message]);
}

/** Asks once more for an answer, as a branch beside it. */
export function retry(id: string): void {
  const before = tree.get(id);
  const conversation = current.value;
  if (before && conversation) answer(conversation, before.role === "assistant" ? before.parent : before.id, []);
}

/** Gives the results of all calls of an answer, and asks for the next turn. */
export function giveResults(id: string, results: ReadonlyMap<string, string>): void {
  const asked = tree.get(id);
  const conversation = current.value;
  if (!asked?.calls || !conversation) return;
  let parent = id;
  const made: Message[] = [];
  for (const [place, call] of asked.calls.entries()) {
    const message: Message = {
      id: newId(),
      conversation: conversation.id,
      parent,
      role: "tool",
      content: results.get(call.id) ?? "",
      call_id: call.id,
      created: Date.now() + place,
    };
    tree.add(message);
    made.push(message);
    parent = message.id;
  }
  answer(conversation, parent, made);
}

function answer(conversation: Conversation, parent: string | null, made: readonly Message[]): void {
  const asking = settings();
  const message: Message = {
    id: newId(),
    conversation: conversation.id,
    parent,
    role: "assistant",
    content: "",
    created: Date.now(),
    model: asking.model,
    ...(asking.format !== "" ? { structured: true } : {}),
  };
  const before = tree.until(parent);
  tree.add(message);
  const live = signal(message);
  messages.set(message.id, live);
  parked.set(message.id, live);
  keep({ ...conversation, settings: asking, updated: Date.now(), leaf: message.id }, [...made, message]);
  const left = new AbortController();
  running.value = new Map(running.value).set(message.id, { conversation: conversation.id, left });
  shown();
  const settle = () => {
    parked.delete(message.id);
    const rest = new Map(running.value);
    rest.delete(message.id);
    running.value = rest;
    write(live.peek());
  };
  run(asking, before, live, left.signal, write).then(settle, (error: unknown) => {
    toastError(error);
    settle();
  });
}

/** Writes a message that has changed, wherever it belongs. */
function write(message: Message): void {
  if (current.value?.id === message.conversation) {
    tree.replace(message);
    const live = messages.get(message.id);
    if (live && live.peek() !== message) live.value = message;
  } else {
    late.set(message.id, message);
  }
  const conversation = conversations.value.find((one) => one.id === message.conversation);
  if (!conversation) return; // it was deleted while the answer came
  store.save(conversation, [message]).catch((error: unknown) => {
    storageError.value = error;
  });
}

/** Ends the answer that is being written; what has come stays. */
export function stop(): void {
  const id = writing();
  if (id !== null) running.value.get(id)?.left.abort();
}

/** Shows another branch at a message. */
export function turn(id: string, step: number): void {
  const conversation = current.value;
  if (!conversation) return;
  tree.turn(id, step);
  shown();
  keep({ ...conversation, leaf: tree.leaf });
}

/** Notes how an answer was rated. */
export function rate(id: string, rating: Message["rating"]): void {
  const message = tree.get(id);
  if (message) write({ ...message, rating });
}

/** The messages up to one, for feedback. */
export function before(id: string): Message[] {
  return tree.until(id, false);
}

export function rename(id: string, title: string): void {
  const conversation = conversations.value.find((one) => one.id === id);
  if (conversation && title.trim() !== "") keep({ ...conversation, title: title.trim() });
}

export function removeMessage(id: string): void {
  const conversation = current.value;
  if (!conversation) return;
  const gone = tree.remove(id);
  for (const one of gone) running.value.get(one)?.left.abort();
  shown();
  keep({ ...conversation, leaf: tree.leaf });
  store.removeMessages(conversation.id, gone).catch((error: unknown) => {
    storageError.value = error;
  });
}

export async function remove(id: string): Promise<void> {
  for (const one of running.value.values()) if (one.conversation === id) one.left.abort();
  conversations.value = conversations.value.filter((one) => one.id !== id);
  if (current.value?.id === id) show(null, new Tree());
  await store.removeConversation(id);
}

export async function removeEverything(): Promise<void> {
  for (const one of running.value.values()) one.left.abort();
  conversations.value = [];
  show(null, new Tree());
  await store.removeAll();
}

/** Everything that the open conversation holds, to download. */
export function exported(): string {
  const all = path.value.map((id) => messageOf(id)?.peek());
  return JSON.stringify({ conversation: current.value, messages: all }, null, 2);
}
