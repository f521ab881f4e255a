import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Page as Listed } from "../../api/types";
import { count, t, texts, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField } from "../../ui/Field";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import type { PageProps } from "..";
import { Detail } from "./Detail";
import { en } from "./en";
import { New } from "./New";
import { Status } from "./Status";
import type { Run, RunStatus } from "./types";
import { zh } from "./zh";
import "./style.css";

const say = texts(en, zh);
const STEP = 50;
const LIVE_MS = 3000;
const STATUSES: readonly RunStatus[] = ["queued", "in_progress", "requires_action", "completed", "incomplete", "cancelled", "failed"];

/** Runs of agents: what they work on, what waits for a person, and how they ended. */
export default function Page({ rest }: PageProps) {
  const [status, setStatus] = useState("");
  const [limit, setLimit] = useState(STEP);
  const [making, setMaking] = useState(false);
  const load = (signal: AbortSignal) =>
    api<Listed<Run>>("/v1/agents/runs", { query: { limit: Math.min(limit, 100), status: status || undefined }, signal });
  const { data, error, loading, reload } = useLoad(load, [status, limit], LIVE_MS);
  const runs = data?.data ?? [];
  return (
    <div class="page">
      <div class="page-head">
        <h1>{t("nav.agents")}</h1>
        <Button kind="primary" onClick={() => setMaking(true)}>
          {say("new")}
        </Button>
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && runs.length === 0 && status === "" && (
        <Empty icon="agents" title={say("empty.title")} text={say("empty.text")} commands={["deepwell agent run --help"]} />
      )}
      {(runs.length > 0 || status !== "") && (
        <>
          <SelectField
            label={say("filter.status")}
            value={status}
            onChange={setStatus}
            choices={[{ value: "", label: say("filter.all") }, ...STATUSES.map((one) => ({ value: one, label: say(`status.${one}`) }))]}
          />
          <Table
            label={say("runs")}
            columns={columns()}
            rows={runs}
            id={(run) => run.id}
            onOpen={(run) => go({ page: "agents", rest: [run.id] })}
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
      {making && (
        <New
          onClose={() => setMaking(false)}
          onMade={(id) => {
            setMaking(false);
            reload();
            go({ page: "agents", rest: [id] });
          }}
        />
      )}
      {rest[0] !== undefined && (
        <Detail key={rest[0]} id={rest[0]} onClose={() => go({ page: "agents", replace: true })} onChange={reload} />
      )}
    </div>
  );
}

function columns(): Column<Run>[] {
  return [
    { name: "task", title: say("column.task"), cell: (run) => <span class="clip agents-task">{run.input}</span> },
    { name: "status", title: say("column.status"), cell: (run) => <Status status={run.status} /> },
    { name: "used", title: say("column.used"), cell: (run) => count(run.usage.calls), number: true, wide: true },
    { name: "created", title: say("column.created"), cell: (run) => time(run.created_at), wide: true },
  ];
}
