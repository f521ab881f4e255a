import type { Signal } from "@preact/signals";
import { apiStream } from "../../../api/client";
import { ApiError } from "../../../api/errors";
import { AnswerReader } from "./answer";
import { chatBody, responsesBody, usesResponses } from "./request";
import type { Message, Settings } from "./types";

const WRITTEN_EVERY_MS = 2000;

/**
 * Asks for an answer and lets `live` grow with it, once a frame at most. Ends when the answer has, also if it was stopped or
 * failed; the message says how. `write` is called now and then, so that a closed tab loses little.
 */
export async function run(
  settings: Settings,
  before: readonly Message[],
  live: Signal<Message>,
  signal: AbortSignal,
  write: (message: Message) => void,
): Promise<void> {
  const began = performance.now();
  const reader = new AnswerReader();
  let first: number | undefined;
  let written = began;
  let frame = 0;
  let requestId: string | undefined;
  const now = (end: Partial<Message> = {}): Message => ({
    ...live.peek(),
    ...reader.answer(),
    ...(first === undefined ? {} : { first_ms: Math.round(first - began) }),
    ...(requestId === undefined ? {} : { request_id: requestId }),
    ...end,
  });
  const paint = () => {
    frame = 0;
    live.value = now();
    if (performance.now() - written > WRITTEN_EVERY_MS) {
      written = performance.now();
      write(live.peek());
    }
  };
  // A hidden tab gets no frames: the text waits in the reader until it is shown or ends.
  const later = () => {
    frame ||= requestAnimationFrame(paint);
  };
  let end: Partial<Message> = {};
  try {
    const [path, body] = usesResponses(settings)
      ? ["/v1/responses", responsesBody(settings, before)]
      : ["/v1/chat/completions", chatBody(settings, before)];
    const onResponse = (response: Response) => {
      requestId = response.headers.get("x-request-id") ?? undefined;
    };
    for await (const event of apiStream(path, { method: "POST", body, signal, onResponse })) {
      if (!reader.take(event)) continue;
      first ??= performance.now();
      later();
    }
    end = reader.answer().finish === undefined ? { finish: "stopped" } : {};
  } catch (error) {
    if (signal.aborted) end = { finish: "stopped" };
    else {
      end = { finish: "error", error: error instanceof Error ? error.message : String(error) };
      if (error instanceof ApiError && error.requestId) requestId = error.requestId;
    }
  }
  cancelAnimationFrame(frame);
  live.value = now({ total_ms: Math.round(performance.now() - began), ...end });
}
