import { useState } from "preact/hooks";
import { Button } from "../../../ui/Button";
import { TextField } from "../../../ui/Field";
import { Icon } from "../../../ui/Icon";
import * as session from "../model/session";
import type { Message, ToolCall } from "../model/types";
import { say } from "../say";
import { indented } from "./Structured";

/** The calls of an answer; while they wait, a form for their results. */
export function CallCards({ message, pending }: { message: Message; pending: boolean }) {
  const calls = message.calls ?? [];
  const [results, setResults] = useState<ReadonlyMap<string, string>>(new Map());
  return (
    <form
      class="calls"
      onSubmit={(event) => {
        event.preventDefault();
        session.giveResults(message.id, results);
      }}
    >
      {calls.map((call) => (
        <div key={call.id} class="call">
          <CallHead call={call} />
          {pending && (
            <TextField
              label={say("tool.result", { name: call.name })}
              hint={say("tool.result.hint")}
              rows={3}
              mono
              value={results.get(call.id) ?? ""}
              onInput={(value) => setResults(new Map(results).set(call.id, value))}
            />
          )}
        </div>
      ))}
      {pending && (
        <div class="dialog-actions">
          <Button kind="primary" submit disabled={calls.some((call) => !results.get(call.id))}>
            {say("tool.send")}
          </Button>
        </div>
      )}
    </form>
  );
}

function CallHead({ call }: { call: ToolCall }) {
  const shown = indented(call.arguments);
  return (
    <details class="call-head" open>
      <summary>
        <Icon name="tool" size={15} />
        {say("tool.call", { name: call.name })}
        {shown === null && <span class="badge warn">{say("tool.invalid")}</span>}
      </summary>
      <pre tabIndex={0}>
        <code>{shown ?? call.arguments}</code>
      </pre>
    </details>
  );
}

/** What a tool answered, as text. */
export function ResultView({ message }: { message: Message }) {
  return (
    <div class="call">
      <pre class="call-result" tabIndex={0}>
        <code>{indented(message.content) ?? message.content}</code>
      </pre>
    </div>
  );
}
