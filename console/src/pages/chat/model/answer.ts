import { ApiError, errorOf, isRecord } from "../../../api/errors";
import type { ServerEvent } from "../../../api/sse";
import type { Citation, ContextLedger, Fate, Finish, Message, Passage, ToolCall, Usage } from "./types";

/** What an answer has become so far. */
export type Answer = Pick<
  Message,
  "content" | "reasoning" | "calls" | "answer_id" | "finish" | "usage" | "passages" | "citations"
>;

const FINISHES: readonly string[] = ["stop", "length", "tool_calls", "content_filter"];

/** Grows an answer from the events of a stream, of chat completions or of the Responses API. Pure but for its own state. */
export class AnswerReader {
  #content: string[] = [];
  #reasoning: string[] = [];
  #calls: (ToolCall & { pieces: string[]; item: string })[] = [];
  #passages: Passage[] = [];
  #annotations: { file_id: string; filename: string; index: number }[] = [];
  #id: string | undefined;
  #finish: Finish | undefined;
  #usage: Usage | undefined;

  /**
   * Takes one event and returns whether it brought something to show.
   *
   * @throws ApiError the stream says that the answer failed.
   */
  take(event: ServerEvent): boolean {
    const data: unknown = JSON.parse(event.data);
    if (!isRecord(data)) return false;
    if (isRecord(data.error)) throw errorOf(data, 200, null);
    return typeof data.type === "string" ? this.#response(data.type, data) : this.#chunk(data);
  }

  /** The answer as it stands. */
  answer(): Answer {
    const content = this.#content.join("");
    if (this.#content.length > 1) this.#content = [content];
    const found: Answer = { content };
    if (this.#reasoning.length > 0) {
      found.reasoning = this.#reasoning.join("");
      this.#reasoning = [found.reasoning];
    }
    if (this.#calls.length > 0) {
      found.calls = this.#calls.map((call) => ({ id: call.id, name: call.name, arguments: call.pieces.join("") }));
    }
    if (this.#id !== undefined) found.answer_id = this.#id;
    if (this.#finish !== undefined) found.finish = this.#finish;
    if (this.#usage !== undefined) found.usage = this.#usage;
    if (this.#passages.length > 0) found.passages = this.#passages;
    if (this.#annotations.length > 0) found.citations = this.#citations(content);
    return found;
  }

  #chunk(data: Record<string, unknown>): boolean {
    this.#id = text(data.id) ?? this.#id;
    if (isRecord(data.usage)) {
      const details = isRecord(data.usage.prompt_tokens_details) ? data.usage.prompt_tokens_details : {};
      this.#usage = {
        prompt: number(data.usage.prompt_tokens),
        completion: number(data.usage.completion_tokens),
        cached: number(details.cached_tokens),
        ...ledgerOf(details.context),
      };
    }
    const choice: unknown = Array.isArray(data.choices) ? data.choices[0] : undefined;
    if (!isRecord(choice)) return false;
    const finish = text(choice.finish_reason);
    if (finish !== undefined) this.#finish = FINISHES.includes(finish) ? (finish as Finish) : "stop";
    const delta = isRecord(choice.delta) ? choice.delta : {};
    const content = text(delta.content) ?? "";
    const reasoning = text(delta.reasoning_content) ?? "";
    if (content !== "") this.#content.push(content);
    if (reasoning !== "") this.#reasoning.push(reasoning);
    const calls: unknown[] = Array.isArray(delta.tool_calls) ? delta.tool_calls : [];
    for (const call of calls) if (isRecord(call)) this.#called(call);
    return content !== "" || reasoning !== "" || calls.length > 0;
  }

  #called(call: Record<string, unknown>): void {
    const index = number(call.index);
    const said = isRecord(call.function) ? call.function : {};
    const known = (this.#calls[index] ??= { id: "", name: "", arguments: "", pieces: [], item: "" });
    known.id = text(call.id) ?? known.id;
    known.name = text(said.name) ?? known.name;
    known.pieces.push(text(said.arguments) ?? "");
  }

  #response(type: string, data: Record<string, unknown>): boolean {
    const item = isRecord(data.item) ? data.item : {};
    switch (type) {
      case "error":
        throw new ApiError(text(data.message) ?? type, 200, text(data.code) ?? null);
      case "response.output_text.delta":
        this.#content.push(text(data.delta) ?? "");
        return true;
      case "response.reasoning_text.delta":
        this.#reasoning.push(text(data.delta) ?? "");
        return true;
      case "response.output_item.added":
        if (item.type !== "function_call") return false;
        this.#calls.push({
          id: text(item.call_id) ?? "",
          name: text(item.name) ?? "",
          arguments: "",
          pieces: [],
          item: text(item.id) ?? "",
        });
        return true;
      case "response.function_call_arguments.delta":
        this.#calls.find((call) => call.item === data.item_id)?.pieces.push(text(data.delta) ?? "");
        return true;
      case "response.output_item.done":
        if (item.type === "file_search_call") this.#found(item.results);
        return false;
      case "response.output_text.annotation.added":
        this.#annotate(data.annotation);
        return true;
      default:
        return isRecord(data.response) && this.#ended(type, data.response);
    }
  }

  #found(results: unknown): void {
    if (!Array.isArray(results)) return;
    this.#passages = results.filter(isRecord).map((one) => ({
      file_id: text(one.file_id) ?? "",
      filename: text(one.filename) ?? "",
      score: typeof one.score === "number" ? one.score : null,
      text: text(one.text) ?? "",
    }));
  }

  #annotate(one: unknown): void {
    if (!isRecord(one) || one.type !== "file_citation") return;
    const index = number(one.index);
    this.#annotations.push({ file_id: text(one.file_id) ?? "", filename: text(one.filename) ?? "", index });
  }

  #ended(type: string, response: Record<string, unknown>): boolean {
    this.#id = text(response.id) ?? this.#id;
    if (type === "response.failed") throw errorOf(response, 200, null);
    if (isRecord(response.usage)) {
      const details = isRecord(response.usage.input_tokens_details) ? response.usage.input_tokens_details : {};
      this.#usage = {
        prompt: number(response.usage.input_tokens),
        completion: number(response.usage.output_tokens),
        cached: number(details.cached_tokens),
        ...ledgerOf(details.context),
      };
    }
    if (type === "response.completed") this.#finish = this.#calls.length > 0 ? "tool_calls" : "stop";
    if (type === "response.incomplete") {
      const why = isRecord(response.incomplete_details) ? response.incomplete_details.reason : "";
      this.#finish = why === "content_filter" ? "content_filter" : "length";
    }
    return false;
  }

  /** The marks of the annotations. Their offsets count characters, not the halves that JavaScript counts. */
  #citations(content: string): Citation[] {
    const found = new Map<string, Citation>();
    const characters = /[\ud800-\udbff]/.test(content) ? Array.from(content) : null;
    for (const { file_id, filename, index } of this.#annotations) {
      const rest = characters ? characters.slice(index, index + 8).join("") : content.slice(index, index + 8);
      const mark = /^\s*\[(\d+)\]/.exec(rest)?.[1] ?? String(found.size + 1);
      if (!found.has(mark)) found.set(mark, { mark, file_id, filename });
    }
    return [...found.values()];
  }
}

/** The passage that a citation rests on: the one of its number if it is of the same file, else the likest of that file. */
export function passageOf(citation: Citation, passages: readonly Passage[], sentence: string): Passage | undefined {
  const numbered = passages[Number(citation.mark) - 1];
  if (numbered?.file_id === citation.file_id) return numbered;
  const words = new Set(sentence.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []);
  const shared = (passage: Passage) =>
    (passage.text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).filter((word) => words.has(word)).length;
  return passages
    .filter((one) => one.file_id === citation.file_id)
    .sort((a, b) => shared(b) - shared(a))
    .at(0);
}

export const FATES: readonly Fate[] = ["kept", "compressed", "recalled", "dropped", "forgotten"];

/** The ledger of a prompt that was fitted to the context; nothing where it fitted as it was. */
function ledgerOf(context: unknown): { context?: ContextLedger } {
  if (!isRecord(context) || context.mechanism === "none") return {};
  const fates = (from: Record<string, unknown>, suffix: string) =>
    Object.fromEntries(FATES.flatMap((fate) => (number(from[fate + suffix]) > 0 ? [[fate, number(from[fate + suffix])]] : [])));
  const rows = Array.isArray(context.messages) ? context.messages.filter(isRecord) : [];
  return {
    context: {
      mechanism: text(context.mechanism) ?? "",
      ...(text(context.adapter) && { adapter: text(context.adapter) }),
      original: number(context.original_tokens),
      fates: fates(context, "_tokens"),
      added: number(context.added_tokens),
      rows: rows.map((row) => ({
        first: number(row.first),
        last: number(row.last),
        role: text(row.role) ?? "",
        fates: fates(row, ""),
      })),
    },
  };
}

function text(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

function number(value: unknown): number {
  return typeof value === "number" ? value : 0;
}
