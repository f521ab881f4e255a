import { count, texts } from "../../i18n";
import { en } from "./en";
import type { RunStep, StepBody } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);

/** Most steps that the page shows of a run. */
export const MOST_STEPS = 500;

/** The steps of a run in their order: what the model said, what it called, and what came back. */
export function Steps({ steps, cut }: { steps: readonly RunStep[]; cut: boolean }) {
  const names = new Map<string, string>();
  for (const { step } of steps) {
    if (step.type === "turn") for (const call of step.calls) names.set(call.id, call.name);
  }
  return (
    <section>
      <h3>{say("steps")}</h3>
      {cut && <p class="muted">{say("steps.more", { count: count(MOST_STEPS) })}</p>}
      <ol class="agents-steps">
        {steps.map((one) => (
          <li key={one.number} class={`agents-step ${one.step.type}`}>
            <One step={one.step} names={names} />
          </li>
        ))}
      </ol>
    </section>
  );
}

function One({ step, names }: { step: StepBody; names: ReadonlyMap<string, string> }) {
  switch (step.type) {
    case "started":
      return <p class="muted">{say("step.started", { count: count(step.tools.length) })}</p>;
    case "turn":
      return (
        <>
          <b>{say("step.turn")}</b>
          {step.text !== "" && <p class="agents-text">{step.text}</p>}
          {step.calls.map((call) => (
            <code key={call.id} class="agents-call">
              {call.name}({call.arguments})
            </code>
          ))}
        </>
      );
    case "note":
      return (
        <>
          <b>{say("step.note")}</b>
          <p class="agents-text muted">{step.text}</p>
        </>
      );
    case "call":
      return (
        <p>
          <b>{say("step.call")}</b> <code>{step.name}</code>
        </p>
      );
    case "result":
      return (
        <details open={step.text.length < 400}>
          <summary>
            <b>{say("step.result")}</b> <code>{names.get(step.call_id) ?? step.call_id}</code>{" "}
            <span class={`agents-outcome ${step.outcome === "ok" ? "good" : "bad"}`}>{outcome(step.outcome)}</span>
          </summary>
          <pre class="agents-result" tabIndex={0}>
            {step.text}
          </pre>
          {step.characters > 0 && <p class="muted">{say("step.cut", { count: count(step.characters) })}</p>}
        </details>
      );
    case "decision":
      return (
        <p>
          <b>{say("step.decision")}</b> <code>{names.get(step.call_id) ?? step.call_id}</code>{" "}
          {say(step.is_approved ? "approved" : "denied")}
          {step.reason !== "" && `: ${step.reason}`}
        </p>
      );
    case "end":
      return (
        <p>
          <b>{say("step.end")}</b> {step.reason}
        </p>
      );
  }
}

const OUTCOMES = ["ok", "failed", "invalid", "repeated", "denied", "skipped", "timeout", "fault", "unknown", "cancelled", "withheld"] as const;

/** How a call ended, in words; its own name where the page does not know it. */
function outcome(name: string): string {
  const known = OUTCOMES.find((one) => one === name);
  return known === undefined ? name : say(`outcome.${known}`);
}
