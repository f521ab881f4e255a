import { useState } from "preact/hooks";
import { collect } from "../../api/collect";
import type { VectorStore } from "../../api/types";
import { bytes, count, t, texts, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import { Create, Delete } from "./Dialogs";
import { en } from "./en";
import { zh } from "./zh";

const say = texts(en, zh);
const STEP = 50;
const LIVE_MS = 2000;
const IDLE_MS = 15_000;

/** All knowledge bases, the newest first. */
export function Stores() {
  const [limit, setLimit] = useState(STEP);
  const [live, setLive] = useState(false);
  const [making, setMaking] = useState(false);
  const [deleting, setDeleting] = useState<VectorStore | null>(null);
  const load = async (signal: AbortSignal) => {
    const page = await collect<VectorStore>("/v1/vector_stores", limit, { signal });
    setLive(page.data.some((one) => one.file_counts.in_progress > 0));
    return page;
  };
  const { data, error, loading, reload } = useLoad(load, [limit], live ? LIVE_MS : IDLE_MS);
  const stores = data?.data ?? [];
  const make = (
    <Button kind="primary" icon="plus" onClick={() => setMaking(true)}>
      {say("new")}
    </Button>
  );
  return (
    <div class="page">
      <div class="page-head">
        <h1>{t("nav.knowledge")}</h1>
        {stores.length > 0 && make}
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && stores.length === 0 && (
        <Empty
          icon="knowledge"
          title={say("empty.title")}
          text={say("empty.text")}
          commands={["deepwell knowledge add handbook ./documents --create"]}
        >
          {make}
        </Empty>
      )}
      {stores.length > 0 && (
        <Table
          label={say("bases")}
          columns={columns(setDeleting)}
          rows={stores}
          id={(store) => store.id}
          onOpen={(store) => go({ page: "knowledge", rest: [store.id] })}
        />
      )}
      {data?.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {making && <Create onClose={() => setMaking(false)} />}
      {deleting && <Delete store={deleting} onClose={() => setDeleting(null)} onGone={reload} />}
    </div>
  );
}

function columns(onDelete: (store: VectorStore) => void): Column<VectorStore>[] {
  return [
    { name: "name", title: say("column.name"), cell: (store) => store.name || say("unnamed") },
    { name: "files", title: say("column.files"), cell: (store) => <Files store={store} /> },
    { name: "size", title: say("column.size"), cell: (store) => bytes(store.usage_bytes), number: true, wide: true },
    { name: "created", title: say("column.created"), cell: (store) => time(store.created_at), wide: true },
    {
      name: "actions",
      title: "",
      cell: (store) => (
        <Button
          kind="quiet"
          small
          icon="trash"
          label={`${t("action.delete")}: ${store.name || store.id}`}
          onClick={() => onDelete(store)}
        />
      ),
      number: true,
    },
  ];
}

/** How many files a knowledge base has, and in which state. */
export function Files({ store }: { store: VectorStore }) {
  const { total, in_progress: reading, failed } = store.file_counts;
  return (
    <span class="row">
      {total === 1 ? say("files.one") : say("files.count", { count: count(total) })}
      {reading > 0 && <span class="badge accent">{say("files.reading", { count: count(reading) })}</span>}
      {failed > 0 && <span class="badge bad">{say("files.failed", { count: count(failed) })}</span>}
    </span>
  );
}
