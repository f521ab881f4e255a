import { chatPart, filePart, inputPart, isMedium, mediaOf } from "./media";
import type { Attachment, Message, Settings, TextFile } from "./types";

type Json = Record<string, unknown>;

/** The text of a user's turn as the model reads it: what was typed, then the text files. */
export function withAttachments(content: string, attachments: readonly Attachment[] = []): string {
  const isText = (one: Attachment): one is TextFile => !isMedium(one);
  const files = attachments.filter(isText).map(({ name, text }) => {
    const longest = Math.max(2, ...(text.match(/`{3,}/g) ?? []).map((run) => run.length));
    const fence = "`".repeat(longest + 1);
    return `${name}\n${fence}\n${text.replace(/\n$/, "")}\n${fence}`;
  });
  return [content, ...files].filter((part) => part !== "").join("\n\n");
}

/** The text of a message where no pictures and recordings can go along: their names stand for them. */
export function asText(message: Message): string {
  const names = mediaOf(message.attachments).map((one) => `[${one.name}]`);
  return [withAttachments(message.content, message.attachments), ...names].filter((part) => part !== "").join("\n\n");
}

/** How many pictures and recordings of these messages go along with the next one. */
export function mediaSent(settings: Settings, messages: readonly Message[]): number {
  return sent(settings, messages).reduce((sum, one) => sum + mediaOf(one.attachments).length, 0);
}

/** What is wrong with the settings, by field; empty if they can be sent. */
export function problems(settings: Settings): Partial<Record<"tools" | "schema", string>> {
  const found: Partial<Record<"tools" | "schema", string>> = {};
  try {
    if (settings.tools.trim() !== "" && !Array.isArray(JSON.parse(settings.tools))) found.tools = "[ … ]";
  } catch (error) {
    found.tools = messageOf(error);
  }
  try {
    if (settings.format === "json_schema") JSON.parse(settings.schema);
  } catch (error) {
    found.schema = messageOf(error);
  }
  return found;
}

/** Whether a conversation goes through the Responses API, which searches knowledge bases. */
export function usesResponses(settings: Settings): boolean {
  return settings.knowledge !== "";
}

/** The body of `POST /v1/chat/completions` that asks for the next turn. */
export function chatBody(settings: Settings, messages: readonly Message[]): Json {
  const { sampling, format, schema, effort } = settings;
  const body: Json = {
    model: settings.model,
    messages: [...systemOf(settings), ...sent(settings, messages).map(chatMessage)],
    stream: true,
    stream_options: { include_usage: true },
    ...given(sampling as Json),
  };
  if (effort !== "") body.reasoning_effort = effort;
  const tools = toolsOf(settings);
  if (tools.length > 0) body.tools = tools;
  if (format === "json_object") body.response_format = { type: format };
  if (format === "json_schema") {
    body.response_format = { type: format, json_schema: { name: "answer", schema: JSON.parse(schema), strict: true } };
  }
  return body;
}

/** The body of `POST /v1/responses` that asks for the next turn from a knowledge base. Nothing is kept on the server. */
export function responsesBody(settings: Settings, messages: readonly Message[]): Json {
  const { sampling, format, schema, effort, knowledge } = settings;
  const functions = toolsOf(settings).map((tool) => ({ type: "function", ...(tool.function as Json) }));
  const body: Json = {
    model: settings.model,
    input: sent(settings, messages).flatMap(responseItems),
    stream: true,
    store: false,
    tools: [{ type: "file_search", vector_store_ids: [knowledge] }, ...functions],
    include: ["file_search_call.results"],
    ...given({
      temperature: sampling.temperature,
      top_p: sampling.top_p,
      top_k: sampling.top_k,
      min_p: sampling.min_p,
      repetition_penalty: sampling.repetition_penalty,
      seed: sampling.seed,
      max_output_tokens: sampling.max_tokens,
      instructions: settings.system.trim() || undefined,
    }),
  };
  if (effort !== "") body.reasoning = { effort };
  if (format === "json_object") body.text = { format: { type: format } };
  if (format === "json_schema") {
    body.text = { format: { type: format, name: "answer", schema: JSON.parse(schema), strict: true } };
  }
  return body;
}

/** The messages that go along: the last ones, from a turn of the user on, so that no result stands without its call. */
function sent(settings: Settings, messages: readonly Message[]): readonly Message[] {
  const said = messages.filter(isSaid);
  if (settings.turns <= 0 || said.length <= settings.turns) return said;
  let begin = said.length - settings.turns;
  while (begin > 0 && said[begin]?.role !== "user") begin -= 1;
  return said.slice(begin);
}

/** Turns without a word and without calls, as of an answer that failed at once, are not sent again. */
function isSaid(message: Message): boolean {
  return message.role !== "assistant" || message.content !== "" || (message.calls?.length ?? 0) > 0;
}

function systemOf(settings: Settings): Json[] {
  return settings.system.trim() === "" ? [] : [{ role: "system", content: settings.system }];
}

function toolsOf(settings: Settings): Json[] {
  return settings.tools.trim() === "" ? [] : (JSON.parse(settings.tools) as Json[]);
}

function chatMessage(message: Message): Json {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.call_id, content: message.content };
  if (message.role === "user") {
    const text = withAttachments(message.content, message.attachments);
    const media = mediaOf(message.attachments).map(chatPart);
    return { role: "user", content: media.length === 0 ? text : [...(text === "" ? [] : [{ type: "text", text }]), ...media] };
  }
  const calls = message.calls ?? [];
  if (calls.length === 0) return { role: "assistant", content: message.content };
  return {
    role: "assistant",
    content: message.content === "" ? null : message.content,
    tool_calls: calls.map((call) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    })),
  };
}

function responseItems(message: Message): Json[] {
  if (message.role === "tool") return [{ type: "function_call_output", call_id: message.call_id, output: message.content }];
  if (message.role === "user") {
    // Files go as such: a text in the question would be searched for, and no sentence could rest on it.
    const parts = (message.attachments ?? []).map((one) => (isMedium(one) ? inputPart(one) : filePart(one)));
    const said = message.content === "" && parts.length > 0 ? [] : [{ type: "input_text", text: message.content }];
    return [{ type: "message", role: "user", content: [...said, ...parts] }];
  }
  const calls = (message.calls ?? []).map((call) => ({
    type: "function_call",
    call_id: call.id,
    name: call.name,
    arguments: call.arguments,
  }));
  const said = { type: "message", role: "assistant", content: [{ type: "output_text", text: message.content }] };
  return message.content === "" ? calls : [said, ...calls];
}

function given(values: Json): Json {
  return Object.fromEntries(
    Object.entries(values).filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0)),
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
