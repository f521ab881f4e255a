import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Job, Page as Listed } from "../../api/types";
import { count, t, texts, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Failure } from "../../ui/Failure";
import { CheckField, SelectField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { ReportView } from "./Report";
import type { Report } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const PACKS = ["cn", "eu", "owasp"] as const;
const LIVE_MS = 1000;
const MOST_REPORTS = 20;

/** Runs packs of compliance checks as jobs, and shows their reports. `chosen` is the job of the report shown. */
export function Compliance({ chosen }: { chosen: string | undefined }) {
  const [live, setLive] = useState(false);
  const load = async (signal: AbortSignal) => {
    const query = { kind: "compliance.check", limit: MOST_REPORTS };
    const page = await api<Listed<Job>>("/v1/jobs", { query, signal });
    setLive(page.data.some((job) => job.status === "queued" || job.status === "running"));
    return page.data;
  };
  const { data: jobs, error, reload } = useLoad(load, [], live ? LIVE_MS : 0);
  const job = jobs?.find((one) => one.id === chosen) ?? jobs?.[0];
  const started = (made: Job) => {
    go({ page: "safety", rest: ["compliance", made.id], replace: true });
    reload();
  };
  return (
    <>
      <Run onStarted={started} busy={live} />
      {error !== null && <Failure error={error} onRetry={reload} />}
      {jobs && jobs.length === 0 && <p class="muted">{say("reports.none")}</p>}
      {jobs && jobs.length > 1 && job && (
        <div class="safety-reports">
          <SelectField
            label={say("reports.title")}
            value={job.id}
            choices={jobs.map((one) => ({ value: one.id, label: labelOf(one) }))}
            onChange={(id) => go({ page: "safety", rest: ["compliance", id], replace: true })}
          />
        </div>
      )}
      {job && <Outcome key={job.id} job={job} />}
    </>
  );
}

function labelOf(job: Job): string {
  const report = reportOf(job);
  const packs = report ? ` · ${report.packs.map((one) => one.pack).join(", ")}` : "";
  return `${time(job.created_at)}${packs}`;
}

function reportOf(job: Job): Report | null {
  const result = job.result as unknown as Report | null;
  return Array.isArray(result?.packs) ? result : null;
}

function Run({ onStarted, busy }: { onStarted: (job: Job) => void; busy: boolean }) {
  const [packs, setPacks] = useState<readonly string[]>(PACKS);
  const [sending, setSending] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const run = async (event: Event) => {
    event.preventDefault();
    setSending(true);
    setError(null);
    try {
      onStarted(await api<Job>("/v1/compliance/reports", { body: { packs } }));
    } catch (failure) {
      setError(failure);
    }
    setSending(false);
  };
  return (
    <form class="card safety-run" onSubmit={(event) => void run(event)}>
      <fieldset>
        <legend>{say("packs.title")}</legend>
        {PACKS.map((pack) => (
          <CheckField
            key={pack}
            label={say(`pack.${pack}`)}
            hint={say(`pack.${pack}.text`)}
            value={packs.includes(pack)}
            onChange={(on) => setPacks(PACKS.filter((one) => (one === pack ? on : packs.includes(one))))}
          />
        ))}
      </fieldset>
      <div class="row">
        <Button kind="primary" submit busy={sending} disabled={packs.length === 0 || busy}>
          {say("run")}
        </Button>
        {packs.length === 0 && <span class="muted small">{say("run.none")}</span>}
      </div>
      {error !== null && <Failure error={error} />}
    </form>
  );
}

function Outcome({ job }: { job: Job }) {
  const report = reportOf(job);
  if (report) return <ReportView report={report} />;
  if (job.status === "queued" || job.status === "running") {
    const { done, total, step } = job.progress ?? {};
    const known = typeof done === "number" && typeof total === "number";
    const shown = known ? `${count(done)} / ${count(total)}${step ? ` · ${step}` : ""}` : undefined;
    const label = say(job.status === "queued" ? "report.queued" : "report.running");
    return (
      <div role="status">
        <p>{label}</p>
        <Progress label={label} done={done} total={total} text={shown ?? t("shell.loading")} />
      </div>
    );
  }
  const text = say(job.status === "cancelled" ? "report.cancelled" : "report.failed");
  return <Failure error={new Error([text, job.error].filter(Boolean).join("\n"))} />;
}
