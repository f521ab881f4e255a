import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { VectorStore } from "../../api/types";
import { bytes, t, texts, time } from "../../i18n";
import { go, hrefOf } from "../../state/route";
import { Button, CopyButton } from "../../ui/Button";
import { Failure } from "../../ui/Failure";
import { Icon } from "../../ui/Icon";
import { Tabs } from "../../ui/Tabs";
import { useLoad } from "../../ui/load";
import { Delete } from "./Dialogs";
import { en } from "./en";
import { FileList } from "./FileList";
import { Search } from "./Search";
import { Files } from "./Stores";
import { useUploads } from "./uploads";
import { zh } from "./zh";

const say = texts(en, zh);
const LIVE_MS = 1000;
const IDLE_MS = 10_000;

/** One knowledge base: its files, and what a search finds in it. */
export function Store({ id, tab }: { id: string; tab: "files" | "search" }) {
  const [live, setLive] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const load = async (signal: AbortSignal) => {
    const store = await api<VectorStore>(`/v1/vector_stores/${encodeURIComponent(id)}`, { signal });
    setLive(store.file_counts.in_progress > 0);
    return store;
  };
  const { data: store, error, reload } = useLoad(load, [id], live ? LIVE_MS : IDLE_MS);
  // Here rather than with the list of files, so that files go on arriving while the other tab is open.
  const uploads = useUploads(id, reload);
  return (
    <div class="page">
      <a class="knowledge-back" href={hrefOf("knowledge")}>
        <Icon name="left" size={15} />
        {say("back")}
      </a>
      {error !== null && <Failure error={error} onRetry={reload} />}
      <div class="page-head">
        <h1 class="knowledge-name">{store ? store.name || say("unnamed") : t("nav.knowledge")}</h1>
        {store && (
          <Button kind="danger" small icon="trash" onClick={() => setDeleting(true)}>
            {t("action.delete")}
          </Button>
        )}
      </div>
      {store && (
        <>
          <div class="row muted small knowledge-facts">
            <Files store={store} />
            <span>{bytes(store.usage_bytes)}</span>
            <span class="wide-only">{time(store.created_at)}</span>
            <span class="row knowledge-id">
              <code class="clip">{store.id}</code>
              <CopyButton text={store.id} />
            </span>
          </div>
          <Tabs
            label={say("tab.label")}
            tabs={[
              { name: "files", title: say("tab.files") },
              { name: "search", title: say("tab.search") },
            ]}
            chosen={tab}
            onChoose={(name) => go({ page: "knowledge", rest: name === "search" ? [id, "search"] : [id], replace: true })}
          >
            {tab === "files" ? <FileList store={store} uploads={uploads} onChange={reload} /> : <Search store={store} />}
          </Tabs>
        </>
      )}
      {deleting && store && (
        <Delete store={store} onClose={() => setDeleting(false)} onGone={() => go({ page: "knowledge", replace: true })} />
      )}
    </div>
  );
}
