import { useState } from "preact/hooks";
import { collect } from "../../api/collect";
import { t, texts, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import type { PageProps } from "..";
import { Detail } from "./Detail";
import { en } from "./en";
import { Example, New } from "./New";
import { Amount, Status, took } from "./Status";
import { type Batch, ended } from "./types";
import { zh } from "./zh";
import "./style.css";

const say = texts(en, zh);
const STEP = 50;
const LIVE_MS = 2000;
const IDLE_MS = 15_000;

/** Batches: files of requests, how far they are, and what they made. */
export default function Page({ rest }: PageProps) {
  const [limit, setLimit] = useState(STEP);
  const [live, setLive] = useState(false);
  const [making, setMaking] = useState(false);
  const load = async (signal: AbortSignal) => {
    const page = await collect<Batch>("/v1/batches", limit, { signal });
    setLive(page.data.some((one) => !ended(one)));
    return page;
  };
  const { data, error, loading, reload } = useLoad(load, [limit], live ? LIVE_MS : IDLE_MS);
  const batches = data?.data ?? [];
  const make = (
    <Button kind="primary" icon="plus" onClick={() => setMaking(true)}>
      {say("new")}
    </Button>
  );
  return (
    <div class="page">
      <div class="page-head">
        <h1>{t("nav.batches")}</h1>
        {batches.length > 0 && make}
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && batches.length === 0 && (
        <Empty icon="batches" title={say("empty.title")} text={say("empty.text")}>
          {make}
          <Example />
        </Empty>
      )}
      {batches.length > 0 && (
        <Table
          label={say("batches")}
          columns={columns()}
          rows={batches}
          id={(batch) => batch.id}
          onOpen={(batch) => go({ page: "batches", rest: [batch.id] })}
          selected={rest[0]}
        />
      )}
      {data?.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {making && (
        <New
          onClose={() => setMaking(false)}
          onMade={(batch) => {
            setMaking(false);
            reload();
            go({ page: "batches", rest: [batch.id] });
          }}
        />
      )}
      {rest[0] !== undefined && (
        <Detail key={rest[0]} id={rest[0]} onClose={() => go({ page: "batches", replace: true })} onChange={reload} />
      )}
    </div>
  );
}

function columns(): Column<Batch>[] {
  return [
    {
      name: "batch",
      title: say("column.batch"),
      cell: (batch) => (
        <>
          <span class="batches-endpoint">{batch.endpoint}</span>
          {batch.model && <span class="muted small batches-model">{batch.model}</span>}
        </>
      ),
    },
    { name: "status", title: say("column.status"), cell: (batch) => <Status batch={batch} /> },
    { name: "progress", title: say("column.progress"), cell: (batch) => <Amount batch={batch} /> },
    { name: "created", title: say("column.created"), cell: (batch) => time(batch.created_at), wide: true },
    {
      name: "took",
      title: say("column.took"),
      cell: took,
      number: true,
      wide: true,
    },
  ];
}

