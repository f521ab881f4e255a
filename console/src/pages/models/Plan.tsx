import { useEffect, useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Job } from "../../api/types";
import { bytes, count, percent } from "../../i18n";
import { Dialog } from "../../ui/Dialog";
import { Command } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { useLoad } from "../../ui/load";
import { parameters, type PullActions, PullState } from "./Catalog";
import { aboutOf, languageName, say } from "./say";
import { type CatalogModel, hasEnded, type MemoryPlan, type ModelUpdate } from "./types";
import { UpdateDetails } from "./Updates";

const PRECISIONS = ["auto", "int8", "int4", "int4-full", "bf16", "fp16", "fp32"] as const;
const PARTS = ["weights", "kv_cache", "workspace", "server"] as const;
const WAIT_MS = 350; // after the last digit of a context, before it is asked about

interface Props {
  model: CatalogModel;
  job: Job | undefined;
  update: ModelUpdate | undefined;
  actions: PullActions;
  onClose: () => void;
}

/** One model of the catalog: what it is, and the memory that it would take with some precision and context. */
export function Plan({ model, job, update, actions, onClose }: Props) {
  const [precision, setPrecision] = useState("");
  const [written, setWritten] = useState("");
  const [context, setContext] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => setContext(written), WAIT_MS);
    return () => clearTimeout(timer);
  }, [written]);
  const wrong = written !== "" && !/^[1-9][0-9]{0,7}$/.test(written);
  const { data, error, reload } = useLoad(
    (signal) =>
      api<MemoryPlan>(`/v1/catalog/${encodeURIComponent(model.id)}/plan`, {
        query: { precision: precision || undefined, context: /^[1-9][0-9]{0,7}$/.test(context) ? context : undefined },
        signal,
      }),
    [precision, context, model.downloaded],
  );
  const facts: [string, preact.ComponentChildren][] = [
    [say("column.license"), model.license],
    [say("column.languages"), model.languages.map(languageName).join(", ")],
  ];
  if (model.parameters !== null) facts.push([say("column.parameters"), parameters(model.parameters)]);
  if (model.download_bytes !== null) facts.push([say("column.download"), bytes(model.download_bytes)]);
  return (
    <Dialog wide title={model.id} onClose={onClose}>
      <div class="stack">
        <p class="models-about">{aboutOf(model)}</p>
        <dl class="models-facts">
          {facts.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
        <div class="models-plan-pull">
          <PullState wide model={model} job={job} actions={actions} />
          <span class="unseen" role="status">
            {job !== undefined && !hasEnded(job) ? say("pull.progress", { name: model.id }) : model.downloaded ? say("state.here") : ""}
          </span>
        </div>
        {update && <UpdateDetails update={update} />}
        {model.downloaded && !model.served && (
          <section>
            <p class="muted small">{say("serve.how")}</p>
            <Command text={`deepwell serve ${model.id}`} />
          </section>
        )}
        <section class="stack">
          <h3>{say("plan.title")}</h3>
          <div class="models-plan-options">
            <SelectField
              label={say("plan.precision")}
              value={precision}
              onChange={setPrecision}
              choices={[
                { value: "", label: say("plan.default") },
                ...PRECISIONS.map((one) => ({ value: one, label: one })),
              ]}
            />
            <TextField
              label={say("plan.context")}
              type="number"
              min={1}
              step={1024}
              value={written}
              onInput={setWritten}
              placeholder={data && context === "" ? String(data.context) : ""}
              error={wrong ? say("plan.context.wrong") : undefined}
            />
          </div>
          {error !== null ? <Failure error={error} onRetry={reload} /> : data && <Memory plan={data} />}
        </section>
      </div>
    </Dialog>
  );
}

function Memory({ plan }: { plan: MemoryPlan }) {
  const whole = Math.max(plan.total_bytes, plan.available_bytes, 1);
  const sizes = { total: bytes(plan.total_bytes), available: bytes(plan.available_bytes) };
  return (
    <div class="models-memory">
      <p class="row" aria-live="polite">
        <span class={`badge ${plan.fits ? "good" : "bad"}`}>{say(plan.fits ? "plan.fits" : "plan.over")}</span>
        <span>{say("plan.sizes", sizes)}</span>
        <span class="muted">{say("plan.with", { precision: plan.precision, context: count(plan.context) })}</span>
      </p>
      <div class="models-bar-frame" aria-hidden="true">
        <div class="models-memory-bar">
          {plan.lines.map((line, place) => (
            <span key={line.name} class={`models-part part-${place % 4}`} style={{ width: `${(line.bytes / whole) * 100}%` }} />
          ))}
        </div>
        {plan.available_bytes < whole && (
          <span class="models-limit" style={{ left: `${(plan.available_bytes / whole) * 100}%` }} />
        )}
      </div>
      <dl class="models-parts">
        {plan.lines.map((line, place) => (
          <div key={line.name}>
            <dt class={`models-key part-${place % 4}`}>{partName(line.name)}</dt>
            <dd>
              {bytes(line.bytes)} <span class="muted">{percent(line.bytes / Math.max(plan.total_bytes, 1))}</span>
            </dd>
          </div>
        ))}
      </dl>
      {plan.advice !== null && (
        <div class="models-advice">
          <strong>{say("plan.advice")}</strong>
          <p>{plan.advice}</p>
        </div>
      )}
    </div>
  );
}

function partName(name: string): string {
  const part = PARTS.find((one) => one === name);
  return part === undefined ? name : say(`part.${part}`);
}
