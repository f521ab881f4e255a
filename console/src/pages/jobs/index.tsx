import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Job, JobStatus, Page as Listed } from "../../api/types";
import { duration, t, texts, time } from "../../i18n";
import { go, hrefOf } from "../../state/route";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import type { PageProps } from "..";
import { amount, Detail, took } from "./Detail";
import { Compress } from "./Compress";
import { en } from "./en";
import { failureOf } from "./Figures";
import { FineTune } from "./FineTune";
import { Optimise } from "./Optimise";
import { aboutOf, ended, kindOf, Status } from "./Status";
import { zh } from "./zh";
import "./style.css";

const say = texts(en, zh);
const STEP = 50;
const LIVE_MS = 3000;
const STATUSES: readonly JobStatus[] = ["queued", "running", "succeeded", "failed", "cancelled"];

/** Durable work of every kind: what runs, what waits, what ended and how. */
export default function Page({ rest }: PageProps) {
  const [status, setStatus] = useState("");
  const [kind, setKind] = useState("");
  const [limit, setLimit] = useState(STEP);
  const [starting, setStarting] = useState<"tune" | "compress" | "optimise" | null>(null);
  const [kinds, setKinds] = useState<readonly string[]>([]);
  const load = async (signal: AbortSignal) => {
    const query = { limit: Math.min(limit, 100), status: status || undefined, kind: kind || undefined };
    const page = await api<Listed<Job>>("/v1/jobs", { query, signal });
    setKinds((known) => [...new Set([...known, ...page.data.map((job) => job.kind)])].sort());
    return page;
  };
  const { data, error, loading, reload } = useLoad(load, [status, kind, limit], LIVE_MS);
  const jobs = data?.data ?? [];
  const form = {
    onClose: () => setStarting(null),
    onMade: (id: string) => {
      setStarting(null);
      reload();
      go({ page: "jobs", rest: [id] });
    },
  };
  const filtered = status !== "" || kind !== "";
  return (
    <div class="page">
      <div class="page-head">
        <h1>{t("nav.jobs")}</h1>
        <div class="row">
          <Button onClick={() => setStarting("optimise")}>{say("optimise")}</Button>
          <Button onClick={() => setStarting("compress")}>{say("compress")}</Button>
          <Button kind="primary" onClick={() => setStarting("tune")}>
            {say("tune")}
          </Button>
        </div>
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && jobs.length === 0 && !filtered && (
        <Empty icon="jobs" title={say("empty.title")} text={say("empty.text")}>
          <a class="button" href={hrefOf("models")}>
            {say("empty.model")}
          </a>
          <a class="button" href={hrefOf("knowledge")}>
            {say("empty.files")}
          </a>
        </Empty>
      )}
      {(jobs.length > 0 || filtered) && (
        <>
          <div class="row jobs-filters">
            <SelectField
              label={say("filter.status")}
              value={status}
              onChange={setStatus}
              choices={[
                { value: "", label: say("filter.all") },
                ...STATUSES.map((one) => ({ value: one, label: say(`status.${one}`) })),
              ]}
            />
            <SelectField
              label={say("filter.kind")}
              value={kind}
              onChange={setKind}
              choices={[{ value: "", label: say("filter.all") }, ...kinds.map((one) => ({ value: one, label: kindOf(one) }))]}
            />
          </div>
          <Table
            label={say("jobs")}
            columns={columns()}
            rows={jobs}
            id={(job) => job.id}
            onOpen={(job) => go({ page: "jobs", rest: [job.id] })}
            selected={rest[0]}
            empty={<p class="muted">{say("none")}</p>}
          />
          {data?.has_more && limit < 100 && (
            <div class="row center">
              <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
                {say("more")}
              </Button>
            </div>
          )}
        </>
      )}
      {starting === "tune" && <FineTune {...form} />}
      {starting === "compress" && <Compress {...form} />}
      {starting === "optimise" && <Optimise {...form} />}
      {rest[0] !== undefined && (
        <Detail key={rest[0]} id={rest[0]} onClose={() => go({ page: "jobs", replace: true })} onChange={reload} />
      )}
    </div>
  );
}

function columns(): Column<Job>[] {
  return [
    { name: "kind", title: say("column.kind"), cell: (job) => <Kind job={job} /> },
    { name: "status", title: say("column.status"), cell: (job) => <Status job={job} /> },
    { name: "progress", title: say("column.progress"), cell: (job) => <Amount job={job} /> },
    { name: "created", title: say("column.created"), cell: (job) => time(job.created_at), wide: true },
    {
      name: "took",
      title: say("column.took"),
      cell: (job) => (job.started_at === null ? "" : duration(took(job))),
      number: true,
      wide: true,
    },
  ];
}

function Kind({ job }: { job: Job }) {
  const about = aboutOf(job);
  return (
    <>
      <span class="jobs-kind">{kindOf(job.kind)}</span>
      {about !== "" && <span class="jobs-about">{about}</span>}
    </>
  );
}

function Amount({ job }: { job: Job }) {
  if (job.status === "failed") return <span class="jobs-error clip">{failureOf(job)}</span>;
  if (ended(job)) return <>{amount(job)}</>;
  if (job.status === "queued") return null;
  return <Progress label={say("column.progress")} done={job.progress?.done} total={job.progress?.total} />;
}
