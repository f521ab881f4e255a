import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { count, texts } from "../../i18n";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { TextField } from "../../ui/Field";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { Status } from "./Status";
import { MOST_STEPS, Steps } from "./Steps";
import { ended, type Run, type RunStep, type WaitingCall } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const LIVE_MS = 1000;

interface Followed {
  run: Run;
  steps: RunStep[];
  cut: boolean;
}

/** One run, followed while it works: its steps, and the calls that wait for a decision. */
export function Detail({ id, onClose, onChange }: { id: string; onClose: () => void; onChange: () => void }) {
  const [live, setLive] = useState(true);
  const path = `/v1/agents/runs/${encodeURIComponent(id)}`;
  const load = async (signal: AbortSignal): Promise<Followed> => {
    const run = await api<Run>(path, { signal });
    const page = await api<{ data: RunStep[]; has_more: boolean }>(`${path}/steps`, { query: { limit: MOST_STEPS }, signal });
    setLive(!ended(run));
    return { run, steps: page.data, cut: page.has_more };
  };
  const { data, error, reload } = useLoad(load, [id], live ? LIVE_MS : 0);
  const run = data?.run;
  const tell = async (action: string, body?: unknown) => {
    try {
      await api<Run>(`${path}/${action}`, { method: "POST", ...(body === undefined ? {} : { body }) });
      if (action === "cancel") toast(say("cancelled"));
      reload();
      onChange();
    } catch (failure) {
      toastError(failure);
    }
  };
  return (
    <Dialog
      wide
      title={run?.input.slice(0, 80) ?? say("runs")}
      onClose={onClose}
      actions={
        run && !ended(run) ? (
          <Button kind="danger" onClick={() => void tell("cancel")}>
            {say("cancel")}
          </Button>
        ) : null
      }
    >
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && run && (
        <div class="stack">
          <p>
            <Status status={run.status} /> <span class="muted">{used(run)}</span>
          </p>
          {run.required_action.length > 0 && !ended(run) && (
            <section class="agents-waits" aria-live="polite">
              <h3>{say("waits")}</h3>
              {run.required_action.map((call) => (
                <Waiting key={call.id} call={call} onTell={(action, body) => void tell(action, body)} />
              ))}
            </section>
          )}
          {run.reason !== "" && (
            <p>
              <b>{say("reason")}</b> {run.reason}
            </p>
          )}
          {run.output_text !== "" && ended(run) && (
            <section>
              <h3>{say("answer")}</h3>
              <p class="agents-text">{run.output_text}</p>
            </section>
          )}
          <Steps steps={data.steps} cut={data.cut} />
        </div>
      )}
    </Dialog>
  );
}

function Waiting({ call, onTell }: { call: WaitingCall; onTell: (action: string, body: unknown) => void }) {
  const [reason, setReason] = useState("");
  const body = { call_ids: [call.id], reason };
  return (
    <div class="agents-wait">
      <code class="agents-call">
        {call.name}({call.arguments})
      </code>
      {call.needs === "output" ? (
        <p class="muted">{say("waits.output")}</p>
      ) : (
        <>
          <TextField label={say("deny.reason")} hint={say("deny.reason.hint")} value={reason} onInput={setReason} />
          <div class="row">
            <Button kind="primary" onClick={() => onTell("approve", body)}>
              {say("approve")}
            </Button>
            <Button onClick={() => onTell("deny", body)}>{say("deny")}</Button>
          </div>
        </>
      )}
    </div>
  );
}

function used(run: Run): string {
  return say("used", {
    turns: count(run.usage.turns),
    mostTurns: count(run.budget.turns),
    calls: count(run.usage.calls),
    mostCalls: count(run.budget.calls),
    tokens: count(run.usage.total_tokens),
    seconds: count(Math.round(run.usage.seconds)),
  });
}
