import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Job } from "../../api/types";
import { bytes, count, duration, t, texts, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Chart } from "../../ui/Chart";
import { Confirm, Dialog } from "../../ui/Dialog";
import { Failure } from "../../ui/Failure";
import { Progress } from "../../ui/Progress";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { Events, failureOf, Figures, hasFigures } from "./Figures";
import { ChatWith } from "./FineTune";
import { useBases } from "./sending";
import { ended, kindOf, methodOf, Status, stepOf } from "./Status";
import { zh } from "./zh";

const say = texts(en, zh);
const LIVE_MS = 1000;

/** One job, followed while it runs. */
export function Detail({ id, onClose, onChange }: { id: string; onClose: () => void; onChange: () => void }) {
  const [live, setLive] = useState(true);
  const load = async (signal: AbortSignal) => {
    const job = await api<Job>(`/v1/jobs/${encodeURIComponent(id)}`, { signal });
    setLive(!ended(job));
    return job;
  };
  const { data: job, error, reload } = useLoad(load, [id], live ? LIVE_MS : 0);
  const [asking, setAsking] = useState(false);
  const cancel = async () => {
    try {
      await api<Job>(`/v1/jobs/${encodeURIComponent(id)}/cancel`, { method: "POST" });
      toast(say("cancelled"));
      reload();
      onChange();
    } catch (failure) {
      toastError(failure);
    }
  };
  const running = job !== undefined && !ended(job);
  const made = job?.result?.fine_tuned_model ?? job?.result?.compressed_model;
  return (
    <>
      <Dialog
        wide
        title={job ? kindOf(job.kind) : say("jobs")}
        onClose={onClose}
        actions={
          running && !job.cancel_requested ? (
            <Button kind="danger" onClick={() => setAsking(true)}>
              {say("cancel")}
            </Button>
          ) : typeof made === "string" ? (
            <ChatWithMade model={made} />
          ) : null
        }
      >
        {error !== null && <Failure error={error} onRetry={reload} />}
        {job && <Facts job={job} />}
      </Dialog>
      {asking && (
        <Confirm
          title={say("cancel.ask")}
          text={say(keepsNothing(job) ? "cancel.nothing" : "cancel.text")}
          action={say("cancel")}
          dismiss={t("action.keep")}
          onYes={() => void cancel()}
          onClose={() => setAsking(false)}
        />
      )}
    </>
  );
}

/** Opens the chat with a model that a job has made, where the server answers with it. */
function ChatWithMade({ model }: { model: string }) {
  const { models } = useBases();
  return models.some((one) => one.id === model) ? <ChatWith model={model} /> : null;
}

function keepsNothing(job: Job | undefined): boolean {
  return job?.kind === "compression" || job?.kind === "prompts.optimise";
}

function Facts({ job }: { job: Job }) {
  const progress = job.progress;
  const facts: [string, preact.ComponentChildren][] = [
    [say("id"), <code>{job.id}</code>],
    [say("column.status"), <Status job={job} />],
    [say("column.created"), time(job.created_at)],
  ];
  const { method, model, name, prompt } = job.subject ?? {};
  if (method !== undefined) facts.push([say("compress.method"), methodOf(method)]);
  if (prompt !== undefined) facts.push([say("optimise.prompt"), prompt]);
  if (model !== undefined) facts.push([say("tune.model"), model]);
  if (name !== undefined) facts.push([say("subject.name"), name]);
  if (job.started_at !== null) facts.push([say("started"), time(job.started_at)]);
  if (job.finished_at !== null) facts.push([say("finished"), time(job.finished_at)]);
  if (job.started_at !== null) facts.push([say("column.took"), duration(took(job))]);
  if (job.attempts > 1) facts.push([say("attempts"), count(job.attempts)]);
  if (progress?.step && !hasFigures(job)) facts.push([say("step"), stepOf(progress.step)]);
  const series = Object.entries(progress?.series ?? {}).filter(([, points]) => Array.isArray(points) && points.length > 1);
  return (
    <div class="stack">
      <dl class="jobs-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {job.status === "running" && <Progress label={say("progress")} done={progress?.done} total={progress?.total} text={amount(job)} />}
      {series.map(([name, points]) => (
        <Chart
          key={name}
          label={name}
          x={points.map(([x]) => x)}
          series={[{ name, values: points.map(([, y]) => y) }]}
          format={(value) => count(value, 4)}
        />
      ))}
      {job.error !== null && (
        <div class="failure" role="alert">
          <p>{failureOf(job)}</p>
        </div>
      )}
      <Figures job={job} />
      <Events job={job} />
      {job.result !== null && !hasFigures(job) && (
        <section>
          <h3>{say("result")}</h3>
          <pre class="jobs-result" tabIndex={0}>
            {JSON.stringify(job.result, null, 2)}
          </pre>
        </section>
      )}
    </div>
  );
}

function unitOf(unit: string): string {
  return unit === "calls" || unit === "steps" || unit === "requests" ? say(`unit.${unit}`) : unit;
}

/** Seconds from the start of a job to its end, or until now. */
export function took(job: Job): number {
  return Math.max(0, (job.finished_at ?? Date.now() / 1000) - (job.started_at ?? job.created_at));
}

/** How far a job is, in its own unit; empty where it does not say. */
export function amount(job: Job): string {
  const { done, total, unit = "" } = job.progress ?? {};
  if (typeof done !== "number") return "";
  if (unit === "%") return `${count(done)} %`;
  const shown = unit === "bytes" ? bytes : count;
  const named = unit === "bytes" ? "" : unitOf(unit);
  if (typeof total !== "number" || total <= 0) return `${shown(done)} ${named}`.trim();
  return say("step.of", { done: shown(done), total: shown(total), unit: named }).trim();
}

