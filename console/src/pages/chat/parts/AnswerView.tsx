import { useState } from "preact/hooks";
import { count, duration } from "../../../i18n";
import { Button, CopyButton } from "../../../ui/Button";
import { Icon } from "../../../ui/Icon";
import { Markdown } from "../../../ui/Markdown";
import { Remedy } from "../../../ui/remedy/Remedy";
import * as session from "../model/session";
import type { Message } from "../model/types";
import { say } from "../say";
import { Branches } from "./Branches";
import { Citations, PassageDialog } from "./Citations";
import { ContextNote } from "./ContextNote";
import { Feedback } from "./Feedback";
import { GuardNote } from "./GuardNote";
import { Listen, ListenFailure } from "./Listen";
import { Structured } from "./Structured";
import { CallCards } from "./ToolCards";

/** An answer: thoughts, text, calls, sources, how it ended, and what can be done with it. */
export function AnswerView({ message, last }: { message: Message; last: boolean }) {
  const [cited, setCited] = useState<string | null>(null);
  const [rating, setRating] = useState<"up" | "down" | null>(null);
  const live = session.running.value.has(message.id);
  const { content, reasoning, calls = [], finish } = message;
  const marks = message.citations ?? [];
  const silent = content === "" && calls.length === 0;
  return (
    <>
      {reasoning !== undefined && (
        <details class="reasoning" open={live && content === ""}>
          <summary>{say(live && content === "" ? "status.thinking" : "status.thought")}</summary>
          <div class="reasoning-text">{reasoning}</div>
        </details>
      )}
      {live && silent && reasoning === undefined && (
        <p class="muted waiting" role="status">
          {say("status.waiting")}
        </p>
      )}
      {content !== "" &&
        (message.structured ? (
          <Structured text={content} live={live} />
        ) : (
          <Markdown text={linked(content, marks)} live={live} onCite={setCited} />
        ))}
      {marks.length > 0 && <Citations citations={marks} onOpen={setCited} />}
      {calls.length > 0 && <CallCards message={message} pending={last && !live} />}
      {!live && silent && finish === "stop" && <p class="muted">{say("finish.empty")}</p>}
      {finish === "length" && <p class="message-note warn">{say("finish.length")}</p>}
      {finish === "stopped" && !live && <p class="message-note">{say("finish.stopped")}</p>}
      {finish === "content_filter" && <GuardNote message={message} />}
      {message.error !== undefined && <Remedy error={new Error(message.error)} onRetry={() => session.retry(message.id)} />}
      {!live && (
        <div class="message-actions">
          <Branches id={message.id} />
          <CopyButton text={content} label={say("message.copy")} />
          {content !== "" && !message.structured && <Listen message={message} />}
          <Button kind="quiet" small icon="retry" label={say("message.retry")} onClick={() => session.retry(message.id)} />
          {message.answer_id !== undefined &&
            (["up", "down"] as const).map((one) => (
              <Button
                key={one}
                kind="quiet"
                small
                icon={one}
                label={say(`message.${one}`)}
                pressed={message.rating === one}
                onClick={() => setRating(rating === one ? null : one)}
              />
            ))}
          <Button kind="quiet" small icon="trash" label={say("message.delete")} onClick={() => session.removeMessage(message.id)} />
          <Stats message={message} />
        </div>
      )}
      <ListenFailure message={message} />
      {!live && message.usage?.context !== undefined && <ContextNote ledger={message.usage.context} />}
      {rating !== null && <Feedback message={message} rating={rating} onClose={() => setRating(null)} />}
      {cited !== null && <PassageDialog message={message} mark={cited} onClose={() => setCited(null)} />}
    </>
  );
}

/** Turns the marks of the citations into links, which the Markdown shows as such. */
function linked(content: string, marks: readonly { mark: string }[]): string {
  if (marks.length === 0) return content;
  const known = new Set(marks.map((one) => one.mark));
  return content.replace(/\[(\d+)\](?![([:])/g, (whole, mark: string) => (known.has(mark) ? `[${mark}](#cite-${mark})` : whole));
}

/** How fast the answer came, and how many tokens it took. */
function Stats({ message }: { message: Message }) {
  const { usage, first_ms, total_ms } = message;
  const parts: string[] = [];
  if (usage && usage.completion > 0) {
    parts.push(say("stats.tokens", { completion: count(usage.completion) }));
    const writing_s = ((total_ms ?? 0) - (first_ms ?? 0)) / 1000;
    if (usage.completion > 1 && writing_s > 0.02) {
      parts.push(say("stats.rate", { rate: count((usage.completion - 1) / writing_s, 1) }));
    }
  }
  if (first_ms !== undefined) parts.push(say("stats.first", { time: duration(first_ms / 1000) }));
  if (usage && usage.prompt > 0) {
    const numbers = { prompt: count(usage.prompt), cached: count(usage.cached) };
    parts.push(usage.cached > 0 ? say("stats.cached", numbers) : say("stats.prompt", numbers));
  }
  if (parts.length === 0) return null;
  return (
    <span class="stats">
      <Icon name="usage" size={13} />
      {parts.join(" · ")}
    </span>
  );
}
