/** What a conversation is made of, as the browser keeps it. */

export interface ToolCall {
  id: string;
  name: string;
  /** JSON as the model wrote it, perhaps not whole. */
  arguments: string;
}

/** A text file. The model reads it as a part of the message. */
export interface TextFile {
  name: string;
  text: string;
}

export type MediumType = "image/png" | "image/jpeg" | "image/webp" | "image/gif" | "audio/wav" | "audio/mpeg";

/** A picture or a recording, with its bytes in base64. The server describes it to the model. */
export interface Medium {
  name: string;
  type: MediumType;
  data: string;
}

export type Attachment = TextFile | Medium;

/** A passage that a search found. */
export interface Passage {
  file_id: string;
  filename: string;
  score: number | null;
  text: string;
}

/** A mark such as [1] in an answer, and the passage that it names. */
export interface Citation {
  /** What the mark says. */
  mark: string;
  file_id: string;
  filename: string;
}

export interface Usage {
  prompt: number;
  completion: number;
  cached: number;
  /** What became of the conversation's tokens, where it did not fit the model's context as it is. */
  context?: ContextLedger;
}

export type Fate = "kept" | "compressed" | "recalled" | "dropped" | "forgotten";

/** Messages `first` to `last` of the request, and their tokens by fate. */
export interface LedgerRow {
  first: number;
  last: number;
  role: string;
  fates: Partial<Record<Fate, number>>;
}

export interface ContextLedger {
  mechanism: string;
  /** The state of the adapter, under the policy of that name. */
  adapter?: string;
  original: number;
  fates: Partial<Record<Fate, number>>;
  added: number;
  rows: LedgerRow[];
}

export type Finish = "stop" | "length" | "tool_calls" | "content_filter" | "stopped" | "error";

export interface Message {
  id: string;
  conversation: string;
  /** The message before; null at the beginning. Several messages with one parent are branches. */
  parent: string | null;
  role: "user" | "assistant" | "tool";
  content: string;
  /** Milliseconds since 1970; also the order among branches. */
  created: number;
  attachments?: Attachment[];
  reasoning?: string;
  calls?: ToolCall[];
  /** The call that a message of a tool answers. */
  call_id?: string;
  model?: string;
  /** Id of the answer on the server, for feedback. */
  answer_id?: string;
  request_id?: string;
  finish?: Finish;
  error?: string;
  usage?: Usage;
  /** Milliseconds until the first piece, and until the last. */
  first_ms?: number;
  total_ms?: number;
  passages?: Passage[];
  citations?: Citation[];
  rating?: "up" | "down";
  /** Whether the answer is bound by a format, and so is JSON. */
  structured?: boolean;
}

export interface Sampling {
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  max_tokens?: number;
  seed?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  repetition_penalty?: number;
  stop?: string[];
}

export type Effort = "" | "none" | "low" | "medium" | "high";

/** What a conversation asks with. Empty values leave the choice to the server. */
export interface Settings {
  model: string;
  system: string;
  /** Vector store that answers are taken from. */
  knowledge: string;
  /** How many of the last messages are sent along; 0: all. */
  turns: number;
  sampling: Sampling;
  effort: Effort;
  /** JSON of the list of tools, as the API takes it. */
  tools: string;
  format: "" | "json_object" | "json_schema";
  /** JSON of the schema. */
  schema: string;
}

export interface Conversation {
  id: string;
  title: string;
  created: number;
  updated: number;
  /** Last message of the branch that is shown. */
  leaf: string | null;
  settings: Settings;
}

export const NO_SETTINGS: Settings = {
  model: "",
  system: "",
  knowledge: "",
  turns: 0,
  sampling: {},
  effort: "",
  tools: "",
  format: "",
  schema: "",
};
